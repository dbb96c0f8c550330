"use strict";

/** What subscribers of `node:diagnostics_channel` are told. Without subscribers it costs nothing. */

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

module.exports = {
  beginWait,
  isTraced,
  publishLoss,
  publishTakeover,
  publishWait,
  publishWatchdog,
  traceAcquire,
  wantsLosses,
};
