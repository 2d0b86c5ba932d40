-- To be appended to look.sql by UNION ALL.
(WITH here AS MATERIALIZED (
    SELECT clock_timestamp() AS now,
           pg_is_in_recovery() AS standby,
           -- The end of the WAL that this server has.
           CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
                ELSE pg_current_wal_lsn() END AS lsn
)
SELECT 'standby', application_name, NULL, state, NULL::int8,
       CASE WHEN reached >= here.lsn THEN 0
            -- The lag is as old as the last reply. One that is silent for longer than it should (it replies every 10 s
            -- with nothing to say) lags at least since then.
            ELSE extract(epoch FROM greatest(
                CASE WHEN replay_lsn IS NULL THEN coalesce(flush_lag, write_lag) ELSE replay_lag END,
                here.now - reply_time - interval '10 s'))
       END::float8,
       pg_wal_lsn_diff(here.lsn, reached)::float8,
       NULL::float8
FROM pg_stat_replication,
     here,
     -- Some receive without replaying: pg_receivewal.
     LATERAL (SELECT coalesce(replay_lsn, flush_lsn, write_lsn, sent_lsn) AS reached) AS receiver
WHERE state <> 'backup'
UNION ALL
-- A receiver that does not stream knows nothing of the end of the primary's WAL.
SELECT 'replay', NULL, NULL, status, NULL,
       CASE WHEN status = 'streaming' AND behind <= 0 THEN 0
            ELSE extract(epoch FROM here.now - pg_last_xact_replay_timestamp()) END::float8,
       CASE WHEN status = 'streaming' THEN behind END::float8,
       NULL
FROM here
     LEFT JOIN pg_stat_wal_receiver ON true,
     LATERAL (
         SELECT pg_wal_lsn_diff(
             greatest(latest_end_lsn, pg_last_wal_receive_lsn()), pg_last_wal_replay_lsn()) AS behind
     ) AS replayed
WHERE here.standby
UNION ALL
-- wal_status is there since version 13.
SELECT 'slot', slot_name::text, slot_type, to_jsonb(slots) ->> 'wal_status', active::int::int8,
       pg_wal_lsn_diff(here.lsn, restart_lsn)::float8, NULL, NULL
FROM pg_replication_slots AS slots, here)
