"use strict";

/** The general face: a lock for any file. It excludes everybody, and waits until it has the lock. */

const { acquire, tryAcquire } = require("./acquire.js");
const { readFile, readStrictOptions } = require("./arguments.js");
const { DEFAULT_STALE_MS } = require("./defaults.js");
const { GENERAL, argumentError, selfDeadlockError } = require("./errors.js");

function lock(file, options) {
  try {
    return acquire(readRequest(file, options, ["timeoutMs", "signal", ...COMMON]));
  } catch (error) {
    return Promise.reject(error);
  }
}

function tryLock(file, options) {
  return tryAcquire(readRequest(file, options, COMMON));
}

const COMMON = ["maxHoldMs", "label", "staleMs", "onWarning"];

const DEFAULTS = { timeoutMs: Infinity, maxHoldMs: Infinity, staleMs: DEFAULT_STALE_MS };

function readRequest(file, options, names) {
  return {
    ...DEFAULTS,
    ...readStrictOptions(options, names),
    file: readFile("file", file),
    face: GENERAL,
    allowReentrant: false,
    handleSignals: false,
  };
}

// --- withLock -----------------------------------------------------------------------------------

/** What the running function holds by `withLock`. Made with the first call. */
let context;

async function withLock(file, options, run) {
  if (typeof options === "function" && run === undefined) {
    return withLock(file, undefined, options);
  }
  if (typeof options === "function") {
    throw argumentError("ERR_INVALID_ARG_TYPE", "options come before fn: withLock(file, options, fn)");
  }
  if (typeof run !== "function") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `fn must be a function, not ${typeof run}`);
  }
  const request = readRequest(file, options, ["timeoutMs", "signal", ...COMMON]);
  context ??= new (require("node:async_hooks").AsyncLocalStorage)();
  const outer = context.getStore() ?? [];
  refuseSelfDeadlock(outer, request.file);
  const held = await acquire(request);
  const hold = { lockPath: held.lockPath, isOver: false };
  let result;
  try {
    result = await context.run([...outer, hold], run, held);
  } catch (error) {
    hold.isOver = true;
    await held.release().catch((loss) => throwIfLost(loss, error));
    throw error;
  }
  hold.isOver = true;
  await held.release().catch(warnUnlessLost);
  return result;
}

/**
 * The function may have thrown because it heard of the loss. So the loss is told, with what the function threw. Else
 * that matters more than a lock file that could not be removed.
 */
function throwIfLost(loss, cause) {
  if (loss instanceof GENERAL.LostError) {
    if (cause !== loss) {
      loss.cause ??= cause;
    }
    throw loss;
  }
}

/**
 * A lost lock did not protect the work, so the caller is told. A lock file that could not be removed did protect
 * it: the next process takes the dead file over.
 */
function warnUnlessLost(error) {
  if (error instanceof GENERAL.LostError) {
    throw error;
  }
  process.emitWarning(error.message, { type: "LockWarning", code: error.code });
}

/** What runs on after its `withLock` has ended may wait for the lock. */
function refuseSelfDeadlock(outer, file) {
  const holds = outer.filter(({ isOver }) => !isOver);
  if (holds.length > 0) {
    const lockPath = lockPathOf(file);
    if (holds.some((hold) => hold.lockPath === lockPath)) {
      throw selfDeadlockError(lockPath);
    }
  }
}

/** As the binary has it: the real path of the folder, and the file's own name. */
function lockPathOf(file) {
  const path = require("node:path");
  const fs = require("node:fs");
  try {
    return `${path.join(fs.realpathSync.native(path.dirname(file)), path.basename(file))}.lock`;
  } catch {
    return `${file}.lock`; // no such folder: nobody holds a lock in it
  }
}

module.exports = { lock, tryLock, withLock };
