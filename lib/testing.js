"use strict";

/** For the gateway's own tests, as the older module had it. */

const { native } = require("./client.js");
const { CLEANUP, CLEANUP_SIGNALS, handleTerminationSignal, releaseAllLocksSync } = require("./ending.js");
const { getProcessComm, getProcessCommForPid, isAlive } = require("./processes.js");

/** Node's own: a test that installs a fake clock later must not stop what runs here. */
const { setTimeout } = globalThis;

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

module.exports = {
  __testing,
};
