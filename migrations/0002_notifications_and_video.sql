-- Who is still to be told of an auction's end. A row is written with the result, in one transaction; the
-- relay sends it to the queue and marks it.
CREATE TABLE notification_outbox (
    auction_id UUID CONSTRAINT notification_outbox_primary_key PRIMARY KEY
        CONSTRAINT notification_outbox_auction REFERENCES auctions (auction_id),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    sent_at TIMESTAMPTZ
);

CREATE INDEX notification_outbox_unsent ON notification_outbox (created_at) WHERE sent_at IS NULL;

-- Each mail once: claimed before SES is asked, marked after it answered. A row that stays 'sending' is a
-- mail of which nobody knows whether it was sent.
CREATE TABLE mails (
    auction_id UUID NOT NULL,
    user_id UUID NOT NULL,
    kind TEXT NOT NULL CONSTRAINT mails_kind_known CHECK (kind IN ('won', 'lost', 'hosted')),
    status TEXT NOT NULL CONSTRAINT mails_status_known CHECK (status IN ('sending', 'sent')),
    attempts INTEGER NOT NULL DEFAULT 1,
    claimed_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT mails_primary_key PRIMARY KEY (auction_id, user_id, kind)
);

-- Whether the auction is to have video, and where its host sends it. The channel goes some minutes after
-- the end; its columns are empty then.
ALTER TABLE auctions ADD COLUMN video BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE auctions ADD COLUMN ivs_ingest_endpoint TEXT;

CREATE INDEX auctions_with_channel ON auctions (ended_at) WHERE ivs_channel_arn IS NOT NULL;
