"use strict";

/** The end of the process: locks are released before it. */

const { client } = require("./client.js");

/** Signals that end a process unless somebody listens; locks go before they do. */
const CLEANUP_SIGNALS = ["SIGINT", "SIGTERM", "SIGQUIT", "SIGABRT"];

/**
 * Where the listeners are kept, so that a second copy of this file adds none: it only adds what is
 * to be done at the end of the process.
 */
const CLEANUP = Symbol.for("session-write-lock.cleanup");

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

module.exports = {
  CLEANUP,
  CLEANUP_SIGNALS,
  handleTerminationSignal,
  installListeners,
  releaseAllLocksSync,
};
