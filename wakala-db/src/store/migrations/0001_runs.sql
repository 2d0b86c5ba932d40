-- Runs, their journals, claims and mailboxes.
--
-- Unqualified names: whoever applies this file sets search_path to the schema first, as
-- PostgresStore::migrate does. By hand, in one transaction:
--
--   BEGIN;
--   CREATE SCHEMA wakala;
--   SET LOCAL search_path TO wakala, pg_temp;
--   \i 0001_runs.sql
--   COMMIT;
--
-- Every change is one call of one function, so it is one transaction of the server's: no connection holds a lock
-- while its client thinks, or is gone. What a function refuses it says in `outcome`; then nothing has changed.

CREATE TABLE schema_version (
    version    integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE schema_version IS 'The migrations that this schema has had';

CREATE TABLE run (
    run       text COLLATE "C" PRIMARY KEY,
    epoch     bigint NOT NULL CHECK (epoch > 0),
    owner     text,
    lapses_at timestamptz,
    length    bigint NOT NULL CHECK (length >= 0),
    letters   bigint NOT NULL DEFAULT 0 CHECK (letters >= 0),
    closed    boolean NOT NULL DEFAULT false,
    made_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((owner IS NULL) = (lapses_at IS NULL))
) WITH (fillfactor = 70); -- its row changes with every line
COMMENT ON TABLE run IS 'Runs, and who drives them';
COMMENT ON COLUMN run.epoch IS 'Counts the owners of the run; whoever has an earlier one can write nothing more';
COMMENT ON COLUMN run.owner IS 'The process that drives it; NULL once it gave its lease back';
COMMENT ON COLUMN run.lapses_at IS 'When the lease lapses, by the clock of this server';

CREATE TABLE line (
    run        text COLLATE "C" NOT NULL REFERENCES run,
    seq        bigint NOT NULL CHECK (seq >= 0),
    body       text NOT NULL,
    hash       text NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, seq)
);
COMMENT ON TABLE line IS 'The journals of runs. Lines are added, never changed';

CREATE TABLE claim (
    resource text COLLATE "C" PRIMARY KEY,
    run      text COLLATE "C" NOT NULL REFERENCES run,
    place    bigint NOT NULL
);
CREATE INDEX claim_of_run ON claim (run, place);
COMMENT ON TABLE claim IS 'What runs hold for themselves: a path and all that is below it';

CREATE TABLE letter (
    run     text COLLATE "C" NOT NULL REFERENCES run,
    number  bigint NOT NULL CHECK (number > 0),
    body    text NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, number)
);
COMMENT ON TABLE letter IS 'Requests to runs';

-- A record that is lost in a crash of the server is an effect that nobody knows of. Where the role or the database
-- says that commits need not be on disk, ours are all the same; anything stronger stays as it is.
CREATE FUNCTION durably() RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
END
$$;

-- The paths above each resource: of a/b/c those are a and a/b.
CREATE FUNCTION paths_above(p_resources text[]) RETURNS SETOF text
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT AS $$
    SELECT DISTINCT array_to_string(parts[:depth], '/')
    FROM unnest(p_resources) AS resource,
         string_to_array(resource, '/') AS parts,
         generate_series(1, cardinality(parts) - 1) AS depth
$$;

-- Waits until nobody else claims anything that overlaps with these resources, and keeps it so to the end of the
-- transaction: each resource is locked for itself, and each path above it is shared. The order is the same for
-- everybody, so nobody waits for each other; claims that do not overlap do not wait at all.
CREATE FUNCTION lock_claims(p_resources text[]) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    -- Schemas of one database do not lock each other.
    seed CONSTANT bigint := hashtextextended(current_schema(), 0);
    place record;
BEGIN
    -- The look for holders that follows must see what was committed while we waited.
    IF current_setting('transaction_isolation') = 'repeatable read' THEN
        RAISE EXCEPTION 'claims need the isolation level read committed'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Set default_transaction_isolation of this role to ''read committed''.';
    END IF;
    FOR place IN
        SELECT lock, bool_or(alone) AS alone
        FROM (SELECT hashtextextended(resource, seed) AS lock, true AS alone FROM unnest(p_resources) AS resource
              UNION ALL
              SELECT hashtextextended(above, seed), false FROM paths_above(p_resources) AS above) AS wanted
        GROUP BY lock
        ORDER BY lock
    LOOP
        IF place.alone THEN
            PERFORM pg_advisory_xact_lock(place.lock);
        ELSE
            PERFORM pg_advisory_xact_lock_shared(place.lock);
        END IF;
    END LOOP;
END
$$;

-- The first claim, of a run that is not excepted, that is one of these resources, above or below one.
CREATE FUNCTION overlapping_claim(p_resources text[], p_except text[], OUT resource text, OUT holder text)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    SELECT found.resource, found.run INTO resource, holder
    FROM (SELECT claim.resource, claim.run FROM claim
          WHERE claim.resource = ANY (p_resources || ARRAY(SELECT paths_above(p_resources)))
            AND claim.run <> ALL (p_except)
          UNION ALL
          -- One search of the index for each resource, however many claims there are. '0' is what follows '/'.
          SELECT below.resource, below.run
          FROM unnest(p_resources) AS wanted
          CROSS JOIN LATERAL (SELECT claim.resource, claim.run FROM claim
                              WHERE claim.resource >= wanted || '/' AND claim.resource < wanted || '0'
                                AND claim.run <> ALL (p_except)
                              ORDER BY claim.resource
                              LIMIT 1) AS below) AS found
    ORDER BY found.resource
    LIMIT 1;
END
$$;

CREATE FUNCTION hold(p_run text, p_resources text[]) RETURNS void
LANGUAGE sql SET search_path FROM CURRENT AS $$
    INSERT INTO claim (resource, run, place)
    SELECT resource, p_run, min(place)
    FROM unnest(p_resources) WITH ORDINALITY AS wanted (resource, place)
    GROUP BY resource
$$;

CREATE FUNCTION lapse(p_ttl bigint) RETURNS timestamptz
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    SELECT clock_timestamp() + p_ttl * interval '1 microsecond'
$$;

-- Outcomes: done, exists, unknown (name: the superseded run), taken (name: the resource, and its holder).
CREATE FUNCTION create_run(
    p_run text, p_owner text, p_ttl bigint, p_body text, p_hash text, p_resources text[], p_supersedes text[],
    OUT outcome text, OUT name text, OUT holder text
) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM durably();
    PERFORM lock_claims(p_resources);
    IF EXISTS (SELECT FROM run WHERE run = p_run) THEN
        outcome := 'exists';
        RETURN;
    END IF;

    PERFORM FROM run WHERE run = ANY (p_supersedes) ORDER BY run FOR UPDATE;
    SELECT old INTO name FROM unnest(p_supersedes) AS old
    WHERE NOT EXISTS (SELECT FROM run WHERE run = old) LIMIT 1;
    IF name IS NOT NULL THEN
        outcome := 'unknown';
        RETURN;
    END IF;

    SELECT found.resource, found.holder INTO name, holder FROM overlapping_claim(p_resources, p_supersedes) AS found;
    IF holder IS NOT NULL THEN
        outcome := 'taken';
        RETURN;
    END IF;

    INSERT INTO run (run, epoch, owner, lapses_at, length) VALUES (p_run, 1, p_owner, lapse(p_ttl), 1)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        outcome := 'exists';
        RETURN;
    END IF;
    UPDATE run SET epoch = epoch + 1, owner = NULL, lapses_at = NULL WHERE run = ANY (p_supersedes);
    DELETE FROM claim WHERE run = ANY (p_supersedes);
    INSERT INTO line (run, seq, body, hash) VALUES (p_run, 0, p_body, p_hash);
    PERFORM hold(p_run, p_resources);
    outcome := 'done';
END
$$;

-- Outcomes: done (epoch), unknown, driven (holder, and microseconds left), taken (name: the resource, and its holder).
CREATE FUNCTION acquire(
    p_run text, p_owner text, p_ttl bigint, p_resources text[], p_forced boolean,
    OUT outcome text, OUT epoch bigint, OUT name text, OUT holder text, OUT time_left bigint
) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    found_run run%ROWTYPE;
    looked_at timestamptz;
BEGIN
    PERFORM durably();
    PERFORM lock_claims(p_resources);
    SELECT * INTO found_run FROM run WHERE run = p_run FOR UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown';
        RETURN;
    END IF;
    -- Only now: we may have waited for the lock.
    looked_at := clock_timestamp();
    IF found_run.lapses_at > looked_at AND NOT p_forced THEN
        outcome := 'driven';
        holder := found_run.owner;
        time_left := extract(epoch FROM found_run.lapses_at - looked_at) * 1000000;
        RETURN;
    END IF;

    SELECT found.resource, found.holder INTO name, holder
    FROM overlapping_claim(p_resources, ARRAY[p_run]) AS found;
    IF holder IS NOT NULL THEN
        outcome := 'taken';
        RETURN;
    END IF;

    UPDATE run SET epoch = found_run.epoch + 1, owner = p_owner, lapses_at = lapse(p_ttl), closed = false
    WHERE run = p_run;
    DELETE FROM claim WHERE run = p_run;
    PERFORM hold(p_run, p_resources);
    outcome := 'done';
    epoch := found_run.epoch + 1;
END
$$;

-- Locks the run for whoever has this epoch. Outcomes: done, unknown, fenced (number: the latest epoch), given back.
CREATE FUNCTION drive(p_run text, p_epoch bigint, OUT outcome text, OUT number bigint, OUT next_seq bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    found_run run%ROWTYPE;
BEGIN
    PERFORM durably();
    SELECT * INTO found_run FROM run WHERE run = p_run FOR NO KEY UPDATE;
    next_seq := found_run.length;
    IF NOT FOUND THEN
        outcome := 'unknown';
    ELSIF found_run.epoch <> p_epoch THEN
        outcome := 'fenced';
        number := found_run.epoch;
    ELSIF found_run.owner IS NULL THEN
        outcome := 'given back';
    ELSE
        outcome := 'done';
    END IF;
END
$$;

-- Outcomes: done, unknown, fenced, given back.
CREATE FUNCTION renew(p_run text, p_epoch bigint, p_ttl bigint, OUT outcome text, OUT number bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    SELECT driven.outcome, driven.number INTO outcome, number FROM drive(p_run, p_epoch) AS driven;
    IF outcome = 'done' THEN
        UPDATE run SET lapses_at = lapse(p_ttl) WHERE run = p_run;
    END IF;
END
$$;

-- Outcomes: done, unknown, fenced. Giving back what was given back is done.
CREATE FUNCTION release(
    p_run text, p_epoch bigint, p_resources boolean, p_closed boolean, OUT outcome text, OUT number bigint
) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    SELECT driven.outcome, driven.number INTO outcome, number FROM drive(p_run, p_epoch) AS driven;
    IF outcome IN ('done', 'given back') THEN
        UPDATE run SET owner = NULL, lapses_at = NULL, closed = closed OR p_closed WHERE run = p_run;
        IF p_resources THEN
            DELETE FROM claim WHERE run = p_run;
        END IF;
        outcome := 'done';
    END IF;
END
$$;

-- Outcomes: done, unknown, fenced, given back, out of place (number: the next place).
CREATE FUNCTION append(
    p_run text, p_epoch bigint, p_seq bigint, p_body text, p_hash text, OUT outcome text, OUT number bigint
) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    next_seq bigint;
BEGIN
    SELECT driven.outcome, driven.number, driven.next_seq INTO outcome, number, next_seq
    FROM drive(p_run, p_epoch) AS driven;
    IF outcome <> 'done' THEN
        RETURN;
    END IF;
    IF p_seq <> next_seq THEN
        outcome := 'out of place';
        number := next_seq;
        RETURN;
    END IF;
    INSERT INTO line (run, seq, body, hash) VALUES (p_run, p_seq, p_body, p_hash);
    UPDATE run SET length = next_seq + 1 WHERE run = p_run;
END
$$;

-- Outcomes: done (number: its place), unknown.
CREATE FUNCTION send(p_run text, p_body text, OUT outcome text, OUT number bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    place bigint;
BEGIN
    PERFORM durably();
    UPDATE run SET letters = letters + 1 WHERE run = p_run RETURNING letters INTO place;
    IF place IS NULL THEN
        outcome := 'unknown';
        RETURN;
    END IF;
    INSERT INTO letter (run, number, body) VALUES (p_run, place, p_body);
    outcome := 'done';
    number := place;
END
$$;

-- Whoever works with the store gets what it needs, function by function: see wakala_db::store_permissions.
REVOKE EXECUTE ON FUNCTION
    durably(), paths_above(text[]), lock_claims(text[]), overlapping_claim(text[], text[]), hold(text, text[]),
    lapse(bigint), create_run(text, text, bigint, text, text, text[], text[]),
    acquire(text, text, bigint, text[], boolean), drive(text, bigint), renew(text, bigint, bigint),
    release(text, bigint, boolean, boolean), append(text, bigint, bigint, text, text), send(text, text)
FROM PUBLIC;
