"use strict";

/** Getting a lock, for both faces. */

const { clientOf, expect, forget, native, nextTicket, outcomeOf, warningListeners } = require("./client.js");
const {
  beginWait,
  isTraced,
  publishTakeover,
  publishWait,
  traceAcquire,
  wantsLosses,
} = require("./diagnostics.js");
const { installListeners } = require("./ending.js");
const { refusalError, timeoutError } = require("./errors.js");
const { Lock, giveBack } = require("./held-lock.js");
const { requirePermission } = require("./permission.js");

/**
 * Waits for a lock. `request` holds the checked options, and the face that asks.
 *
 * Not an `async` function: its suspended frame would be most of a waiter's memory.
 */
function acquire(request) {
  try {
    requirePermission("fs.write", `${request.file}.lock`);
    installListeners(request);
    request.since = beginWait();
    return isTraced() ? traceAcquire(request, contend) : contend(request);
  } catch (error) {
    return Promise.reject(error);
  }
}

/** Asks for the lock once. */
function contend(request) {
  try {
    request.signal?.throwIfAborted();
  } catch (error) {
    return Promise.reject(error);
  }
  const ticket = nextTicket();
  const outcome = clientOf(request.face).acquire(ticket, ...nativeArguments(request));
  // An outcome that is here already is awaited as well: the caller may release everything before it hears of
  // the lock, and must not be given one that is gone.
  const told = outcome ? Promise.resolve(outcome) : outcomeUnlessAborted(ticket, request);
  return told.then((outcome) => conclude(request, outcome));
}

/** The lock that was granted, or the error. Here, where the stack leads to the caller. */
function conclude(request, { granted, timeout, refusal }) {
  if (timeout || granted?.hasWaited) {
    publishWait(request);
  }
  if (granted && native.isRegistered(granted.handle)) {
    return lockOf(request, granted);
  }
  if (timeout) {
    throw timeoutError(request.face, request.timeoutMs, timeout);
  }
  if (refusal) {
    throw refusalError(request.face, refusal);
  }
  // Granted, but everything was released before we could hear of it: once more.
  return contend(request);
}

function tryAcquire(request) {
  requirePermission("fs.write", `${request.file}.lock`);
  request.signal?.throwIfAborted();
  installListeners(request);
  const { granted, refusal } = clientOf(request.face).tryAcquire(...nativeArguments(request));
  if (refusal) {
    throw refusalError(request.face, refusal);
  }
  return granted ? lockOf(request, granted) : null;
}

function nativeArguments({ file, timeoutMs, staleMs, maxHoldMs, allowReentrant, label }) {
  return [file, timeoutMs, staleMs, maxHoldMs, allowReentrant, label];
}

function lockOf(request, { handle, lockPath, isTakenOver }) {
  const lock = new Lock(request.face, handle, lockPath, request.label);
  if (request.onWarning) {
    warningListeners.set(handle, request.onWarning);
  }
  if (isTakenOver) {
    publishTakeover(lockPath, request);
  }
  if (wantsLosses()) {
    void lock.signal; // from now on the lock is watched
  }
  return lock;
}

/** The outcome of a pending acquire. Rejects with the signal's reason as soon as it aborts. */
function outcomeUnlessAborted(ticket, request) {
  const { face, signal } = request;
  if (!signal) {
    return outcomeOf(ticket);
  }
  return new Promise((resolve, reject) => {
    const abort = () => {
      reject(signal.reason);
      if (clientOf(face).cancel(ticket)) {
        forget(ticket);
      } else {
        // Too late to withdraw: what may have been granted is given back as soon as we hear of it.
        expect(ticket, ({ granted }) => granted && giveBack(face, granted.handle).catch(() => {}));
      }
    };
    expect(ticket, (outcome) => {
      signal.removeEventListener("abort", abort);
      resolve(outcome);
    });
    signal.addEventListener("abort", abort, { once: true });
  });
}

module.exports = { acquire, tryAcquire };
