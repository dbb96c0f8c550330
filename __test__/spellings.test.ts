/** One file under two names: spellings that differ in case, on a disk that ignores it, and Windows's short names. */

import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

import { lock, tryLock } from "../index.js";
import { FILE_SYSTEMS, lackFor, Mounts } from "./machines.js";
import { Agent, skipAloud, succeeds, temporaryFolder } from "./support.js";

interface Disk {
  folder: string;
  agent(): Promise<Agent>;
}

const FUSE = FILE_SYSTEMS["exfat-fuse"]!;

/** What the machine lacks for a folder that ignores case. */
function lack(): string | undefined {
  if (process.platform !== "linux") {
    return undefined;
  }
  return succeeds("unshare", "-m", "true") ? lackFor(FUSE) : "mounts";
}

async function disk(): Promise<Disk> {
  if (process.platform === "linux") {
    const mounts = await Mounts.start();
    await FUSE.mount(mounts);
    return { folder: mounts.folder, agent: () => mounts.agent() };
  }
  return { folder: temporaryFolder(), agent: () => Agent.start() };
}

const missing = lack();

function testThere(name: string, run: (disk: Disk, spelling: string, other: string) => Promise<void>): void {
  if (missing !== undefined) {
    skipAloud(name, missing);
    return;
  }
  test(name, async () => {
    const there = await disk();
    await run(there, path.join(there.folder, "chat.jsonl"), path.join(there.folder, "CHAT.jsonl"));
  });
}

testThere("in one process, a lock is held under both spellings", async ({ agent }, spelling, other) => {
  const outcome = await (await agent()).run(
    async ({ lock }, spelling, other) => {
      const code = (error: any) => error.code;
      const held = await lock.lock(spelling);
      const tried = lock.tryLock(other);
      const timedOut = await lock.lock(other, { timeoutMs: 50, staleMs: 1 }).catch(code);
      const { wanted } = held;
      const next = lock.lock(other);
      await new Promise((resolve) => wanted.addEventListener("abort", resolve));
      await held.release();
      const after = await next;
      const last = [after.lockPath === held.lockPath, lock.tryLock(spelling)];
      await after.release();
      return { tried, timedOut, last };
    },
    spelling,
    other,
  );
  expect(outcome).toEqual({ tried: null, timedOut: "ERR_LOCK_TIMEOUT", last: [true, null] });
});

testThere("a session is shared under both spellings", async ({ agent }, spelling, other) => {
  const shared = await (await agent()).run(
    async ({ lock }, spelling, other) => {
      const outer = await lock.acquireSessionWriteLock({ sessionFile: spelling, timeoutMs: 1_000 });
      const inner = await lock.acquireSessionWriteLock({ sessionFile: other, timeoutMs: 1_000, allowReentrant: true });
      const tried = lock.tryAcquireSessionWriteLock({ sessionFile: other, allowReentrant: true })!;
      await outer.release();
      await tried.release();
      const isKept = lock.tryLock(spelling) === null;
      await inner.release();
      const last = lock.tryLock(other);
      await last?.release();
      return { paths: [inner.lockPath === outer.lockPath, tried.lockPath === outer.lockPath], isKept, isFree: last !== null };
    },
    spelling,
    other,
  );
  expect(shared).toEqual({ paths: [true, true], isKept: true, isFree: true });
});

testThere("withLock inside withLock is refused under the other spelling, too", async ({ agent }, spelling, other) => {
  const code = await (await agent()).run(
    ({ lock }, spelling, other) =>
      lock.withLock(spelling, () => lock.withLock(other, { timeoutMs: 1_000 }, () => "both")).catch((error) => error.code),
    spelling,
    other,
  );
  expect(code).toBe("ERR_LOCK_SELF_DEADLOCK");
});

testThere("the other spelling's lock is free, held and dead when the lock is", async ({ agent }, spelling, other) => {
  const contender = await agent();
  const tries = () =>
    contender.run(async ({ lock }, other) => {
      const held = lock.tryLock(other, { staleMs: 1 });
      await held?.release();
      return held !== null;
    }, other);
  const hold = (holder: Agent) => holder.run(async ({ lock, kept }, file) => void kept.set(file, await lock.lock(file)), spelling);
  const first = await agent();
  await hold(first);
  expect(await tries()).toBe(false);
  await first.kill();
  // Where the kernel has a cache for each spelling, the contender's still says that the first holds, who is dead.
  const second = await agent();
  await hold(second);
  expect(await tries()).toBe(false);
  await second.release(spelling);
  expect(await tries()).toBe(true);
});

const testOnWindows: typeof test.skip =
  process.platform === "win32" ? test : (((name: string) => skipAloud(name, "Windows")) as typeof test.skip);

testOnWindows("a file's short name is the same lock as its long one", async ({ skip }) => {
  const folder = temporaryFolder();
  const file = path.join(folder, "chat of a long year.jsonl");
  writeFileSync(file, "");
  const listing = execFileSync("cmd.exe", ["/d", "/c", "dir", "/x"], { encoding: "utf8", cwd: folder });
  const [, name] = /(\S+~\S+) +chat of a long year/.exec(listing) ?? [];
  if (name === undefined) {
    return skip("this disk gives no short names");
  }
  const short = path.join(folder, name);
  const held = await lock(short);
  expect(path.basename(held.lockPath)).toBe("chat of a long year.jsonl.lock");
  expect(tryLock(file)).toBeNull();
  await held.release();
  // A name that only looks like a short one.
  const plain = await lock(path.join(folder, "CHATOF~9.JSO"));
  expect(path.basename(plain.lockPath)).toBe("CHATOF~9.JSO.lock");
  await plain.release();
});
