"use strict";

/** The errors that only a lock on a server has. The others are those of files. */

/** What a person can do, by the server's code (SQLSTATE) or the system's. */
const ADVICE = {
  "3F000": "create the schema, then run `await locks.migrate()`",
  "42P01": "create the table: `await locks.migrate()`, or `lib/postgres/schema.sql` of this package by psql",
  42501: "the role needs SELECT, INSERT and UPDATE on session_write_locks, and CREATE on its schema for `migrate()`",
  42704: "PostgreSQL 14 or newer is needed",
  53300: "the server has no connection left: raise `max_connections`, or lower `maxConnections`",
  25006: "this is a standby server: connect to the primary one",
  ECONNREFUSED: "no server listens there",
};

/** The database refused, or could not be reached. `cause` is the error of `pg`. */
function databaseError(cause) {
  const advice = ADVICE[cause.code];
  const message = `the lock server failed: ${cause.message || cause.code}${advice ? `; ${advice}` : ""}`;
  return Object.assign(new Error(message, { cause }), { code: "ERR_LOCK_DATABASE" });
}

/** Between us and the server stands a pooler, which may run our statements on any connection of its own. */
function poolerError() {
  const message =
    "a connection pooler stands between this process and PostgreSQL, and a lock belongs to one connection: connect " +
    "to the server itself. If the pooler keeps one server connection for each client (PgBouncer's pool_mode=session), " +
    "say so by `behindSessionPooler: true`";
  return Object.assign(new Error(message), { code: "ERR_LOCK_POOLER" });
}

function closedError() {
  return Object.assign(new Error("these locks are closed: close() was called"), { code: "ERR_LOCK_CLOSED" });
}

module.exports = { closedError, databaseError, poolerError };
