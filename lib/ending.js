"use strict";

/**
 * The end of the process. The kernel frees every lock of a process that has ended; what is done here also removes
 * the lock files.
 *
 * Both faces remove them at `exit`. Only the session face listens for signals, as the older module did.
 */

const { clientOf } = require("./client.js");

/** Node's own: a test that installs a fake clock later must not stop what runs here. */
const { setImmediate } = globalThis;

/** Signals that end a process unless somebody listens. */
const CLEANUP_SIGNALS = ["SIGINT", "SIGTERM", "SIGQUIT", "SIGABRT"];

/**
 * Where the listeners are kept, so that another copy of this file, of whatever version, adds none: it only adds
 * its client.
 */
const CLEANUP = Symbol.for("session-write-lock.cleanup");

/**
 * At each acquire: whatever is missing is added. Ours come first among the listeners of a signal,
 * because one that was added with `once` is gone by the time the next one runs, and must be seen
 * when we ask whether we are alone. Worker threads receive no signals.
 *
 * `handleSignals`: `true`: release all session locks at once, before other listeners run. `"if-alone"`: only if no
 * other listener decides about the signal. `false`: leave signals alone.
 */
function installListeners({ face, handleSignals }) {
  const client = clientOf(face);
  const signals = handleSignals && receivesSignals() ? CLEANUP_SIGNALS : [];
  const cleanup = process[CLEANUP] ?? install();
  cleanup.releasesAtOnce ||= handleSignals === true;
  if (cleanup.clients.has(client) && cleanup.listeners.size >= signals.length) {
    return;
  }
  cleanup.clients.add(client);
  if (!face.isGeneral) {
    cleanup.sessionClients.add(client);
  }
  for (const signal of signals) {
    if (!cleanup.listeners.has(signal)) {
      const listener = () => onSignal(signal);
      cleanup.listeners.set(signal, listener);
      process.prependListener(signal, listener);
    }
  }
}

/** Only the main thread does. Asked late: loading that module takes longer than loading us. */
function receivesSignals() {
  mainThread ??= require("node:worker_threads").isMainThread;
  return mainThread;
}

let mainThread;

function install() {
  const cleanup = {
    clients: new Set(),
    sessionClients: new Set(),
    listeners: new Map(),
    releasesAtOnce: false,
    exit: endAllClients,
    keepLast,
  };
  Object.defineProperty(process, CLEANUP, { value: cleanup, configurable: true });
  process.on("exit", cleanup.exit);
  process.on("newListener", cleanup.keepLast);
  return cleanup;
}

/**
 * Another listener for `exit` is being added: ours goes behind it, so that it still runs under the locks. Not
 * before it is there, or an exit in between would run without ours. At most once in a turn of the event loop:
 * somebody else may want to be the last one, too.
 */
function keepLast(event) {
  if (event !== "exit" || isMoving) {
    return;
  }
  isMoving = true;
  queueMicrotask(moveBehind);
  setImmediate(() => {
    isMoving = false;
    const exit = process[CLEANUP]?.exit;
    if (exit && process.listeners("exit").at(-1) !== exit) {
      isMoving = true;
      moveBehind();
      isMoving = false;
    }
  }).unref();
}

function moveBehind() {
  const exit = process[CLEANUP]?.exit;
  if (exit) {
    process.off("exit", exit);
    process.on("exit", exit);
  }
}

let isMoving = false;

/** Of the session face. The process may live on: what waits goes on waiting. */
function releaseAllLocksSync() {
  for (const each of process[CLEANUP]?.sessionClients ?? []) {
    each.releaseAll();
  }
}

/** The process ends: nothing waits any more, either. */
function endAllClients() {
  for (const each of process[CLEANUP].clients) {
    each.end();
  }
}

function onSignal(signal) {
  if (process[CLEANUP]?.releasesAtOnce) {
    releaseAllLocksSync();
  }
  endIfAlone(signal);
}

/**
 * If nobody else listens for the signal, releases the session locks, and lets the signal do what it would have done
 * without us. Otherwise the others decide; if they end the process, the locks go at `exit`. General locks are left to
 * the kernel, which frees those of a process that has ended.
 */
function endIfAlone(signal) {
  const cleanup = process[CLEANUP];
  const ours = cleanup?.listeners.get(signal);
  const listeners = process.listeners(signal);
  if (!ours || !listeners.includes(ours)) {
    return;
  }
  const others = listeners.filter((listener) => listener !== ours);
  const enders = countOfSignalExit(others);
  if (others.length > enders) {
    return;
  }
  process.off(signal, ours);
  cleanup.listeners.delete(signal);
  releaseAllLocksSync();
  if (enders > 0) {
    // From now on `signal-exit` finds itself alone. It ends the process, unless one of its hooks says no.
    return;
  }
  if (process.pid === 1) {
    // The kernel ignores a signal that the first process of a container sends to itself: exit as a shell reports it.
    process.exit(128 + require("node:os").constants.signals[signal]);
  }
  for (const client of cleanup.sessionClients) {
    client.end(); // a waiter that got the lock now would leave its lock file behind
  }
  process.kill(process.pid, signal);
}

/**
 * How many of the listeners are those of the package `signal-exit`, which proper-lockfile, ora, inquirer
 * and others bring along. It is as we are: it ends the process if nobody else listens. Versions 3 and 4 keep the
 * number of their listeners where other copies find it. Somebody may have taken those listeners away, so they are
 * also known by what they do.
 */
function countOfSignalExit(listeners) {
  const emitters = [process.__signal_exit_emitter__, globalThis[Symbol.for("signal-exit emitter")]];
  const loaded = emitters.reduce((sum, emitter) => sum + (Number(emitter?.count) || 0), 0);
  const countsListeners = (listener) => /\blisteners\(/.test(listener) && /\bcount\b/.test(listener);
  return loaded === 0 ? 0 : Math.min(loaded, listeners.filter(countsListeners).length);
}

/** As the older module had it, for its tests: releases everything, whoever else listens. */
function handleTerminationSignal(signal) {
  releaseAllLocksSync();
  endIfAlone(signal);
}

/** As if no lock had been acquired yet: releases all, and takes every listener away. */
function reset() {
  releaseAllLocksSync();
  const cleanup = process[CLEANUP];
  if (cleanup) {
    delete process[CLEANUP];
    process.off("exit", cleanup.exit);
    process.off("newListener", cleanup.keepLast);
    cleanup.listeners.forEach((listener, signal) => process.off(signal, listener));
  }
}

module.exports = {
  CLEANUP_SIGNALS,
  handleTerminationSignal,
  installListeners,
  releaseAllLocksSync,
  reset,
};
