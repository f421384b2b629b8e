-- Attempts of each notification: one that fails waits by itself, and one that can never be sent is parked. To send a parked
-- one again: see RUNBOOK.md, Symptoms.
ALTER TABLE notification_outbox ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
-- While an instance works on the row, the time at which another one may take it over.
ALTER TABLE notification_outbox ADD COLUMN next_attempt_at TIMESTAMPTZ NOT NULL DEFAULT now();
ALTER TABLE notification_outbox ADD COLUMN last_error TEXT;
ALTER TABLE notification_outbox ADD COLUMN parked_at TIMESTAMPTZ;

CREATE INDEX notification_outbox_due ON notification_outbox (next_attempt_at)
    WHERE sent_at IS NULL AND parked_at IS NULL;

-- Recipients without an address when the notification was sent. Their mail is sent once a token brings the address, within
-- seven days; then the row is removed.
CREATE TABLE late_recipients (
    user_id UUID NOT NULL,
    auction_id UUID NOT NULL CONSTRAINT late_recipients_auction REFERENCES auctions (auction_id),
    kind TEXT NOT NULL CONSTRAINT late_recipients_kind_known CHECK (kind IN ('won', 'lost', 'hosted')),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- Null until the address is known.
    next_attempt_at TIMESTAMPTZ,
    CONSTRAINT late_recipients_primary_key PRIMARY KEY (user_id, auction_id, kind)
);

CREATE INDEX late_recipients_due ON late_recipients (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX late_recipients_oldest ON late_recipients (created_at);
