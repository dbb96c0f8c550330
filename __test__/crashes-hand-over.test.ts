/**
 * A crash before every system call of a hand-over, on both sides. As in crashes.test.ts, strace is
 * attached to a process that is ready, and kills it before the n-th call of each kind.
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
