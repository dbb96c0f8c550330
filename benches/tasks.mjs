/** What an actor can be told to do. Each task gets the actor's lock and its arguments. */

import { readdirSync, readFileSync, existsSync } from "node:fs";
import { createRequire } from "node:module";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setImmediate as nextTurn, setTimeout as delay } from "node:timers/promises";
import { getHeapStatistics } from "node:v8";

import { now } from "./numbers.mjs";
import { Witness } from "./witness.mjs";

const require = createRequire(import.meta.url);

/** Locks by session file, as far as a task of this process has opened them. */
const opened = new Map();

/** What `acquire` got and `releaseAfter` gives back. */
let release;
let releasedAt;

function lockOf(lock, sessionFile) {
  if (!opened.has(sessionFile)) {
    opened.set(sessionFile, lock.open(sessionFile));
  }
  return opened.get(sessionFile);
}

async function timed(count, step) {
  const samples = [];
  for (let done = 0; done < count; done += 1) {
    const started = performance.now();
    await step();
    samples.push(performance.now() - started);
  }
  return samples;
}

function timedSync(count, step) {
  const samples = [];
  for (let done = 0; done < count; done += 1) {
    const started = performance.now();
    step();
    samples.push(performance.now() - started);
  }
  return samples;
}

/** Acquires and releases, one after the other, with nobody else around. */
async function pairs(lock, { sessionFile, count }) {
  const { acquire } = lockOf(lock, sessionFile);
  return timed(count, async () => {
    const release = await acquire();
    await release();
  });
}

async function syncPairs(lock, { sessionFile, count }) {
  return timedSync(count, () => lock.pair(sessionFile));
}

/**
 * Asynchronous calls of the addon with nothing to do. `release`: of a handle that nobody has;
 * answered by the calling thread. `acquire`: of a path without a name, refused by the thread that
 * would otherwise look for its folder. What is answered before the call returns is awaited all the
 * same, as callers do.
 */
async function emptyCalls(lock, { kind, count }) {
  const native = require("../native.js");
  let settle;
  const client = new native.Client(() => settle(), false);
  const calls = {
    release: (ticket) => client.release(ticket, 0),
    acquire: (ticket) => client.acquire(ticket, "/", 1, 1, 1, false),
  };
  let ticket = 0;
  return timed(count, () => {
    const told = new Promise((resolve) => (settle = resolve));
    return calls[kind](++ticket) ?? told;
  });
}

/** Acquires and says when it had the lock. */
async function acquire(lock, { sessionFile }) {
  release = await lockOf(lock, sessionFile).acquire();
  return now();
}

/** Releases later, and says when it began to only if asked: a reply would disturb the hand-off. */
async function releaseAfter(lock, { ms }) {
  releasedAt = delay(ms).then(async () => {
    const at = now();
    await release();
    return at;
  });
}

async function releaseBegan() {
  return releasedAt;
}

let toldAt;

/** Acquires by the general face and asks to be told of a waiter; then the holder lets go. */
async function holdUntilWanted(_, { sessionFile }) {
  const held = await require("../index.js").lock(sessionFile);
  const { wanted } = held;
  toldAt = new Promise((resolve) => {
    wanted.addEventListener("abort", async () => {
      const at = now();
      await held.release();
      resolve(at);
    });
  });
}

async function wantedAt() {
  return toldAt;
}

/** Waits for a lock, gives it back, and says when it began to wait. */
async function waitOnce(_, { sessionFile }) {
  const at = now();
  const held = await require("../index.js").lock(sessionFile);
  await held.release();
  return at;
}

/** Hands a lock from one waiter of this process to the next; how long that took each time. */
async function handOffInside(lock, { sessionFile, count }) {
  const locks = [lock.open(sessionFile), lock.open(sessionFile)];
  const samples = [];
  let release = await locks[0].acquire();
  for (let done = 0; done < count; done += 1) {
    let acquiredAt;
    const next = locks[(done + 1) % 2].acquire().then((release) => {
      acquiredAt = now();
      return release;
    });
    await delay(3); // until it waits
    const releasedAt = now();
    const released = release();
    release = await next;
    samples.push(acquiredAt - releasedAt);
    await released;
  }
  await release();
  return samples;
}

/** Acquires, says so, and holds until it is killed. */
async function holdForever(lock, { sessionFile }) {
  await lockOf(lock, sessionFile).acquire();
  process.send({ note: { enteredAt: now() } });
  await new Promise(() => {});
}

/**
 * Takes the lock again and again, until a time or for a number of times. `reportEveryMs`: how often
 * to tell how far it is.
 */
async function contend(lock, { sessionFile, counter, startAt, endAt = Infinity, count = Infinity, reportEveryMs }) {
  const witness = new Witness(counter);
  const { acquire } = lockOf(lock, sessionFile);
  await delay(Math.max(0, startAt - now()));
  let done = 0;
  let longestWaitMs = 0;
  let reportAt = reportEveryMs ? now() + reportEveryMs : Infinity;
  while (done < count) {
    const started = now();
    if (started >= endAt) {
      break;
    }
    const release = await acquire();
    longestWaitMs = Math.max(longestWaitMs, now() - started);
    witness.enter();
    witness.leave();
    await release();
    done += 1;
    if (started >= reportAt) {
      reportAt += reportEveryMs;
      process.send({ note: { done, overlaps: witness.overlaps } });
    }
  }
  return { done, longestWaitMs, overlaps: witness.overlaps };
}

/**
 * Waits for the lock, between two system calls that a trace can be cut at. Returns the CPU time
 * of the whole process meanwhile.
 */
async function waitWatched(lock, { sessionFile, marks }) {
  const { acquire } = lockOf(lock, sessionFile);
  return watched(marks, async () => {
    release = await acquire();
  });
}

/** The same for a process that only lets time pass. */
async function idleWatched(lock, { ms, marks }) {
  return watched(marks, () => delay(ms));
}

async function watched(marks, wait) {
  // The message that told us is still being dealt with.
  await delay(200);
  existsSync(marks.begin);
  const before = process.cpuUsage();
  await wait();
  const { user, system } = process.cpuUsage(before);
  existsSync(marks.end);
  return (user + system) / 1_000;
}

/**
 * What this process uses up: threads, descriptors, and memory after a collection of garbage. Of
 * V8's heap only what is alive counts, since its pages come and go as they please; of the rest,
 * whatever is resident and no part of a mapped file: how much of Node's own code happens to be
 * mapped is nobody's doing.
 */
function usage() {
  globalThis.gc();
  globalThis.gc();
  const { used_heap_size: used, total_physical_size: resident } = getHeapStatistics();
  return {
    threads: readdirSync("/proc/self/task").length,
    descriptors: readdirSync("/proc/self/fd").length,
    heapBytes: used,
    nativeBytes: anonymousBytes() - resident,
  };
}

function anonymousBytes() {
  const status = readFileSync("/proc/self/status", "utf8");
  return Number(/^RssAnon:\s+(\d+) kB$/m.exec(status)[1]) * 1_024;
}

/**
 * A lock that nobody ever gets, wrapped as the addon is: what it costs is the measuring's own. All
 * wait for one promise that is kept: who waits for one that nobody can settle is garbage.
 */
const FOREVER = new Promise(() => {});
const NEVER = {
  async acquire() {
    return (await FOREVER).release;
  },
};

/** Starts `count` waits for some locks in turn; `served` gets their numbers as they are served. */
function startWaits(locks, count, served) {
  return Array.from({ length: count }, (_, index) =>
    locks[index % locks.length].acquire().then((release) => {
      served.push(index);
      return release();
    }),
  );
}

/** Waits `count` times for one lock, or once for each of several; what that takes. */
async function crowd(lock, { sessionFiles, count }) {
  // Once before, so that what is set up on first use isn't counted.
  await pairs(lock, { sessionFile: `${sessionFiles[0]}.before`, count: 100 });
  await delay(200);
  const locks = sessionFiles.map((sessionFile) => lock.open(sessionFile));
  const served = [];
  const empty = usage();
  const control = startWaits([NEVER], count, served);
  const before = usage();
  const waits = startWaits(locks, count, served);
  await delay(1_000);
  const during = usage();
  process.send({ note: "waiting" });
  await Promise.all(waits);
  const servedAt = now();
  await delay(2_500); // idle threads and the like go
  const inOrder = control.length === count && served.every((index, place) => index === place);
  return { empty, before, during, after: usage(), inOrder, servedAt };
}

async function holdMany(lock, { sessionFiles }) {
  const releases = await Promise.all(sessionFiles.map((file) => lock.open(file).acquire()));
  release = () => Promise.all(releases.map((release) => release()));
}

/** Nanoseconds that the main thread has run on a CPU. */
function mainThreadNs() {
  return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, "utf8").split(" ")[0]);
}

/** Pairs without a pause but for a turn of the event loop; what that does to the main thread. */
async function loadMainThread(lock, { sessionFile, ms, sync }) {
  const { acquire } = lockOf(lock, sessionFile);
  const pair = sync ? () => lock.pair(sessionFile) : async () => (await acquire())();
  await timed(200, pair);
  const loop = monitorEventLoopDelay({ resolution: 1 });
  const samples = [];
  loop.enable();
  const cpuBefore = mainThreadNs();
  for (const end = now() + ms; now() < end; ) {
    const started = performance.now();
    await pair();
    samples.push(performance.now() - started);
    await nextTurn();
  }
  const cpuNs = mainThreadNs() - cpuBefore;
  loop.disable();
  return {
    samples,
    mainThreadUs: cpuNs / samples.length / 1_000,
    loopDelayMs: { p50: loop.percentile(50) / 1e6, p99: loop.percentile(99) / 1e6, max: loop.max / 1e6 },
  };
}

export const tasks = {
  acquire,
  contend,
  crowd,
  emptyCalls,
  holdUntilWanted,
  wantedAt,
  waitOnce,
  handOffInside,
  holdForever,
  holdMany,
  idleWatched,
  loadMainThread,
  pairs,
  releaseAfter,
  releaseBegan,
  syncPairs,
  waitWatched,
};
