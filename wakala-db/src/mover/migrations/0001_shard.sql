CREATE SCHEMA IF NOT EXISTS wakala_shard;

-- What every shard has: who owns which tenant, who moves it, what was copied. In the schema "wakala_shard"; names are whole, so
-- that no search_path matters.

CREATE TABLE wakala_shard.owner (
    tenant_id text PRIMARY KEY,
    epoch bigint NOT NULL CHECK (epoch >= 1),
    -- The shard that serves the tenant, as far as this one knows.
    shard integer NOT NULL,
    -- On the owner "owned". On the others "incoming" before a move to it is through, "gone" after one from it.
    state text NOT NULL CHECK (state IN ('owned', 'incoming', 'gone'))
);

-- One row: which shard this database is.
CREATE TABLE wakala_shard.shard (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    id integer NOT NULL CHECK (id > 0)
);

-- The moves that this shard takes part in.
CREATE TABLE wakala_shard.move (
    move_id text PRIMARY KEY,
    -- Which process drives it; goes up with each that takes it over.
    lease bigint NOT NULL,
    role text NOT NULL CHECK (role IN ('source', 'destination')),
    other integer NOT NULL,
    tenants text[] NOT NULL,
    -- What is applied here of the stream of the other shard; "from" is where this stream begins.
    applied pg_lsn,
    -- Of the other shard, by which it is known again: pg_control_system() and its timeline.
    system_identifier text,
    timeline integer,
    created timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Written before the object that it names is made, removed after it is gone.
CREATE TABLE wakala_shard.move_object (
    move_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('slot', 'publication', 'trigger')),
    name text NOT NULL,
    PRIMARY KEY (move_id, kind, name)
);

-- What is copied to this shard: a chunk is here, with its snapshot, in the transaction that copied it.
CREATE TABLE wakala_shard.move_chunk (
    move_id text NOT NULL,
    chunk integer NOT NULL,
    relation text NOT NULL,
    tenant_id text NOT NULL,
    -- Bounds by the chunk column, the lower included, the upper not; null where there is none.
    lower text,
    upper text,
    snapshot text,
    row_count bigint,
    byte_count bigint,
    PRIMARY KEY (move_id, chunk)
);

-- What the first statement of each transaction of a mover is.
CREATE FUNCTION wakala_shard.mover_enter(move_id text, lease bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM wakala_shard.move AS m WHERE m.move_id = mover_enter.move_id AND m.lease = mover_enter.lease FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'move % is driven by another process by now', mover_enter.move_id USING ERRCODE = 'WK003';
    END IF;
    PERFORM pg_logical_emit_message(true, 'wakala.own', mover_enter.move_id);
END
$$;

-- The lock of a tenant: writers share it, the fence takes it alone.
CREATE FUNCTION wakala_shard.tenant_lock(tenant text) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS
    $$SELECT hashtextextended(tenant, 7710162562058289152)$$;

-- Fails unless this shard owns the tenant, in this epoch where one is given; until the transaction ends, it stays so.
-- Whoever may write the tables of tenants may call it, and need not be able to read the owners.
CREATE FUNCTION wakala_shard.check_owner(tenant text, expected bigint, known_only boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner record;
    -- Whoever only reads may read what was when the transaction began.
    plainly boolean := current_setting('transaction_isolation') IN ('read committed', 'read uncommitted')
        OR current_setting('transaction_read_only')::boolean;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(wakala_shard.tenant_lock(tenant));
    IF plainly THEN
        SELECT o.epoch, o.shard, o.state INTO owner FROM wakala_shard.owner AS o WHERE o.tenant_id = tenant;
    ELSE
        -- A plain read would find the owner of when the transaction began; this fails (40001) where it has changed.
        SELECT o.epoch, o.shard, o.state INTO owner FROM wakala_shard.owner AS o WHERE o.tenant_id = tenant FOR SHARE;
        IF NOT FOUND THEN
            IF NOT EXISTS (SELECT FROM wakala_shard.shard) THEN
                RAISE EXCEPTION 'this transaction began before this database was a shard, and cannot see who serves tenant %', tenant
                    USING ERRCODE = '40001', HINT = 'Repeat the transaction.';
            END IF;
            -- And it may have become known since. Then this fails likewise; else the tenant becomes known by it.
            INSERT INTO wakala_shard.owner (tenant_id, epoch, shard, state)
                SELECT tenant, 1, s.id, 'owned' FROM wakala_shard.shard AS s ON CONFLICT DO NOTHING;
            owner := NULL;
        END IF;
    END IF;
    IF owner IS NULL THEN
        IF known_only THEN
            RAISE EXCEPTION 'tenant % is not known on this shard', tenant
                USING ERRCODE = 'WK002', HINT = 'Register it in the directory, or look there where it lives.';
        END IF;
        RETURN;
    END IF;
    IF owner.state <> 'owned' OR owner.epoch <> coalesce(expected, owner.epoch) THEN
        RAISE EXCEPTION 'tenant % is served by shard % since epoch %', tenant, owner.shard, owner.epoch
            USING ERRCODE = 'WK001', DETAIL = format('shard=%s epoch=%s', owner.shard, owner.epoch),
                HINT = 'Look the tenant up again, and repeat the transaction there.';
    END IF;
END
$$;

-- A row does not change its tenant while one of the two is moved: the stream of one has no place for the other's row.
CREATE FUNCTION wakala_shard.check_stays(old_tenant text, new_tenant text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM wakala_shard.move AS m WHERE m.tenants && ARRAY[old_tenant, new_tenant]) THEN
        RAISE EXCEPTION 'a row of tenant % cannot become one of tenant % while one of them is moved', old_tenant, new_tenant
            USING ERRCODE = 'WK005', HINT = 'Repeat it when the move is finished.';
    END IF;
END
$$;

-- TRUNCATE takes the rows of all tenants, and the stream does not carry it.
CREATE FUNCTION wakala_shard.guard_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM wakala_shard.move) THEN
        RAISE EXCEPTION 'table %.% is not truncated while tenants are moved', TG_TABLE_SCHEMA, TG_TABLE_NAME
            USING ERRCODE = 'WK005', HINT = 'Delete the rows of a tenant, or repeat it when the move is finished.';
    END IF;
    RETURN NULL;
END
$$;

-- What an application that knows the directory calls first in a transaction.
CREATE FUNCTION wakala_shard.enter(tenant text, epoch bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM wakala_shard.check_owner(tenant, epoch, true);
    -- The guards of the tables need not ask again in this transaction, unless it goes back to before this.
    PERFORM pg_catalog.set_config('wakala.entered', tenant, true);
END
$$;

-- The fence: this shard gives the tenant up, and puts the token into its change stream, behind all that the tenant's
-- writers did. Waits for them, as long as lock_timeout says. With the token go the values of the sequences, which no
-- stream carries. False where it was done before.
CREATE FUNCTION wakala_shard.give_up(move_id text, lease bigint, tenant text, from_epoch bigint, to_shard integer,
    sequences text[]) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner record;
    name text;
    value bigint;
    used jsonb := '{}';
BEGIN
    PERFORM wakala_shard.mover_enter(move_id, lease);
    PERFORM pg_advisory_xact_lock(wakala_shard.tenant_lock(tenant));
    SELECT o.epoch, o.shard, o.state INTO owner FROM wakala_shard.owner AS o WHERE o.tenant_id = tenant FOR UPDATE;
    IF owner.state = 'gone' AND owner.epoch = from_epoch + 1 AND owner.shard = to_shard THEN
        RETURN false;
    END IF;
    IF owner IS NULL OR owner.state <> 'owned' OR owner.epoch <> from_epoch THEN
        RAISE EXCEPTION 'tenant % is not this shard''s to give up in epoch %: %', tenant, from_epoch, owner
            USING ERRCODE = 'WK004';
    END IF;
    UPDATE wakala_shard.owner AS o SET state = 'gone', epoch = from_epoch + 1, shard = to_shard
        WHERE o.tenant_id = tenant;
    FOREACH name IN ARRAY sequences LOOP
        EXECUTE format('SELECT last_value FROM %s', name) INTO value;
        used := used || jsonb_build_object(name, value);
    END LOOP;
    PERFORM pg_logical_emit_message(true, 'wakala.token', jsonb_build_object(
        'move', move_id, 'tenant', tenant, 'epoch', from_epoch + 1, 'shard', to_shard, 'sequences', used)::text);
    RETURN true;
END
$$;

-- Numbers up to this one are given out no more. Never goes back: whoever takes numbers meanwhile would have to take a
-- thousand between the two statements.
CREATE FUNCTION wakala_shard.raise_sequence(name text, used bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    value bigint;
    step bigint := (SELECT s.seqincrement FROM pg_sequence AS s WHERE s.seqrelid = name::regclass);
BEGIN
    EXECUTE format('SELECT last_value FROM %s', name) INTO value;
    IF step > 0 AND value < used AND nextval(name::regclass) < used THEN
        PERFORM setval(name::regclass, used + 1000 * step);
    ELSIF step < 0 AND value > used AND nextval(name::regclass) > used THEN
        PERFORM setval(name::regclass, used + 1000 * step);
    END IF;
END
$$;

-- The other end: in the transaction that applied all before the token, this shard becomes the owner. False where it is
-- already.
CREATE FUNCTION wakala_shard.receive(tenant text, new_epoch bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    me integer := (SELECT s.id FROM wakala_shard.shard AS s);
    owner record;
BEGIN
    SELECT o.epoch, o.shard, o.state INTO owner FROM wakala_shard.owner AS o WHERE o.tenant_id = tenant FOR UPDATE;
    IF owner.state = 'owned' AND owner.epoch = new_epoch THEN
        RETURN false;
    END IF;
    IF owner IS NULL OR owner.state = 'owned' OR owner.epoch >= new_epoch THEN
        RAISE EXCEPTION 'tenant % is not due on this shard in epoch %: %', tenant, new_epoch, owner USING ERRCODE = 'WK004';
    END IF;
    UPDATE wakala_shard.owner AS o SET state = 'owned', epoch = new_epoch, shard = me WHERE o.tenant_id = tenant;
    RETURN true;
END
$$;

-- What was verified: one row a table and pass.
CREATE TABLE wakala_shard.move_check (
    move_id text NOT NULL,
    -- "before" the first fence, "after" the last, "back".
    pass text NOT NULL,
    relation text NOT NULL,
    row_count bigint NOT NULL,
    equal boolean NOT NULL,
    made timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (move_id, pass, relation)
);

-- Whoever writes rows of tenants calls these; the rest is the mover's.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA wakala_shard FROM PUBLIC;
GRANT USAGE ON SCHEMA wakala_shard TO PUBLIC;
GRANT EXECUTE ON FUNCTION wakala_shard.enter(text, bigint), wakala_shard.check_owner(text, bigint, boolean),
    wakala_shard.check_stays(text, text) TO PUBLIC;
