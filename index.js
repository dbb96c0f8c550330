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

// One assignment for each name: that is what makes each of them importable from ES modules.
exports.lock = shared.lock;
exports.tryLock = shared.tryLock;
exports.withLock = shared.withLock;
exports.inspectLock = shared.inspectLock;
exports.heldLocks = shared.heldLocks;
exports.LockTimeoutError = shared.LockTimeoutError;
exports.LockLostError = shared.LockLostError;
exports.LOCK_ERROR_CODES = shared.LOCK_ERROR_CODES;
exports.isLockTimeoutError = shared.isLockTimeoutError;
exports.isLockLostError = shared.isLockLostError;

exports.acquireSessionWriteLock = shared.acquireSessionWriteLock;
exports.tryAcquireSessionWriteLock = shared.tryAcquireSessionWriteLock;
exports.releaseAllSessionWriteLocks = shared.releaseAllSessionWriteLocks;
exports.inspectSessionLock = shared.inspectSessionLock;
exports.cleanStaleLockFiles = shared.cleanStaleLockFiles;
exports.heldSessionWriteLocks = shared.heldSessionWriteLocks;
exports.SessionWriteLockTimeoutError = shared.SessionWriteLockTimeoutError;
exports.SessionWriteLockLostError = shared.SessionWriteLockLostError;

exports.isAlive = shared.isAlive;
exports.getProcessComm = shared.getProcessComm;
exports.getProcessCommForPid = shared.getProcessCommForPid;
exports.getProcessStartTime = shared.getProcessStartTime;
exports.__testing = shared.__testing;

/** For this package's own tests and benchmarks: see `native.js`. */
exports[Symbol.for("session-write-lock.native")] = shared.native;
