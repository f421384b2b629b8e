-- Users and auctions. Times are timestamptz; money is DECIMAL(10,2) in the auction's currency.

CREATE TABLE users (
    user_id UUID CONSTRAINT users_primary_key PRIMARY KEY,
    email TEXT CONSTRAINT users_email_unique UNIQUE,
    phone TEXT,
    is_verified BOOLEAN NOT NULL DEFAULT FALSE,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    name TEXT,
    username TEXT NOT NULL CONSTRAINT users_username_unique UNIQUE,
    -- When the newest token that spoke for this row was issued (seconds since 1970).
    seen_token_issued_at BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE auctions (
    auction_id UUID CONSTRAINT auctions_primary_key PRIMARY KEY,
    host_user_id UUID NOT NULL CONSTRAINT auctions_host_is_a_user REFERENCES users (user_id),
    title TEXT NOT NULL,
    description TEXT,
    duration BIGINT NOT NULL,
    category TEXT,
    starting_bid DECIMAL(10, 2) NOT NULL CONSTRAINT auctions_starting_bid_positive CHECK (starting_bid > 0),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- 'creating' until the log has the auction; nobody is shown such a row.
    status TEXT NOT NULL CONSTRAINT auctions_status_known
        CHECK (status IN ('creating', 'scheduled', 'live', 'paused', 'closed', 'cancelled')),
    winner_id UUID CONSTRAINT auctions_winner_is_a_user REFERENCES users (user_id),
    winning_bid DECIMAL(10, 2),
    ended_at TIMESTAMPTZ,
    ivs_channel_arn TEXT,
    ivs_stream_key TEXT,
    ivs_playback_url TEXT,
    image_url TEXT,
    images TEXT[] NOT NULL DEFAULT '{}',
    condition TEXT,
    seller_name TEXT,
    minimum_increment DECIMAL(10, 2) NOT NULL,
    anti_snipe_mode TEXT NOT NULL,
    anti_snipe_window BIGINT NOT NULL,
    anti_snipe_extension BIGINT NOT NULL,
    anti_snipe_max_extensions BIGINT NOT NULL,
    starts_at TIMESTAMPTZ,
    end_time TIMESTAMPTZ,
    outcome TEXT CONSTRAINT auctions_outcome_known CHECK (outcome IN ('sold', 'unsold', 'cancelled')),
    bid_count BIGINT NOT NULL DEFAULT 0,
    -- The seq of the record that this row was last written from: an older one never overwrites it.
    log_seq BIGINT NOT NULL DEFAULT 0,
    CONSTRAINT auctions_result_is_whole
        CHECK ((status IN ('closed', 'cancelled')) = (outcome IS NOT NULL))
);

CREATE INDEX auctions_newest_first ON auctions (created_at DESC, auction_id);
CREATE INDEX auctions_by_host ON auctions (host_user_id, created_at DESC);
CREATE INDEX auctions_creating ON auctions (created_at) WHERE status = 'creating';

-- Idempotency-Key of POST /auctions: the same key of the same person is the same auction.
CREATE TABLE auction_keys (
    host_user_id UUID NOT NULL,
    key TEXT NOT NULL,
    auction_id UUID NOT NULL,
    -- A hash of the body: the key with another body is a mistake of the caller.
    body_hash TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT auction_keys_primary_key PRIMARY KEY (host_user_id, key)
);
