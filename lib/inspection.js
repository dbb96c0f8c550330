"use strict";

/** Looks at lock files: of one session, of a folder, of this process. */

const { DEFAULT_STALE_MS } = require("./defaults.js");
const {
  readBoolean,
  readFile,
  readFilePath,
  readFunction,
  readLog,
  readMs,
  readObject,
  readPath,
  readStrictOptions,
} = require("./arguments.js");
const { clientOf, native, nextTicket, outcomeOf } = require("./client.js");
const { GENERAL, SESSION, refusalError } = require("./errors.js");
const { requirePermission } = require("./permission.js");

/** Node's own: a test that installs a fake clock later must not stop what runs here. */
const { clearInterval, setImmediate, setInterval } = globalThis;

/** Inspections that are handed over at a time: what that takes of the event loop stays short. */
const PART = 128;

/** How often a caller is told how far a sweep is, in milliseconds. */
const PROGRESS_MS = 100;

async function inspectSessionLock(path, options) {
  const { staleMs, nowMs, processes } = readObject("options", options ?? {});
  return inspect(SESSION, readFilePath("path", path), [
    readMs("staleMs", staleMs, DEFAULT_STALE_MS),
    readMs("nowMs", nowMs),
    readBoolean("processes", processes, false),
  ]);
}

async function inspectLock(file, options) {
  const lockPath = `${readFile("file", file)}.lock`;
  const given = readStrictOptions(options, ["staleMs", "nowMs", "processes"]);
  const { staleMs = DEFAULT_STALE_MS, nowMs, processes = false } = given;
  return inspect(GENERAL, lockPath, [staleMs, nowMs, processes]);
}

/** `path` names the file to protect, or its lock file: that ends in `.lock`. */
async function inspect(face, path, request) {
  requirePermission("fs.read", path);
  const ticket = nextTicket();
  const inspections = clientOf(face).inspect(ticket, path, ...request);
  const [inspection = null] = await takeAll(face, ticket, inspections);
  return inspection;
}

async function cleanStaleLockFiles(options) {
  const given = readObject("options", options);
  const { sessionsDir, staleMs, removeStale, nowMs, recursive, anyName, processes, log } = given;
  const request = [
    readPath("sessionsDir", sessionsDir),
    readMs("staleMs", staleMs, DEFAULT_STALE_MS),
    readMs("nowMs", nowMs),
    readBoolean("removeStale", removeStale, true),
    readBoolean("recursive", recursive, false),
    readBoolean("anyName", anyName, false),
    readBoolean("processes", processes, false),
  ];
  const onProgress = readFunction("onProgress", given.onProgress);
  readLog(log);
  const [folder, , , removes] = request;
  requirePermission(removes ? "fs.write" : "fs.read", folder);
  const ticket = nextTicket();
  const inspections = clientOf(SESSION).sweep(ticket, ...request);
  const timer = onProgress && setInterval(() => onProgress(inspections.progress()), PROGRESS_MS);
  const locks = await takeAll(SESSION, ticket, inspections).finally(() => clearInterval(timer));
  const cleaned = locks.filter(({ removed }) => removed);
  for (const { lockPath, staleReasons } of cleaned) {
    const reasons = staleReasons.join(", ") || "no longer held";
    warn(log, `removed stale session lock: ${lockPath} (${reasons})`);
  }
  const skipped = inspections.skipped().map((refusal) => refusalError(SESSION, refusal));
  return { locks, cleaned, ...(skipped.length > 0 && { skipped }) };
}

/** Waits for what is being looked at, and takes it over bit by bit. */
async function takeAll(face, ticket, inspections) {
  const { refusal } = await outcomeOf(ticket);
  if (refusal) {
    throw refusalError(face, refusal);
  }
  const all = [];
  for (;;) {
    const part = inspections.take(PART);
    all.push(...part.map((inspected) => inspectionFrom(face, inspected)));
    if (part.length < PART) {
      return all;
    }
    await new Promise(setImmediate);
  }
}

function inspectionFrom(face, inspected) {
  const { lockPath, processMayLive, staleReasons, removed, verdict, cause, users } = inspected;
  const { holder = null, ageMs = null, witnessed = null, ground = null, sharedWith = null } = inspected;
  const record = JSON.parse(holder);
  return {
    lockPath,
    pid: record?.pid ?? null,
    pidAlive: processMayLive,
    createdAt: ageMs === null ? null : record.createdAt,
    ageMs,
    stale: staleReasons.length > 0,
    staleReasons,
    removable: verdict === "dead",
    removed,
    comm: record?.comm ?? null,
    holder: record,
    witnessed,
    verdict,
    ground,
    sharedWith,
    label: record?.label ?? null,
    ...(cause && { cause: refusalError(face, cause) }),
    ...(users && usersFrom(users)),
  };
}

function usersFrom({ holders, waiters, writer }) {
  return { holders: holders.map(processFrom), waiters: waiters.map(processFrom), writer };
}

function processFrom({ pid, comm = null, command = null, witness = null, isWriter, isStopped }) {
  return { pid, comm, command, witness, isWriter, isStopped };
}

/** What the log does with it is the log's business: a sweep doesn't fail for it. */
function warn(log, message) {
  try {
    log?.warn?.(message);
  } catch {
    // See above.
  }
}

function heldLocks() {
  return native.heldLocks().map(({ acquiredAtMs, ...held }) => ({
    ...held,
    acquiredAt: new Date(acquiredAtMs).toISOString(),
  }));
}

module.exports = {
  cleanStaleLockFiles,
  heldLocks,
  inspectLock,
  inspectSessionLock,
};
