"use strict";

/**
 * The errors, and their codes. The lock has two faces: the general one, and the session face with the names of
 * the older module. Each session error is a general error as well, with a code of its own.
 */

const { getSystemErrorName } = require("node:util");

const LOSSES = {
  "hold-exceeded": "it was held for longer than its maxHoldMs",
  removed: "somebody removed or replaced the lock file",
  released: "all locks of this environment were released",
  "connection-lost": "the connection to the server ended",
  superseded: "the server has granted it to another holder",
};

class LockTimeoutError extends Error {
  constructor(details) {
    super(timeoutMessage(details), causeOf(details));
    this.name = "LockTimeoutError";
    this.code = "ERR_LOCK_TIMEOUT";
    setTimeoutDetails(this, details);
  }
}

class LockLostError extends Error {
  constructor({ lockPath, how, label, cause }) {
    const what = label === undefined ? "" : ` (${quote(label)})`;
    super(`lock lost, ${LOSSES[how]}: ${lockPath}${what}`, causeOf({ cause }));
    this.name = "LockLostError";
    this.code = "ERR_LOCK_LOST";
    this.lockPath = lockPath;
    this.how = how;
    this.label = label;
  }
}

class SessionWriteLockTimeoutError extends LockTimeoutError {
  constructor(details) {
    super(details);
    const { timeoutMs, owner, lockPath } = details;
    this.message = `session file locked (timeout ${timeoutMs}ms): ${owner} ${lockPath}`;
    this.name = "SessionWriteLockTimeoutError";
    this.code = "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT";
  }
}

class SessionWriteLockLostError extends LockLostError {
  constructor(details) {
    super(details);
    this.message = `session write ${this.message}`;
    this.name = "SessionWriteLockLostError";
    this.code = "OPENCLAW_SESSION_WRITE_LOCK_LOST";
  }
}

brand(LockTimeoutError);
brand(LockLostError);
brand(SessionWriteLockTimeoutError);
brand(SessionWriteLockLostError);

/** Makes `instanceof` true for an error of another copy of this package, too. */
function brand(Class) {
  const key = Symbol.for(`session-write-lock.${Class.name}`);
  Object.defineProperty(Class.prototype, key, { value: true });
  Object.defineProperty(Class, Symbol.hasInstance, {
    value(error) {
      const isOwn = this === Class;
      return isOwn ? error?.[key] === true : Function.prototype[Symbol.hasInstance].call(this, error);
    },
  });
}

function timeoutMessage({ timeoutMs, lockPath, holder, owner }) {
  const waited = timeoutMs > 0 ? `lock timeout after ${timeoutMs} ms` : "locked";
  const pid = holder?.pid === undefined ? "an unknown process" : `process ${holder.pid}`;
  const name = holder?.comm === undefined ? "" : ` (${escape(holder.comm)})`;
  const since = holder?.createdAt === undefined ? "" : ` since ${escape(holder.createdAt)}`;
  const label = holder?.label === undefined ? "" : `, for ${quote(holder.label)}`;
  const who = isHeldHere(owner) ? "this very process" : `${pid}${name}`;
  const advice = `wait longer, or see \`npx session-write-lock why ${quote(lockPath)}\``;
  return `${waited}: ${lockPath} is held by ${who}${since}${label}; ${advice}`;
}

/** A label in quotes. Whatever could be an order to a terminal is written out. */
function quote(label) {
  const inHex = (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(label).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (it) => it.split("").map(inHex).join(""));
}

/** The same, without the quotes. */
function escape(text) {
  return quote(String(text)).slice(1, -1);
}

const HELD_HERE = " (this process)";

function isHeldHere(owner) {
  return String(owner).endsWith(HELD_HERE);
}

function causeOf({ cause }) {
  return cause === undefined ? undefined : { cause };
}

function setTimeoutDetails(error, { timeoutMs, lockPath, owner, holder = null, staleReasons = [] }) {
  error.timeoutMs = timeoutMs;
  error.lockPath = lockPath;
  error.owner = owner;
  error.holder = holder;
  error.staleReasons = staleReasons;
}

// --- The two faces ------------------------------------------------------------------------------

/** What the general face throws. */
const GENERAL = {
  isGeneral: true,
  /** Whether `release` of a lock that was lost rejects. */
  rejectsWhenLost: true,
  TimeoutError: LockTimeoutError,
  LostError: LockLostError,
  refusals: {
    "not-a-file": "ERR_LOCK_NOT_A_FILE",
    foreign: "ERR_LOCK_FOREIGN_FILE",
    guarded: "ERR_LOCK_GUARDED",
    bug: "ERR_LOCK_BUG",
  },
};

/** What the session face throws. */
const SESSION = {
  isGeneral: false,
  rejectsWhenLost: false,
  TimeoutError: SessionWriteLockTimeoutError,
  LostError: SessionWriteLockLostError,
  refusals: {
    "not-a-file": "OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE",
    guarded: "OPENCLAW_SESSION_WRITE_LOCK_GUARDED",
    bug: "OPENCLAW_SESSION_WRITE_LOCK_BUG",
  },
};

function timeoutError(face, timeoutMs, { lockPath, owner, isHeldHere, holder, staleReasons, cause }) {
  return new face.TimeoutError({
    timeoutMs,
    lockPath,
    owner: isHeldHere ? owner + HELD_HERE : owner,
    holder: holder === undefined ? null : JSON.parse(holder),
    staleReasons,
    cause: cause && refusalError(face, cause),
  });
}

/** An error as `fs` would throw it: `code`, `errno`, `syscall`, `path`. */
function refusalError(face, { message, kind, path, errno, name, syscall }) {
  if (errno === undefined) {
    return Object.assign(new Error(message), { code: face.refusals[kind], path });
  }
  const code = name ?? getSystemErrorName(-errno);
  return Object.assign(new Error(`${code}: ${message}`), { code, errno: -errno, syscall, path });
}

function selfDeadlockError(lockPath) {
  const message =
    "withLock was called for the same lock inside its own function, and would wait for itself: " + lockPath;
  return Object.assign(new Error(message), { code: "ERR_LOCK_SELF_DEADLOCK", lockPath });
}

/** The permission model of Node refuses the path, as for `fs`. */
function accessError(permission, resource) {
  const message = `access to the lock file is restricted (node --permission): ${resource}`;
  return Object.assign(new Error(message), { code: "ERR_ACCESS_DENIED", permission, resource });
}

function argumentError(code, message) {
  const Class = code === "ERR_OUT_OF_RANGE" ? RangeError : TypeError;
  return Object.assign(new Class(message), { code });
}

// --- For callers --------------------------------------------------------------------------------

/** The codes of the general face. Those of the session face begin with `OPENCLAW_SESSION_WRITE_LOCK_`. */
const LOCK_ERROR_CODES = Object.freeze({
  TIMEOUT: "ERR_LOCK_TIMEOUT",
  LOST: "ERR_LOCK_LOST",
  SELF_DEADLOCK: "ERR_LOCK_SELF_DEADLOCK",
  NOT_A_FILE: "ERR_LOCK_NOT_A_FILE",
  FOREIGN_FILE: "ERR_LOCK_FOREIGN_FILE",
  GUARDED: "ERR_LOCK_GUARDED",
  BUG: "ERR_LOCK_BUG",
  DATABASE: "ERR_LOCK_DATABASE",
  POOLER: "ERR_LOCK_POOLER",
  CLOSED: "ERR_LOCK_CLOSED",
});

function isLockTimeoutError(error) {
  return error instanceof LockTimeoutError;
}

function isLockLostError(error) {
  return error instanceof LockLostError;
}

module.exports = {
  GENERAL,
  LOCK_ERROR_CODES,
  LockLostError,
  LockTimeoutError,
  SESSION,
  SessionWriteLockLostError,
  SessionWriteLockTimeoutError,
  accessError,
  argumentError,
  escape,
  isLockLostError,
  isLockTimeoutError,
  quote,
  refusalError,
  selfDeadlockError,
  timeoutError,
};
