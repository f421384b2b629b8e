-- Whether bids are kept until the opening. False for every row that a version without pre-bids writes.
ALTER TABLE auctions ADD COLUMN allow_prebids BOOLEAN NOT NULL DEFAULT FALSE;
