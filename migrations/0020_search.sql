-- Text search over auctions (`q` of GET /auctions). 'simple' stems nothing: titles are in any language. The query in
-- libs/store/src/catalogue.rs has the same expression.
CREATE INDEX auctions_search ON auctions USING GIN (
    to_tsvector('simple', title || ' ' || coalesce(category, '') || ' ' || coalesce(description, ''))
);
