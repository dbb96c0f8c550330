/**
 * The locks that are compared, each behind the same two functions:
 *
 * * `open(sessionFile)` gives a lock whose `acquire()` resolves to its `release()`;
 * * `pair(sessionFile)`, where there is such a thing: acquire and release, synchronously.
 *
 * Each library is loaded by the process that measures it, and by no other.
 *
 * Those that poll do so in the rhythm of the older module, 50 ms to 1 s. Those that need the lock
 * file opened first keep it open: only locking and unlocking is measured, which favours them.
 */

import { open } from "node:fs/promises";
import { closeSync, openSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

const FOREVER_MS = 600_000;
const POLLS = { minTimeout: 50, maxTimeout: 1_000, factor: 1.5 };

/** The least that proper-lockfile takes: a dead lock is waited for as long as that. */
const PROPER_STALE_MS = 2_000;

export const LOCKS = {
  addon: { title: "session-write-lock", load: loadAddon },
  typescript: { title: "TypeScript protocol", polls: true, load: loadTypeScript },
  "proper-lockfile": {
    title: "proper-lockfile",
    polls: true,
    // A holder is taken for dead after its stale time, not when it dies.
    slowTakeover: true,
    load: loadProperLockfile,
  },
  "fs-safe": { title: "@openclaw/fs-safe", polls: true, load: loadFsSafe },
  "fs-ext": { title: "fs-ext flock", load: () => loadFsExt(false) },
  "fs-ext-sync": { title: "fs-ext flock, flockSync to unlock", load: () => loadFsExt(true) },
  "fs-native-extensions": { title: "fs-native-extensions", load: loadFsNativeExtensions },
  postgres: { title: "PostgreSQL", load: loadPostgres },
};

/** Without `fs-ext-sync`, which only the throughput asks for, and `postgres`, which locks no file. */
export const COMPARED = Object.keys(LOCKS).filter((name) => !["fs-ext-sync", "postgres"].includes(name));

function loadAddon() {
  const api = require("../index.js");
  return {
    open: (sessionFile) => ({
      async acquire() {
        const options = { sessionFile, timeoutMs: FOREVER_MS, allowReentrant: false };
        return (await api.acquireSessionWriteLock(options)).release;
      },
    }),
    pair(sessionFile) {
      if (!api.tryAcquireSessionWriteLock({ sessionFile })) {
        throw new Error("the lock is not free");
      }
      api.releaseAllSessionWriteLocks();
    },
  };
}

/** Without its look at `/proc` for the start time, which the older records don't have. */
function loadTypeScript() {
  const { acquire } = require("../__test__/fixtures/typescript-lock.cjs");
  return {
    open: (sessionFile) => ({
      async acquire() {
        return (await acquire({ sessionFile, timeoutMs: FOREVER_MS, startTime: false })).release;
      },
    }),
  };
}

function loadProperLockfile() {
  const { lock, lockSync, unlockSync } = require("proper-lockfile");
  const options = {
    realpath: false,
    stale: PROPER_STALE_MS,
    // By default it throws in the background; a lost lock shows as a double hold.
    onCompromised() {},
  };
  return {
    open: (sessionFile) => ({
      acquire: () => lock(sessionFile, { ...options, retries: { ...POLLS, forever: true } }),
    }),
    pair(sessionFile) {
      lockSync(sessionFile, options);
      unlockSync(sessionFile, options);
    },
  };
}

function loadFsSafe() {
  const { acquireFileLockSync, createFileLockManager } = require("@openclaw/fs-safe/file-lock");
  const manager = createFileLockManager("benchmark");
  // A file that can't be read yet is being written.
  const isDead = ({ payload }) => Number.isInteger(payload?.pid) && !exists(payload.pid);
  const options = {
    staleMs: 1_800_000,
    payload: () => ({ pid: process.pid, createdAt: new Date().toISOString() }),
    shouldReclaim: isDead,
    shouldRemoveStaleLock: isDead,
    staleRecovery: "remove-if-unchanged",
  };
  return {
    open: (sessionFile) => ({
      async acquire() {
        const retry = { ...POLLS, retries: FOREVER_MS };
        const lock = await manager.acquire(sessionFile, { ...options, retry, timeoutMs: FOREVER_MS });
        return lock.release;
      },
    }),
    pair(sessionFile) {
      acquireFileLockSync(sessionFile, options).release();
    },
  };
}

function exists(pid) {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return error.code === "EPERM";
  }
}

function loadFsExt(unlockSync) {
  const { flock, flockSync } = require("fs-ext");
  const call = (fd, what) =>
    new Promise((resolve, reject) => {
      flock(fd, what, (error) => (error ? reject(error) : resolve()));
    });
  const unlock = unlockSync ? (fd) => flockSync(fd, "un") : (fd) => call(fd, "un");
  return {
    open: (sessionFile) =>
      overDescriptor(sessionFile, async (fd) => {
        await call(fd, "ex");
        return async () => unlock(fd);
      }),
    pair: (sessionFile) =>
      withDescriptor(sessionFile, (fd) => {
        flockSync(fd, "exnb");
        flockSync(fd, "un");
      }),
  };
}

function loadFsNativeExtensions() {
  const { tryLock, unlock, waitForLock } = require("fs-native-extensions");
  return {
    open: (sessionFile) =>
      overDescriptor(sessionFile, async (fd) => {
        await waitForLock(fd);
        return async () => unlock(fd);
      }),
    pair: (sessionFile) =>
      withDescriptor(sessionFile, (fd) => {
        tryLock(fd);
        unlock(fd);
      }),
  };
}

/** On the server that the scenario has started. */
function loadPostgres() {
  const { postgresLocks } = require("../postgres.js");
  const locks = postgresLocks({ connectionString: process.env.BENCH_POSTGRES });
  return {
    open: (sessionFile) => ({
      acquire: async () => (await locks.lock(sessionFile)).release,
    }),
  };
}

function overDescriptor(sessionFile, lock) {
  const opened = open(`${sessionFile}.lock`, "a+");
  return { acquire: async () => lock((await opened).fd) };
}

/** The synchronous pairs open the file each time: what `tryAcquire` is compared with does, too. */
function withDescriptor(sessionFile, use) {
  const fd = openSync(`${sessionFile}.lock`, "a+");
  try {
    use(fd);
  } finally {
    closeSync(fd);
  }
}
