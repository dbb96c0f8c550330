/**
 * A crash before every system call of a hand-over, on both sides, and of a wait that ends without the lock. As in
 * crashes.test.ts, strace is attached to a process that is ready, and kills it before the n-th call of each kind.
 */

import { readdirSync } from "node:fs";
import path from "node:path";
import { expect } from "vitest";

import { inject, trace, warmAgent } from "./strace.js";
import { type Agent, isRestricted, temporaryFolder, testWith, until, untilAsleep } from "./support.js";

const straceTest = testWith("strace");

/** Those that a hand-over is made of; `?` lets strace pass over those that this architecture lacks. */
const CALLS = [
  "?open",
  "openat",
  "?newfstatat",
  "?fstat",
  "?statx",
  "fstatfs",
  "flock",
  "fcntl",
  "pwrite64",
  "utimensat",
  "linkat",
  "?unlink",
  "unlinkat",
  "close",
];

/** No side of a hand-over comes near this many calls of one kind in one thread. */
const MOST_CALLS = 40;

/**
 * A holder releases while two processes wait. `victim`: which of them is traced, and dies before its
 * n-th `call`. Says whether it survived. Both waiters, or the one that lives, must get the lock, and
 * nothing may be left in the end.
 */
async function handOver(
  agents: { holder: Agent; first: Agent; second: Agent },
  victim: "holder" | "first",
  call: string,
  n: number,
): Promise<boolean> {
  const { holder, first, second } = agents;
  const folder = temporaryFolder();
  const sessionFile = path.join(folder, "chat.jsonl");
  const what = `the ${victim} killed before ${call} number ${n}`;
  await holder.acquire({ sessionFile });
  const serve = async (waiter: Agent) => {
    await waiter.acquire({ sessionFile, timeoutMs: 20_000 });
    await waiter.release(sessionFile);
  };
  const servedFirst = serve(first).catch((error) => error);
  await untilAsleep(first.pid);
  const servedSecond = serve(second);
  await untilAsleep(second.pid);
  const detach = await trace(agents[victim], ...inject(call, `signal=SIGKILL:when=${n}`));
  await holder.release(sessionFile).catch(() => {}); // that it died is asked below
  const outcome = await servedFirst;
  await servedSecond;
  await detach();
  const survived = await agents[victim].run(() => true).catch(() => false);
  if (victim === "holder" || survived) {
    expect(outcome, what).toBe(undefined);
  }
  // The queue is left a moment after the release. What a crash leaves there, the next one removes.
  if (survived) {
    await until(`nothing is left: ${what}`, () => readdirSync(folder).length === 0, 2_000);
  }
  // Without unnamed files a crash can leave a temporary without a record, which counts for 2 s.
  await second.acquire({ sessionFile, timeoutMs: isRestricted ? 3_000 : 1_000 });
  await second.release(sessionFile);
  const isClean = () => readdirSync(folder).every((name) => name === "chat.jsonl.lock.new");
  await until(`the lock is free: ${what}`, isClean, 2_000);
  return survived;
}

for (const victim of ["holder", "first"] as const) {
  const who = victim === "holder" ? "the holder" : "the process whose turn it is";
  straceTest(`${who} dies before any system call of a hand-over, and those behind are served`, async () => {
    const agents = { holder: await warmAgent(), first: await warmAgent(), second: await warmAgent() };
    const crashes: Record<string, number> = {};
    for (const call of CALLS) {
      for (let n = 1; n <= MOST_CALLS; n += 1) {
        if (await handOver(agents, victim, call, n)) {
          break;
        }
        crashes[call] = n;
        await agents[victim].kill();
        agents[victim] = await warmAgent();
      }
    }
    const needed = victim === "holder" ? ["flock", "unlinkat"] : ["pwrite64", "linkat", ...(isRestricted ? [] : ["fcntl"])];
    for (const call of needed) {
      expect(crashes[call] ?? crashes[`?${call}`] ?? 0, call).toBeGreaterThan(0);
    }
  }, 180_000);
}

// --- A waiter that gives up ---------------------------------------------------------------------------

/** Why it gives up. Each rejects, or its process dies. */
const ENDS = {
  "reaches its deadline": (waiter: Agent, sessionFile: string): Promise<unknown> =>
    waiter.acquire({ sessionFile, timeoutMs: 20 }),
  "is aborted": (waiter: Agent, sessionFile: string): Promise<unknown> =>
    waiter.run(({ lock }, sessionFile) => {
      const signal = AbortSignal.timeout(20);
      return lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 60_000, signal });
    }, sessionFile),
};

/** `waiter` waits, is killed before its n-th `call` or gives up, and says whether it survived. Who waits with it is served. */
async function giveUp(
  agents: { holder: Agent; waiter: Agent; other: Agent },
  end: keyof typeof ENDS,
  call: string,
  n: number,
): Promise<boolean> {
  const { holder, waiter, other } = agents;
  const folder = temporaryFolder();
  const sessionFile = path.join(folder, "chat.jsonl");
  const what = `killed before ${call} number ${n}`;
  await holder.acquire({ sessionFile });
  const detach = await trace(waiter, ...inject(call, `signal=SIGKILL:when=${n}`));
  const ended = expect(ENDS[end](waiter, sessionFile), what).rejects.toThrow();
  const served = other.acquire({ sessionFile, timeoutMs: 20_000 });
  await ended;
  await detach();
  const survived = await waiter.run(() => true).catch(() => false);
  const releasedAt = performance.now();
  await holder.release(sessionFile);
  await served;
  expect(performance.now() - releasedAt, what).toBeLessThan(1_000);
  await other.release(sessionFile);
  await until(`nothing is left: ${what}`, () => readdirSync(folder).length === 0, 2_000);
  return survived;
}

for (const end of ["reaches its deadline", "is aborted"] as const) {
  straceTest(`a waiter that ${end} dies before any of its system calls, and the other is served`, async () => {
    const agents = { holder: await warmAgent(), waiter: await warmAgent(), other: await warmAgent() };
    const crashes: Record<string, number> = {};
    for (const call of CALLS) {
      for (let n = 1; n <= MOST_CALLS; n += 1) {
        if (await giveUp(agents, end, call, n)) {
          break;
        }
        crashes[call] = n;
        await agents.waiter.kill();
        agents.waiter = await warmAgent();
      }
    }
    expect(crashes["flock"]).toBeGreaterThan(0);
    expect(isRestricted || crashes["fcntl"]! > 0).toBe(true);
  }, 180_000);
}
