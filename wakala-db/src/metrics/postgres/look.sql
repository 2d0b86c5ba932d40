-- Everything about the sessions of a server, in one statement and without waiting for anybody. PostgreSQL 12 and later.
-- The columns mean something else in each kind of row: see server.rs.
WITH here AS MATERIALIZED (SELECT clock_timestamp() AS now)
SELECT 'server' AS kind,
       current_user::text AS name,
       CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END AS detail,
       -- Without it the view below shows everything of other roles as NULL.
       CASE WHEN pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN 'all' ELSE 'own' END AS more,
       current_setting('max_connections')::int8
           - current_setting('superuser_reserved_connections')::int8
           -- Since version 16.
           - coalesce(current_setting('reserved_connections', true)::int8, 0) AS number,
       NULL::float8 AS x,
       NULL::float8 AS y,
       NULL::float8 AS z
UNION ALL
SELECT 'database', datname::text, NULL, NULL, nullif(greatest(datconnlimit, -1), -1), NULL, NULL, NULL
FROM pg_database
WHERE datallowconn
UNION ALL
-- Background workers, autovacuum and WAL senders have places of their own, beside max_connections.
SELECT 'sessions', coalesce(datname::text, ''), state, wait_event_type, count(*),
       max(extract(epoch FROM here.now - xact_start))::float8,
       max(extract(epoch FROM here.now - query_start))::float8,
       max(extract(epoch FROM here.now - state_change))::float8
FROM pg_stat_activity, here
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
GROUP BY datname, state, wait_event_type
UNION ALL
SELECT 'prepared', database::text, NULL, NULL, count(*),
       max(extract(epoch FROM here.now - prepared))::float8, NULL, NULL
FROM pg_prepared_xacts, here
GROUP BY database
