/**
 * Acquires that are aborted: at every moment, and what is left of them, which is nothing.
 */

import { getEventListeners } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import { afterEach, describe, expect, test } from "vitest";

import {
  acquireSessionWriteLock,
  releaseAllSessionWriteLocks,
  tryAcquireSessionWriteLock,
} from "../index.js";
import {
  Agent,
  footprint,
  isOnFallback,
  newSession,
  root,
  temporaryFolder,
  type Tools,
  until,
} from "./support.js";

afterEach(() => {
  releaseAllSessionWriteLocks();
});

/** Not the environment's own lock once more. */
const LIKE_ANOTHER = { allowReentrant: false };

function abortListeners(signal: AbortSignal): number {
  return getEventListeners(signal, "abort").length;
}

/** The lock isn't lost: somebody else gets it, and it leaves an empty folder behind. */
async function expectFree({ folder, sessionFile }: ReturnType<typeof newSession>) {
  const { release } = await acquireSessionWriteLock({
    sessionFile,
    timeoutMs: 1_000,
    ...LIKE_ANOTHER,
  });
  await release();
  expect(readdirSync(folder)).toEqual([]);
}

describe("an acquire whose signal", () => {
  test("has aborted already rejects with the signal's reason and touches no file", async () => {
    const folder = temporaryFolder();
    const reason = { any: "object" };
    const signal = AbortSignal.abort(reason);
    const acquiring = acquireSessionWriteLock({
      sessionFile: path.join(folder, "missing/chat.jsonl"),
      signal,
    });
    await expect(acquiring).rejects.toBe(reason);
    expect(readdirSync(folder)).toEqual([]);
    expect(abortListeners(signal)).toBe(0);
  });

  test("has aborted already rejects although the environment could share its own lock", async () => {
    const { sessionFile } = newSession();
    await acquireSessionWriteLock({ sessionFile });
    const acquiring = acquireSessionWriteLock({ sessionFile, signal: AbortSignal.abort() });
    await expect(acquiring).rejects.toMatchObject({ name: "AbortError" });
  });

  test("aborts in the same turn rejects where somebody else holds the lock", async () => {
    const session = newSession();
    const { sessionFile } = session;
    const held = await acquireSessionWriteLock({ sessionFile });
    for (let round = 0; round < 20; round += 1) {
      const controller = new AbortController();
      const { signal } = controller;
      const acquiring = acquireSessionWriteLock({ sessionFile, signal, ...LIKE_ANOTHER });
      controller.abort("at once");
      await expect(acquiring).rejects.toBe("at once");
    }
    await held.release();
    await expectFree(session);
  });

  test("aborts in the same turn leaves a free lock either taken or free", async () => {
    const session = newSession();
    const { sessionFile } = session;
    for (let round = 0; round < 20; round += 1) {
      const controller = new AbortController();
      const acquiring = acquireSessionWriteLock({ sessionFile, signal: controller.signal });
      controller.abort("at once");
      const outcome: any = await acquiring.catch((reason) => reason);
      expect(outcome === "at once" || outcome.held).toBe(true);
      await outcome.release?.();
      await expectFree(session);
    }
  });

  test("aborts while it waits rejects at once with the very reason", async () => {
    const { sessionFile, lockPath } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    for (const afterMs of [0, 1, 5, 60]) {
      const controller = new AbortController();
      const { signal } = controller;
      const acquiring = acquireSessionWriteLock({ sessionFile, signal });
      const reason = new Error("enough");
      let abortedAt = 0;
      setTimeout(() => {
        abortedAt = performance.now();
        controller.abort(reason);
      }, afterMs);
      await expect(acquiring).rejects.toBe(reason);
      expect(performance.now() - abortedAt).toBeLessThan(1_000);
      expect(abortListeners(signal)).toBe(0);
    }
    expect(existsSync(lockPath)).toBe(true);
  });

  test("is AbortSignal.timeout rejects with its TimeoutError", async () => {
    const { sessionFile } = newSession();
    await acquireSessionWriteLock({ sessionFile });
    const signal = AbortSignal.timeout(30);
    await expect(
      acquireSessionWriteLock({ sessionFile, signal, ...LIKE_ANOTHER }),
    ).rejects.toMatchObject({ name: "TimeoutError" });
    expect(signal.aborted).toBe(true);
  });

  test("is shared by many ends all of them, and only them", async () => {
    const session = newSession();
    const { sessionFile } = session;
    const held = await acquireSessionWriteLock({ sessionFile });
    const controller = new AbortController();
    const { signal } = controller;
    const ends = Array.from({ length: 9 }, () =>
      acquireSessionWriteLock({ sessionFile, signal, ...LIKE_ANOTHER }),
    );
    const stays = acquireSessionWriteLock({ sessionFile, ...LIKE_ANOTHER });
    const outcomes = Promise.allSettled(ends);
    controller.abort("all");
    for (const outcome of await outcomes) {
      expect(outcome).toMatchObject({ status: "rejected", reason: "all" });
    }
    await held.release();
    await (await stays).release();
    await expectFree(session);
  });

  test("aborts after the lock was acquired has no meaning for it", async () => {
    const { sessionFile } = newSession();
    const controller = new AbortController();
    const { signal } = controller;
    const held = await acquireSessionWriteLock({ sessionFile, signal });
    expect(abortListeners(signal)).toBe(0);
    controller.abort();
    expect(held.held).toBe(true);
    expect(held.signal.aborted).toBe(false);
    await held.release();
  });

  test("never aborts is left without listeners when it times out or is refused", async () => {
    const { sessionFile } = newSession();
    await acquireSessionWriteLock({ sessionFile });
    const { signal } = new AbortController();
    await expect(
      acquireSessionWriteLock({ sessionFile, timeoutMs: 20, signal, ...LIKE_ANOTHER }),
    ).rejects.toThrow("session file locked");
    await expect(
      acquireSessionWriteLock({ sessionFile: path.join(sessionFile, "x".repeat(300)), signal }),
    ).rejects.toMatchObject({ code: "ENAMETOOLONG" });
    expect(abortListeners(signal)).toBe(0);
  });

  test("is no AbortSignal is a TypeError", async () => {
    const { folder, sessionFile } = newSession();
    for (const signal of [1, "x", true, {}, () => {}, new EventTarget(), new AbortController(), { throwIfAborted() {} }]) {
      const acquiring = acquireSessionWriteLock({ sessionFile, signal: signal as AbortSignal });
      await expect(acquiring).rejects.toBeInstanceOf(TypeError);
      await expect(acquiring).rejects.toMatchObject({ code: "ERR_INVALID_ARG_TYPE" });
    }
    expect(readdirSync(folder)).toEqual([]);
    for (const nothing of [undefined, null]) {
      const options = { sessionFile, signal: nothing as undefined };
      await (await acquireSessionWriteLock(options)).release();
    }
  });
});

describe("an abort at the moment of the hand-off", () => {
  test("from the same environment leaves the lock either taken or free", async () => {
    const session = newSession();
    const { sessionFile } = session;
    const outcomes = { taken: 0, aborted: 0 };
    // More, if by chance one of the two never came.
    for (let round = 0; round < 600 || (Math.min(outcomes.taken, outcomes.aborted) === 0 && round < 6_000); round += 1) {
      const held = await acquireSessionWriteLock({ sessionFile });
      const controller = new AbortController();
      const waiting = acquireSessionWriteLock({
        sessionFile,
        signal: controller.signal,
        ...LIKE_ANOTHER,
      }).then(
        async ({ held, release }) => {
          await release();
          return held ? "taken" : "granted what was not its own";
        },
        (reason) => reason,
      );
      // Half of them have found the lock held before it is released, the others maybe not.
      if (round % 2 === 0) {
        await new Promise(setImmediate);
      }
      const releasing = held.release();
      await pass(round);
      controller.abort("aborted");
      tally(outcomes, await waiting);
      await releasing;
      if (round % 20 === 0) {
        await expectFree(session);
      }
    }
    expect(outcomes.taken).toBeGreaterThan(0);
    expect(outcomes.aborted).toBeGreaterThan(0);
    await expectFree(session);

    /** A different time in each round: no turn, some microtasks, some immediates, some blocking. */
    async function pass(round: number): Promise<void> {
      const amount = Math.floor(round / 4) % 30;
      if (round % 4 === 1) {
        for (let n = 0; n < amount; n += 1) {
          await undefined;
        }
      } else if (round % 4 === 2) {
        for (let n = 0; n < amount; n += 1) {
          await new Promise(setImmediate);
        }
      } else if (round % 4 === 3) {
        const until = performance.now() + amount / 50;
        while (performance.now() < until);
      }
    }
  });

  test("from another process leaves the lock either taken or free", async () => {
    const session = newSession();
    const { folder, sessionFile } = session;
    const [holder, waiter] = [await Agent.start(), await Agent.start()];
    await waiter.run(countLateAborts);
    const outcomes = { taken: 0, aborted: 0 };
    // Those that already had the lock and gave it back unheard.
    let late = 0;
    // More, if by chance one of the three never came.
    for (let round = 0; round < 300 || (Math.min(outcomes.taken, outcomes.aborted, late) === 0 && round < 3_000); round += 1) {
      await holder.acquire({ sessionFile });
      await waiter.run(startWaiting, sessionFile);
      // From one millisecond before the release to two after it; on the fallback, where a look may
      // be as late as that, to eight.
      const releaseAt = Number(process.hrtime.bigint()) / 1e6 + 4;
      const abortAt = releaseAt - 1 + ((round * 7) % 300) / (isOnFallback ? 33 : 100);
      const [, outcome] = await Promise.all([
        holder.run(releaseAtInstant, sessionFile, releaseAt),
        waiter.run(abortAtInstant, abortAt, round % 2 === 0),
      ]);
      tally(outcomes, outcome);
      if (round % 10 === 0) {
        late = await waiter.run(({ kept }) => kept.get("late"));
        await expectFree(session);
      }
    }
    await expectFree(session);
    expect(outcomes.taken).toBeGreaterThan(0);
    expect(outcomes.aborted).toBeGreaterThan(0);
    expect(late).toBeGreaterThan(0);
    expect(readdirSync(folder)).toEqual([]);

    /** Counts the aborts that came when the lock had been granted. */
    function countLateAborts({ kept, require }: Tools): void {
      const { prototype } = require("../../native.js").Client;
      const { cancel } = prototype;
      kept.set("late", 0);
      prototype.cancel = function (ticket: number) {
        const isWithdrawn = cancel.call(this, ticket);
        kept.set("late", kept.get("late") + Number(!isWithdrawn));
        return isWithdrawn;
      };
    }

    function startWaiting({ lock, kept }: Tools, sessionFile: string): void {
      const controller = new AbortController();
      kept.set("controller", controller);
      const { signal } = controller;
      const settled = lock
        .acquireSessionWriteLock({ sessionFile, timeoutMs: 30_000, signal })
        .then(
          async ({ held, release }) => {
            await release();
            return held ? "taken" : "granted what was not its own";
          },
          (reason) => reason,
        );
      kept.set("settled", settled);
    }

    async function releaseAtInstant({ kept }: Tools, sessionFile: string, at: number) {
      while (Number(process.hrtime.bigint()) / 1e6 < at);
      await kept.get(sessionFile).release();
    }

    /** With a blocked event loop, a grant can't be heard of before the abort. */
    async function abortAtInstant({ kept }: Tools, at: number, isBlocked: boolean) {
      while (Number(process.hrtime.bigint()) / 1e6 < at) {
        await (isBlocked ? undefined : new Promise(setImmediate));
      }
      kept.get("controller").abort("aborted");
      return kept.get("settled");
    }
  });

  test("lets the next waiter have the lock that came too late for the first", async () => {
    const session = newSession();
    const { sessionFile } = session;
    for (let round = 0; round < 100; round += 1) {
      const held = await acquireSessionWriteLock({ sessionFile });
      const controller = new AbortController();
      const { signal } = controller;
      const first = acquireSessionWriteLock({ sessionFile, signal, ...LIKE_ANOTHER });
      const next = acquireSessionWriteLock({ sessionFile, timeoutMs: 1_500, ...LIKE_ANOTHER });
      void held.release();
      // Blocked, so that the grant is there but not heard of.
      const until = performance.now() + (round % 20) / 10;
      while (performance.now() < until);
      controller.abort("too late");
      await expect(first).rejects.toBe("too late");
      await (await next).release();
    }
    await expectFree(session);
  });

  test("of a shared lock takes nothing from the one that holds it", async () => {
    const session = newSession();
    const { sessionFile, lockPath } = session;
    for (let round = 0; round < 100; round += 1) {
      const held = await acquireSessionWriteLock({ sessionFile });
      const controller = new AbortController();
      const shared = acquireSessionWriteLock({ sessionFile, signal: controller.signal });
      const until = performance.now() + (round % 20) / 20;
      while (performance.now() < until);
      controller.abort("enough");
      // Shared already in the very call, it may be too late to abort it.
      const outcome = await shared.catch((reason) => reason);
      expect(outcome).toBeOneOf(["enough", expect.objectContaining({ lockPath })]);
      await outcome.release?.();
      // The late grant of the share, if there was one, has come back before this one is settled.
      await (await acquireSessionWriteLock({ sessionFile })).release();
      expect(held.held).toBe(true);
      await held.release();
      expect(existsSync(lockPath)).toBe(false);
    }
    await expectFree(session);
  });

  function tally(outcomes: { taken: number; aborted: number }, outcome: unknown) {
    expect(outcome).toBeOneOf(["taken", "aborted"]);
    outcomes[outcome as keyof typeof outcomes] += 1;
  }
});

describe("what is left of an aborted acquire", () => {
  test("is nothing, also after a thousand of them", async () => {
    const folder = temporaryFolder();
    const sessionFiles = Array.from({ length: 50 }, (_, n) => path.join(folder, `${n}.jsonl`));
    const holder = await Agent.start();
    await holder.run(async ({ lock, kept }, sessionFiles) => {
      for (const sessionFile of sessionFiles) {
        kept.set(sessionFile, await lock.acquireSessionWriteLock({ sessionFile }));
      }
    }, sessionFiles);
    const files = readdirSync(folder);
    const waiter = await Agent.start();
    // Once before anything is counted: what is loaded or started once is no matter.
    await waiter.run(abortMany, sessionFiles, 50);
    await untilIdle(waiter);
    const [before, resources] = [footprint(waiter.pid), await waiter.run(countResources)];
    await waiter.run(abortMany, sessionFiles, 1_000);
    await until("nothing is watched any more", () => footprint(waiter.pid).watches === 0);
    expect(await waiter.run(countResources)).toEqual(resources);
    await untilIdle(waiter);
    const after = footprint(waiter.pid);
    expect(after.descriptors).toBeLessThanOrEqual(before.descriptors);
    expect(after.threads).toBeLessThanOrEqual(before.threads);
    expect(readdirSync(folder)).toEqual(files);

    // No place in any queue either: whoever comes now is the first.
    const waiting = sessionFiles.map((sessionFile) => waiter.acquire({ sessionFile }));
    await waiter.run(() => {});
    await holder.kill();
    await Promise.all(waiting);

    /** Aborts that come at once, in the next turns, and when the wait has long begun. */
    async function abortMany({ lock }: Tools, sessionFiles: string[], count: number) {
      const reasons = Array.from({ length: count }, async (_, n) => {
        const controller = new AbortController();
        const acquiring = lock.acquireSessionWriteLock({
          sessionFile: sessionFiles[n % sessionFiles.length]!,
          timeoutMs: n % 2 === 0 ? Infinity : 60_000,
          signal: controller.signal,
        });
        if (n % 3 === 0) {
          controller.abort(n);
        } else {
          setTimeout(() => controller.abort(n), (n % 50) * (n % 3));
        }
        return acquiring.then(
          () => "acquired",
          (reason) => reason === n,
        );
      });
      if ((await Promise.all(reasons)).some((reason) => reason !== true)) {
        throw new Error("one of them was not rejected with its reason");
      }
    }

    /** What keeps a process alive. */
    function countResources(): number {
      const { getActiveResourcesInfo } = process as unknown as {
        getActiveResourcesInfo(): string[];
      };
      return getActiveResourcesInfo.call(process).filter((kind) => kind === "Timeout").length;
    }

    /** Threads that find nothing to do go after a while. */
    async function untilIdle(agent: Agent): Promise<void> {
      await until("its threads have gone", () => footprint(agent.pid).lockThreads === 0, 8_000);
    }
  });

  test("is no wait in a worker thread either", async () => {
    const session = newSession();
    const { sessionFile } = session;
    await acquireSessionWriteLock({ sessionFile });
    const agent = await Agent.start();
    const reasons = await agent.run(
      async ({ require }, library, sessionFile) => {
        const { Worker } = require("node:worker_threads") as typeof import("node:worker_threads");
        const { once } = require("node:events") as typeof import("node:events");
        const source = `
          const { parentPort, workerData } = require("node:worker_threads");
          const { acquireSessionWriteLock } = require(workerData.library);
          const { sessionFile } = workerData;
          const all = Array.from({ length: 20 }, (_, n) => {
            const controller = new AbortController();
            setTimeout(() => controller.abort(n), n);
            return acquireSessionWriteLock({ sessionFile, signal: controller.signal })
              .catch((reason) => reason);
          });
          Promise.all(all).then((reasons) => parentPort.postMessage(reasons));`;
        const worker = new Worker(source, { eval: true, workerData: { library, sessionFile } });
        // It ends by itself: nothing is pending any more.
        const [[reasons]] = await Promise.all([once(worker, "message"), once(worker, "exit")]);
        return reasons;
      },
      root,
      sessionFile,
    );
    expect(reasons).toEqual(Array.from({ length: 20 }, (_, n) => n));
    releaseAllSessionWriteLocks();
    await expectFree(session);
  });

  test("is its turn: those behind it are served, wherever in the line it stood", async () => {
    const session = newSession();
    const { sessionFile } = session;
    const held = await acquireSessionWriteLock({ sessionFile });
    const served: number[] = [];
    const controllers = Array.from({ length: 30 }, () => new AbortController());
    const all = controllers.map(async ({ signal }, number) => {
      const { release } = await acquireSessionWriteLock({ sessionFile, signal, ...LIKE_ANOTHER });
      served.push(number);
      await release();
    });
    const outcomes = Promise.allSettled(all);
    expect(tryAcquireSessionWriteLock({ sessionFile, ...LIKE_ANOTHER })).toBe(null);
    for (const [number, controller] of controllers.entries()) {
      if (number % 3 !== 1) {
        controller.abort();
      }
    }
    await held.release();
    await outcomes;
    expect(served).toEqual([...controllers.keys()].filter((number) => number % 3 === 1));
    await expectFree(session);
  });
});
