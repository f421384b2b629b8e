-- Auctions of a host that have not ended, which are counted before each creation: few, however many have ended.
CREATE INDEX auctions_open_by_host ON auctions (host_user_id) WHERE outcome IS NULL;
