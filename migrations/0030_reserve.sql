-- The reserve. Null for an auction without one, which is every row that a version without reserves writes. Only the host
-- is shown it.
ALTER TABLE auctions
    ADD COLUMN reserve_price DECIMAL(10, 2),
    ADD CONSTRAINT auctions_reserve_price CHECK (reserve_price >= starting_bid AND reserve_price <= buy_now_price);
