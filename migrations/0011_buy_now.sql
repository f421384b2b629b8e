-- The price at which an auction ends at once. Null without one.
ALTER TABLE auctions ADD COLUMN buy_now_price DECIMAL(10, 2);
