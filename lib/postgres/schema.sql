-- What `session-write-lock/postgres` needs in a database: one table and one function, in the first schema of the
-- search path. `locks.migrate()` runs this file; `psql --single-transaction --file` does as well. It may be run again.
--
-- A role that takes locks needs SELECT, INSERT and UPDATE on the table. A role that only calls the fence needs SELECT
-- and UPDATE, because the fence locks a row.

-- Two migrations at the same time: the second one waits, then finds everything there.
SELECT pg_advisory_xact_lock(hashtextextended('session-write-lock migration', 0));

-- One row for each name that was ever locked. The lock itself is an advisory lock; the row says who got it last.
CREATE TABLE IF NOT EXISTS session_write_locks (
  name text PRIMARY KEY,
  -- From one sequence for all names, so it grows for each name even if its row was deleted in between.
  generation bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
  holder jsonb NOT NULL,
  label text,
  acquired_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Fails, and the transaction of the caller with it, unless `lock_generation` is the last generation that was granted.
-- The row stays locked until that transaction ends, so the next holder is granted its generation only afterwards. A caller
-- that is stopped or cut off in its transaction must not hold the others up for ever: after 30 s without a statement, or
-- if it takes nothing of an answer for 30 s (over TCP), the server ends its connection, unless the caller has a limit of
-- its own (`idle_in_transaction_session_timeout`, `tcp_user_timeout`).
CREATE OR REPLACE FUNCTION session_write_lock_fence(lock_name text, lock_generation bigint)
RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  latest bigint;
BEGIN
  IF current_setting('idle_in_transaction_session_timeout') = '0' THEN
    PERFORM set_config('idle_in_transaction_session_timeout', '30s', true);
  END IF;
  IF current_setting('tcp_user_timeout') = '0' THEN
    PERFORM set_config('tcp_user_timeout', '30s', true);
  END IF;
  SELECT generation INTO latest FROM session_write_locks WHERE name = lock_name FOR SHARE;
  IF latest IS NULL AND current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
    RAISE EXCEPTION 'the lock "%" was granted after this transaction began to read', lock_name USING ERRCODE = '40001';
  END IF;
  IF latest IS DISTINCT FROM lock_generation THEN
    RAISE EXCEPTION 'generation % of the lock "%" is over: the last one is %', lock_generation, lock_name, latest
      USING ERRCODE = 'SWL01';
  END IF;
END
$$;
