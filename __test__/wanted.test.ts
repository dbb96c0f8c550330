/**
 * `lock.wanted`: a holder is told that somebody waits.
 */

import { readdirSync } from "node:fs";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { AsyncLocalStorage } from "node:async_hooks";
import { describe, expect, onTestFinished, test } from "vitest";

import { acquireSessionWriteLock, lock, tryLock, type Lock } from "../index.js";
import { Agent, aborted, footprint, temporaryFolder, testWith, untilAsleep, waitModes } from "./support.js";

const newFile = () => path.join(temporaryFolder(), "file");

async function take(file: string): Promise<Lock> {
  const held = await lock(file);
  onTestFinished(() => held.release().catch(() => {}));
  return held;
}

async function startAgent(options = {}): Promise<Agent> {
  const agent = await Agent.start(options);
  onTestFinished(() => void agent.kill());
  return agent;
}

/** Begins to wait over there; its lock is released as soon as it has it. */
function waitElsewhere(agent: Agent, file: string, timeoutMs = Infinity) {
  return agent.run(
    async ({ lock: api }, file, timeoutMs) => {
      await (await api.lock(file, { timeoutMs: timeoutMs ?? Infinity })).release();
    },
    file,
    timeoutMs,
  );
}


describe("a holder is told", () => {
  test("of a waiter in its own environment", async () => {
    const file = newFile();
    const held = await take(file);
    const told = aborted(held.wanted);
    const next = lock(file);
    await told;
    await held.release();
    await (await next).release();
  });

  test("of a waiter in another process", async () => {
    const file = newFile();
    const held = await take(file);
    const agent = await startAgent();
    const told = aborted(held.wanted);
    const waiting = waitElsewhere(agent, file);
    await told;
    await held.release();
    await waiting;
  });

  testWith("pid namespaces")("of a waiter in another pid namespace", async () => {
    const file = newFile();
    const held = await take(file);
    const agent = await startAgent({ through: ["unshare", "-pfm", "--mount-proc"] });
    const told = aborted(held.wanted);
    const waiting = waitElsewhere(agent, file);
    await told;
    await held.release();
    await waiting;
  });

  test("of a waiter in a worker thread", async () => {
    const agent = await startAgent();
    const told = await agent.run(async ({ lock: api, require }, file) => {
      const { Worker } = require("node:worker_threads");
      const held = await api.lock(file);
      const told = new Promise((resolve) => held.wanted.addEventListener("abort", () => resolve("told")));
      const index = require.resolve("../../index.js");
      const source = `require(${JSON.stringify(index)}).lock(${JSON.stringify(file)}).then((it) => it.release())`;
      const worker = new Worker(source, { eval: true });
      const outcome = await told;
      await held.release();
      await new Promise((resolve) => worker.once("exit", resolve));
      return outcome;
    }, newFile());
    expect(told).toBe("told");
  });

  test("of one that waited before it asked", async () => {
    const file = newFile();
    const held = await take(file);
    const agent = await startAgent();
    const waiting = waitElsewhere(agent, file);
    await untilAsleep(agent.pid);
    await aborted(held.wanted);
    await held.release();
    await waiting;
  });

  test("when it got the lock by the queue, and others are still in it", async () => {
    const file = newFile();
    const first = await take(file);
    const agents = [await startAgent(), await startAgent()];
    // Each lets go as soon as it is told. So both come to their turn only if the first of them is told.
    const done = agents.map((agent) =>
      agent.run(async ({ lock: api }, file) => {
        const held = await api.lock(file);
        const { wanted } = held;
        const isLast = await Promise.race([
          new Promise<boolean>((resolve) => {
            wanted.addEventListener("abort", () => resolve(false));
            if (wanted.aborted) resolve(false);
          }),
          new Promise<boolean>((resolve) => setTimeout(resolve, 5_000, true).unref()),
        ]);
        await held.release();
        return isLast;
      }, file),
    );
    await Promise.all(agents.map((agent) => untilAsleep(agent.pid)));
    await first.release();
    await Promise.race(done);
    const newcomer = lock(file);
    expect(await Promise.all(done)).toEqual([false, false]);
    await (await newcomer).release();
  }, 20_000);

  test("of both faces, and in the context of who asked", async () => {
    const file = newFile();
    const held = await acquireSessionWriteLock({ sessionFile: file });
    const storage = new AsyncLocalStorage<string>();
    let context: string | undefined;
    const wanted = storage.run("mine", () => held.wanted);
    wanted.addEventListener("abort", () => (context = storage.getStore()));
    const next = lock(file);
    await aborted(wanted);
    expect(context).toBe("mine");
    await held.release();
    await (await next).release();
  });

  test.each(Object.entries(waitModes))("where it waits by %s", async (_, env) => {
    const file = newFile();
    const [holder, waiter] = [await startAgent({ env }), await startAgent()];
    await holder.run(async ({ lock: api, kept, send }, file) => {
      const held = await api.lock(file);
      kept.set("held", held);
      held.wanted.addEventListener("abort", () => {
        send("told");
        void held.release();
      });
    }, file);
    await waitElsewhere(waiter, file);
    expect(await holder.note()).toBe("told");
  });
});

describe("a holder is not told", () => {
  test("of attempts, inspections and acquires that share its lock", async () => {
    const sessionFile = newFile();
    const held = await acquireSessionWriteLock({ sessionFile });
    const { wanted } = held;
    await expect(lock(sessionFile, { timeoutMs: 0 })).rejects.toThrow();
    expect(tryLock(sessionFile)).toBe(null);
    const shared = await acquireSessionWriteLock({ sessionFile });
    const agent = await startAgent();
    await agent.run(async ({ lock: api }, file) => {
      await api.inspectLock(file);
      await api.lock(file, { timeoutMs: 0 }).catch(() => {});
      api.tryLock(file);
    }, sessionFile);
    await delay(100);
    expect(wanted.aborted).toBe(false);
    await shared.release();
    await held.release();
  });

  test("after its release, and of a release", async () => {
    const file = newFile();
    const held = await lock(file);
    const { wanted } = held;
    await held.release();
    await (await lock(file)).release();
    expect(wanted.aborted).toBe(false);
    expect(held.wanted).toBe(wanted);
  });
});

test("what asking takes is given back with the lock", async () => {
  const agent = await startAgent();
  const folder = temporaryFolder();
  const take = (count: number) =>
    agent.run(
      async ({ lock: api }, folder, count) => {
        const held = await Promise.all(Array.from({ length: count }, (_, i) => api.lock(`${folder}/${i}`)));
        held.forEach(({ wanted }) => wanted);
        await new Promise((resolve) => setTimeout(resolve, 10));
        await Promise.all(held.map((it) => it.release()));
      },
      folder,
      count,
    );
  await take(1);
  const before = footprint(agent.pid);
  await take(100);
  const after = footprint(agent.pid);
  expect(after.watches).toBe(0);
  expect(after.descriptors).toBeLessThanOrEqual(before.descriptors + 1);
  expect(readdirSync(folder)).toEqual([]);
});
