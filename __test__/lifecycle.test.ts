/**
 * What becomes of locks when processes, threads and their owners end, in every way they do.
 */

import { existsSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { afterEach, describe, expect, onTestFinished, test } from "vitest";

import {
  __testing,
  acquireSessionWriteLock,
  getProcessStartTime,
  releaseAllSessionWriteLocks,
} from "../index.js";
import { nodes, testOnEachNode } from "./nodes.js";
import { Agent, type Tools, root, temporaryFolder } from "./support.js";

const TIMEOUT_CODE = "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT";
const SIGNALS: NodeJS.Signals[] = ["SIGINT", "SIGTERM", "SIGQUIT", "SIGABRT"];

/** Agents die by signals here that would leave a memory image in the current folder. */
const withoutCoreFile = ["sh", "-c", 'ulimit -c 0; exec "$@"', "sh"];

/** One attempt, no waiting: whoever gets a lock so has not waited for anything to time out. */
const AT_ONCE = { timeoutMs: 1 };

afterEach(() => {
  releaseAllSessionWriteLocks();
});

function newSession(): string {
  return path.join(temporaryFolder(), "chat.jsonl");
}

function startAgent(node: string): Promise<Agent> {
  return Agent.start({ node, through: withoutCoreFile });
}

/** Two locks, one of them taken twice. */
async function holdTwo(agent: Agent): Promise<string[]> {
  const [one, other] = [newSession(), newSession()];
  const lockPaths = [await agent.acquire({ sessionFile: one })];
  await agent.acquire({ sessionFile: one });
  lockPaths.push(await agent.acquire({ sessionFile: other }));
  expectLocked(...lockPaths);
  return lockPaths;
}

function expectLocked(...lockPaths: string[]) {
  expect(lockPaths.map((lockPath) => [lockPath, existsSync(lockPath)])).toEqual(
    lockPaths.map((lockPath) => [lockPath, true]),
  );
}

function expectGone(...lockPaths: string[]) {
  expect(lockPaths.map((lockPath) => [lockPath, existsSync(lockPath)])).toEqual(
    lockPaths.map((lockPath) => [lockPath, false]),
  );
}

async function expectFreeAtOnce(sessionFile: string) {
  const { lockPath, release } = await acquireSessionWriteLock({ sessionFile, ...AT_ONCE });
  expect(JSON.parse(readFileSync(lockPath, "utf8"))).toMatchObject({ pid: process.pid });
  await release();
  expectGone(lockPath);
}

/** Not held for good: an attempt that was under way when its owner ended may just be taken back. */
async function expectFreeSoon(sessionFile: string) {
  await (await acquireSessionWriteLock({ sessionFile, timeoutMs: 2_000 })).release();
}

/** What holds a lock is not a file but the process: nobody else gets it. */
async function expectHeldBy(pid: number, sessionFile: string, contender: Agent) {
  await expect(contender.acquire({ sessionFile, ...AT_ONCE })).rejects.toMatchObject({
    code: TIMEOUT_CODE,
    holder: { pid },
    staleReasons: [],
  });
}

describe("the end of a process", () => {
  // Each ends it a moment later, so that the agent can still answer.
  const endings: [string, () => void, number][] = [
    ["runs out of things to do", () => void setImmediate(() => process.disconnect()), 0],
    ["calls process.exit", () => void setImmediate(() => process.exit(7)), 7],
    [
      "throws and nobody catches",
      () =>
        void setImmediate(() => {
          throw new Error("on purpose");
        }),
      1,
    ],
    [
      "rejects and nobody handles it",
      () => void setImmediate(() => Promise.reject(new Error("on purpose"))),
      1,
    ],
    [
      "calls process.exit in its own signal handler",
      () => {
        process.on("SIGTERM", () => process.exit(8));
        setImmediate(() => process.kill(process.pid, "SIGTERM"));
      },
      8,
    ],
  ];
  for (const [how, end, code] of endings) {
    testOnEachNode(`removes its locks when it ${how}`, async (node) => {
      const agent = await startAgent(node);
      const lockPaths = await holdTwo(agent);
      await agent.run(end);
      expect(await agent.ended).toEqual({ code, signal: null });
      expectGone(...lockPaths);
    });
  }

  for (const signal of SIGNALS) {
    testOnEachNode(`removes its locks on ${signal}, of which it then dies`, async (node) => {
      const agent = await startAgent(node);
      const lockPaths = await holdTwo(agent);
      expect(await agent.kill(signal)).toEqual({ code: null, signal });
      expectGone(...lockPaths);
    });
  }

  testOnEachNode("removes its locks when it sends a signal to itself", async (node) => {
    const agent = await startAgent(node);
    const lockPaths = await holdTwo(agent);
    await agent.run(() => void setImmediate(() => process.kill(process.pid, "SIGTERM")));
    expect(await agent.ended).toEqual({ code: null, signal: "SIGTERM" });
    expectGone(...lockPaths);
  });

  test("removes its locks even if it had released and acquired them before", async () => {
    const sessionFile = newSession();
    const agent = await startAgent(process.execPath);
    await agent.acquire({ sessionFile });
    await agent.release(sessionFile);
    const lockPath = await agent.acquire({ sessionFile });
    expect(await agent.kill("SIGINT")).toEqual({ code: null, signal: "SIGINT" });
    expectGone(lockPath);
  });

  test("an error that the host catches for the whole process ends no lock", async () => {
    const agent = await startAgent(process.execPath);
    const lockPaths = await holdTwo(agent);
    await agent.run(
      () =>
        new Promise<void>((resolve) => {
          process.once("uncaughtException", () => resolve());
          setImmediate(() => {
            throw new Error("on purpose");
          });
        }),
    );
    expectLocked(...lockPaths);
  });

  test("signal 0 ends no lock", async () => {
    const agent = await startAgent(process.execPath);
    const lockPaths = await holdTwo(agent);
    expect(process.kill(agent.pid, 0)).toBe(true);
    expect(await agent.run(() => process.kill(process.pid, 0))).toBe(true);
    expectLocked(...lockPaths);
  });

  testOnEachNode("is not put off by an acquire that waits", async (node) => {
    const sessionFile = newSession();
    const holder = await startAgent(process.execPath);
    const lockPath = await holder.acquire({ sessionFile });
    const { ino } = statSync(lockPath);
    const waiter = await startAgent(node);
    await waiter.run(({ lock }, sessionFile) => {
      void lock.acquireSessionWriteLock({ sessionFile, timeoutMs: Infinity });
      setImmediate(() => process.exit(0));
    }, sessionFile);
    // Waits for ever, were it put off; the test's own time limit says so.
    expect(await waiter.ended).toEqual({ code: 0, signal: null });
    expect(statSync(lockPath).ino).toBe(ino);
    await expectHeldBy(holder.pid, sessionFile, await startAgent(process.execPath));
  });

  test("in the middle of an acquire leaves nothing in anybody's way", async () => {
    for (let round = 0; round < 10; round++) {
      const sessionFile = newSession();
      const agent = await startAgent(process.execPath);
      await agent.run(({ lock }, sessionFile) => {
        setImmediate(() => {
          void lock.acquireSessionWriteLock({ sessionFile });
          process.exit(0);
        });
      }, sessionFile);
      expect(await agent.ended).toEqual({ code: 0, signal: null });
      await expectFreeAtOnce(sessionFile);
    }
  });
});

describe("an end that runs no code", () => {
  const endings: [string, (agent: Agent) => void][] = [
    ["SIGKILL", (agent) => void agent.kill("SIGKILL")],
    ["SIGSEGV", (agent) => void agent.kill("SIGSEGV")],
    ["SIGHUP", (agent) => void agent.kill("SIGHUP")],
    ["process.abort", (agent) => void agent.run(() => void setImmediate(() => process.abort()))],
  ];
  for (const [what, end] of endings) {
    testOnEachNode(`leaves the file, which is taken over at once: ${what}`, async (node) => {
      const sessionFile = newSession();
      const agent = await startAgent(node);
      const lockPath = await agent.acquire({ sessionFile });
      end(agent);
      const { signal } = await agent.ended;
      expect(signal).not.toBe(null);
      expectLocked(lockPath);
      await expectFreeAtOnce(sessionFile);
    });
  }

  testOnEachNode("lets the one in who was waiting already", async (node) => {
    const sessionFile = newSession();
    const holder = await startAgent(node);
    await holder.acquire({ sessionFile });
    const waiter = await startAgent(node);
    const waiting = waiter.acquire({ sessionFile, timeoutMs: Infinity });
    // Answered after the acquire has been called over there.
    await waiter.run(() => {});
    await holder.kill("SIGKILL");
    await waiting;
    await expectHeldBy(waiter.pid, sessionFile, await startAgent(process.execPath));
  });

  testOnEachNode(
    "gives the lock up although pid and start time live on in another program (process.execve)",
    async (node) => {
      const sessionFile = newSession();
      const agent = await startAgent(node);
      const lockPath = await agent.acquire({ sessionFile });
      const startTime = getProcessStartTime(agent.pid);
      const isReplaced = new Promise<void>((resolve) => {
        agent.process.stderr!.on("data", () => agent.stderr.includes("replaced") && resolve());
      });
      await agent.run(() => {
        const { execve } = process as any;
        const script = "echo replaced >&2; exec sleep 60";
        setImmediate(() => execve("/bin/sh", ["sh", "-c", script], process.env));
      });
      await isReplaced;
      expectLocked(lockPath);
      expect(getProcessStartTime(agent.pid)).toBe(startTime);
      await expectFreeAtOnce(sessionFile);
    },
    nodes.slice(1), // older ones have no process.execve
  );
});

describe("a process whose host handles all signals itself", () => {
  for (const signal of SIGNALS) {
    test(`keeps a lock that it acquired with handleSignals: false on ${signal}`, async () => {
      const agent = await startAgent(process.execPath);
      const sessionFile = newSession();
      await agent.acquire({ sessionFile, handleSignals: false });
      expect(await agent.run((_, signal) => process.listenerCount(signal), signal)).toBe(0);
      await agent.run(({ send }, signal) => void process.on(signal, () => send("heard")), signal);
      agent.process.kill(signal);
      expect(await agent.note()).toBe("heard");
      await expectHeldBy(agent.pid, sessionFile, await startAgent(process.execPath));
    });
  }

  test("loses it all the same if another acquire listens", async () => {
    const agent = await startAgent(process.execPath);
    const lockPaths = [await agent.acquire({ sessionFile: newSession(), handleSignals: false })];
    lockPaths.push(await agent.acquire({ sessionFile: newSession() }));
    expect(await agent.kill("SIGTERM")).toEqual({ code: null, signal: "SIGTERM" });
    expectGone(...lockPaths);
  });

  test("removes it on process.exit", async () => {
    const agent = await startAgent(process.execPath);
    const lockPath = await agent.acquire({ sessionFile: newSession(), handleSignals: false });
    await agent.run(() => void setImmediate(() => process.exit(7)));
    expect(await agent.ended).toEqual({ code: 7, signal: null });
    expectGone(lockPath);
  });
});

describe("a process whose host listens for signals itself", () => {
  const hosts: [string, boolean, "on" | "once"][] = [
    ["before the first lock", true, "on"],
    ["after the first lock", false, "on"],
    ["once, before the first lock", true, "once"],
    ["once, after the first lock", false, "once"],
  ];
  for (const [when, isBefore, method] of hosts) {
    for (const signal of SIGNALS) {
      test(`loses its locks on ${signal}, which is not raised again (${when})`, async () => {
        const agent = await startAgent(process.execPath);
        await agent.run(({ kept }) => {
          const { kill } = process;
          kept.set("kills", []);
          process.kill = (...args) => {
            kept.get("kills").push(args);
            return kill.apply(process, args);
          };
        });
        const listen = () =>
          agent.run(
            ({ send }, signal, method) => void process[method](signal, () => send(`heard ${signal}`)),
            signal,
            method,
          );
        if (isBefore) {
          await listen();
        }
        const lockPaths = await holdTwo(agent);
        if (!isBefore) {
          await listen();
        }
        agent.process.kill(signal);
        expect(await Promise.race([agent.note(), agent.ended])).toBe(`heard ${signal}`);
        expect(await agent.run(({ kept }) => kept.get("kills"))).toEqual([]);
        expectGone(...lockPaths);
      });
    }
  }

  testOnEachNode("can go on locking, and its next locks go as the first ones", async (node) => {
    const agent = await startAgent(node);
    await agent.run(({ send }) => void process.on("SIGTERM", () => send("heard")));
    for (let round = 0; round < 3; round++) {
      const lockPaths = await holdTwo(agent);
      agent.process.kill("SIGTERM");
      expect(await agent.note()).toBe("heard");
      await agent.run(() => {});
      expectGone(...lockPaths);
    }
  });

  test("hears of one signal and still dies of the others", async () => {
    const agent = await startAgent(process.execPath);
    await agent.run(() => void process.on("SIGINT", () => {}));
    const lockPaths = await holdTwo(agent);
    expect(await agent.kill("SIGTERM")).toEqual({ code: null, signal: "SIGTERM" });
    expectGone(...lockPaths);
  });

  test("may release a lock that a signal has already taken from it", async () => {
    const sessionFile = newSession();
    const agent = await startAgent(process.execPath);
    await agent.run(({ send }) => void process.on("SIGINT", () => send("heard")));
    const lockPath = await agent.acquire({ sessionFile });
    agent.process.kill("SIGINT");
    await agent.note();
    const next = await acquireSessionWriteLock({ sessionFile });
    await agent.release(sessionFile);
    expectLocked(lockPath);
    await next.release();
  });
});

describe("the listeners", () => {
  const count = ({ lock }: Tools) =>
    ["exit", ...lock.__testing.cleanupSignals].map((event) => process.listenerCount(event));

  testOnEachNode("are installed by the first acquire, and never again", async (node) => {
    const agent = await startAgent(node);
    const before = await agent.run(count);
    await agent.run(async ({ lock }, sessionFile) => {
      await (await lock.acquireSessionWriteLock({ sessionFile })).release();
    }, newSession());
    const once = before.map((listeners) => listeners + 1);
    expect(await agent.run(count)).toEqual(once);
    await agent.run(
      async ({ lock }, sessionFiles) => {
        for (const sessionFile of sessionFiles) {
          const [one, other] = await Promise.all([
            lock.acquireSessionWriteLock({ sessionFile }),
            lock.acquireSessionWriteLock({ sessionFile }),
          ]);
          await one.release();
          await other.release();
        }
        lock.releaseAllSessionWriteLocks();
      },
      Array.from({ length: 20 }, newSession),
    );
    expect(await agent.run(count)).toEqual(once);
  });

  testOnEachNode("are not doubled by a second copy of the module", async (node) => {
    const agent = await startAgent(node);
    const sessionFile = newSession();
    const lockPath = await agent.acquire({ sessionFile });
    const before = await agent.run(count);
    await agent.run(async ({ lock, kept, require }, sessionFile) => {
      Object.keys(require.cache).filter((name) => name.endsWith(".js")).forEach((name) => delete require.cache[name]);
      const copy: Tools["lock"] = require("../../index.js");
      if (copy === lock || copy.acquireSessionWriteLock !== lock.acquireSessionWriteLock) {
        throw new Error("this is no copy, or one for itself");
      }
      // To the copy the lock is re-entrant.
      kept.set("copy's", await copy.acquireSessionWriteLock({ sessionFile, timeoutMs: 1 }));
    }, sessionFile);
    expect(await agent.run(count)).toEqual(before);
    await agent.release(sessionFile);
    expectLocked(lockPath);
    expect(await agent.kill("SIGTERM")).toEqual({ code: null, signal: "SIGTERM" });
    expectGone(lockPath);
  });

  test("are not installed by asking about processes", async () => {
    const agent = await startAgent(process.execPath);
    const before = await agent.run(count);
    await agent.run(({ lock }) => {
      lock.isAlive(process.pid, lock.getProcessComm());
      lock.releaseAllSessionWriteLocks();
    });
    expect(await agent.run(count)).toEqual(before);
  });

  test("are there again after a signal that was raised again without ending the process", async () => {
    const agent = await startAgent(process.execPath);
    await agent.run(({ kept }) => {
      kept.set("kills", []);
      process.kill = (...args) => kept.get("kills").push(args);
    });
    for (let round = 1; round <= 2; round++) {
      const lockPaths = await holdTwo(agent);
      await agent.run(() => void process.emit("SIGINT"));
      expectGone(...lockPaths);
      expect(await agent.run(({ kept }) => kept.get("kills"))).toEqual(
        Array(round).fill([agent.pid, "SIGINT"]),
      );
    }
  });
});

describe("releaseAllSessionWriteLocks", () => {
  test("releases before it returns, and says how many locks there were", async () => {
    const [one, other] = [newSession(), newSession()];
    const first = await acquireSessionWriteLock({ sessionFile: one });
    await acquireSessionWriteLock({ sessionFile: one });
    await acquireSessionWriteLock({ sessionFile: one });
    const second = await acquireSessionWriteLock({ sessionFile: other });
    expect(releaseAllSessionWriteLocks()).toBe(2);
    expectGone(first.lockPath, second.lockPath);
    expect(releaseAllSessionWriteLocks()).toBe(0);
  });

  test("makes later releases of those locks do nothing", async () => {
    const sessionFile = newSession();
    const before = await acquireSessionWriteLock({ sessionFile });
    releaseAllSessionWriteLocks();
    const after = await acquireSessionWriteLock({ sessionFile });
    await before.release();
    expectLocked(after.lockPath);
    await after.release();
    expectGone(after.lockPath);
  });

  test("lets another process in that was waiting", async () => {
    const sessionFile = newSession();
    await acquireSessionWriteLock({ sessionFile });
    const agent = await startAgent(process.execPath);
    const waiting = agent.acquire({ sessionFile });
    await agent.run(() => {});
    releaseAllSessionWriteLocks();
    await waiting;
    await expect(acquireSessionWriteLock({ sessionFile, ...AT_ONCE })).rejects.toMatchObject({
      code: TIMEOUT_CODE,
      holder: { pid: agent.pid },
    });
  });

  test("leaves an acquire that has just been called its lock", async () => {
    const contender = await startAgent(process.execPath);
    for (let round = 0; round < 20; round++) {
      const sessionFile = newSession();
      const acquiring = acquireSessionWriteLock({ sessionFile });
      releaseAllSessionWriteLocks();
      const { release, lockPath } = await acquiring;
      expectLocked(lockPath);
      await expectHeldBy(process.pid, sessionFile, contender);
      await release();
      expectGone(lockPath);
    }
  });

  test("leaves no phantom where a lock was granted that its caller had not heard of", async () => {
    const contender = await startAgent(process.execPath);
    for (let round = 0; round < 20; round++) {
      const sessionFile = newSession();
      const acquiring = acquireSessionWriteLock({ sessionFile });
      // The lock is granted on a thread of its own while this one is busy, so that nobody can have
      // heard of it when it is released.
      let released = 0;
      for (const until = Date.now() + 5_000; released === 0 && Date.now() < until; ) {
        released = releaseAllSessionWriteLocks();
      }
      expect(released).toBe(1);
      const { release, lockPath } = await acquiring;
      expectLocked(lockPath);
      await expectHeldBy(process.pid, sessionFile, contender);
      await release();
      expectGone(lockPath);
    }
  });

  test("leaves a re-entrant acquire in flight a lock that is its own", async () => {
    const contender = await startAgent(process.execPath);
    for (let round = 0; round < 20; round++) {
      const sessionFile = newSession();
      const before = await acquireSessionWriteLock({ sessionFile });
      const acquiring = acquireSessionWriteLock({ sessionFile });
      releaseAllSessionWriteLocks();
      const { release, lockPath } = await acquiring;
      await before.release();
      expectLocked(lockPath);
      await expectHeldBy(process.pid, sessionFile, contender);
      await release();
      expectGone(lockPath);
    }
  });

  test("leaves an acquire waiting that waits for another process", async () => {
    const sessionFile = newSession();
    const agent = await startAgent(process.execPath);
    await agent.acquire({ sessionFile });
    const waiting = acquireSessionWriteLock({ sessionFile });
    expect(releaseAllSessionWriteLocks()).toBe(0);
    await expectHeldBy(agent.pid, sessionFile, await startAgent(process.execPath));
    await agent.release(sessionFile);
    const { lockPath } = await waiting;
    expectLocked(lockPath);
    expect(releaseAllSessionWriteLocks()).toBe(1);
  });
});

describe("a worker thread", () => {
  testOnEachNode("and the main thread wait for each other's locks", async (node) => {
    const sessionFile = newSession();
    const agent = await startAgent(node);
    await startWorker(agent);
    await agent.acquire({ sessionFile });
    await expect(ask(agent, "acquire", { sessionFile, timeoutMs: 50 })).rejects.toMatchObject({
      code: TIMEOUT_CODE,
    });
    const waiting = ask(agent, "acquire", { sessionFile });
    await agent.release(sessionFile);
    await waiting;
    await expect(agent.acquire({ sessionFile, timeoutMs: 50 })).rejects.toMatchObject({
      code: TIMEOUT_CODE,
      holder: { pid: agent.pid },
      staleReasons: [],
    });
    const mainWaits = agent.acquire({ sessionFile });
    await ask(agent, "release");
    expectLocked(await mainWaits);
  });

  test("re-enters its own locks", async () => {
    const sessionFile = newSession();
    const agent = await startAgent(process.execPath);
    await startWorker(agent);
    const lockPath = await ask(agent, "acquire", { sessionFile });
    await ask(agent, "acquire", { sessionFile, ...AT_ONCE });
    await ask(agent, "release");
    expectLocked(lockPath);
    await ask(agent, "release");
    expectGone(lockPath);
  });

  test("and the main thread release all of their own locks, not each other's", async () => {
    const agent = await startAgent(process.execPath);
    await startWorker(agent);
    const mains = await holdTwo(agent);
    const workers = await ask(agent, "acquire", { sessionFile: newSession() });
    expect(await ask(agent, "releaseAll")).toBe(1);
    expectGone(workers);
    expectLocked(...mains);
    const workersNext = await ask(agent, "acquire", { sessionFile: newSession() });
    expect(await agent.run(({ lock }) => lock.releaseAllSessionWriteLocks())).toBe(2);
    expectGone(...mains);
    expectLocked(workersNext);
  });

  test("listens for its own end and for no signal", async () => {
    const agent = await startAgent(process.execPath);
    await startWorker(agent);
    const [exit, ...signals]: number[] = await ask(agent, "listeners");
    await ask(agent, "acquire", { sessionFile: newSession() });
    await ask(agent, "acquire", { sessionFile: newSession() });
    expect(await ask(agent, "listeners")).toEqual([exit! + 1, ...signals]);
  });

  const endings: [string, (agent: Agent) => Promise<unknown>][] = [
    ["runs out of things to do", (agent) => endWorker(agent, "finish")],
    ["calls process.exit", (agent) => endWorker(agent, "exit")],
    ["throws and nobody catches", (agent) => endWorker(agent, "throw")],
    ["is terminated while idle", (agent) => endWorker(agent, "terminate")],
    [
      "is terminated in a busy loop",
      async (agent) => {
        await ask(agent, "spin");
        await endWorker(agent, "terminate");
      },
    ],
  ];
  for (const [how, end] of endings) {
    testOnEachNode(`loses its locks, and nobody else's, when it ${how}`, async (node) => {
      const sessionFile = newSession();
      const agent = await startAgent(node);
      const mains = await holdTwo(agent);
      await startWorker(agent);
      const lockPath = await ask(agent, "acquire", { sessionFile });
      await ask(agent, "acquire", { sessionFile });
      await end(agent);
      expectGone(lockPath);
      expectLocked(...mains);
      await expectFreeAtOnce(sessionFile);
    });
  }

  testOnEachNode("loses its locks when the main thread calls process.exit", async (node) => {
    const agent = await startAgent(node);
    await startWorker(agent);
    const lockPath = await ask(agent, "acquire", { sessionFile: newSession() });
    await agent.run(() => void setImmediate(() => process.exit(0)));
    expect(await agent.ended).toEqual({ code: 0, signal: null });
    expectGone(lockPath);
  });

  // The main thread's listeners know the main thread's locks only; a file may stay, a lock may not.
  testOnEachNode("leaves nothing in the way when a signal ends its process", async (node) => {
    const sessionFile = newSession();
    const agent = await startAgent(node);
    const mains = await holdTwo(agent);
    await startWorker(agent);
    await ask(agent, "acquire", { sessionFile });
    expect(await agent.kill("SIGTERM")).toEqual({ code: null, signal: "SIGTERM" });
    expectGone(...mains);
    await expectFreeAtOnce(sessionFile);
  });

  testOnEachNode("that is terminated while it waits is never granted the lock", async (node) => {
    const sessionFile = newSession();
    const holder = await startAgent(process.execPath);
    const lockPath = await holder.acquire({ sessionFile });
    const agent = await startAgent(node);
    await startWorker(agent);
    await agent.run(
      ({ kept }, message) => void kept.get("worker").postMessage(message),
      ["acquire", { sessionFile, timeoutMs: 600_000 }],
    );
    await ask(agent, "listeners"); // answered after the acquire has been called over there
    await endWorker(agent, "terminate");
    expectLocked(lockPath);
    await holder.release(sessionFile);
    await expectFreeSoon(sessionFile);
    // Another environment of that process is not held up either.
    expectLocked(await agent.acquire({ sessionFile, timeoutMs: 2_000 }));
  });

  testOnEachNode("that ends in the middle of an acquire is never granted the lock", async (node) => {
    const agent = await startAgent(node);
    const folder = temporaryFolder();
    // So many that some have not even begun when the thread ends.
    const sessionFiles = Array.from({ length: 1_000 }, (_, n) => path.join(folder, `chat-${n}.jsonl`));
    await startWorker(agent);
    await endWorker(agent, "acquireAndExit", sessionFiles);
    // Stands in line behind them all.
    await agent.acquire({ sessionFile: newSession() });
    const locked = sessionFiles.filter((sessionFile) => existsSync(`${sessionFile}.lock`));
    await Promise.all(locked.map(expectFreeSoon));
  });

  test("that is terminated leaves the main thread its place in the queue", async () => {
    const sessionFile = newSession();
    const holder = await startAgent(process.execPath);
    await holder.acquire({ sessionFile });
    const agent = await startAgent(process.execPath);
    await startWorker(agent);
    await agent.run(
      ({ kept }, message) => void kept.get("worker").postMessage(message),
      ["acquire", { sessionFile }],
    );
    await ask(agent, "listeners");
    const waiting = agent.acquire({ sessionFile });
    await endWorker(agent, "terminate");
    await holder.release(sessionFile);
    expectLocked(await waiting);
  });

  async function startWorker(agent: Agent) {
    await agent.run(async ({ kept, require }, file) => {
      const { Worker } = require("node:worker_threads") as typeof import("node:worker_threads");
      const worker = new Worker(file);
      kept.set("worker", worker);
      worker.on("error", () => {}); // one of its ends is an error, and this process lives on
      await new Promise((resolve) => worker.once("online", resolve));
    }, path.join(root, "__test__/fixtures/worker.cjs"));
  }

  /** Tells the worker to do something, and waits for its next answer. */
  function ask(agent: Agent, ...message: [command: string, ...args: unknown[]]): Promise<any> {
    return agent.run(
      ({ kept }, message) =>
        new Promise((resolve, reject) => {
          const worker = kept.get("worker");
          worker.once("message", ({ value, error }: any) => (error ? reject(error) : resolve(value)));
          worker.postMessage(message);
        }),
      message,
    );
  }

  /** Ends it, or has it end itself, and waits until it has ended. */
  function endWorker(agent: Agent, ...message: [command: string, ...args: unknown[]]) {
    return agent.run(
      ({ kept }, message) =>
        new Promise((resolve) => {
          const worker = kept.get("worker");
          worker.once("exit", resolve);
          void (message[0] === "terminate" ? worker.terminate() : worker.postMessage(message));
        }),
      message,
    );
  }
});

// As they stand in the gateway, which must find its tests unchanged.
describe("the gateway's tests", () => {
  test("__testing has what the older module's had, and what its tests need besides", () => {
    expect(Object.keys(__testing).sort()).toEqual([
      "cleanupSignals",
      "getProcessComm",
      "getProcessCommForPid",
      "handleTerminationSignal",
      "idle",
      "isAlive",
      "releaseAllLocksSync",
      "reset",
      "runLockWatchdogCheck",
    ]);
    expect(__testing.getProcessComm()).toBe("node");
    expect(__testing.getProcessCommForPid(process.pid)).toBe("node");
    expect(__testing.isAlive(process.pid, "node")).toBe(true);
    expect(__testing.isAlive(process.pid, "no-such-name")).toBe(false);
  });

  test("registers cleanup for SIGQUIT and SIGABRT", () => {
    expect(__testing.cleanupSignals).toContain("SIGQUIT");
    expect(__testing.cleanupSignals).toContain("SIGABRT");
    expect([...__testing.cleanupSignals].sort()).toEqual([...SIGNALS].sort());
  });

  test("releaseAllLocksSync releases before it returns", async () => {
    const { lockPath } = await acquireSessionWriteLock({ sessionFile: newSession() });
    __testing.releaseAllLocksSync();
    expectGone(lockPath);
  });

  test("removes held locks on termination signals", async () => {
    stubKill();
    for (const signal of SIGNALS) {
      const { lockPath } = await acquireSessionWriteLock({ sessionFile: newSession(), timeoutMs: 500 });
      __testing.handleTerminationSignal(signal);
      expectGone(lockPath);
    }
  });

  test("cleans up locks on SIGINT without removing other handlers", async () => {
    const kills = stubKill();
    let heard = 0;
    listen("SIGINT", () => heard++);
    const { lockPath } = await acquireSessionWriteLock({ sessionFile: newSession(), timeoutMs: 500 });
    process.emit("SIGINT");
    expectGone(lockPath);
    expect(heard).toBe(1);
    expect(kills).toEqual([]);
  });

  test("cleans up locks on exit", async () => {
    const { lockPath } = await acquireSessionWriteLock({ sessionFile: newSession(), timeoutMs: 500 });
    process.emit("exit", 0);
    expectGone(lockPath);
  });

  test("keeps other signal listeners registered", () => {
    const kills = stubKill();
    const keepAlive = () => {};
    listen("SIGINT", keepAlive);
    __testing.handleTerminationSignal("SIGINT");
    expect(process.listeners("SIGINT")).toContain(keepAlive);
    expect(kills).toEqual([]);
  });

  testOnEachNode("raises a signal again for which nobody else listens", async (node) => {
    for (const signal of SIGNALS) {
      const agent = await startAgent(node);
      const lockPaths = await holdTwo(agent);
      const kills = await agent.run((_, signal) => {
        const kills: unknown[] = [];
        process.kill = (...args) => {
          kills.push(args);
          return true;
        };
        process.emit(signal);
        return kills;
      }, signal);
      expectGone(...lockPaths);
      expect(kills).toEqual([[agent.pid, signal]]);
    }
  });

  testOnEachNode("goes on after an exit event that was not the end", async (node) => {
    const agent = await startAgent(node);
    const before = await holdTwo(agent);
    await agent.run(() => void process.emit("exit", 0));
    expectGone(...before);
    const after = await holdTwo(agent);
    await agent.run(() => void setImmediate(() => process.exit(0)));
    await agent.ended;
    expectGone(...after);
  });

  function stubKill(): unknown[] {
    const kills: unknown[] = [];
    const { kill } = process;
    process.kill = (...args) => {
      kills.push(args);
      return true;
    };
    onTestFinished(() => {
      process.kill = kill;
    });
    return kills;
  }

  function listen(signal: NodeJS.Signals, listener: () => void) {
    process.on(signal, listener);
    onTestFinished(() => void process.off(signal, listener));
  }
});

test("a process that ends while it waits for its own lock leaves no lock file", async () => {
  for (let round = 0; round < 5; round += 1) {
    const sessionFile = path.join(temporaryFolder(), "chat.jsonl");
    const agent = await Agent.start();
    await agent.run(async ({ lock }, sessionFile) => {
      await lock.acquireSessionWriteLock({ sessionFile });
      void lock.acquireSessionWriteLock({ sessionFile, allowReentrant: false });
      setImmediate(() => process.exit(0));
    }, sessionFile);
    await agent.ended;
    expect(existsSync(`${sessionFile}.lock`)).toBe(false);
  }
});
