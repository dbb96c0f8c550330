"use strict";

/** `session-write-lock/postgres`: locks that a PostgreSQL server keeps. `postgres.d.ts` says what users may rely on. */

const { postgresLocks } = require("./lib/postgres/locks.js");

module.exports = { postgresLocks };
