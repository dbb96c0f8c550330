"use strict";

/**
 * What the package exports. The JavaScript side, in `lib/`, checks arguments, builds errors and listens for the
 * end of the process. Every decision about a lock is made in Rust (`src/`); what users may rely on is documented
 * in `index.d.ts`.
 */

const { native } = require("./lib/client.js");
const { SessionWriteLockLostError, SessionWriteLockTimeoutError } = require("./lib/errors.js");
const { cleanStaleLockFiles, heldSessionWriteLocks, inspectSessionLock } = require("./lib/inspection.js");
const {
  getProcessComm,
  getProcessCommForPid,
  getProcessStartTime,
  isAlive,
} = require("./lib/processes.js");
const {
  acquireSessionWriteLock,
  releaseAllSessionWriteLocks,
  tryAcquireSessionWriteLock,
} = require("./lib/session.js");
const { __testing } = require("./lib/testing.js");

// Plain names only: that is what makes each of them importable from ES modules.
module.exports = {
  acquireSessionWriteLock,
  tryAcquireSessionWriteLock,
  releaseAllSessionWriteLocks,
  inspectSessionLock,
  cleanStaleLockFiles,
  heldSessionWriteLocks,
  isAlive,
  getProcessComm,
  getProcessCommForPid,
  getProcessStartTime,
  SessionWriteLockTimeoutError,
  SessionWriteLockLostError,
  __testing,
};

/** For this package's own tests and benchmarks: see `native.js`. */
module.exports[Symbol.for("session-write-lock.native")] = native;
