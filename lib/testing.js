"use strict";

/** For the gateway's own tests, as the older module had it. */

const { native } = require("./client.js");
const ending = require("./ending.js");
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

/** As if no lock had been acquired yet. */
function reset() {
  ending.reset();
  watchdogReleasesTold = native.watchdogReleases();
}

const __testing = {
  cleanupSignals: ending.CLEANUP_SIGNALS,
  handleTerminationSignal: ending.handleTerminationSignal,
  releaseAllLocksSync: ending.releaseAllLocksSync,
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
