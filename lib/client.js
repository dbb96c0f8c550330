"use strict";

/**
 * The one connection to the binary: calls with a number, the *ticket*, under which the outcome is told later.
 */

const native = require("./binary.js");

/** What was asked for and has not ended: by ticket, the function that wants the outcome. */
const pending = new Map();
let lastTicket = 0;

/** The locks whose loss somebody wants to hear of: by handle, the function to tell. */
const watched = new Map();

/**
 * While something is pending, this keeps the process alive; a held lock does not. Made when it is
 * first needed: a first timer takes as long as loading the binary.
 */
let keepAlive;

/** Node's own timers: a test that installs a fake clock later must not stop what runs here. */
const { setInterval } = globalThis;

const client = new native.Client(({ ticket, outcome, handle, loss }) => {
  if (handle !== undefined) {
    const abort = watched.get(handle);
    watched.delete(handle);
    abort?.(loss);
    return;
  }
  const settle = pending.get(ticket);
  forget(ticket);
  settle?.(outcome);
});

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
  client,
  expect,
  forget,
  native,
  nextTicket,
  outcomeOf,
  watched,
};
