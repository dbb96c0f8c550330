"use strict";

/** What subscribers of `node:diagnostics_channel` are told, which costs nothing without them; and warnings. */

const { channel, tracingChannel } = require("node:diagnostics_channel");

const wait = channel("session-write-lock:wait");
const takeover = channel("session-write-lock:takeover");
const lost = channel("session-write-lock:lost");
const watchdog = channel("session-write-lock:watchdog");

/** Missing before Node 18.19. */
const acquire = tracingChannel?.("session-write-lock:acquire");

function isTraced() {
  const { start, end, asyncStart, asyncEnd, error } = acquire ?? {};
  const isAnySubscribed =
    start?.hasSubscribers ||
    end?.hasSubscribers ||
    asyncStart?.hasSubscribers ||
    asyncEnd?.hasSubscribers ||
    error?.hasSubscribers;
  return isAnySubscribed === true;
}

/** Calls `start`, which returns a promise, and traces it. */
function traceAcquire(request, start) {
  const { file, label } = request;
  return acquire.tracePromise(start, { file, label }, undefined, request);
}

/** The instant to reckon a wait from, if somebody wants to know. */
function beginWait() {
  return wait.hasSubscribers ? performance.now() : undefined;
}

/** A wait is over, by the lock or by a time-out. */
function publishWait({ file, label, since }) {
  if (since !== undefined) {
    wait.publish({ file, label, waitedMs: performance.now() - since });
  }
}

function publishTakeover(lockPath, { label }) {
  if (takeover.hasSubscribers) {
    takeover.publish({ lockPath, label });
  }
}

function wantsLosses() {
  return lost.hasSubscribers;
}

function publishLoss(error) {
  if (lost.hasSubscribers) {
    lost.publish({ lockPath: error.lockPath, how: error.how });
  }
}

function publishWatchdog(exceeded) {
  if (watchdog.hasSubscribers) {
    watchdog.publish(exceeded);
  }
}

/** A hold was ended. Its listeners get the warning; if there are none, the process does. */
function warnHoldExceeded(message, exceeded, listeners) {
  const code = "LOCK_HOLD_EXCEEDED";
  if (listeners.length === 0) {
    // Not an error of ours: in another realm (a test in a vm context) Node would refuse it.
    process.emitWarning(message, { type: "LockWarning", code });
  }
  for (const listener of listeners) {
    const warning = Object.assign(new Error(message), { ...exceeded, code, name: "LockWarning" });
    queueMicrotask(() => listener(warning)); // what one throws stops no other
  }
}

module.exports = {
  beginWait,
  isTraced,
  publishLoss,
  publishTakeover,
  publishWait,
  publishWatchdog,
  traceAcquire,
  wantsLosses,
  warnHoldExceeded,
};
