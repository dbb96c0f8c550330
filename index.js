"use strict";

/**
 * What the package exports. The JavaScript side, in `lib/`, checks arguments, builds errors and listens for the
 * end of the process. Every decision about a lock is made in Rust (`src/`); what users may rely on is documented
 * in `index.d.ts`.
 *
 * Two copies of one version in one JavaScript world (a dependency and a bundle) are one: the first one serves
 * both. So they share locks, listeners and error classes.
 */

const version = require("./lib/version.js");

const shared = (globalThis[Symbol.for(`session-write-lock@${version}`)] ??= require("./lib/api.js"));

const {
  lock,
  tryLock,
  withLock,
  inspectLock,
  heldLocks,
  LockTimeoutError,
  LockLostError,
  LOCK_ERROR_CODES,
  isLockTimeoutError,
  isLockLostError,

  acquireSessionWriteLock,
  tryAcquireSessionWriteLock,
  releaseAllSessionWriteLocks,
  inspectSessionLock,
  cleanStaleLockFiles,
  heldSessionWriteLocks,
  SessionWriteLockTimeoutError,
  SessionWriteLockLostError,

  isAlive,
  getProcessComm,
  getProcessCommForPid,
  getProcessStartTime,
  __testing,
} = shared;

// Plain names only: that is what makes each of them importable from ES modules.
module.exports = {
  lock,
  tryLock,
  withLock,
  inspectLock,
  heldLocks,
  LockTimeoutError,
  LockLostError,
  LOCK_ERROR_CODES,
  isLockTimeoutError,
  isLockLostError,

  acquireSessionWriteLock,
  tryAcquireSessionWriteLock,
  releaseAllSessionWriteLocks,
  inspectSessionLock,
  cleanStaleLockFiles,
  heldSessionWriteLocks,
  SessionWriteLockTimeoutError,
  SessionWriteLockLostError,

  isAlive,
  getProcessComm,
  getProcessCommForPid,
  getProcessStartTime,
  __testing,
};

/** For this package's own tests and benchmarks: see `native.js`. */
module.exports[Symbol.for("session-write-lock.native")] = shared.native;
