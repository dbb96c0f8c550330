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
  isFor: ({ file }, lockPath) => isLockOf(file, lockPath),
});

/** Whether it is this file's lock: of its name, and in its folder, by the real path. */
function isLockOf(file, lockPath) {
  const path = require("node:path");
  const name = `${path.basename(file)}.lock`;
  return path.basename(lockPath).toLowerCase() === name.toLowerCase() && isInFolderOf(file, name, lockPath);
}

/** Where the file system ignores case, two names are of one lock file; no two lock files have the same content. */
async function isInFolderOf(file, name, lockPath) {
  const path = require("node:path");
  const fs = require("node:fs/promises"); // a mount can hang
  try {
    const wanted = path.join(await fs.realpath(path.dirname(file)), name);
    const isInFolder = path.dirname(lockPath).toLowerCase() === path.dirname(wanted).toLowerCase();
    return lockPath === wanted || (isInFolder && (await fs.readFile(lockPath)).equals(await fs.readFile(wanted)));
  } catch {
    return false; // nobody holds a lock there; or it can't be found out, and the call waits
  }
}

module.exports = { lock, tryLock, withLock };
