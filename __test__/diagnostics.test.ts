/**
 * What subscribers of `node:diagnostics_channel` are told.
 */

import diagnostics from "node:diagnostics_channel";
import { unlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";

import { acquireSessionWriteLock, lock } from "../index.js";
import { DEAD_RECORDS, temporaryFolder, until } from "./support.js";

const newFile = () => path.join(temporaryFolder(), "file");

/** Collects what a channel publishes. */
function listen(name: string): unknown[] {
  const heard: unknown[] = [];
  const note = (message: unknown) => void heard.push(message);
  diagnostics.subscribe(`session-write-lock:${name}`, note);
  onTestFinished(() => void diagnostics.unsubscribe(`session-write-lock:${name}`, note));
  return heard;
}

test("an acquire is traced, with its outcome", async () => {
  const file = newFile();
  const [started, ended, failed] = ["start", "asyncEnd", "error"].map((event) => {
    const heard: any[] = [];
    const name = `tracing:session-write-lock:acquire:${event}`;
    const note = (message: any) => void heard.push({ ...message });
    diagnostics.subscribe(name, note);
    onTestFinished(() => void diagnostics.unsubscribe(name, note));
    return heard;
  }) as [any[], any[], any[]];
  const held = await lock(file, { label: "x" });
  expect(started).toEqual([{ file, label: "x" }]);
  await until("it has ended", () => ended.length === 1);
  expect(ended[0].result).toBe(held);
  await lock(file, { timeoutMs: 0 }).catch(() => {});
  expect(failed).toMatchObject([{ file, error: { code: "ERR_LOCK_TIMEOUT" } }]);
  await held.release();
});

test("a wait is told when it is over, and only a wait", async () => {
  const file = newFile();
  const heard: any[] = listen("wait");
  const held = await lock(file);
  expect(heard).toEqual([]);
  const next = acquireSessionWriteLock({ sessionFile: file, label: "second" });
  await lock(file, { timeoutMs: 1 }).catch(() => {});
  await held.release();
  await (await next).release();
  const waitedMs = expect.any(Number);
  expect(heard).toEqual([
    { file, label: undefined, waitedMs },
    { file, label: "second", waitedMs },
  ]);
  expect(heard[1].waitedMs).toBeGreaterThan(0);
});

test("a takeover is told", async () => {
  const file = newFile();
  const heard = listen("takeover");
  await (await lock(file)).release();
  for (const record of Object.values(DEAD_RECORDS)) {
    writeFileSync(`${file}.lock`, record);
    await (await lock(file, { label: "x" })).release();
  }
  const told = { lockPath: `${file}.lock`, label: "x" };
  expect(heard).toEqual([told, told]);
});

test("a loss is told, although nobody asked the lock for it", async () => {
  const file = newFile();
  const heard = listen("lost");
  const held = await lock(file);
  unlinkSync(held.lockPath);
  await until("it is told", () => heard.length > 0);
  expect(heard).toEqual([{ lockPath: held.lockPath, how: "removed" }]);
  await expect(held.release()).rejects.toMatchObject({ code: "ERR_LOCK_LOST" });
});

test("a loss that only the release finds is told, too", async () => {
  const file = newFile();
  const held = await acquireSessionWriteLock({ sessionFile: file });
  const heard = listen("lost"); // too late for the lock to be watched
  unlinkSync(held.lockPath);
  await held.release();
  expect(heard).toEqual([{ lockPath: held.lockPath, how: "removed" }]);
});

test("the watchdog tells what it has released", async () => {
  const file = newFile();
  const heard: any[] = listen("watchdog");
  const held = await lock(file, { maxHoldMs: 10, label: "x", onWarning() {} });
  await until("it is told", () => heard.length > 0);
  expect(heard).toMatchObject([{ lockPath: held.lockPath, maxHoldMs: 10, label: "x" }]);
  expect(heard[0].heldForMs).toBeGreaterThanOrEqual(10);
  await held.release().catch(() => {});
});
