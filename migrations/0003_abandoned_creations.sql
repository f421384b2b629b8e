-- Whether the sweep has given a creation up: no request continues it any more, and the sweep alone finishes or removes
-- it. Means something only while status is 'creating'.
ALTER TABLE auctions ADD COLUMN abandoned BOOLEAN NOT NULL DEFAULT FALSE;
