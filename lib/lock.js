"use strict";

/** The general face: a lock for any file. It excludes everybody, and waits until it has the lock. */

const { acquire, tryAcquire } = require("./acquire.js");
const { LOCK_OPTIONS, TRY_LOCK_OPTIONS, readFile, readStrictOptions } = require("./arguments.js");
const { DEFAULT_STALE_MS } = require("./defaults.js");
const { GENERAL } = require("./errors.js");
const { makeWithLock } = require("./with-lock.js");

function lock(file, options) {
  try {
    return acquire(readRequest(file, options, LOCK_OPTIONS));
  } catch (error) {
    return Promise.reject(error);
  }
}

function tryLock(file, options) {
  return tryAcquire(readRequest(file, options, TRY_LOCK_OPTIONS));
}

const DEFAULTS = { timeoutMs: Infinity, maxHoldMs: Infinity, staleMs: DEFAULT_STALE_MS };

function readRequest(file, options, names) {
  return {
    ...DEFAULTS,
    ...readStrictOptions(options, names),
    file: readFile("file", file),
    face: GENERAL,
    allowReentrant: false,
    handleSignals: false,
  };
}

const withLock = makeWithLock({
  readRequest: (file, options) => readRequest(file, options, LOCK_OPTIONS),
  acquire,
  lockPathOf: ({ file }) => lockPathOf(file),
  isOneLock,
});

/** As the binary has it: the real path of the folder, and the file's own name. */
function lockPathOf(file) {
  const path = require("node:path");
  const fs = require("node:fs");
  try {
    return `${path.join(fs.realpathSync.native(path.dirname(file)), path.basename(file))}.lock`;
  } catch {
    return `${file}.lock`; // no such folder: nobody holds a lock in it
  }
}

/** Where the file system ignores case, two spellings name one lock file. No two lock files have the same content. */
function isOneLock(held, wanted) {
  if (held === wanted || held.toLowerCase() !== wanted.toLowerCase()) {
    return held === wanted;
  }
  const fs = require("node:fs");
  try {
    return fs.readFileSync(held).equals(fs.readFileSync(wanted));
  } catch {
    return false; // no such file: it is not held
  }
}

module.exports = { lock, tryLock, withLock };
