/**
 * Containers share a folder and a kernel, but not their process numbers. Here a container is a
 * pid and a mount namespace of its own, whose first process is an agent: so its gateway has the
 * number 1, like every other container's. Reused numbers are real ones: the kernel is told which
 * to give next.
 */

import { existsSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect } from "vitest";

import { acquireSessionWriteLock } from "../index.js";
import { Agent, temporaryFolder, testWith, type Tools } from "./support.js";

const containerTest = testWith("root", "pid namespaces");
const chosenPidTest = testWith("root", "pid namespaces", "chosen pids");

const TIMEOUT = { code: "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT" };

/** Far above what a container with two processes gives by itself. */
const REUSED = 5_000;

/** A live lock isn't taken in this time, a dead one is long before. */
const SHORT_MS = 100;

/** Dead locks are taken "at once"; a grace would take longer than this. */
const AT_ONCE_MS = 3_000;

/** The agent's process has number 1 in there, and takes all others with it when it dies. */
function startContainer(): Promise<Agent> {
  return Agent.start({ through: ["unshare", "-pfm", "--mount-proc", "--kill-child"] });
}

function newSession(): { sessionFile: string; lockPath: string } {
  const sessionFile = path.join(temporaryFolder(), "chat.jsonl");
  return { sessionFile, lockPath: `${sessionFile}.lock` };
}

function recordIn(lockPath: string): any {
  return JSON.parse(readFileSync(lockPath, "utf8"));
}

function age(file: string): void {
  const then = Date.now() / 1_000 - 120;
  utimesSync(file, then, then);
}

/** Kills what `unshare` started; then it ends too. */
async function killContainer(container: Agent): Promise<void> {
  const children = `/proc/${container.pid}/task/${container.pid}/children`;
  process.kill(Number(readFileSync(children, "utf8")), "SIGKILL");
  await container.ended;
}

async function acquiresAtOnce(agent: Agent, sessionFile: string): Promise<void> {
  const elapsed = await agent.run(async ({ lock }, sessionFile) => {
    const started = performance.now();
    const held = await lock.acquireSessionWriteLock({ sessionFile });
    const elapsed = performance.now() - started;
    await held.release();
    return elapsed;
  }, sessionFile);
  expect(elapsed).toBeLessThan(AT_ONCE_MS);
  expect(existsSync(`${sessionFile}.lock`)).toBe(false);
}

// --- Two containers over one folder --------------------------------------------------------------

type Module = "addon" | "typescript";

function acquireAs(module: Module, agent: Agent, sessionFile: string, startTime = true) {
  return module === "addon"
    ? agent.acquire({ sessionFile })
    : agent.acquireAsTypeScript({ sessionFile, startTime });
}

for (const module of ["addon", "typescript"] as const) {
  const whose = module === "addon" ? "the addon" : "the older module";

  containerTest(`a live lock of ${whose} in one container isn't taken in another, where its number is the contender's own`, async () => {
    const { sessionFile, lockPath } = newSession();
    const [one, other] = await Promise.all([startContainer(), startContainer()]);
    await acquireAs(module, one, sessionFile);
    expect(recordIn(lockPath).pid).toBe(1);
    await expect(
      other.acquire({ sessionFile, timeoutMs: SHORT_MS, staleMs: 1 }),
    ).rejects.toMatchObject(TIMEOUT);
    // Nor outside of both, where 1 is somebody else.
    await expect(
      acquireSessionWriteLock({ sessionFile, timeoutMs: SHORT_MS, staleMs: 1 }),
    ).rejects.toMatchObject(TIMEOUT);
    await one.release(sessionFile);
    await other.acquire({ sessionFile });
    await other.release(sessionFile);
    expect(existsSync(lockPath)).toBe(false);
  });

  containerTest(`a live lock of ${whose} isn't taken in a container where its number is nobody's`, async () => {
    const { sessionFile, lockPath } = newSession();
    const [outside, container] = await Promise.all([Agent.start(), startContainer()]);
    await acquireAs(module, outside, sessionFile);
    const { pid } = recordIn(lockPath);
    expect(await container.run(({ lock }, pid) => lock.isAlive(pid), pid)).toBe(false);
    await expect(
      container.acquire({ sessionFile, timeoutMs: SHORT_MS, staleMs: 1 }),
    ).rejects.toMatchObject(TIMEOUT);
    await outside.release(sessionFile);
    await acquiresAtOnce(container, sessionFile);
  });

  containerTest(`the lock of ${whose} in a killed container is taken over at once by the next one, whose gateway has the same number`, async () => {
    for (const startTime of module === "addon" ? [true] : [true, false]) {
      const { sessionFile, lockPath } = newSession();
      const [first, next] = await Promise.all([startContainer(), startContainer()]);
      await acquireAs(module, first, sessionFile, startTime);
      await killContainer(first);
      expect(recordIn(lockPath).pid).toBe(1);
      await acquiresAtOnce(next, sessionFile);
    }
  });

  containerTest(`a waiter in another container gets the lock of ${whose} as soon as the container is killed`, async () => {
    const { sessionFile } = newSession();
    const [holder, waiter] = await Promise.all([startContainer(), startContainer()]);
    await acquireAs(module, holder, sessionFile);
    const waiting = waiter.run(async ({ lock, send }, sessionFile) => {
      const wait = lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 60_000 });
      send("waiting");
      await (await wait).release();
      return performance.now();
    }, sessionFile);
    expect(await waiter.note()).toBe("waiting");
    const killedAt = performance.now();
    await killContainer(holder);
    await waiting;
    expect(performance.now() - killedAt).toBeLessThan(AT_ONCE_MS);
  });
}

containerTest("containers exclude each other", async () => {
  const { sessionFile } = newSession();
  const agents = await Promise.all([startContainer(), startContainer(), Agent.start()]);
  const rounds = 60;
  const enter = async ({ lock, require }: Tools, sessionFile: string, rounds: number) => {
    const fs = require("node:fs");
    for (let round = 0; round < rounds; round += 1) {
      const held = await lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 60_000 });
      fs.closeSync(fs.openSync(`${sessionFile}.inside`, "wx"));
      fs.appendFileSync(sessionFile, "x");
      fs.unlinkSync(`${sessionFile}.inside`);
      await held.release();
    }
  };
  await Promise.all(agents.map((agent) => agent.run(enter, sessionFile, rounds)));
  expect(readFileSync(sessionFile, "utf8")).toHaveLength(agents.length * rounds);
});

// --- Numbers that were given again -----------------------------------------------------------------

/**
 * Inside a container: starts a process and sees to it that it gets the number `pid`. The kernel
 * gives the next free one after the last; threads that start meanwhile use numbers up. Without a
 * `command` the process is an agent, another `node` like the gateway.
 */
async function spawnWithPid(
  { kept, require }: Tools,
  pid: number,
  command?: string[],
): Promise<void> {
  const { spawn } = require("node:child_process");
  const fs = require("node:fs");
  const [program, ...args] = command ?? [process.execPath, process.argv[1]!];
  for (let tries = 0; tries < 100; tries += 1) {
    fs.writeFileSync("/proc/sys/kernel/ns_last_pid", String(pid - 1));
    const child = spawn(program!, args, { stdio: ["ignore", "ignore", "inherit", "ipc"] });
    if (child.pid === pid) {
      if (!command) {
        await new Promise((resolve) => child.once("message", resolve)); // it is ready
      }
      kept.set("child", child);
      return;
    }
    child.kill("SIGKILL");
    await new Promise((resolve) => child.once("exit", resolve));
  }
  throw new Error(`no process would take the number ${pid}`);
}

/** Inside a container: runs a task in the agent that `spawnWithPid` started. */
async function runInChild({ kept }: Tools, source: string, args: unknown[]): Promise<any> {
  const child = kept.get("child");
  child.send({ id: 1, source, args });
  const { value, error } = await new Promise<any>((resolve) => child.once("message", resolve));
  if (error) {
    throw Object.assign(new Error(error.message), error);
  }
  return value;
}

/** Inside a container: kills that process and waits until its number is free. */
async function killChild({ kept }: Tools): Promise<void> {
  const child = kept.get("child");
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await ended;
}

function acquireInChild(container: Agent, options: object, module: Module): Promise<void> {
  const acquire = async ({ require, lock, kept }: Tools, options: any, module: Module) => {
    const acquire =
      module === "addon"
        ? lock.acquireSessionWriteLock
        : require("./typescript-lock.cjs").acquire;
    kept.set(options.sessionFile, await acquire(options));
  };
  return container.run(runInChild, acquire.toString(), [options, module]);
}

/** What a real holder with the number `REUSED` left when it was killed. */
async function leaveLock(
  container: Agent,
  sessionFile: string,
  module: Module,
  startTime = true,
): Promise<void> {
  await container.run(spawnWithPid, REUSED);
  await acquireInChild(container, { sessionFile, startTime }, module);
  await container.run(killChild);
  expect(recordIn(`${sessionFile}.lock`).pid).toBe(REUSED);
}

chosenPidTest("a lock of the addon is reclaimed at once when its number was given to another node", async () => {
  const { sessionFile, lockPath } = newSession();
  const container = await startContainer();
  await leaveLock(container, sessionFile, "addon");
  expect(recordIn(lockPath)).toMatchObject({ comm: "node", witness: "flock" });
  await container.run(spawnWithPid, REUSED);
  expect(await container.run(({ lock }, pid) => lock.isAlive(pid, "node"), REUSED)).toBe(true);
  await acquiresAtOnce(container, sessionFile);
});

chosenPidTest("a lock {pid, createdAt, starttime} is reclaimed at once when its number was given to another node", async () => {
  const { sessionFile, lockPath } = newSession();
  const container = await startContainer();
  await leaveLock(container, sessionFile, "typescript");
  expect(Object.keys(recordIn(lockPath))).toEqual(["pid", "createdAt", "starttime"]);
  await container.run(spawnWithPid, REUSED);
  await acquiresAtOnce(container, sessionFile);
});

chosenPidTest("a lock {pid, createdAt} is reclaimed when its number was given to another node", async () => {
  const { sessionFile, lockPath } = newSession();
  const container = await startContainer();
  await leaveLock(container, sessionFile, "typescript", false);
  expect(Object.keys(recordIn(lockPath))).toEqual(["pid", "createdAt"]);
  await container.run(spawnWithPid, REUSED);
  // Nothing in it tells the one from the other, but nobody has the file open. Its first seconds
  // are its writer's, who might have created it and be about to write.
  await expect(container.acquire({ sessionFile, timeoutMs: SHORT_MS })).rejects.toMatchObject({
    ...TIMEOUT,
    owner: expect.stringContaining(`pid=${REUSED} alive=true`),
  });
  age(lockPath);
  await acquiresAtOnce(container, sessionFile);
});

chosenPidTest("a fresh lock {pid, createdAt} whose number was given to another node ends before the default timeout", async () => {
  const { sessionFile } = newSession();
  const container = await startContainer();
  await leaveLock(container, sessionFile, "typescript", false);
  await container.run(spawnWithPid, REUSED);
  await container.acquire({ sessionFile });
});

chosenPidTest("a lock {pid, createdAt, comm} is reclaimed at once when its number was given to a program of another name", async () => {
  const { sessionFile, lockPath } = newSession();
  const container = await startContainer();
  await container.run(spawnWithPid, REUSED, ["sleep", "1000000"]);
  const createdAt = new Date().toISOString();
  writeFileSync(lockPath, JSON.stringify({ pid: REUSED, createdAt, comm: "node" }));
  await acquiresAtOnce(container, sessionFile);
});

chosenPidTest("a lock {pid, createdAt, comm} is reclaimed when its number was given to another node", async () => {
  const { sessionFile, lockPath } = newSession();
  const container = await startContainer();
  await container.run(spawnWithPid, REUSED);
  const createdAt = new Date().toISOString();
  for (const comm of ["node", "MainThread", "a-script-of-old"]) {
    writeFileSync(lockPath, JSON.stringify({ pid: REUSED, createdAt, comm }));
    age(lockPath);
    await acquiresAtOnce(container, sessionFile);
  }
});

for (const startTime of [true, false]) {
  const fields = startTime ? "{pid, createdAt, starttime}" : "{pid, createdAt}";
  chosenPidTest(`a lock ${fields} is reclaimed at once when its number was given to a thread`, async () => {
    const { sessionFile } = newSession();
    const container = await startContainer();
    await leaveLock(container, sessionFile, "typescript", startTime);
    await container.run(async ({ require }, pid) => {
      const fs = require("node:fs");
      const { Worker } = require("node:worker_threads");
      for (let tries = 0; tries < 100 && !fs.existsSync(`/proc/1/task/${pid}`); tries += 1) {
        fs.writeFileSync("/proc/sys/kernel/ns_last_pid", String(pid - 1));
        const worker = new Worker("setInterval(() => {}, 1e9)", { eval: true });
        await new Promise((resolve) => worker.once("online", resolve));
      }
      if (!fs.existsSync(`/proc/1/task/${pid}`)) {
        throw new Error(`no thread would take the number ${pid}`);
      }
      process.kill(pid, 0); // it answers like a process
    }, REUSED);
    await acquiresAtOnce(container, sessionFile);
  });

  chosenPidTest(`a lock ${fields} is reclaimed at once when its number was given to what is a zombie now`, async () => {
    const { sessionFile } = newSession();
    const container = await startContainer();
    await leaveLock(container, sessionFile, "typescript", startTime);
    await container.run(async ({ require }, pid) => {
      const { spawn } = require("node:child_process");
      const fs = require("node:fs");
      // The shell becomes a program that knows nothing of its child, and so never reaps it.
      const script = `echo ${pid - 1} >/proc/sys/kernel/ns_last_pid; : & exec sleep 1000000 >&-`;
      const state = () => {
        try {
          return /^State:\s*(\S)/m.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8"))![1];
        } catch {
          return undefined;
        }
      };
      for (let tries = 0; tries < 100; tries += 1) {
        const parent = spawn("sh", ["-c", script], { stdio: ["ignore", "pipe", "inherit"] });
        parent.stdout.resume();
        // Both have closed it: the one is about to sleep, the other has ended, or nearly so.
        await new Promise((resolve) => parent.stdout.once("close", resolve));
        for (let looks = 0; looks < 10_000 && state() !== undefined; looks += 1) {
          if (state() === "Z") {
            return;
          }
        }
        parent.kill("SIGKILL"); // another process or thread took the number
      }
      throw new Error(`no zombie would take the number ${pid}`);
    }, REUSED);
    await acquiresAtOnce(container, sessionFile);
  });
}

for (const module of ["addon", "typescript"] as const) {
  const whose = module === "addon" ? "the addon" : "the older module";
  chosenPidTest(`a live lock of ${whose} isn't reclaimed from the process that has a number for the second time`, async () => {
    const { sessionFile, lockPath } = newSession();
    const container = await startContainer();
    await leaveLock(container, sessionFile, "typescript", false);
    await container.run(spawnWithPid, REUSED);
    await acquireInChild(container, { sessionFile }, module);
    age(lockPath);
    await expect(
      container.acquire({ sessionFile, timeoutMs: SHORT_MS, staleMs: 1 }),
    ).rejects.toMatchObject({ ...TIMEOUT, owner: expect.stringContaining(`pid=${REUSED} alive=true`) });
    await container.run(killChild);
    await acquiresAtOnce(container, sessionFile);
  });
}

chosenPidTest("a process doesn't wait for what an earlier process with its own number has left", async () => {
  for (const [module, startTime] of [["addon", true], ["typescript", true], ["typescript", false]] as const) {
    const { sessionFile } = newSession();
    const container = await startContainer();
    await leaveLock(container, sessionFile, module, startTime);
    await container.run(spawnWithPid, REUSED);
    await acquireInChild(container, { sessionFile, timeoutMs: AT_ONCE_MS }, "addon");
  }
});
