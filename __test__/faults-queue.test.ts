/**
 * What happens to those who wait in line: they are stopped, killed or end, or there are thousands of
 * them. The others are served in the order in which they came, and no queue file is left behind.
 */

import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { expect, test } from "vitest";

import { Agent, footprint, isOnFallback, newSession, skipAloud, type Tools, until, untilAsleep } from "./support.js";

/** On the fallback nobody queues. */
const queueTest: typeof test = isOnFallback
  ? (((name: string) => skipAloud(name, "events")) as unknown as typeof test)
  : test;

/** A stopped waiter is passed by a look every two seconds. */
const SERVED_MS = 5_000;

function startAgents(count: number): Promise<Agent[]> {
  return Promise.all(Array.from({ length: count }, () => Agent.start()));
}

/** Acquires over there, writes its number into the session file, and releases. */
function sign(agent: Agent, sessionFile: string, number: number): Promise<number> {
  return agent.run(
    async ({ lock, require }, sessionFile, number) => {
      const held = await lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 30_000 });
      require("node:fs").appendFileSync(sessionFile, `${number}\n`);
      await held.release();
      return number;
    },
    sessionFile,
    number,
  );
}

function signatures(sessionFile: string): number[] {
  return readFileSync(sessionFile, "utf8").trimEnd().split("\n").map(Number);
}

/** Has agents wait one after the other, so that their order is known. */
async function lineUp(agents: Agent[], sessionFile: string): Promise<Promise<number>[]> {
  const waits: Promise<number>[] = [];
  for (const [number, agent] of agents.entries()) {
    const waiting = sign(agent, sessionFile, number);
    waiting.catch(() => {}); // those that are killed are not awaited
    waits.push(waiting);
    await untilAsleep(agent.pid);
  }
  return waits;
}

async function stop(agent: Agent): Promise<void> {
  agent.process.kill("SIGSTOP");
  const isStopped = () => / T /.test(readFileSync(`/proc/${agent.pid}/stat`, "utf8"));
  await until("it is stopped", isStopped);
}

/** A waiter looks every two seconds. Comes back when it has just done so. */
async function untilItLooks(agent: Agent): Promise<void> {
  const timers = () => agent.run(({ require }) => require("../../native.js").wakeUps().timers);
  const before = await timers();
  await until("it looks", async () => (await timers()) > before);
}

async function holdBriefly(agent: Agent, sessionFile: string, timeoutMs: number): Promise<void> {
  await agent.acquire({ sessionFile, timeoutMs });
  await agent.release(sessionFile);
}

/** Holds again and again, until there is this file. */
function holdUntil(agent: Agent, enough: string, sessionFile: string): Promise<void> {
  return agent.run(
    async ({ lock, require }, enough, sessionFile) => {
      while (!require("node:fs").existsSync(enough)) {
        const held = await lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 30_000 });
        await new Promise((resolve) => setTimeout(resolve, 50));
        await held.release();
      }
    },
    enough,
    sessionFile,
  );
}

async function expectServed(waits: Promise<number>[], withinMs: number): Promise<void> {
  const startedAt = performance.now();
  await Promise.all(waits);
  expect(performance.now() - startedAt).toBeLessThan(withinMs);
}

function hasQueueFile(lockPath: string): boolean {
  return existsSync(`${lockPath}.queue`);
}

queueTest("a stopped waiter does not hold up those behind it while others keep the lock busy", async () => {
  const { folder, sessionFile } = newSession();
  const enough = `${folder}/enough`;
  const [holder, first, second, third, ...others] = (await startAgents(7)) as [Agent, Agent, Agent, Agent, ...Agent[]];
  await holder.acquire({ sessionFile });
  const [stopped, waits] = await lineUp([first, second], sessionFile);
  // Half a period between the looks of the second and the third. So the third finds the line stuck, and goes past it.
  await untilItLooks(second);
  await delay(1_000);
  await lineUp([third], sessionFile);
  const busy = others.map((agent) => holdUntil(agent, enough, sessionFile));
  await Promise.all(others.map((agent) => untilAsleep(agent.pid)));
  await stop(first);
  await untilItLooks(second);
  await holder.release(sessionFile);
  // The second still waits in the line that the third has left behind; and whenever it looks, the lock is held.
  await expectServed([waits!], SERVED_MS);
  writeFileSync(enough, "");
  first.process.kill("SIGCONT");
  await Promise.all([stopped, ...busy]);
});

queueTest("a stopped waiter keeps the free lock neither from `tryLock` nor from those who have less than two seconds", async () => {
  const { sessionFile } = newSession();
  const [holder, stopped, other] = (await startAgents(3)) as [Agent, Agent, Agent];
  await holder.acquire({ sessionFile });
  const waits = await lineUp([stopped], sessionFile);
  await stop(stopped);
  await holder.release(sessionFile);
  const tryIt = async ({ lock }: Tools, sessionFile: string) => {
    const held = lock.tryLock(sessionFile);
    await held?.release();
    return held !== null;
  };
  expect(await other.run(tryIt, sessionFile)).toBe(true);
  await holdBriefly(other, sessionFile, 400);
  stopped.process.kill("SIGCONT");
  await expectServed(waits, SERVED_MS);
});

queueTest("a stopped waiter keeps the free lock neither from those who join others nor from those whose time is nearly over", async () => {
  const { sessionFile } = newSession();
  const [holder, stopped, others, late] = (await startAgents(4)) as [Agent, Agent, Agent, Agent];
  await holder.acquire({ sessionFile });
  const waits = await lineUp([stopped, others], sessionFile);
  await stop(stopped);
  const runsOut = holdBriefly(late, sessionFile, 3_500);
  await Promise.all([others, late].map(untilItLooks));
  await holder.release(sessionFile);
  // Without deadlines the next looks would be in nearly two seconds.
  await Promise.all([runsOut, holdBriefly(others, sessionFile, 1_500)]);
  stopped.process.kill("SIGCONT");
  await expectServed(waits, SERVED_MS);
});

for (const acquire of ["acquire", "acquireAsTypeScript"] as const) {
  const behind = acquire === "acquire" ? "the addon" : "the older module";

  for (const [stopped, what] of ["first", "second", "third"].entries()) {
    queueTest(`a stopped waiter, the ${what} of three behind ${behind}, does not hold the others up`, async () => {
      const { folder, sessionFile } = newSession();
      const [holder, ...agents] = (await startAgents(4)) as [Agent, ...Agent[]];
      await holder[acquire]({ sessionFile });
      const waits = await lineUp(agents, sessionFile);
      await stop(agents[stopped]!);
      await holder.release(sessionFile);
      await expectServed(waits.filter((_, number) => number !== stopped), SERVED_MS);
      // It comes late, and gets the lock like any other.
      agents[stopped]!.process.kill("SIGCONT");
      await expectServed(waits, SERVED_MS);
      expect(signatures(sessionFile).sort()).toEqual([0, 1, 2]);
      await until("nothing is left", () => readdirSync(folder).length === 1);
    });
  }

  for (const end of ["release", "kill"] as const) {
    queueTest(`eight processes get the lock in the order in which they came, after a ${end} by ${behind}`, async () => {
      const { folder, sessionFile } = newSession();
      const [holder, ...agents] = (await startAgents(9)) as [Agent, ...Agent[]];
      await holder[acquire]({ sessionFile });
      const waits = await lineUp(agents, sessionFile);
      await (end === "release" ? holder.release(sessionFile) : holder.kill());
      await expectServed(waits, SERVED_MS);
      expect(signatures(sessionFile)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
      await until("nothing is left", () => readdirSync(folder).length === 1);
    });
  }

  queueTest(`the death of waiters does not change the order of the others, behind ${behind}`, async () => {
    const { folder, sessionFile } = newSession();
    const [holder, ...agents] = (await startAgents(6)) as [Agent, ...Agent[]];
    await holder[acquire]({ sessionFile });
    const waits = await lineUp(agents, sessionFile);
    await Promise.all([agents[0]!.kill(), agents[3]!.kill()]);
    await holder.release(sessionFile);
    await expectServed([1, 2, 4].map((number) => waits[number]!), SERVED_MS);
    expect(signatures(sessionFile)).toEqual([1, 2, 4]);
    await until("nothing is left", () => readdirSync(folder).length === 1);
  });

  queueTest(`a queue file of waiters that have exited behind ${behind} is gone after the next acquire`, async () => {
    const { folder, sessionFile, lockPath } = newSession();
    const [holder, ...agents] = (await startAgents(3)) as [Agent, ...Agent[]];
    await holder[acquire]({ sessionFile });
    await lineUp(agents, sessionFile);
    expect(hasQueueFile(lockPath)).toBe(true);
    for (const agent of agents) {
      agent.run(() => process.exit(0)).catch(() => {});
      await agent.ended;
    }
    await holder.release(sessionFile);
    await holdBriefly(holder, sessionFile, 10_000);
    await until("nothing is left", () => readdirSync(folder).length === 0);
  });

  queueTest(`a waiter that gives up, and is the last one, leaves no queue file behind ${behind}`, async () => {
    const { sessionFile, lockPath } = newSession();
    const [holder, ...agents] = (await startAgents(3)) as [Agent, ...Agent[]];
    await holder[acquire]({ sessionFile });
    await Promise.all(
      agents.map((agent) => expect(agent.acquire({ sessionFile, timeoutMs: 100 })).rejects.toThrow()),
    );
    await until("the queue is left", () => !hasQueueFile(lockPath));
    await holder.release(sessionFile);
  });

  for (const next of ["acquire", "sweep"] as const) {
    queueTest(`a queue file of waiters that were killed behind ${behind} is removed by the next ${next}`, async () => {
      const { folder, sessionFile, lockPath } = newSession();
      const [holder, other, ...agents] = (await startAgents(4)) as [Agent, Agent, ...Agent[]];
      await holder[acquire]({ sessionFile });
      await lineUp(agents, sessionFile);
      await Promise.all(agents.map((agent) => agent.kill()));
      await holder.release(sessionFile);
      expect(hasQueueFile(lockPath)).toBe(true);
      if (next === "acquire") {
        await other.acquire({ sessionFile });
        await other.release(sessionFile);
      } else {
        await other.run(async ({ lock }, sessionsDir) => {
          await lock.cleanStaleLockFiles({ sessionsDir });
        }, folder);
      }
      await until("nothing is left", () => readdirSync(folder).length === 0);
    });
  }
}

queueTest("a sweep leaves the queue file of those who wait", async () => {
  const { folder, sessionFile, lockPath } = newSession();
  const [holder, sweeper, ...agents] = (await startAgents(4)) as [Agent, Agent, ...Agent[]];
  await holder.acquire({ sessionFile });
  const waits = await lineUp(agents, sessionFile);
  await sweeper.run(async ({ lock }, sessionsDir) => {
    await lock.cleanStaleLockFiles({ sessionsDir });
  }, folder);
  expect(hasQueueFile(lockPath)).toBe(true);
  await holder.release(sessionFile);
  await expectServed(waits, SERVED_MS);
  expect(signatures(sessionFile)).toEqual([0, 1]);
});

// --- Thousands ----------------------------------------------------------------------------------------

test("five thousand waiters of one process cost no more each than five hundred do", async () => {
  const { folder, sessionFile } = newSession();
  const [holder, agent] = (await startAgents(2)) as [Agent, Agent];
  await holder.acquire({ sessionFile });
  const calls = await agent.run(async ({ lock, kept, require }, folder, sessionFile) => {
    const warm = require("node:path").join(folder, "warm.jsonl");
    for (let round = 0; round < 200; round += 1) {
      await (await lock.acquireSessionWriteLock({ sessionFile: warm })).release();
    }
    const controller = new AbortController();
    const outcomes = { served: 0, aborted: 0 };
    const acquire = async (signal?: AbortSignal) => {
      try {
        const held = await lock.acquireSessionWriteLock({
          sessionFile,
          timeoutMs: 60_000,
          allowReentrant: false,
          signal,
        });
        await held.release();
        outcomes.served += 1;
      } catch (error) {
        if (error !== controller.signal.reason) {
          throw error;
        }
        outcomes.aborted += 1;
      }
    };
    const [all, calls]: [Promise<void>[], number[]] = [[], []];
    for (let number = 0; number < 5_000; number += 1) {
      const signal = number % 2 ? controller.signal : undefined;
      const startedAt = performance.now();
      all.push(acquire(signal));
      calls.push(performance.now() - startedAt);
    }
    kept.set("end", async () => {
      controller.abort();
      const startedAt = performance.now();
      await Promise.all(all);
      return { ...outcomes, afterMs: performance.now() - startedAt };
    });
    return calls;
  }, folder, sessionFile);
  // The median: a garbage collection or another process may come in between.
  const typical = (some: number[]) => some.sort((a, b) => a - b)[some.length / 2]!;
  const [first, last] = [typical(calls.slice(0, 500)), typical(calls.slice(-500))];
  expect(last).toBeLessThan(3 * first);
  expect(footprint(agent.pid).lockThreads).toBeLessThan(8);

  const outcomes = agent.run(({ kept }) => kept.get("end")());
  await agent.run(() => true);
  await holder.release(sessionFile);
  expect(await outcomes).toMatchObject({ served: 2_500, aborted: 2_500 });
  expect((await outcomes).afterMs).toBeLessThan(10_000);
  await until("nothing is left", () => readdirSync(folder).length === 0);
});
