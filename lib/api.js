"use strict";

/** All of the package, once per JavaScript world: `index.js` shares it between copies. */

const { native } = require("./client.js");
const errors = require("./errors.js");
const { cleanStaleLockFiles, heldLocks, inspectLock, inspectSessionLock } = require("./inspection.js");
const { lock, tryLock, withLock } = require("./lock.js");
const processes = require("./processes.js");
const session = require("./session.js");
const { __testing } = require("./testing.js");

module.exports = {
  lock,
  tryLock,
  withLock,
  inspectLock,
  heldLocks,
  LockTimeoutError: errors.LockTimeoutError,
  LockLostError: errors.LockLostError,
  LOCK_ERROR_CODES: errors.LOCK_ERROR_CODES,
  isLockTimeoutError: errors.isLockTimeoutError,
  isLockLostError: errors.isLockLostError,

  ...session,
  inspectSessionLock,
  cleanStaleLockFiles,
  heldSessionWriteLocks: heldLocks,
  SessionWriteLockTimeoutError: errors.SessionWriteLockTimeoutError,
  SessionWriteLockLostError: errors.SessionWriteLockLostError,

  ...processes,
  __testing,
  native,
};
