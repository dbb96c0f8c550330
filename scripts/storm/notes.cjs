"use strict";

/**
 * Preloaded into a process under strace: says what is asked of the lock, so that a trace shows it. A *note* is a look
 * for a file whose name is the text; there is no such file. One note comes before the call of the binary, and one after
 * it, on the same thread.
 *
 * The folder's speed is found out before: until then a worker resolves the paths.
 */

const { accessSync } = require("node:fs");
const path = require("node:path");

const { tryLock } = require("../../index.js");
const { Client } = require("../../native.js");

/** The name of a session whose lock file is a folder. */
const NO_LOCK = "no-lock";

/** The lock file that is traced. */
const lockFile = process.env.STORM_NOTES;

try {
  tryLock(path.join(path.dirname(lockFile), NO_LOCK));
} catch {} // a folder is no lock file

function note(...words) {
  try {
    accessSync(`${lockFile}.note.${words.join(" ")}`);
  } catch {} // there is none
}

/** The faces of the lock in this thread, and their numbers. */
const clients = [];

function numberOf(client) {
  if (!clients.includes(client)) {
    clients.push(client);
  }
  return clients.indexOf(client);
}

/** `words`: what to tell of the arguments. */
function tell(name, words) {
  const call = Client.prototype[name];
  Client.prototype[name] = function (...given) {
    note("begin", name, numberOf(this), ...words(...given));
    const outcome = call.apply(this, given);
    note("end", typeof outcome === "object" && outcome ? Object.keys(outcome)[0] : outcome);
    return outcome;
  };
}

tell("acquire", (ticket, file, timeoutMs) => [ticket, timeoutMs]);
tell("tryAcquire", () => []);
tell("cancel", (ticket) => [ticket]);
tell("release", () => []);
tell("end", () => []);
