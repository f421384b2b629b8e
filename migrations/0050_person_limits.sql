-- What a person may lead with at once, in all auctions together, where it is not the default. Null: no limit. Without a
-- reference to users: a person may get a limit before the first appearance.
CREATE TABLE person_limits (
    user_id UUID CONSTRAINT person_limits_pkey PRIMARY KEY,
    amount DECIMAL(10, 2) CONSTRAINT person_limits_amount CHECK (amount > 0),
    changed_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
