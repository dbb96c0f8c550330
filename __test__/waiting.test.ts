/**
 * Waiting: what wakes a waiter, how often, what it costs, and in which order waiters are served.
 *
 * What woke a process is counted inside it (`wakeUps`). A process is let go only when the kernel
 * shows that it sleeps, so that it can't have seen by looking what it should be woken for.
 */

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";

import { acquireSessionWriteLock, getProcessStartTime, type AcquireOptions } from "../index.js";
import {
  Agent,
  asAnotherUser,
  footprint,
  root,
  temporaryFolder,
  testWith,
  type Tools,
  until,
  untilAsleep,
  waitModes,
} from "./support.js";

const TIMEOUT_CODE = "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT";

/** Waiters look for themselves that often, should an event get lost: whoever is faster was woken. */
const SAFETY_NET_MS = 2_000;

/**
 * What timers a wait may need whatever happens: one to leave the queue, one to look twice, and one now
 * and then in case the wait is stuck.
 */
function allowedTimers(waitedMs: number): number {
  return 2 + Math.floor(waitedMs / SAFETY_NET_MS);
}

type Mode = keyof typeof waitModes;

/** How an acquire ended, and what it took. Instants are those of the monotonic clock. */
interface Ended {
  code: string | null;
  startedAt: number;
  endedAt: number;
  /** How often the waiting thread was woken meanwhile, and by what. */
  events: number;
  timers: number;
}

function newSession(): { sessionFile: string; lockPath: string } {
  const sessionFile = path.join(temporaryFolder(), "chat.jsonl");
  return { sessionFile, lockPath: `${sessionFile}.lock` };
}

/** Milliseconds of a clock that all processes share. */
function now(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** Acquires in an agent, keeps what it gets, and tells how it went. */
async function acquireAndTell(
  { lock, kept, require }: Tools,
  options: AcquireOptions,
): Promise<Ended> {
  const { wakeUps } = require("../../native.js");
  const now = () => Number(process.hrtime.bigint()) / 1e6;
  const before = wakeUps();
  const startedAt = now();
  let code: string | null = null;
  try {
    kept.set(options.sessionFile, await lock.acquireSessionWriteLock(options));
  } catch (error) {
    code = (error as { code: string }).code;
  }
  const endedAt = now();
  const after = wakeUps();
  return {
    code,
    startedAt,
    endedAt,
    events: after.events - before.events,
    timers: after.timers - before.timers,
  };
}

/** Has an agent wait, and comes back when it does. */
async function startWait(
  agent: Agent,
  mode: Mode,
  options: AcquireOptions,
): Promise<{ ended: Promise<Ended> }> {
  const ended = agent.run(acquireAndTell, { timeoutMs: 30_000, ...options });
  ended.catch(() => {}); // whoever awaits it hears of it
  await agent.run(() => {}); // answered after the acquire has been called
  await (mode === "events" ? untilAsleep(agent.pid) : untilTimerRings(agent));
  return { ended };
}

async function untilTimerRings(agent: Agent): Promise<void> {
  const timers = () => agent.run(({ require }) => require("../../native.js").wakeUps().timers);
  const before = await timers();
  await until("it looks again now and then", async () => (await timers()) > before);
}

function expectWokenByEvents(ended: Ended, releasedAt: number, timers = 0): void {
  const waitedMs = ended.endedAt - ended.startedAt;
  expect(ended.code).toBe(null);
  expect(ended.events).toBeGreaterThanOrEqual(1);
  // At most one each for its unlinking and its closing, and two for the end of a process.
  expect(ended.events).toBeLessThanOrEqual(4);
  expect(ended.timers).toBeLessThanOrEqual(timers + allowedTimers(waitedMs));
  expect(ended.endedAt - releasedAt).toBeLessThan(1_000);
}

function expectWokenByTimers(ended: Ended, releasedAt: number): void {
  expect(ended.code).toBe(null);
  expect(ended.events).toBe(0);
  expect(ended.timers).toBeGreaterThanOrEqual(1);
  expect(ended.endedAt - releasedAt).toBeLessThan(3_000);
}

const expectWoken = { events: expectWokenByEvents, timers: expectWokenByTimers };

/** The takeover of an older process's lock waits a moment for others that may have read it. */
const SETTLES = 1;

const holders = [
  { whose: "the addon", module: "addon", settles: 0 },
  { whose: "the older module", module: "typescript", settles: SETTLES },
] as const;

function hold(agent: Agent, module: "addon" | "typescript", sessionFile: string): Promise<string> {
  return module === "addon"
    ? agent.acquire({ sessionFile })
    : agent.acquireAsTypeScript({ sessionFile });
}

for (const mode of ["events", "timers"] as const) {
  const byWhat = mode === "events" ? "by events" : "by timers alone";
  const env = waitModes[mode];

  describe(`a waiter that is woken ${byWhat}`, () => {
    for (const { whose, module, settles } of holders) {
      test(`is woken when a holder with ${whose} releases`, async () => {
        const { sessionFile } = newSession();
        const [holder, waiter] = [await Agent.start(), await Agent.start({ env })];
        for (let round = 0; round < 10; round += 1) {
          await hold(holder, module, sessionFile);
          const wait = await startWait(waiter, mode, { sessionFile });
          const releasedAt = now();
          await holder.release(sessionFile);
          expectWoken[mode](await wait.ended, releasedAt);
          await waiter.release(sessionFile);
        }
      });

      test(`is woken when a holder with ${whose} is killed`, async () => {
        const { sessionFile } = newSession();
        const waiter = await Agent.start({ env });
        const holders = await Promise.all(Array.from({ length: 6 }, () => Agent.start()));
        for (const holder of holders) {
          await hold(holder, module, sessionFile);
          const wait = await startWait(waiter, mode, { sessionFile });
          const killedAt = now();
          await holder.kill();
          // One that has not slept for long can't know that nobody reads the dead lock, either.
          expectWoken[mode](await wait.ended, killedAt, settles + SETTLES);
          await waiter.release(sessionFile);
        }
      });
    }

    test("goes on waiting for a holder that is stopped, and is woken when it goes on and releases", async () => {
      const { sessionFile } = newSession();
      const [holder, waiter] = [await Agent.start(), await Agent.start({ env })];
      await holder.acquire({ sessionFile });
      const wait = await startWait(waiter, mode, { sessionFile });
      holder.process.kill("SIGSTOP");
      await until("the holder is stopped", () => stateOf(holder.pid) === "T");
      // Somebody who doesn't know it from before finds it alive as well.
      const other = await Agent.start({ env });
      const { code } = await other.run(acquireAndTell, { sessionFile, timeoutMs: 200 });
      expect(code).toBe(TIMEOUT_CODE);
      const releasing = holder.release(sessionFile);
      expect(await waiter.run(({ kept }) => kept.size)).toBe(0);
      const continuedAt = now();
      holder.process.kill("SIGCONT");
      await releasing;
      expectWoken[mode](await wait.ended, continuedAt);
    });

    test("looks once more when a file that says nothing has become too old to be someone's", async () => {
      const { sessionFile, lockPath } = newSession();
      writeFileSync(lockPath, "torn");
      // Those with less than 30 s wait until it is 5 s old.
      const then = Date.now() / 1_000 - 4.8;
      utimesSync(lockPath, then, then);
      const waiter = await Agent.start({ env });
      const ended = await waiter.run(acquireAndTell, { sessionFile, timeoutMs: 10_000 });
      expect(ended).toMatchObject({ code: null, events: 0 });
      expect(ended.timers).toBeGreaterThanOrEqual(1);
      if (mode === "events") {
        // One more than needed: what is left of the grace is counted in whole milliseconds.
        expect(ended.timers).toBeLessThanOrEqual(2 + SETTLES);
      }
      expect(ended.endedAt - ended.startedAt).toBeLessThan(1_500);
      expect(JSON.parse(readFileSync(lockPath, "utf8"))).toMatchObject({ pid: waiter.pid });
    });

    test("is woken at its deadline, and in the meantime only where there are no events", async () => {
      const { sessionFile } = newSession();
      const [holder, waiter] = [await Agent.start(), await Agent.start({ env })];
      await holder.acquire({ sessionFile });
      const ended = await waiter.run(acquireAndTell, { sessionFile, timeoutMs: 1_500 });
      const waitedMs = ended.endedAt - ended.startedAt;
      expect(ended).toMatchObject({ code: TIMEOUT_CODE, events: 0 });
      expect(waitedMs).toBeGreaterThanOrEqual(1_499);
      expect(waitedMs).toBeLessThan(2_500);
      if (mode === "events") {
        expect(ended.timers).toBeGreaterThanOrEqual(1);
        // Three are usual: the last look, the deadline, leaving the queue. Polling would take some fifty.
        expect(ended.timers).toBeLessThan(8);
      } else {
        // Bounded also there: some thirty times a second.
        expect(ended.timers).toBeGreaterThan(1);
        expect(ended.timers).toBeLessThan(80);
      }
    });

    test("waits for each waiter's own deadline", async () => {
      const { sessionFile } = newSession();
      const [holder, waiter] = [await Agent.start(), await Agent.start({ env })];
      await holder.acquire({ sessionFile });
      const longest = 2_000;
      const timeouts = [longest, 100, 300, 200];
      const all = await Promise.all(
        timeouts.map((timeoutMs) => waiter.run(acquireAndTell, { sessionFile, timeoutMs })),
      );
      for (const [index, { code, startedAt, endedAt }] of all.entries()) {
        expect(code).toBe(TIMEOUT_CODE);
        expect(endedAt - startedAt).toBeGreaterThanOrEqual(timeouts[index]! - 1);
        // None of the others waits for it.
        expect(endedAt - startedAt).toBeLessThan(timeouts[index] === longest ? Infinity : longest);
      }
    });
  });
}

// The older module's file, readable for all, is not ours: the kernel then doesn't say who has it
// open, and only the process itself can be asked.
testWith("another user")(
  "a waiter that can judge a holder only by its process is woken by the end of that process",
  async () => {
    const folder = temporaryFolder();
    chmodSync(folder, 0o777);
    const sessionFile = path.join(folder, "chat.jsonl");
    const holder = await Agent.start();
    const record = { pid: holder.pid, createdAt: new Date().toISOString() };
    const starttime = getProcessStartTime(holder.pid);
    writeFileSync(`${sessionFile}.lock`, JSON.stringify({ ...record, starttime }), { mode: 0o644 });
    const waiter = await Agent.start({ through: asAnotherUser, env: waitModes.events });
    const wait = await startWait(waiter, "events", { sessionFile });
    // Long enough for polling to show.
    const { code, events } = await (
      await Agent.start({ through: asAnotherUser, env: waitModes.events })
    ).run(acquireAndTell, { sessionFile, timeoutMs: 700 });
    expect({ code, events }).toEqual({ code: TIMEOUT_CODE, events: 0 });
    const killedAt = now();
    await holder.kill();
    expectWokenByEvents(await wait.ended, killedAt, SETTLES);
  },
);

function stateOf(pid: number): string {
  return /\) (\S)/.exec(readFileSync(`/proc/${pid}/stat`, "latin1"))![1]!;
}

describe("the cost of a wait", () => {
  test("of five seconds is next to no CPU and a few wake-ups", async () => {
    const { sessionFile } = newSession();
    const [holder, waiter] = [await Agent.start(), await Agent.start({ env: waitModes.events })];
    await holder.acquire({ sessionFile });
    const spent = await waiter.run(async ({ lock, require }, sessionFile) => {
      const { wakeUps } = require("../../native.js");
      const [cpu, woken] = [process.cpuUsage(), wakeUps()];
      await lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 5_000 }).catch(() => {});
      const { user, system } = process.cpuUsage(cpu);
      const { events, timers } = wakeUps();
      return {
        cpuMs: (user + system) / 1_000,
        events: events - woken.events,
        timers: timers - woken.timers,
      };
    }, sessionFile);
    expect(spent.events).toBe(0);
    // Four are usual, and more if the thread that blocks is slow to notice that its wait is over. Polling would take 150.
    expect(spent.timers).toBeLessThan(8);
    // 2 to 3 ms are usual. A waiter that spins burns most of the five seconds.
    expect(spent.cpuMs).toBeLessThan(500);
  });

  testWith("strace")("of five seconds is fewer than seventy system calls", async () => {
    const { sessionFile } = newSession();
    const folder = temporaryFolder();
    const [holder, waiter] = [await Agent.start(), await Agent.start({ env: waitModes.events })];
    await holder.acquire({ sessionFile });
    const calls = path.join(folder, "calls");
    const tracer = spawn("strace", ["-f", "-o", calls, "-p", String(waiter.pid)], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    onTestFinished(() => void tracer.kill("SIGKILL"));
    await once(tracer.stderr, "data"); // "attached"
    await waiter.run(() => {});
    const wait = await startWait(waiter, "events", { sessionFile, timeoutMs: 5_000 });
    await until("what it did so far has been written down", () => existsSync(calls));
    const before = callsIn(calls).length;
    expect((await wait.ended).code).toBe(TIMEOUT_CODE);
    tracer.kill("SIGINT");
    await once(tracer, "exit");
    const during = callsIn(calls).slice(before);
    // The signal that ends the wait is sent again until the thread that blocks has noticed.
    const untilEnded = during.findIndex((call) => /\btgkill\(/.test(call));
    expect(untilEnded, during.join("\n")).toBeGreaterThan(0);
    expect(untilEnded, during.join("\n")).toBeLessThan(70);
  });

  /**
   * Without the signals, the ends of threads, and the second halves of calls. Without what chance adds: V8's
   * collector, and futexes, which are called only if two threads want a mutex at the same moment.
   */
  function callsIn(file: string): string[] {
    const lines = readFileSync(file, "utf8").trimEnd().split("\n");
    return lines.filter((line) => !/---|\+\+\+|resumed>|\b(mmap|munmap|mprotect|madvise|futex)\(/.test(line));
  }
});

describe("the order of waiters in one process", () => {
  test("is that of their calls", async () => {
    const { sessionFile } = newSession();
    const [holder, waiter] = [await Agent.start(), await Agent.start()];
    await holder.acquire({ sessionFile });
    await waiter.run(queueUp, sessionFile, 60);
    await holder.release(sessionFile);
    const served = await waiter.run(({ kept }) => kept.get("served"));
    expect(served).toEqual(Array.from({ length: 60 }, (_, number) => number));
  });

  test("is that of their calls across worker threads too", async () => {
    const { sessionFile, lockPath } = newSession();
    const [holder, waiter] = [await Agent.start(), await Agent.start()];
    await holder.acquire({ sessionFile });
    await waiter.run(
      async ({ lock, kept, require }, file, sessionFile, count) => {
        const { Worker } = require("node:worker_threads") as typeof import("node:worker_threads");
        const { once } = require("node:events") as typeof import("node:events");
        // Numbers taken under the lock: `order[n]` is who was served as the n-th.
        const order = new Int32Array(new SharedArrayBuffer(4 * count));
        const next = new Int32Array(new SharedArrayBuffer(4));
        const workers = Array.from(
          { length: 3 },
          () => new Worker(file, { workerData: { sessionFile, order, next } }),
        );
        await Promise.all(workers.map((worker) => once(worker, "online")));
        const done: Promise<unknown>[] = [];
        for (let number = 0; number < count; number += 1) {
          const worker = workers[number % (workers.length + 1)];
          if (worker) {
            worker.postMessage({ acquire: number });
            await once(worker, "message"); // "called"
          } else {
            const options = { sessionFile, timeoutMs: 60_000, allowReentrant: false };
            done.push(
              lock.acquireSessionWriteLock(options).then((held) => {
                order[Atomics.add(next, 0, 1)] = number;
                return held.release();
              }),
            );
          }
        }
        kept.set("order", async () => {
          await Promise.all(done);
          for (const worker of workers) {
            worker.postMessage({ finish: true });
            await once(worker, "exit");
          }
          return [...order];
        });
      },
      path.join(root, "__test__/fixtures/queue-worker.cjs"),
      sessionFile,
      60,
    );
    await holder.release(sessionFile);
    const order = await waiter.run(({ kept }) => kept.get("order")());
    expect(order).toEqual(Array.from({ length: 60 }, (_, number) => number));
    expect(existsSync(lockPath)).toBe(false);
  });

  test("holds for a thousand of them, who take up next to nothing while they wait", async () => {
    const { sessionFile } = newSession();
    const [holder, waiter] = [await Agent.start(), await Agent.start({ env: waitModes.events })];
    await holder.acquire({ sessionFile });
    const before = footprint(waiter.pid);
    await waiter.run(queueUp, sessionFile, 1_000);
    await untilAsleep(waiter.pid);
    const during = footprint(waiter.pid);
    // Four that work, one that waits and one that blocks; the lock file, the queue file and a blank one, and what
    // the kernel is asked to tell us by.
    expect(during.threads - before.threads).toBeLessThanOrEqual(6);
    expect(during.descriptors - before.descriptors).toBeLessThanOrEqual(5);
    expect(during.blocked).toBe(1);
    expect(during.watches).toBe(0);
    await holder.release(sessionFile);
    const served = await waiter.run(({ kept }) => kept.get("served"));
    expect(served).toEqual(Array.from({ length: 1_000 }, (_, number) => number));
  });

  test("holds for two hundred contended sessions at once, at a thread and three files for each", async () => {
    const folder = temporaryFolder();
    const sessionFiles = Array.from({ length: 200 }, (_, n) => path.join(folder, `${n}.jsonl`));
    const [holder, waiter] = [await Agent.start(), await Agent.start({ env: waitModes.events })];
    await holder.run(async ({ lock, kept }, sessionFiles) => {
      const all = sessionFiles.map((sessionFile) => lock.acquireSessionWriteLock({ sessionFile }));
      kept.set("all", await Promise.all(all));
    }, sessionFiles);
    const before = footprint(waiter.pid);
    await waiter.run(({ lock, kept }, sessionFiles) => {
      const all = sessionFiles.flatMap((sessionFile) =>
        [1, 2].map(() =>
          lock
            .acquireSessionWriteLock({ sessionFile, timeoutMs: 60_000, allowReentrant: false })
            .then((held) => held.release()),
        ),
      );
      kept.set("all", Promise.all(all));
    }, sessionFiles);
    await untilAsleep(waiter.pid, 200);
    const during = footprint(waiter.pid);
    expect(during.threads - before.threads).toBeLessThanOrEqual(200 + 5);
    // The lock file, the queue file and a blank one for each, and what the kernel is asked to tell us by.
    expect(during.descriptors - before.descriptors).toBeLessThanOrEqual(3 * 200 + 5);
    expect(during.blocked).toBe(200);
    expect(during.watches).toBe(0);
    await holder.run(({ kept }) => Promise.all(kept.get("all").map((held: any) => held.release())));
    await waiter.run(async ({ kept }) => void (await kept.get("all")));
    expect(readdirSync(folder)).toEqual([]);
  });

  /** Calls so many acquires that a promise under `served` tells the order in which they got it. */
  function queueUp({ lock, kept }: Tools, sessionFile: string, count: number): void {
    const served: number[] = [];
    const all = Array.from({ length: count }, async (_, number) => {
      const options = { sessionFile, timeoutMs: 60_000, allowReentrant: false };
      const held = await lock.acquireSessionWriteLock(options);
      served.push(number);
      await held.release();
    });
    kept.set(
      "served",
      Promise.all(all).then(() => served),
    );
  }
});

describe("a process", () => {
  /** Runs a program to its end. */
  function run(sessionFile: string, program: string) {
    const script = `
      const lock = require(${JSON.stringify(root)});
      const sessionFile = ${JSON.stringify(sessionFile)};
      ${program}`;
    const { status, stdout, stderr } = spawnSync(process.execPath, ["-e", script], {
      encoding: "utf8",
      timeout: 20_000,
    });
    return { status, said: stdout, stderr };
  }

  test("lives on while an acquire is pending", async () => {
    const { sessionFile } = newSession();
    const { release } = await acquireSessionWriteLock({ sessionFile });
    const program = `lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 300 })
      .catch(({ code }) => process.stdout.write(code));`;
    expect(run(sessionFile, program)).toEqual({ status: 0, said: TIMEOUT_CODE, stderr: "" });
    await release();
  });

  test("is not kept alive by a lock that it holds, nor by one whose loss it listens for", () => {
    const { sessionFile, lockPath } = newSession();
    const program = `(async () => {
      const { signal } = await lock.acquireSessionWriteLock({ sessionFile });
      signal.addEventListener("abort", () => {});
      process.stdout.write("held");
    })();`;
    expect(run(sessionFile, program)).toEqual({ status: 0, said: "held", stderr: "" });
    expect(existsSync(lockPath)).toBe(false);
  });

  test("ends when its last pending acquire is aborted", async () => {
    const { sessionFile } = newSession();
    const { release } = await acquireSessionWriteLock({ sessionFile });
    const program = `
      const controller = new AbortController();
      const options = { sessionFile, timeoutMs: Infinity, signal: controller.signal };
      lock.acquireSessionWriteLock(options).catch((reason) => process.stdout.write(reason));
      lock.acquireSessionWriteLock(options).catch((reason) => process.stdout.write(reason));
      setTimeout(() => controller.abort("aborted "), 50);`;
    expect(run(sessionFile, program)).toEqual({ status: 0, said: "aborted aborted ", stderr: "" });
    await release();
  });
});
