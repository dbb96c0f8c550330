"use strict";

/**
 * The JavaScript side of the lock: it checks arguments, builds errors and listens for the end of
 * the process. Every decision about a lock is made in Rust (`src/`); what users may rely on is
 * documented in `index.d.ts`.
 */

const path = require("node:path");
const { getSystemErrorName } = require("node:util");

const DEFAULT_TIMEOUT_MS = 10_000;
const DEFAULT_STALE_MS = 30 * 60_000;
const DEFAULT_MAX_HOLD_MS = 5 * 60_000;

const TIMEOUT_CODE = "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT";
const LOST_CODE = "OPENCLAW_SESSION_WRITE_LOCK_LOST";
const NOT_A_FILE_CODE = "OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE";
const GUARDED_CODE = "OPENCLAW_SESSION_WRITE_LOCK_GUARDED";
const BUG_CODE = "OPENCLAW_SESSION_WRITE_LOCK_BUG";
const NO_BINARY_CODE = "OPENCLAW_SESSION_WRITE_LOCK_NO_BINARY";

const native = loadNative();

/** Signals that end a process unless somebody listens; locks go before they do. */
const CLEANUP_SIGNALS = ["SIGINT", "SIGTERM", "SIGQUIT", "SIGABRT"];

/**
 * Where the listeners are kept, so that a second copy of this file adds none: it only adds what is
 * to be done at the end of the process.
 */
const CLEANUP = Symbol.for("session-write-lock.cleanup");

/**
 * The binary for this system: one that was built here, else that of the platform's package. Written
 * by hand, and here: the loader that napi generates asks for a whole process report to tell glibc
 * from musl, and a file of its own takes as long to load as the binary.
 */
function loadNative() {
  const system = `${process.platform}-${process.arch}`;
  const flavours = process.platform === "linux" ? [`${system}-gnu`, `${system}-musl`] : [system];
  const candidates = process.env.NAPI_RS_NATIVE_LIBRARY_PATH
    ? [process.env.NAPI_RS_NATIVE_LIBRARY_PATH]
    : [
        ...flavours.map((flavour) => `${__dirname}/session-write-lock.${flavour}.node`),
        ...flavours.map((flavour) => `session-write-lock-${flavour}`),
      ];
  const failures = [];
  for (const candidate of candidates) {
    try {
      return loadBinary(candidate);
    } catch (error) {
      failures.push(error);
    }
  }
  const tried = `none of these could be loaded: ${candidates.join(", ")}`;
  throw Object.assign(
    new Error(
      `session-write-lock has no native binary for ${system}: install it again without omitting ` +
        "optional dependencies, or run `npm run build` in a checkout of its sources (Rust needed)",
      { cause: new AggregateError(failures, tried) },
    ),
    { code: NO_BINARY_CODE },
  );
}

/** What is beside us needs no looking for; `require` would ask for every folder on the way. */
function loadBinary(name) {
  if (!name.startsWith(__dirname)) {
    return require(name);
  }
  const loaded = { exports: {} };
  process.dlopen(loaded, name);
  return loaded.exports;
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

// --- Arguments --------------------------------------------------------------------------------

function readOptions(options) {
  readObject("options", options);
  const { sessionFile, timeoutMs, staleMs, maxHoldMs, allowReentrant, signal, handleSignals } = options;
  return {
    signal: readSignal(signal),
    sessionFile: readSessionFile(sessionFile),
    timeoutMs:
      timeoutMs === Infinity ? timeoutMs : readMs("timeoutMs", timeoutMs, DEFAULT_TIMEOUT_MS),
    staleMs: readMs("staleMs", staleMs, DEFAULT_STALE_MS),
    maxHoldMs: readMs("maxHoldMs", maxHoldMs, DEFAULT_MAX_HOLD_MS),
    allowReentrant: readBoolean("allowReentrant", allowReentrant, true),
    handleSignals: readBoolean("handleSignals", handleSignals, true),
  };
}

function readObject(name, value) {
  if (value === null || typeof value !== "object") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `${name} must be an object, not ${show(value)}`);
  }
  return value;
}

function readSessionFile(sessionFile) {
  return readFilePath("sessionFile", sessionFile);
}

/** The absolute path of something that can't be the root. */
function readFilePath(name, value) {
  const resolved = readPath(name, value);
  if (path.basename(resolved) === "") {
    throw argumentError("ERR_INVALID_ARG_VALUE", `${name} must name a file, not the root`);
  }
  // The caller's own string, where it is the same: each waiter keeps one.
  return resolved === value ? value : resolved;
}

function readPath(name, value) {
  if (typeof value !== "string") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `${name} must be a string, not ${show(value)}`);
  }
  if (value === "") {
    throw argumentError("ERR_INVALID_ARG_VALUE", `${name} must not be empty`);
  }
  if (value.includes("\0")) {
    const message = `${name} must not contain NUL bytes: ${JSON.stringify(value)}`;
    throw argumentError("ERR_INVALID_ARG_VALUE", message);
  }
  return path.resolve(value);
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

/** Loggers are objects or functions; `warn` is the one method that is called. */
function readLog(log) {
  if (log === undefined || log === null) {
    return;
  }
  if (!["object", "function"].includes(typeof log) || !["undefined", "function"].includes(typeof log.warn)) {
    throw argumentError("ERR_INVALID_ARG_TYPE", `log must have a function \`warn\`, or none`);
  }
}

function readSignal(signal) {
  if (signal === undefined || signal === null) {
    return undefined;
  }
  if (typeof signal.throwIfAborted !== "function") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `signal must be an AbortSignal, not ${show(signal)}`);
  }
  return signal;
}

function show(value) {
  return value === null ? "null" : typeof value;
}

// --- The native side ----------------------------------------------------------------------------

/** What was asked for and has not ended: by ticket, the function that wants the outcome. */
const pending = new Map();
let lastTicket = 0;

/** The locks whose loss somebody wants to hear of: by handle, the function to tell. */
const watched = new Map();

/**
 * While something is pending, this keeps the process alive; a held lock does not. Made when it is
 * first needed: a first timer takes as long as loading the binary.
 */
let keepAlive;

/** Node's own timers: a test that installs a fake clock later must not stop what runs here. */
const { setImmediate, setInterval, setTimeout } = globalThis;

const client = new native.Client(({ ticket, outcome, handle, loss }) => {
  if (handle !== undefined) {
    const abort = watched.get(handle);
    watched.delete(handle);
    abort?.(loss);
    return;
  }
  const settle = pending.get(ticket);
  forget(ticket);
  settle?.(outcome);
});

/** Waits for what will be told under `ticket`. */
function expect(ticket, settle) {
  if (pending.size === 0) {
    keepAlive ??= setInterval(() => {}, 2 ** 30);
    keepAlive.ref();
  }
  pending.set(ticket, settle);
}

function forget(ticket) {
  pending.delete(ticket);
  if (pending.size === 0) {
    keepAlive?.unref();
  }
}

// --- Locks ------------------------------------------------------------------------------------

/** No `async` function: what the runtime keeps of one that waits is most of what a waiter costs. */
function acquireSessionWriteLock(options) {
  try {
    const request = readOptions(options);
    installListeners(request);
    return contend(request);
  } catch (error) {
    return Promise.reject(error);
  }
}

/** Asks for the lock once. */
function contend(request) {
  request.signal?.throwIfAborted();
  const ticket = ++lastTicket;
  const outcome = client.acquire(ticket, ...nativeArguments(request));
  // Also what is here already is waited for: the caller gets a chance to release everything
  // before it hears of the lock, and must not be given one that is gone.
  const told = outcome ? Promise.resolve(outcome) : outcomeOf(ticket, request.signal);
  return told.then((outcome) => conclude(request, outcome));
}

/** The lock that was granted, or the error. Here, where the stack leads to the caller. */
function conclude(request, { granted, timeout, refusal }) {
  if (granted && native.isRegistered(granted.handle)) {
    return new SessionWriteLock(granted);
  }
  if (timeout) {
    throw timeoutError(request.timeoutMs, timeout);
  }
  if (refusal) {
    throw refusalError(refusal);
  }
  // Granted, but `releaseAllSessionWriteLocks` ran before we could hear of it: once more.
  return contend(request);
}

function nativeArguments({ sessionFile, timeoutMs, staleMs, maxHoldMs, allowReentrant }) {
  return [sessionFile, timeoutMs, staleMs, maxHoldMs, allowReentrant];
}

/** The outcome of a pending acquire. Rejects with the signal's reason as soon as it aborts. */
function outcomeOf(ticket, signal) {
  return new Promise((resolve, reject) => {
    if (!signal) {
      expect(ticket, resolve);
      return;
    }
    const abort = () => {
      reject(signal.reason);
      if (client.cancel(ticket)) {
        forget(ticket);
      } else {
        // Too late to withdraw: what may have been granted is given back as soon as we hear of it.
        expect(ticket, ({ granted }) => granted && releaseHandle(granted.handle).catch(() => {}));
      }
    };
    expect(ticket, (outcome) => {
      signal.removeEventListener("abort", abort);
      resolve(outcome);
    });
    signal.addEventListener("abort", abort, { once: true });
  });
}

function tryAcquireSessionWriteLock(options) {
  const request = readOptions(options);
  request.signal?.throwIfAborted();
  installListeners(request);
  const { granted, refusal } = client.tryAcquire(...nativeArguments(request));
  if (refusal) {
    throw refusalError(refusal);
  }
  return granted ? new SessionWriteLock(granted) : null;
}

class SessionWriteLock {
  #handle;
  #released;
  #signal;

  constructor({ handle, lockPath }) {
    this.#handle = handle;
    this.lockPath = lockPath;
    // It needs no `this`: callers take it out of the lock and pass it around.
    this.release = () => {
      this.#released ??= releaseHandle(handle);
      return this.#released;
    };
  }

  get held() {
    return native.isHeld(this.#handle);
  }

  get signal() {
    this.#signal ??= watchLoss(this.#handle, this.lockPath, this.#released !== undefined);
    return this.#signal;
  }
}

if (Symbol.asyncDispose) {
  SessionWriteLock.prototype[Symbol.asyncDispose] = function dispose() {
    return this.release();
  };
}

/** A signal that aborts when the lock is lost. Only who asks for it has its lock watched. */
function watchLoss(handle, lockPath, isReleased) {
  const controller = new AbortController();
  const abort = (how) => controller.abort(new SessionWriteLockLostError({ lockPath, how }));
  if (!isReleased) {
    watched.set(handle, abort);
    const how = client.watchLoss(handle);
    if (how) {
      watched.delete(handle);
      abort(how);
    }
  }
  return controller.signal;
}

async function releaseHandle(handle) {
  watched.delete(handle);
  const ticket = ++lastTicket;
  const { refusal } = client.release(ticket, handle) ?? (await outcomeOf(ticket));
  if (refusal) {
    throw refusalError(refusal);
  }
}

function releaseAllSessionWriteLocks() {
  return client.releaseAll();
}

// --- Inspection -----------------------------------------------------------------------------------

/** Inspections that are handed over at a time: what that takes of the event loop stays short. */
const PART = 128;

async function inspectSessionLock(path, options) {
  const { staleMs, nowMs } = readObject("options", options ?? {});
  const request = [readFilePath("path", path), readMs("staleMs", staleMs, DEFAULT_STALE_MS)];
  const ticket = ++lastTicket;
  const inspections = client.inspect(ticket, ...request, readMs("nowMs", nowMs));
  const [inspection = null] = await takeAll(ticket, inspections);
  return inspection;
}

async function cleanStaleLockFiles(options) {
  const { sessionsDir, staleMs, removeStale, nowMs, recursive, log } = readObject("options", options);
  const request = [
    readPath("sessionsDir", sessionsDir),
    readMs("staleMs", staleMs, DEFAULT_STALE_MS),
    readMs("nowMs", nowMs),
    readBoolean("removeStale", removeStale, true),
    readBoolean("recursive", recursive, false),
  ];
  readLog(log);
  const ticket = ++lastTicket;
  const locks = await takeAll(ticket, client.sweep(ticket, ...request));
  const cleaned = locks.filter(({ removed }) => removed);
  for (const { lockPath, staleReasons } of cleaned) {
    const reasons = staleReasons.join(", ") || "no longer held";
    warn(log, `removed stale session lock: ${lockPath} (${reasons})`);
  }
  return { locks, cleaned };
}

/** Waits for what is being looked at, and takes it over bit by bit. */
async function takeAll(ticket, inspections) {
  const { refusal } = await outcomeOf(ticket);
  if (refusal) {
    throw refusalError(refusal);
  }
  const all = [];
  for (;;) {
    const part = inspections.take(PART);
    all.push(...part.map(inspectionFrom));
    if (part.length < PART) {
      return all;
    }
    await new Promise(setImmediate);
  }
}

function inspectionFrom(inspected) {
  const { lockPath, processMayLive, staleReasons, removed, verdict, cause } = inspected;
  const { holder = null, ageMs = null, witnessed = null } = inspected;
  const record = JSON.parse(holder);
  return {
    lockPath,
    pid: record?.pid ?? null,
    pidAlive: processMayLive,
    createdAt: ageMs === null ? null : record.createdAt,
    ageMs,
    stale: staleReasons.length > 0,
    staleReasons,
    removable: verdict === "dead",
    removed,
    comm: record?.comm ?? null,
    holder: record,
    witnessed,
    verdict,
    ...(cause && { cause: refusalError(cause) }),
  };
}

/** What the log does with it is the log's business: a sweep doesn't fail for it. */
function warn(log, message) {
  try {
    log?.warn?.(message);
  } catch {
    // See above.
  }
}

function heldSessionWriteLocks() {
  return native.heldLocks().map(({ acquiredAtMs, ...held }) => ({
    ...held,
    acquiredAt: new Date(acquiredAtMs).toISOString(),
  }));
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

/** Only the main thread does. Asked late: loading that module takes longer than loading us. */
function receivesSignals() {
  mainThread ??= require("node:worker_threads").isMainThread;
  return mainThread;
}

let mainThread;

/**
 * At each acquire: whatever is missing is added. Ours come first among the listeners of a signal,
 * because one that was added with `once` is gone by the time the next one runs, and must be seen
 * when we ask whether we are alone. Worker threads receive no signals, and a caller may want to
 * handle them all by itself.
 */
function installListeners({ handleSignals }) {
  const signals = handleSignals && receivesSignals() ? CLEANUP_SIGNALS : [];
  if (process[CLEANUP]?.clients.has(client) && process[CLEANUP].listeners.size >= signals.length) {
    return;
  }
  if (!process[CLEANUP]) {
    const cleanup = { clients: new Set(), listeners: new Map(), exit: endAllClients };
    Object.defineProperty(process, CLEANUP, { value: cleanup, configurable: true });
    process.on("exit", cleanup.exit);
  }
  const { clients, listeners } = process[CLEANUP];
  clients.add(client);
  for (const signal of signals) {
    if (!listeners.has(signal)) {
      const listener = () => handleTerminationSignal(signal);
      listeners.set(signal, listener);
      process.prependListener(signal, listener);
    }
  }
}

/** The process lives on, perhaps: who waits goes on waiting. */
function releaseAllLocksSync() {
  for (const each of process[CLEANUP]?.clients ?? []) {
    each.releaseAll();
  }
}

/** The process ends: nobody waits any more either. */
function endAllClients() {
  for (const each of process[CLEANUP].clients) {
    each.end();
  }
}

/**
 * Releases everything. If nobody else listens for the signal, it is raised again without us, so
 * that it does what it would have done; otherwise it is the others' to decide.
 */
function handleTerminationSignal(signal) {
  releaseAllLocksSync();
  const ours = process[CLEANUP]?.listeners.get(signal);
  if (ours && process.listenerCount(signal) === 1 && process.listeners(signal)[0] === ours) {
    process.off(signal, ours);
    process[CLEANUP].listeners.delete(signal);
    endAllClients();
    process.kill(process.pid, signal);
  }
}

// --- For tests --------------------------------------------------------------------------------

/** How many of the watchdog's releases have been told, or forgotten by `reset`. */
let watchdogReleasesTold = 0;

/**
 * Has the watchdog look as if it were `nowMs`. It also looks by itself, so what it has released
 * since it was last asked counts as well.
 */
async function runLockWatchdogCheck(nowMs = Date.now()) {
  native.runWatchdog(Math.max(0, nowMs - Date.now()));
  await idle();
  const told = watchdogReleasesTold;
  watchdogReleasesTold = native.watchdogReleases();
  return watchdogReleasesTold - told;
}

/** Resolves when no disk work of this process is under way: no release, no look at a lock. */
async function idle() {
  while (!native.isIdle()) {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** As if no lock had been acquired yet: releases all, and takes every listener away. */
function reset() {
  releaseAllLocksSync();
  watchdogReleasesTold = native.watchdogReleases();
  const cleanup = process[CLEANUP];
  if (cleanup) {
    delete process[CLEANUP];
    process.off("exit", cleanup.exit);
    cleanup.listeners.forEach((listener, signal) => process.off(signal, listener));
  }
}

/** For the gateway's own tests, as the older module had it. */
const __testing = {
  cleanupSignals: CLEANUP_SIGNALS,
  handleTerminationSignal,
  releaseAllLocksSync,
  runLockWatchdogCheck,
  idle,
  reset,
  getProcessComm,
  getProcessCommForPid,
  isAlive,
};

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
