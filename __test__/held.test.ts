/**
 * `heldSessionWriteLocks`: what this process holds, in every environment of it.
 */

import { once } from "node:events";
import { existsSync, rmSync } from "node:fs";
import path from "node:path";
import { Worker } from "node:worker_threads";
import { afterEach, expect, onTestFinished, test } from "vitest";

import {
  acquireSessionWriteLock,
  cleanStaleLockFiles,
  heldSessionWriteLocks,
  releaseAllSessionWriteLocks,
  tryAcquireSessionWriteLock,
} from "../index.js";
import { aborted, Agent, newSession, root, until } from "./support.js";

afterEach(() => {
  releaseAllSessionWriteLocks();
});

/** A worker thread of this process that does what `fixtures/worker.cjs` can. */
async function startWorker() {
  const worker = new Worker(path.join(root, "__test__/fixtures/worker.cjs"));
  onTestFinished(() => void worker.terminate());
  const run = async (command: string, ...args: unknown[]) => {
    const answer = once(worker, "message");
    worker.postMessage([command, ...args]);
    const [{ value, error }] = await answer;
    expect(error).toBeUndefined();
    return value;
  };
  return { worker, run };
}

test("a process that holds nothing says so", async () => {
  expect(heldSessionWriteLocks()).toEqual([]);
  const { sessionFile } = newSession();
  const other = await Agent.start();
  await other.acquire({ sessionFile });
  expect(heldSessionWriteLocks()).toEqual([]);
});

test("a lock is listed from its acquire to its release, with its path, since when and for how long", async () => {
  const { sessionFile, lockPath } = newSession();
  const before = Date.now();
  const started = performance.now();
  const lock = await acquireSessionWriteLock({ sessionFile, maxHoldMs: 7_000 });
  const [held, ...others] = heldSessionWriteLocks();
  expect(others).toEqual([]);
  expect(held).toEqual({
    lockPath,
    acquiredAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
    heldForMs: expect.any(Number),
    maxHoldMs: 7_000,
    acquisitions: 1,
    waiters: 0,
  });
  expect(Date.parse(held!.acquiredAt)).toBeGreaterThanOrEqual(before);
  expect(Date.parse(held!.acquiredAt)).toBeLessThanOrEqual(Date.now());
  expect(held!.heldForMs).toBeGreaterThanOrEqual(0);
  expect(held!.heldForMs).toBeLessThanOrEqual(performance.now() - started);
  const [later] = heldSessionWriteLocks();
  // Reckoned each time from how long it is held; both clocks count whole milliseconds.
  expect(Math.abs(Date.parse(later!.acquiredAt) - Date.parse(held!.acquiredAt))).toBeLessThanOrEqual(1);
  expect(later!.heldForMs).toBeGreaterThan(held!.heldForMs);
  await lock.release();
  expect(heldSessionWriteLocks()).toEqual([]);
});

test("a lock that is shared is listed once, with the number of acquisitions", async () => {
  const { sessionFile } = newSession();
  const acquisitions = () => heldSessionWriteLocks().map(({ acquisitions }) => acquisitions);
  const first = await acquireSessionWriteLock({ sessionFile });
  const second = await acquireSessionWriteLock({ sessionFile });
  const third = tryAcquireSessionWriteLock({ sessionFile })!;
  expect(acquisitions()).toEqual([3]);
  await second.release();
  await second.release();
  expect(acquisitions()).toEqual([2]);
  await third.release();
  await first.release();
  expect(acquisitions()).toEqual([]);
});

test("those of this process who wait are counted, those of others are not", async () => {
  const { sessionFile } = newSession();
  const waiters = () => heldSessionWriteLocks().map(({ waiters }) => waiters);
  await acquireSessionWriteLock({ sessionFile });
  const controller = new AbortController();
  const waiting = [1, 2, 3].map(() =>
    acquireSessionWriteLock({ sessionFile, allowReentrant: false, signal: controller.signal }),
  );
  await until("they wait", () => waiters()[0] === 3);
  const { worker } = await startWorker();
  worker.postMessage(["acquire", { sessionFile }]);
  await until("the worker waits too", () => waiters()[0] === 4);
  const other = await Agent.start();
  const elsewhere = other.run(
    ({ lock }, sessionFile) =>
      lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 50 }).catch((error) => error.code),
    sessionFile,
  );
  expect(await elsewhere).toBe("OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT");
  expect(waiters()).toEqual([4]);
  controller.abort();
  await Promise.allSettled(waiting);
  await until("they have gone", () => waiters()[0] === 1);
});

test("the whole process is asked: a worker's locks are listed here, ours there, sorted by path", async () => {
  const [one, other] = [newSession(), newSession()];
  const { worker, run } = await startWorker();
  await run("acquire", { sessionFile: other.sessionFile });
  await acquireSessionWriteLock({ sessionFile: one.sessionFile });
  const expected = [one.lockPath, other.lockPath].sort();
  expect(heldSessionWriteLocks().map(({ lockPath }) => lockPath)).toEqual(expected);
  const source = `require("node:worker_threads").parentPort.postMessage(
    require(${JSON.stringify(root)}).heldSessionWriteLocks().map(({ lockPath }) => lockPath));`;
  const [seenThere] = await once(new Worker(source, { eval: true }), "message");
  expect(seenThere).toEqual(expected);
  await worker.terminate();
  expect(heldSessionWriteLocks().map(({ lockPath }) => lockPath)).toEqual([one.lockPath]);
});

test("what the watchdog or somebody else has ended is not listed", async () => {
  const { sessionFile, lockPath } = newSession();
  const held = await acquireSessionWriteLock({ sessionFile, maxHoldMs: 100 });
  await aborted(held.signal);
  expect(heldSessionWriteLocks()).toEqual([]);
  const lost = await acquireSessionWriteLock({ sessionFile });
  const { signal } = lost;
  rmSync(lockPath);
  await aborted(signal);
  expect(heldSessionWriteLocks()).toEqual([]);
});

test("a loss that only the release finds aborts the signal, too", async () => {
  const { sessionFile, lockPath } = newSession();
  for (const [how, lose] of [["removed", () => rmSync(lockPath)], ["hold-exceeded", () => {}]] as const) {
    const held = await acquireSessionWriteLock({ sessionFile, maxHoldMs: how === "removed" ? 60_000 : 100 });
    const { signal } = held;
    lose();
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500); // this thread hears nothing
    expect(signal.aborted).toBe(false);
    await held.release().catch(() => {});
    expect(signal.reason).toMatchObject({ how });
  }
});

test("a sweep holds nothing that is listed, and lists nothing away", async () => {
  const { folder, sessionFile, lockPath } = newSession();
  await acquireSessionWriteLock({ sessionFile });
  const { locks } = await cleanStaleLockFiles({ sessionsDir: folder, staleMs: 1 });
  expect(locks).toMatchObject([{ lockPath, verdict: "held" }]);
  expect(heldSessionWriteLocks().map(({ lockPath }) => lockPath)).toEqual([lockPath]);
  expect(existsSync(lockPath)).toBe(true);
});
