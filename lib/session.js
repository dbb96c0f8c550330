"use strict";

/** The drop-in: the lock of a session, with the names and defaults of the older module. */

const { DEFAULT_MAX_HOLD_MS, DEFAULT_STALE_MS, DEFAULT_TIMEOUT_MS } = require("./defaults.js");
const { readBoolean, readFilePath, readMs, readObject, readSignal } = require("./arguments.js");
const { client, expect, forget, native, nextTicket, outcomeOf, watched } = require("./client.js");
const { installListeners } = require("./ending.js");
const { SessionWriteLockLostError, refusalError, timeoutError } = require("./errors.js");

function readOptions(options) {
  readObject("options", options);
  const { sessionFile, timeoutMs, staleMs, maxHoldMs, allowReentrant, signal, handleSignals } = options;
  return {
    signal: readSignal(signal),
    sessionFile: readFilePath("sessionFile", sessionFile),
    timeoutMs:
      timeoutMs === Infinity ? timeoutMs : readMs("timeoutMs", timeoutMs, DEFAULT_TIMEOUT_MS),
    staleMs: readMs("staleMs", staleMs, DEFAULT_STALE_MS),
    maxHoldMs: readMs("maxHoldMs", maxHoldMs, DEFAULT_MAX_HOLD_MS),
    allowReentrant: readBoolean("allowReentrant", allowReentrant, true),
    handleSignals: readBoolean("handleSignals", handleSignals, true),
  };
}

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
  const ticket = nextTicket();
  const outcome = client.acquire(ticket, ...nativeArguments(request));
  // Also what is here already is waited for: the caller gets a chance to release everything
  // before it hears of the lock, and must not be given one that is gone.
  const told = outcome ? Promise.resolve(outcome) : request.signal ? acquired(ticket, request.signal) : outcomeOf(ticket);
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
function acquired(ticket, signal) {
  return new Promise((resolve, reject) => {
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
  const ticket = nextTicket();
  const { refusal } = client.release(ticket, handle) ?? (await outcomeOf(ticket));
  if (refusal) {
    throw refusalError(refusal);
  }
}

function releaseAllSessionWriteLocks() {
  return client.releaseAll();
}

module.exports = {
  acquireSessionWriteLock,
  releaseAllSessionWriteLocks,
  tryAcquireSessionWriteLock,
};
