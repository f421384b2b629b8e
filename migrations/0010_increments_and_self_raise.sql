-- The increment ladder in cents, as 'from:step' for each band. Null where minimum_increment holds for all prices; otherwise
-- that column has the step of the first band.
ALTER TABLE auctions ADD COLUMN increments TEXT;
ALTER TABLE auctions ADD COLUMN allow_self_raise BOOLEAN NOT NULL DEFAULT FALSE;
