-- Text search over auctions (`q` of GET /auctions). 'simple' stems nothing: titles are in any language. The query in
-- libs/store/src/catalogue.rs has the same expression.
-- A large table takes longer than the limit of one statement. Until it is done, no row of auctions is written.
SET LOCAL statement_timeout = 0;
CREATE INDEX auctions_search ON auctions USING GIN (
    to_tsvector('simple', title || ' ' || coalesce(category, '') || ' ' || coalesce(description, ''))
);
-- The counts of GET /auctions/categories.
CREATE INDEX auctions_by_category ON auctions (category, status) WHERE category IS NOT NULL AND status <> 'creating';
