-- Sequences of lots: the auction that must end before this one opens, and the seconds from that end to the opening. Null
-- and 0 for every row that a version without sequences writes. Without a reference to auctions: one that another may
-- follow is never deleted, and a reference would be looked up, without an index, for each unfinished creation that is.
--
-- A lot has the channel columns of the auction that it follows. The version before removes such a channel
-- VIDEO_LINGER_SECONDS after the first end and not after the last, so it should not run longer than that beside this one.
ALTER TABLE auctions
    ADD COLUMN follows UUID,
    ADD COLUMN gap BIGINT NOT NULL DEFAULT 0,
    ADD CONSTRAINT auctions_gap CHECK (gap BETWEEN 0 AND 86400 AND (gap = 0 OR follows IS NOT NULL));
