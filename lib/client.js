"use strict";

/**
 * The connection to the binary. A call has a number, its *ticket*; the outcome comes back under the ticket. A
 * granted lock has a number, its *handle*; what happens to the lock comes back under the handle.
 */

const native = require("./binary.js");
const { publishWatchdog, warnHoldExceeded } = require("./diagnostics.js");
const { quote } = require("./errors.js");
const { warnShared } = require("./shared-folder.js");

/** What was asked for and has not ended: by ticket, the function that takes the outcome. */
const pending = new Map();
let lastTicket = 0;

/** By handle: the function to call when the lock is lost. */
const lossListeners = new Map();

/** By handle: the function to call when somebody waits for the lock. */
const waiterListeners = new Map();

/** By handle: the function that takes the watchdog's warning. */
const warningListeners = new Map();

/**
 * While something is pending, this keeps the process alive; a held lock does not. Made when it is
 * first needed: a first timer takes as long as loading the binary.
 */
let keepAlive;

/** Node's own: a test that installs a fake clock later must not stop what runs here. */
const { setInterval } = globalThis;

/** The client of a face, made when it is first needed. */
function clientOf(face) {
  return (face.client ??= new native.Client(hear, face.isGeneral));
}

function hear({ ticket, outcome, handle, loss, isWanted, exceeded, shared }) {
  if (exceeded) {
    warn(exceeded);
  } else if (shared) {
    warnShared(shared);
  } else if (isWanted) {
    take(waiterListeners, handle)?.();
  } else if (handle !== undefined) {
    waiterListeners.delete(handle);
    take(lossListeners, handle)?.(loss);
  } else {
    const settle = pending.get(ticket);
    forget(ticket);
    settle?.(outcome);
  }
}

function take(listeners, handle) {
  const listener = listeners.get(handle);
  listeners.delete(handle);
  return listener;
}

/** The watchdog has ended a hold. If this thread was too busy to hear, the binary has printed a line. */
function warn({ handles, ...exceeded }) {
  const listeners = handles.map((handle) => take(warningListeners, handle)).filter(Boolean);
  handles.forEach((handle) => waiterListeners.delete(handle));
  publishWatchdog(exceeded);
  if (!native.watchdogHeard(handles[0])) {
    return;
  }
  const { lockPath, heldForMs, maxHoldMs, label } = exceeded;
  const what = label === undefined ? "" : ` label=${quote(label)}`;
  const message = `releasing lock held for ${heldForMs}ms (max=${maxHoldMs}ms): ${lockPath}${what}`;
  warnHoldExceeded(message, exceeded, listeners);
}

/** Forgets the listeners of locks that were all released at once. Their loss is still to be told. */
function forgetReleased() {
  for (const listeners of [waiterListeners, warningListeners]) {
    for (const handle of listeners.keys()) {
      if (!native.isRegistered(handle)) {
        listeners.delete(handle);
      }
    }
  }
}

function nextTicket() {
  return ++lastTicket;
}

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

/** The outcome that will be told under `ticket`. */
function outcomeOf(ticket) {
  return new Promise((resolve) => expect(ticket, resolve));
}

module.exports = {
  clientOf,
  expect,
  forget,
  forgetReleased,
  lossListeners,
  native,
  nextTicket,
  outcomeOf,
  waiterListeners,
  warningListeners,
};
