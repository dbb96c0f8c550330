/**
 * Worker threads: each is a contender of its own, and can end at any moment without leaving a
 * lock, a wait, a thread or a descriptor behind.
 */

import { existsSync, readdirSync, statSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";

import { acquireSessionWriteLock, tryAcquireSessionWriteLock } from "../index.js";
import { testOnEachNode } from "./nodes.js";
import { Agent, footprint, root, temporaryFolder, type Tools, until } from "./support.js";

const FIXTURE = path.join(root, "__test__/fixtures/doomed-worker.cjs");

/** What a worker does when it is ended. */
type Stage = "working" | "holding" | "waiting" | "acquiring";

interface Plan {
  fixture: string;
  stage: Stage;
  /** How many workers, one after the other, and how many of them at a time. */
  workers: number;
  atATime: number;
  free?: string[];
  taken?: string[];
}

/** Starts workers, ends each of them where it is, and tells how many there were. */
async function endWorkers({ require }: Tools, plan: Plan): Promise<number> {
  const { Worker } = require("node:worker_threads") as typeof import("node:worker_threads");
  const { once } = require("node:events") as typeof import("node:events");
  let started = 0;
  const endOne = async (lane: number) => {
    const round = started++;
    const own = plan.free?.filter((_, index) => index % plan.atATime === lane);
    const worker = new Worker(plan.fixture, { workerData: { ...plan, free: own } });
    worker.on("error", (error) => {
      throw error;
    });
    const exited = once(worker, "exit");
    if (plan.stage === "working") {
      const [code] = await exited;
      if (code !== 0) {
        throw new Error(`a worker ended by itself with ${code}`);
      }
      return;
    }
    await once(worker, "message");
    // At a different moment each time: at once, or some turns later.
    for (let turn = 0; turn < round % 7; turn += 1) {
      await new Promise(setImmediate);
    }
    await worker.terminate();
  };
  const lanes = Array.from({ length: plan.atATime }, async (_, lane) => {
    while (started < plan.workers) {
      await endOne(lane);
    }
  });
  await Promise.all(lanes);
  return started;
}

function sessionsIn(folder: string, count: number, name: string): string[] {
  return Array.from({ length: count }, (_, n) => path.join(folder, `${name}-${n}.jsonl`));
}

/** Nobody holds them any more, and taking them shows it. */
async function expectFree(folder: string, sessionFiles: string[]) {
  await Promise.all(
    sessionFiles.map(async (sessionFile) => {
      // An attempt that was under way when its worker ended may just be taken back.
      await (await acquireSessionWriteLock({ sessionFile, timeoutMs: 2_000 })).release();
    }),
  );
  // Windows: a file goes when the last thread that had it open has ended.
  await until("nothing is left", () => readdirSync(folder).length === 0);
}

/** Threads that find nothing to do go after a while. */
async function untilIdle(agent: Agent) {
  await until("its threads have gone", () => footprint(agent.pid).lockThreads === 0, 10_000);
}

describe("workers that are terminated", () => {
  const plans: { stage: Stage; workers: number; free: number; taken: number }[] = [
    // Locks or waits in all: 1,200, 2,400 and 1,200.
    { stage: "holding", workers: 120, free: 40, taken: 0 },
    { stage: "waiting", workers: 120, free: 0, taken: 20 },
    { stage: "acquiring", workers: 120, free: 20, taken: 5 },
  ];
  for (const { stage, workers, ...counts } of plans) {
    test(`while ${stage} leave nothing behind, hundreds of them one after the other`, async () => {
      const folder = temporaryFolder();
      const free = sessionsIn(folder, counts.free, "free");
      const taken = sessionsIn(folder, counts.taken, "taken");
      const agent = await Agent.start();
      const plan = { fixture: FIXTURE, stage, workers, atATime: 4, free, taken };
      const held = taken.map((sessionFile) => tryAcquireSessionWriteLock({ sessionFile })!);
      const inodes = held.map(({ lockPath }) => statSync(lockPath).ino);
      // The first ones count for nothing: Node itself starts threads that stay.
      await agent.run(endWorkers, { ...plan, workers: 8 });
      await untilIdle(agent);
      const before = footprint(agent.pid);
      expect(await agent.run(endWorkers, plan)).toBeGreaterThanOrEqual(workers);
      await until("nothing is watched any more", () => footprint(agent.pid).watches === 0);
      // Nobody got what was held all the time.
      expect(held.map(({ lockPath }) => statSync(lockPath).ino)).toEqual(inodes);
      expect(held.every((lock) => lock.held)).toBe(true);
      await Promise.all(held.map(({ release }) => release()));
      await expectFree(folder, [...free, ...taken]);
      await untilIdle(agent);
      const after = footprint(agent.pid);
      expect(after.descriptors).toBeLessThanOrEqual(before.descriptors);
      expect(after.threads).toBeLessThanOrEqual(before.threads);
      expect(agent.stderr).toBe("");
      // And the process has not lost its voice.
      await agent.acquire({ sessionFile: path.join(folder, "last.jsonl"), timeoutMs: 1 });
    });
  }

  testOnEachNode("while holding, waiting and acquiring leave nothing behind", async (node) => {
    const folder = temporaryFolder();
    const free = sessionsIn(folder, 20, "free");
    const taken = sessionsIn(folder, 5, "taken");
    const held = taken.map((sessionFile) => tryAcquireSessionWriteLock({ sessionFile })!);
    const agent = await Agent.start({ node });
    for (const stage of ["holding", "waiting", "acquiring"] as const) {
      const plan = { fixture: FIXTURE, stage, workers: 20, atATime: 5, free, taken };
      await agent.run(endWorkers, plan);
    }
    await until("nothing is watched any more", () => footprint(agent.pid).watches === 0);
    await Promise.all(held.map(({ release }) => release()));
    await expectFree(folder, [...free, ...taken]);
    expect(agent.stderr).toBe("");
  });

  test("while first in line let the next in, in another worker or none", async () => {
    const sessionFile = path.join(temporaryFolder(), "chat.jsonl");
    const held = tryAcquireSessionWriteLock({ sessionFile })!;
    const agent = await Agent.start();
    await agent.run(
      async ({ lock, kept, require }, fixture, sessionFile) => {
        const { Worker } = require("node:worker_threads") as typeof import("node:worker_threads");
        const { once } = require("node:events") as typeof import("node:events");
        const workers = [];
        for (let n = 0; n < 10; n += 1) {
          const workerData = { stage: "waiting", taken: [sessionFile] };
          const worker = new Worker(fixture, { workerData });
          await once(worker, "message");
          workers.push(worker);
        }
        kept.set("main", lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 30_000 }));
        await Promise.all(workers.map((worker) => worker.terminate()));
      },
      FIXTURE,
      sessionFile,
    );
    await held.release();
    const got = await agent.run(async ({ kept }) => (await kept.get("main")).held);
    expect(got).toBe(true);
  });

  test("at the very moment of the hand-off leave the lock either taken or free", async () => {
    const folder = temporaryFolder();
    const sessionFile = path.join(folder, "chat.jsonl");
    const agent = await Agent.start();
    for (let round = 0; round < 100; round += 1) {
      const held = tryAcquireSessionWriteLock({ sessionFile });
      expect(held, `round ${round}`).not.toBe(null);
      await agent.run(
        async ({ kept, require }, fixture, sessionFile) => {
          const { Worker } = require("node:worker_threads") as typeof import("node:worker_threads");
          const { once } = require("node:events") as typeof import("node:events");
          const workerData = { stage: "waiting", taken: [sessionFile] };
          const worker = new Worker(fixture, { workerData });
          await once(worker, "message");
          kept.set("worker", worker);
        },
        FIXTURE,
        sessionFile,
      );
      const releaseAt = Number(process.hrtime.bigint()) / 1e6 + 2;
      const ended = agent.run(
        async ({ kept }, at) => {
          while (Number(process.hrtime.bigint()) / 1e6 < at);
          await kept.get("worker").terminate();
        },
        releaseAt - 0.5 + (round % 20) / 10,
      );
      while (Number(process.hrtime.bigint()) / 1e6 < releaseAt);
      await held!.release();
      await ended;
      await expectFree(folder, [sessionFile]);
    }
  });
});

describe("the addon", () => {
  testOnEachNode("is loaded in many workers at once, and unloaded with them", async (node) => {
    const folder = temporaryFolder();
    const agent = await Agent.start({ node });
    const plan: Plan = {
      fixture: FIXTURE,
      stage: "working",
      workers: 16,
      atATime: 16,
      free: sessionsIn(folder, 64, "free"),
    };
    await agent.run(endWorkers, plan);
    await untilIdle(agent);
    const before = footprint(agent.pid);
    await agent.run(endWorkers, { ...plan, workers: 32 });
    await untilIdle(agent);
    const after = footprint(agent.pid);
    expect(after.descriptors).toBeLessThanOrEqual(before.descriptors);
    expect(after.threads).toBeLessThanOrEqual(before.threads);
    expect(readdirSync(folder)).toEqual([]);
    expect(agent.stderr).toBe("");
  });

  test("serves workers that all want one lock, one at a time", async () => {
    const folder = temporaryFolder();
    const sessionFile = path.join(folder, "chat.jsonl");
    const agent = await Agent.start();
    const inside = await agent.run(
      async ({ require }, library, sessionFile) => {
        const { Worker } = require("node:worker_threads") as typeof import("node:worker_threads");
        const { once } = require("node:events") as typeof import("node:events");
        const [count, rounds] = [6, 100];
        // Two counters, written apart: one by who is inside, one by who sees another inside.
        const counters = new Int32Array(new SharedArrayBuffer(8));
        const source = `
          const { workerData } = require("node:worker_threads");
          const { library, sessionFile, counters, rounds } = workerData;
          const { acquireSessionWriteLock } = require(library);
          (async () => {
            for (let round = 0; round < rounds; round += 1) {
              const { release } = await acquireSessionWriteLock({ sessionFile });
              const seen = counters[0];
              await new Promise(setImmediate);
              if (counters[0] !== seen) Atomics.add(counters, 1, 1);
              counters[0] = seen + 1;
              await release();
            }
          })();`;
        const workerData = { library, sessionFile, counters, rounds };
        const workers = Array.from(
          { length: count },
          () => new Worker(source, { eval: true, workerData }),
        );
        await Promise.all(workers.map((worker) => once(worker, "exit")));
        return [...counters];
      },
      root,
      sessionFile,
    );
    expect(inside).toEqual([600, 0]);
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe("the main thread", () => {
  testOnEachNode("may call process.exit while workers wait, hold and acquire", async (node) => {
    const folder = temporaryFolder();
    const free = sessionsIn(folder, 10, "free");
    const taken = sessionsIn(folder, 5, "taken");
    const held = taken.map((sessionFile) => tryAcquireSessionWriteLock({ sessionFile })!);
    const agent = await Agent.start({ node, through: ["sh", "-c", 'ulimit -c 0; exec "$@"', "sh"] });
    await agent.run(
      async ({ require }, fixture, free, taken) => {
        const { Worker } = require("node:worker_threads") as typeof import("node:worker_threads");
        const { once } = require("node:events") as typeof import("node:events");
        for (const [n, stage] of ["holding", "waiting", "acquiring"].entries()) {
          const own = free.filter((_, index) => index % 3 === n);
          const worker = new Worker(fixture, { workerData: { stage, free: own, taken } });
          await once(worker, "message");
        }
        setImmediate(() => process.exit(5));
      },
      FIXTURE,
      free,
      taken,
    );
    const started = performance.now();
    expect(await agent.ended).toEqual({ code: 5, signal: null });
    expect(performance.now() - started).toBeLessThan(5_000);
    expect(held.every((lock) => lock.held)).toBe(true);
    await Promise.all(held.map(({ release }) => release()));
    await expectFree(folder, [...free, ...taken]);
    expect(agent.stderr).toBe("");
  });

  test("keeps its locks when a worker that waited for them has ended", async () => {
    const sessionFile = path.join(temporaryFolder(), "chat.jsonl");
    const agent = await Agent.start();
    const lockPath = await agent.acquire({ sessionFile });
    const plan: Plan = {
      fixture: FIXTURE,
      stage: "waiting",
      workers: 10,
      atATime: 2,
      taken: [sessionFile],
    };
    await agent.run(endWorkers, plan);
    expect(existsSync(lockPath)).toBe(true);
    expect(tryAcquireSessionWriteLock({ sessionFile })).toBe(null);
    await agent.release(sessionFile);
    expect(existsSync(lockPath)).toBe(false);
  });
});
