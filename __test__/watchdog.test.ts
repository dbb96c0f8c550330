/**
 * Locks that end before their holder releases them: by the watchdog, by somebody who takes the
 * file away, by `releaseAll`. And how their holder is told.
 */

import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, renameSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, describe, expect, onTestFinished, test } from "vitest";

import {
  acquireSessionWriteLock,
  lock,
  releaseAllSessionWriteLocks,
  type SessionWriteLock,
  SessionWriteLockLostError,
  tryAcquireSessionWriteLock,
} from "../index.js";
import {
  aborted,
  Agent,
  root,
  temporaryFolder,
  type Tools,
  until,
  waitModes,
} from "./support.js";

const LOST_CODE = "OPENCLAW_SESSION_WRITE_LOCK_LOST";

/** Enough for an event on a busy machine, and for a look now and then where there are none. */
const PROMPT_MS = 6_000;

afterEach(() => {
  releaseAllSessionWriteLocks();
});

function newSession(): { sessionFile: string; lockPath: string } {
  const sessionFile = path.join(temporaryFolder(), "chat.jsonl");
  return { sessionFile, lockPath: `${sessionFile}.lock` };
}

/** What the signal says when it aborts. */
async function lossOf(signal: AbortSignal, withinMs = PROMPT_MS): Promise<any> {
  await until("the loss is told", () => signal.aborted, withinMs);
  return signal.reason;
}

function expectLoss(reason: any, how: SessionWriteLockLostError["how"], lockPath: string): void {
  expect(reason).toBeInstanceOf(SessionWriteLockLostError);
  expect(reason).toBeInstanceOf(Error);
  expect({ ...reason }).toEqual({
    name: "SessionWriteLockLostError",
    code: LOST_CODE,
    lockPath,
    how,
  });
  expect(reason.message).toContain(lockPath);
}

/** What the watchdog warns of, with its numbers: by a warning, or by a line if the main thread is busy. */
function barks(stderr: string): { heldForMs: number; maxHoldMs: number; lockPath: string }[] {
  const line =
    /^(?:\[session-write-lock\]|.* LockWarning:) releasing lock held for (\d+)ms \(max=(\d+)ms\): (.*)$/gm;
  return [...stderr.matchAll(line)].map(([, heldForMs, maxHoldMs, lockPath]) => ({
    heldForMs: Number(heldForMs),
    maxHoldMs: Number(maxHoldMs),
    lockPath: lockPath!,
  }));
}

async function firstBark(agent: Agent) {
  await until("the watchdog says so", () => agent.stderr.endsWith("\n"));
  const [bark, ...more] = barks(agent.stderr);
  expect(more).toEqual([]);
  // Nothing but that line, and Node's advice.
  const lines = agent.stderr.trimEnd().split("\n").filter((line) => !line.includes("--trace-warnings"));
  expect(lines).toHaveLength(1);
  return bark!;
}

describe("the watchdog", () => {
  test("releases a lock that is held for too long while the event loop is blocked", async () => {
    const { sessionFile, lockPath } = newSession();
    const [holder, next] = [await Agent.start(), await Agent.start()];
    await holder.acquire({ sessionFile, maxHoldMs: 300 });
    const blocking = holder.run(() => {
      const now = () => Number(process.hrtime.bigint()) / 1e6;
      const end = now() + 2_500;
      while (now() < end);
      return now();
    });
    const acquiredAt = await next.run(async ({ lock, kept }, sessionFile) => {
      kept.set(sessionFile, await lock.acquireSessionWriteLock({ sessionFile }));
      return Number(process.hrtime.bigint()) / 1e6;
    }, sessionFile);
    expect(acquiredAt).toBeLessThan(await blocking);
    const { heldForMs, ...bark } = await firstBark(holder);
    expect(bark).toEqual({ maxHoldMs: 300, lockPath });
    expect(heldForMs).toBeGreaterThanOrEqual(300);
    expect(heldForMs).toBeLessThan(2_500);

    // The old handle's release does nothing to the next holder.
    await holder.release(sessionFile);
    expect(JSON.parse(readFileSync(lockPath, "utf8"))).toMatchObject({ pid: next.pid });
    expect(await next.run(({ kept }, sessionFile) => kept.get(sessionFile).held, sessionFile)).toBe(
      true,
    );
    // And who has lost it may have it again, as a contender like any other.
    const again = holder.acquire({ sessionFile });
    await next.release(sessionFile);
    expect(await again).toBe(lockPath);
  });

  test("counts from the first acquire, however often the lock is shared", async () => {
    const { sessionFile } = newSession();
    const holder = await Agent.start();
    const { sharedAt, lostAt } = await holder.run(async ({ lock }, sessionFile) => {
      const acquire = (maxHoldMs: number) =>
        lock.acquireSessionWriteLock({ sessionFile, maxHoldMs });
      const { signal } = await acquire(2_000);
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      const shared = await acquire(60_000);
      const sharedAt = performance.now();
      if (!signal.aborted) {
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      }
      if (shared.held) {
        throw new Error("the second acquisition has outlived the first");
      }
      return { sharedAt, lostAt: performance.now() };
    }, sessionFile);
    expect(lostAt - sharedAt).toBeLessThan(2_000);
    const { heldForMs, maxHoldMs } = await firstBark(holder);
    expect(heldForMs).toBeGreaterThanOrEqual(2_000);
    expect(maxHoldMs).toBe(2_000);
  });

  test("counts anew after a release, and leaves locks alone that are released in time", async () => {
    const { sessionFile, lockPath } = newSession();
    const holder = await Agent.start();
    await holder.run(async ({ lock, kept }, sessionFile) => {
      for (let round = 0; round < 20; round += 1) {
        const held = await lock.acquireSessionWriteLock({ sessionFile, maxHoldMs: 1_500 });
        await new Promise((resolve) => setTimeout(resolve, 100));
        await held.release();
      }
      kept.set(sessionFile, await lock.acquireSessionWriteLock({ sessionFile }));
    }, sessionFile);
    expect(existsSync(lockPath)).toBe(true);
    expect(holder.stderr).toBe("");
  });

  test("releases each of many locks when its own time is over", async () => {
    const longest = 2_000;
    const limits = [longest, 100, 400, 200, 300];
    const folder = temporaryFolder();
    const startedAt = performance.now();
    const held = await Promise.all(
      limits.map((maxHoldMs) =>
        tryAcquireSessionWriteLock({
          sessionFile: path.join(folder, `${maxHoldMs}.jsonl`),
          maxHoldMs,
        }),
      ),
    );
    await Promise.all(
      held.map(async (lock, index) => {
        await aborted(lock!.signal);
        const heldForMs = performance.now() - startedAt;
        expect(heldForMs).toBeGreaterThanOrEqual(limits[index]!);
        // None of the others waits for it.
        expect(heldForMs).toBeLessThan(limits[index] === longest ? Infinity : longest);
      }),
    );
  });

  test("lets a waiter of the same process in", async () => {
    const { sessionFile } = newSession();
    const held = await acquireSessionWriteLock({ sessionFile, maxHoldMs: 150 });
    const next = await acquireSessionWriteLock({
      sessionFile,
      timeoutMs: 5_000,
      allowReentrant: false,
    });
    expect([held.held, next.held]).toEqual([false, true]);
    await held.release();
    expect(next.held).toBe(true);
  });

  test("needs no events", async () => {
    const { sessionFile, lockPath } = newSession();
    const holder = await Agent.start({ env: waitModes.timers });
    const how = await holder.run(async ({ lock }, sessionFile) => {
      const { signal } = await lock.acquireSessionWriteLock({ sessionFile, maxHoldMs: 100 });
      if (!signal.aborted) {
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      }
      return signal.reason.how;
    }, sessionFile);
    expect(how).toBe("hold-exceeded");
    expect(await firstBark(holder)).toMatchObject({ maxHoldMs: 100, lockPath });
  });
});

/** Everything that ends a lock before its release; each says how the holder is told. */
const losses: [string, SessionWriteLockLostError["how"], (lockPath: string) => unknown][] = [
  ["its file was removed", "removed", (lockPath) => rmSync(lockPath)],
  [
    "its file was replaced by another with the same text",
    "removed",
    (lockPath) => {
      const text = readFileSync(lockPath);
      unlinkSync(lockPath);
      writeFileSync(lockPath, text);
    },
  ],
  [
    "another file was moved over it",
    "removed",
    (lockPath) => {
      writeFileSync(`${lockPath}.other`, "{}");
      renameSync(`${lockPath}.other`, lockPath);
    },
  ],
  ["its file was moved away", "removed", (lockPath) => renameSync(lockPath, `${lockPath}.away`)],
  ["all locks of its environment were released", "released", releaseAllSessionWriteLocks],
  [
    "the watchdog released it",
    "hold-exceeded",
    (lockPath) => until("the watchdog has released it", () => !existsSync(lockPath)),
  ],
];

describe("a lock that is lost", () => {
  for (const [why, how, lose] of losses) {
    const maxHoldMs = how === "hold-exceeded" ? 100 : undefined;

    test(`says so by held and by its signal: ${why}`, async () => {
      const { sessionFile, lockPath } = newSession();
      const lock = await acquireSessionWriteLock({ sessionFile, maxHoldMs });
      const { signal } = lock;
      expect(lock.signal).toBe(signal);
      expect([lock.held, signal.aborted]).toEqual([true, false]);
      await lose(lockPath);
      expect(lock.held).toBe(false);
      expectLoss(await lossOf(signal), how, lockPath);
      await lock.release();
      expect(lock.held).toBe(false);
    });

    test(`says so to those who ask for its signal only afterwards: ${why}`, async () => {
      const { sessionFile, lockPath } = newSession();
      const lock = await acquireSessionWriteLock({ sessionFile, maxHoldMs });
      await lose(lockPath);
      expect(lock.held).toBe(false);
      const { signal } = lock;
      expect(signal.aborted).toBe(true);
      expectLoss(signal.reason, how, lockPath);
    });

    test(`says so to each who shares it: ${why}`, async () => {
      const { sessionFile, lockPath } = newSession();
      const acquire = () => acquireSessionWriteLock({ sessionFile, maxHoldMs });
      const [first, second, third] = [await acquire(), await acquire(), await acquire()];
      const signals = [first.signal, second.signal, third.signal];
      expect(new Set(signals).size).toBe(3);
      await third.release();
      await lose(lockPath);
      expectLoss(await lossOf(first.signal), how, lockPath);
      expectLoss(await lossOf(second.signal), how, lockPath);
      // Who had given it back by then has lost nothing.
      expect(third.signal.aborted).toBe(false);
      expect([first.held, second.held, third.held]).toEqual([false, false, false]);
    });

    test(`can be acquired again, and is then not the old one: ${why}`, async () => {
      const { sessionFile, lockPath } = newSession();
      const old = await acquireSessionWriteLock({ sessionFile, maxHoldMs });
      await lose(lockPath);
      // What was put in its place by hand belongs to nobody.
      rmSync(lockPath, { force: true });
      const next = await acquireSessionWriteLock({ sessionFile, timeoutMs: 2_000 });
      expect([old.held, next.held]).toEqual([false, true]);
      await old.release();
      expect(next.held).toBe(true);
      const agent = await Agent.start();
      await expect(agent.acquire({ sessionFile, timeoutMs: 1 })).rejects.toMatchObject({
        holder: { pid: process.pid },
      });
      expect(next.signal.aborted).toBe(false);
    });
  }

  // Other systems, network file systems and machines that are out of watches have no events.
  test("says so also where no events come: its file was removed", async () => {
    const { sessionFile, lockPath } = newSession();
    const holder = await Agent.start({ env: waitModes.timers });
    await holder.run(async ({ lock, kept, send }, sessionFile) => {
      const held = await lock.acquireSessionWriteLock({ sessionFile });
      kept.set(sessionFile, held);
      held.signal.addEventListener("abort", () => send(held.signal.reason.how));
    }, sessionFile);
    rmSync(lockPath);
    const patience = new Promise((resolve) => setTimeout(resolve, 6_000, "nothing was told"));
    expect(await Promise.race([holder.note(), patience])).toBe("removed");
  });
});

describe("a holder", () => {
  test("that removes its own file has lost the lock to whoever comes next", async () => {
    const { sessionFile, lockPath } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    const how = await holder.run(
      async ({ kept, require }, sessionFile, lockPath) => {
        const { signal } = kept.get(sessionFile);
        require("node:fs").unlinkSync(lockPath);
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
        return signal.reason.how;
      },
      sessionFile,
      lockPath,
    );
    expect(how).toBe("removed");
    const next = await acquireSessionWriteLock({ sessionFile });
    // It can't share what it has lost.
    await expect(holder.acquire({ sessionFile, timeoutMs: 50 })).rejects.toMatchObject({
      holder: { pid: process.pid },
    });
    await holder.release(sessionFile);
    expect(next.held).toBe(true);
  });

  test("that releases has lost nothing", async () => {
    const { sessionFile } = newSession();
    const early = await acquireSessionWriteLock({ sessionFile });
    const { signal } = early;
    await early.release();
    const late = await acquireSessionWriteLock({ sessionFile });
    await late.release();
    releaseAllSessionWriteLocks();
    // The signal that is first asked for after the release is one that never aborts.
    expect([signal.aborted, late.signal.aborted]).toEqual([false, false]);
    expect([early.held, late.held]).toEqual([false, false]);
  });

  test("of many locks is told of the one that was lost", async () => {
    const folder = temporaryFolder();
    const all: SessionWriteLock[] = [];
    for (let n = 0; n < 20; n += 1) {
      all.push(await acquireSessionWriteLock({ sessionFile: path.join(folder, `${n}.jsonl`) }));
    }
    const signals = all.map(({ signal }) => signal);
    rmSync(all[7]!.lockPath);
    expectLoss(await lossOf(signals[7]!), "removed", all[7]!.lockPath);
    expect(signals.filter(({ aborted }) => aborted)).toHaveLength(1);
    expect(all.filter(({ held }) => held)).toHaveLength(19);
  });

  test("can give its signal to the work that it does under the lock", async () => {
    const { sessionFile, lockPath } = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile });
    const work = new Promise((_resolve, reject) => {
      lock.signal.addEventListener("abort", () => reject(lock.signal.reason), { once: true });
    });
    rmSync(lockPath);
    await expect(work).rejects.toMatchObject({ code: LOST_CODE, how: "removed", lockPath });
  });

  test("is told in a worker thread too, and loses its lock while its thread is blocked", async () => {
    const { sessionFile } = newSession();
    const agent = await Agent.start();
    const told = await agent.run(
      async ({ require }: Tools, library, sessionFile) => {
        const { Worker } = require("node:worker_threads") as typeof import("node:worker_threads");
        const { once } = require("node:events") as typeof import("node:events");
        const source = `
          const { parentPort, workerData } = require("node:worker_threads");
          const { acquireSessionWriteLock } = require(workerData.library);
          const { sessionFile } = workerData;
          acquireSessionWriteLock({ sessionFile, maxHoldMs: 100 }).then((lock) => {
            const { signal } = lock;
            const untilTold = setInterval(() => {}, 1_000);
            const tell = () => {
              parentPort.postMessage(signal.reason.how);
              clearInterval(untilTold);
            };
            const end = performance.now() + 10_000;
            while (lock.held && performance.now() < end);
            parentPort.postMessage(lock.held ? "held all the time" : "lost");
            signal.aborted ? tell() : signal.addEventListener("abort", tell);
          });`;
        const worker = new Worker(source, { eval: true, workerData: { library, sessionFile } });
        const told: unknown[] = [];
        worker.on("message", (message) => told.push(message));
        await once(worker, "exit");
        return told;
      },
      root,
      sessionFile,
    );
    expect(told).toEqual(["lost", "hold-exceeded"]);
  });

  test("is not kept alive by a lock that it has lost", () => {
    const { sessionFile, lockPath } = newSession();
    const script = `
      const lock = require(${JSON.stringify(root)});
      (async () => {
        const sessionFile = ${JSON.stringify(sessionFile)};
        const held = await lock.acquireSessionWriteLock({ sessionFile, maxHoldMs: 50 });
        const { signal } = held;
        const tell = () => console.log(signal.reason.how);
        signal.aborted ? tell() : signal.addEventListener("abort", tell);
        // Only this keeps it alive, for longer than the lock.
        setTimeout(() => {}, 1_000);
      })();`;
    const { status, stdout, stderr } = spawnSync(process.execPath, ["-e", script], {
      encoding: "utf8",
      timeout: 20_000,
    });
    expect({ status, stdout }).toEqual({ status: 0, stdout: "hold-exceeded\n" });
    expect(barks(stderr)).toMatchObject([{ maxHoldMs: 50, lockPath }]);
  });
});

test("a warning goes to onWarning also if the holder releases as soon as the lock is lost", async () => {
  const { sessionFile } = newSession();
  const heard: Error[] = [];
  const others: Error[] = [];
  const hear = (warning: Error) => others.push(warning);
  process.on("warning", hear);
  onTestFinished(() => void process.off("warning", hear));
  const held = await lock(sessionFile, { maxHoldMs: 20, onWarning: (warning) => heard.push(warning) });
  await aborted(held.signal);
  await expect(held.release()).rejects.toMatchObject({ code: "ERR_LOCK_LOST", how: "hold-exceeded" });
  await until("the warning is heard", () => heard.length + others.length > 0);
  expect([heard.length, others]).toEqual([1, []]);
});
