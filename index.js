"use strict";

/**
 * The JavaScript side of the lock: it checks arguments, builds errors and listens for the end of
 * the process. Every decision about a lock is made in Rust (`src/`); what users may rely on is
 * documented in `index.d.ts`.
 */

const path = require("node:path");
const { getSystemErrorName } = require("node:util");
const { isMainThread } = require("node:worker_threads");

const native = loadNative();

const DEFAULT_TIMEOUT_MS = 10_000;
const DEFAULT_STALE_MS = 30 * 60_000;
const DEFAULT_MAX_HOLD_MS = 5 * 60_000;

const TIMEOUT_CODE = "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT";
const NOT_A_FILE_CODE = "OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE";
const NO_BINARY_CODE = "OPENCLAW_SESSION_WRITE_LOCK_NO_BINARY";

/** Signals that end a process unless somebody listens; locks go before they do. */
const CLEANUP_SIGNALS = ["SIGINT", "SIGTERM", "SIGQUIT", "SIGABRT"];

/** Where the listeners are kept, so that a second copy of this file adds none. */
const LISTENERS = Symbol.for("session-write-lock.listeners");

function loadNative() {
  try {
    return require("./native.js");
  } catch (cause) {
    const system = `${process.platform}-${process.arch}`;
    throw Object.assign(
      new Error(
        `session-write-lock has no native binary for ${system}: install it again without omitting ` +
          "optional dependencies, or build it with `npm run build` (Rust needed)",
        { cause },
      ),
      { code: NO_BINARY_CODE },
    );
  }
}

// --- Errors -----------------------------------------------------------------------------------

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

/** An error as `fs` would throw it: `code`, `errno`, `syscall`, `path`. */
function refusalError({ message, path, errno, syscall }) {
  if (errno === undefined) {
    return Object.assign(new Error(message), { code: NOT_A_FILE_CODE, path });
  }
  const code = getSystemErrorName(-errno);
  return Object.assign(new Error(`${code}: ${message}`), { code, errno: -errno, syscall, path });
}

function argumentError(code, message) {
  return Object.assign(new TypeError(message), { code });
}

// --- Arguments --------------------------------------------------------------------------------

function readOptions(options) {
  if (options === null || typeof options !== "object") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `options must be an object, not ${show(options)}`);
  }
  const { sessionFile, timeoutMs, staleMs, maxHoldMs, allowReentrant } = options;
  return {
    sessionFile: readSessionFile(sessionFile),
    timeoutMs:
      timeoutMs === Infinity ? timeoutMs : readMs("timeoutMs", timeoutMs, DEFAULT_TIMEOUT_MS),
    staleMs: readMs("staleMs", staleMs, DEFAULT_STALE_MS),
    maxHoldMs: readMs("maxHoldMs", maxHoldMs, DEFAULT_MAX_HOLD_MS),
    allowReentrant: readBoolean("allowReentrant", allowReentrant, true),
  };
}

function readSessionFile(sessionFile) {
  if (typeof sessionFile !== "string") {
    const message = `sessionFile must be a string, not ${show(sessionFile)}`;
    throw argumentError("ERR_INVALID_ARG_TYPE", message);
  }
  if (sessionFile === "") {
    throw argumentError("ERR_INVALID_ARG_VALUE", "sessionFile must not be empty");
  }
  if (sessionFile.includes("\0")) {
    const message = `sessionFile must not contain NUL bytes: ${JSON.stringify(sessionFile)}`;
    throw argumentError("ERR_INVALID_ARG_VALUE", message);
  }
  const resolved = path.resolve(sessionFile);
  if (path.basename(resolved) === "") {
    throw argumentError("ERR_INVALID_ARG_VALUE", "sessionFile must name a file, not the root");
  }
  return resolved;
}

/** Milliseconds above zero; any other number means the default. */
function readMs(name, value, fallback) {
  if (value === undefined || value === null) {
    return fallback;
  }
  if (typeof value !== "number") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `${name} must be a number, not ${show(value)}`);
  }
  return Number.isFinite(value) && value > 0 ? value : fallback;
}

function readBoolean(name, value, fallback) {
  if (value === undefined || value === null) {
    return fallback;
  }
  if (typeof value !== "boolean") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `${name} must be a boolean, not ${show(value)}`);
  }
  return value;
}

function show(value) {
  return value === null ? "null" : typeof value;
}

// --- Locks ------------------------------------------------------------------------------------

async function acquireSessionWriteLock(options) {
  const request = readOptions(options);
  installListeners();
  const { timeoutMs } = request;
  const nativeRequest = { ...request, timeoutMs: timeoutMs === Infinity ? undefined : timeoutMs };
  for (;;) {
    const { granted, timeout, refusal } = await native.acquire(nativeRequest);
    if (granted) {
      return createLock(granted);
    }
    if (timeout) {
      throw timeoutError(timeoutMs, timeout);
    }
    if (refusal) {
      throw refusalError(refusal);
    }
    // Granted, but `releaseAllSessionWriteLocks` ran before we could hear of it: once more.
  }
}

/** `release` needs no `this`: callers take it out of the lock and pass it around. */
function createLock({ handle, lockPath }) {
  let released;
  const release = () => {
    released ??= releaseHandle(handle);
    return released;
  };
  const lock = { lockPath, release };
  if (Symbol.asyncDispose) {
    lock[Symbol.asyncDispose] = release;
  }
  return lock;
}

async function releaseHandle(handle) {
  const refusal = await native.release(handle);
  if (refusal) {
    throw refusalError(refusal);
  }
}

function releaseAllSessionWriteLocks() {
  return native.releaseAll();
}

// --- Processes --------------------------------------------------------------------------------

function isAlive(pid, comm) {
  return typeof pid === "number" && native.isAlive(pid, typeof comm === "string" ? comm : undefined);
}

function getProcessComm() {
  return native.processComm();
}

function getProcessCommForPid(pid) {
  return typeof pid === "number" ? native.processCommForPid(pid) : null;
}

function getProcessStartTime(pid) {
  return typeof pid === "number" ? native.processStartTime(pid) : null;
}

// --- The end of the process -------------------------------------------------------------------

/** Once per environment, at its first acquire. Worker threads receive no signals. */
function installListeners() {
  if (process[LISTENERS]) {
    return;
  }
  const listeners = new Map([["exit", releaseAllLocksSync]]);
  if (isMainThread) {
    for (const signal of CLEANUP_SIGNALS) {
      listeners.set(signal, () => handleTerminationSignal(signal));
    }
  }
  for (const [event, listener] of listeners) {
    process.on(event, listener);
  }
  Object.defineProperty(process, LISTENERS, { value: listeners });
}

function releaseAllLocksSync() {
  native.releaseAll();
}

/**
 * Releases everything. If nobody else listens for the signal, it is raised again without us, so
 * that it does what it would have done; otherwise it is the others' to decide.
 */
function handleTerminationSignal(signal) {
  releaseAllLocksSync();
  const ours = process[LISTENERS]?.get(signal);
  if (ours && process.listenerCount(signal) === 1 && process.listeners(signal)[0] === ours) {
    process.off(signal, ours);
    process.kill(process.pid, signal);
  }
}

/** For the gateway's own tests, as the older module had it. */
const __testing = {
  cleanupSignals: CLEANUP_SIGNALS,
  handleTerminationSignal,
  releaseAllLocksSync,
  getProcessComm,
  getProcessCommForPid,
  isAlive,
};

// Plain names only: that is what makes each of them importable from ES modules.
module.exports = {
  acquireSessionWriteLock,
  releaseAllSessionWriteLocks,
  isAlive,
  getProcessComm,
  getProcessCommForPid,
  getProcessStartTime,
  SessionWriteLockTimeoutError,
  __testing,
};
