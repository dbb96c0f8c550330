/** Folders that are renamed, removed, replaced or unmounted while a lock in them is held, or waited for. */

import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, unlinkSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

import { Mounts } from "./machines.js";
import { Agent, attempt, footprint, temporaryFolder, testWith, type Tools, until, untilAsleep } from "./support.js";

/** Well above what a look now and then takes. */
const BOUNDED_MS = 5_000;

async function expectWithin(ms: number, work: Promise<unknown>): Promise<void> {
  const startedAt = performance.now();
  await work;
  expect(performance.now() - startedAt).toBeLessThan(ms);
}

// --- While it is held -------------------------------------------------------------------------------

/** A folder that can go away, as its agents and as this process see it. */
interface Chats {
  folder: string;
  view: string;
  agent(): Promise<Agent>;
}

function newChats(): Chats {
  const folder = path.join(temporaryFolder(), "chats");
  mkdirSync(folder);
  return { folder, view: folder, agent: () => Agent.start() };
}

/** Each takes the folder away, and leaves another of its name. */
const REPLACEMENTS: Record<string, (folder: string) => void> = {
  "is renamed": (folder) => {
    renameSync(folder, `${folder}.away`);
    mkdirSync(folder);
  },
  "is removed": (folder) => {
    rmSync(folder, { recursive: true });
    mkdirSync(folder);
  },
  "is replaced by a symbolic link": (folder) => {
    renameSync(folder, `${folder}.away`);
    mkdirSync(`${folder}.other`);
    symlinkSync(`${folder}.other`, folder);
  },
};

const isHeld = ({ kept }: Tools, sessionFile: string): boolean => kept.get(sessionFile).held;

/** The old holder has lost its lock, the next one gets the lock of the new folder, and keeps it whatever the old one does. */
async function expectLost({ folder, view, agent }: Chats, takeAway: () => void): Promise<void> {
  const sessionFile = path.join(folder, "chat.jsonl");
  const [holder, next] = await Promise.all([agent(), agent()]);
  await holder.acquire({ sessionFile });
  expect(await holder.run(isHeld, sessionFile)).toBe(true);
  takeAway();
  expect(await holder.run(isHeld, sessionFile)).toBe(false);
  await expectWithin(BOUNDED_MS, next.acquire({ sessionFile }));
  await holder.release(sessionFile);
  expect(await next.run(isHeld, sessionFile)).toBe(true);
  expect(JSON.parse(readFileSync(path.join(view, "chat.jsonl.lock"), "utf8")).token).toBeTypeOf("string");
  await next.release(sessionFile);
  await until("nothing is left", () => readdirSync(view).length === 0);
}

for (const [how, takeAway] of Object.entries(REPLACEMENTS)) {
  test(`a holder whose folder ${how} has lost the lock, and takes nothing from the next`, async () => {
    const chats = newChats();
    await expectLost(chats, () => takeAway(chats.folder));
  });
}

test("a lock whose folder is only renamed can be had by the new name when its holder lets go", async () => {
  const { folder, agent } = newChats();
  const [holder, next] = await Promise.all([agent(), agent()]);
  await holder.acquire({ sessionFile: path.join(folder, "chat.jsonl") });
  renameSync(folder, `${folder}.away`);
  const sessionFile = path.join(`${folder}.away`, "chat.jsonl");
  // The kernel knows the holder, whatever the folder is called.
  expect(await next.run(attempt, sessionFile)).toBe(false);
  await holder.release(path.join(folder, "chat.jsonl"));
  await expectWithin(BOUNDED_MS, next.acquire({ sessionFile }));
  await next.release(sessionFile);
  await until("nothing is left", () => readdirSync(`${folder}.away`).length === 0);
});

const mountTest = testWith("root", "mounts");

mountTest("a holder whose file system is unmounted lazily has lost the lock, and takes nothing from the next", async () => {
  const mounts = await Mounts.start();
  mounts.tmpfs();
  const chats = { folder: mounts.folder, view: mounts.view, agent: () => mounts.agent() };
  await expectLost(chats, () => mounts.run("umount", "-l", mounts.folder));
});

// --- While it is waited for -------------------------------------------------------------------------

mountTest("a waiter whose file system is unmounted lazily gets the lock of the folder beneath", async () => {
  const mounts = await Mounts.start();
  mounts.tmpfs();
  const { sessionFile } = mounts;
  const [holder, waiter, other] = await Promise.all([mounts.agent(), mounts.agent(), mounts.agent()]);
  await holder.acquire({ sessionFile });
  const waiting = waiter.acquire({ sessionFile });
  await untilAsleep(waiter.pid);
  mounts.run("umount", "-l", mounts.folder);
  await expectWithin(BOUNDED_MS, waiting);
  expect(await holder.run(isHeld, sessionFile)).toBe(false);
  expect(await waiter.run(isHeld, sessionFile)).toBe(true);
  expect(await other.run(attempt, sessionFile)).toBe(false);
  await holder.release(sessionFile);
  await waiter.release(sessionFile);
  await until("nothing is left", () => readdirSync(mounts.view).length === 0);
});

const GOINGS: Record<string, (folder: string) => void> = {
  "renamed away": (folder) => renameSync(folder, `${folder}.away`),
  "renamed away and made anew": (folder) => {
    renameSync(folder, `${folder}.away`);
    mkdirSync(folder);
  },
  // In one step: the waiter may take the lock as soon as the lock file is gone.
  removed: (folder) => {
    renameSync(folder, `${folder}.away`);
    rmSync(`${folder}.away`, { recursive: true });
  },
};

for (const acquire of ["acquire", "acquireAsTypeScript"] as const) {
  const whose = acquire === "acquire" ? "the addon" : "the older module";
  test(`a waiter whose folder goes away gets the lock of the folder of that name, behind ${whose}`, async () => {
    // At the same time, for each may take the two seconds of a look to be on the safe side.
    const goOne = async (going: (folder: string) => void) => {
      const folder = path.join(temporaryFolder(), "chats");
      mkdirSync(folder);
      const sessionFile = path.join(folder, "chat.jsonl");
      const [holder, waiter, other] = await Promise.all([Agent.start(), Agent.start(), Agent.start()]);
      await holder[acquire]({ sessionFile });
      const waiting = waiter.acquire({ sessionFile });
      await untilAsleep(waiter.pid);
      going(folder);
      await expectWithin(BOUNDED_MS, waiting);
      expect(await waiting).toBe(`${sessionFile}.lock`);
      expect(JSON.parse(readFileSync(`${sessionFile}.lock`, "utf8")).pid).toBe(waiter.pid);
      expect(await other.run(attempt, sessionFile)).toBe(false);
      await waiter.release(sessionFile);
      await until("nothing is left", () => readdirSync(folder).length === 0);
    };
    await Promise.all(Object.values(GOINGS).map(goOne));
  });
}

test("several waiters of a process whose folder goes away are served in their order", async () => {
  const folder = path.join(temporaryFolder(), "chats");
  mkdirSync(folder);
  const sessionFile = path.join(folder, "chat.jsonl");
  const [holder, waiter] = await Promise.all([Agent.start(), Agent.start()]);
  await holder.acquire({ sessionFile });
  const waiting = waiter.run(async ({ lock }, sessionFile) => {
    const served: number[] = [];
    const each = async (_: unknown, number: number) => {
      const held = await lock.acquireSessionWriteLock({ sessionFile, allowReentrant: false, timeoutMs: 30_000 });
      served.push(number);
      await held.release();
    };
    await Promise.all(Array.from({ length: 6 }, each));
    return served;
  }, sessionFile);
  await untilAsleep(waiter.pid);
  renameSync(folder, `${folder}.away`);
  expect(await waiting).toEqual([0, 1, 2, 3, 4, 5]);
});

test("a waiter whose folder's symbolic link is switched waits for the lock of the new folder", async () => {
  const parent = temporaryFolder();
  const [before, after, link] = ["before", "after", "chats"].map((name) => path.join(parent, name));
  mkdirSync(before!);
  mkdirSync(after!);
  symlinkSync(before!, link!);
  const sessionFile = path.join(link!, "chat.jsonl");
  const [holder, waiter, newHolder] = await Promise.all([Agent.start(), Agent.start(), Agent.start()]);
  expect(await holder.acquire({ sessionFile })).toBe(path.join(before!, "chat.jsonl.lock"));
  let isServed = false;
  const waiting = waiter.acquire({ sessionFile }).finally(() => (isServed = true));
  await untilAsleep(waiter.pid);
  // `is_still_of` is asked only of those that have waited for a while.
  const since = performance.now();
  await until("the wait is long", () => performance.now() - since > 150);
  unlinkSync(link!);
  symlinkSync(after!, link!);
  expect(await newHolder.acquire({ sessionFile })).toBe(path.join(after!, "chat.jsonl.lock"));
  await holder.release(sessionFile);
  await until("the old folder is left", () => readdirSync(before!).length === 0);
  await until("it waits in the new folder", () => footprint(waiter.pid).blocked > 0);
  expect(isServed).toBe(false);
  await newHolder.release(sessionFile);
  await expectWithin(BOUNDED_MS, waiting);
  expect(await waiting).toBe(path.join(after!, "chat.jsonl.lock"));
  await waiter.release(sessionFile);
});
