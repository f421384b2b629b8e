-- Roles and their privileges, written from libs/protocol/src/rights.rs: change them there.
-- Run by `flash-admin migrate` after the migrations, as the owner of the tables. A login that may create no roles
-- leaves out those that are missing; a role that is made later gets its privileges from the next run.
DO $roles$
DECLARE
    may_create CONSTANT boolean := (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user);
BEGIN
    -- One run at a time: they change the same rows of the catalogue.
    PERFORM pg_advisory_xact_lock(hashtext('flash roles'));

    IF may_create AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'flash_auction_management') THEN
        CREATE ROLE flash_auction_management NOLOGIN;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'flash_auction_management') THEN
        REVOKE ALL ON ALL TABLES IN SCHEMA public FROM flash_auction_management;
        GRANT SELECT, INSERT, UPDATE ON users TO flash_auction_management;
        GRANT SELECT, INSERT, UPDATE, DELETE ON person_limits TO flash_auction_management;
        GRANT SELECT, INSERT, UPDATE, DELETE ON auctions TO flash_auction_management;
        GRANT SELECT, INSERT, UPDATE, DELETE ON auction_keys TO flash_auction_management;
        GRANT SELECT, INSERT, UPDATE ON notification_outbox TO flash_auction_management;
        GRANT SELECT, INSERT, UPDATE, DELETE ON late_recipients TO flash_auction_management;
    END IF;

    IF may_create AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'flash_auction_notifications') THEN
        CREATE ROLE flash_auction_notifications NOLOGIN;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'flash_auction_notifications') THEN
        REVOKE ALL ON ALL TABLES IN SCHEMA public FROM flash_auction_notifications;
        GRANT SELECT, INSERT, UPDATE, DELETE ON mails TO flash_auction_notifications;
    END IF;
END
$roles$;
