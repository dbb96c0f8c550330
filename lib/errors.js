"use strict";

/** The errors, and their codes. */

const { getSystemErrorName } = require("node:util");

const TIMEOUT_CODE = "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT";
const LOST_CODE = "OPENCLAW_SESSION_WRITE_LOCK_LOST";
const NOT_A_FILE_CODE = "OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE";
const GUARDED_CODE = "OPENCLAW_SESSION_WRITE_LOCK_GUARDED";
const BUG_CODE = "OPENCLAW_SESSION_WRITE_LOCK_BUG";

class SessionWriteLockTimeoutError extends Error {
  constructor({ timeoutMs, lockPath, owner, holder = null, staleReasons = [], cause }) {
    super(
      `session file locked (timeout ${timeoutMs}ms): ${owner} ${lockPath}`,
      cause === undefined ? undefined : { cause },
    );
    this.name = "SessionWriteLockTimeoutError";
    this.code = TIMEOUT_CODE;
    this.timeoutMs = timeoutMs;
    this.lockPath = lockPath;
    this.owner = owner;
    this.holder = holder;
    this.staleReasons = staleReasons;
  }
}

const LOSSES = {
  "hold-exceeded": "it was held for longer than its maxHoldMs",
  removed: "the lock file was removed or replaced by somebody else",
  released: "all locks of this environment were released",
};

class SessionWriteLockLostError extends Error {
  constructor({ lockPath, how }) {
    super(`session write lock lost, ${LOSSES[how]}: ${lockPath}`);
    this.name = "SessionWriteLockLostError";
    this.code = LOST_CODE;
    this.lockPath = lockPath;
    this.how = how;
  }
}

function timeoutError(timeoutMs, { lockPath, owner, holder, staleReasons, cause }) {
  return new SessionWriteLockTimeoutError({
    timeoutMs,
    lockPath,
    owner,
    holder: holder === undefined ? null : JSON.parse(holder),
    staleReasons,
    cause: cause && refusalError(cause),
  });
}

/** The codes of what is refused by us, not by the kernel. */
const REFUSAL_CODES = {
  "not-a-file": NOT_A_FILE_CODE,
  guarded: GUARDED_CODE,
  bug: BUG_CODE,
};

/** An error as `fs` would throw it: `code`, `errno`, `syscall`, `path`. */
function refusalError({ message, kind, path, errno, name, syscall }) {
  if (errno === undefined) {
    return Object.assign(new Error(message), { code: REFUSAL_CODES[kind], path });
  }
  const code = name ?? getSystemErrorName(-errno);
  return Object.assign(new Error(`${code}: ${message}`), { code, errno: -errno, syscall, path });
}

function argumentError(code, message) {
  return Object.assign(new TypeError(message), { code });
}

module.exports = {
  TIMEOUT_CODE,
  LOST_CODE,
  SessionWriteLockTimeoutError,
  SessionWriteLockLostError,
  argumentError,
  refusalError,
  timeoutError,
};
