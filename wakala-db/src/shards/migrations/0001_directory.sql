-- Which shard has which tenant, and where the shards are.
--
-- Unqualified names: whoever applies this file sets search_path to the schema first, as Directory::migrate does.
-- By hand, in one transaction:
--
--   BEGIN;
--   CREATE SCHEMA IF NOT EXISTS wakala;
--   SET LOCAL search_path TO wakala, pg_temp;
--   \i 0001_directory.sql
--   INSERT INTO directory_version (version) VALUES (1);
--   COMMIT;

CREATE TABLE directory_version (
    version    integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE directory_version IS 'The migrations that the shard directory of this schema has had';

CREATE TABLE shard (
    shard    integer PRIMARY KEY CHECK (shard > 0),
    host     text NOT NULL CHECK (host <> ''),
    port     integer NOT NULL CHECK (port BETWEEN 1 AND 65535),
    database text NOT NULL CHECK (database <> ''),
    active   boolean NOT NULL DEFAULT true,
    weight   integer NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000),
    UNIQUE (host, port, database)
);
COMMENT ON TABLE shard IS 'The databases that tenants are in';
COMMENT ON COLUMN shard.active IS 'Whether it is given tenants; one that is not keeps those it has until they are moved';
COMMENT ON COLUMN shard.weight IS 'Its size beside the others: one of 2 gets twice the share of one of 1';

CREATE TABLE tenant (
    tenant     text COLLATE "C" PRIMARY KEY CHECK (octet_length(tenant) BETWEEN 1 AND 200),
    shard      integer NOT NULL REFERENCES shard,
    epoch      bigint NOT NULL CHECK (epoch > 0),
    state      text NOT NULL CHECK (state IN ('active', 'moving')),
    moving_to  integer REFERENCES shard,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((state = 'moving') = (moving_to IS NOT NULL)),
    CHECK (moving_to <> shard)
);
CREATE INDEX tenant_of_shard ON tenant (shard);
COMMENT ON TABLE tenant IS 'The shard of each tenant. Its rows are moved before this is changed, never the other way round';
COMMENT ON COLUMN tenant.epoch IS 'Counts the owners; what names an earlier one is out of date';
COMMENT ON COLUMN tenant.moving_to IS 'Where a move that has begun takes it';

-- Against changes by hand, too: a label that is moved without an epoch would send clients to a shard without the rows.
CREATE FUNCTION keep_tenant_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.tenant <> OLD.tenant THEN
        RAISE EXCEPTION 'a tenant keeps its id' USING ERRCODE = '55000';
    END IF;
    IF NEW.epoch < OLD.epoch OR (NEW.epoch = OLD.epoch AND NEW.shard <> OLD.shard) THEN
        RAISE EXCEPTION 'tenant % is on shard % since epoch %; another owner needs a later epoch',
                        OLD.tenant, OLD.shard, OLD.epoch
            USING ERRCODE = '55000', HINT = 'a tenant is moved by moving its rows; the directory follows';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER keep_tenant_epoch BEFORE UPDATE ON tenant FOR EACH ROW EXECUTE FUNCTION keep_tenant_epoch();
