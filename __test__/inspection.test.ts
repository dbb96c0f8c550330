/**
 * `inspectSessionLock`: what a lock file is, by the evidence that an acquire goes by. The files here
 * are real, and so are the processes that hold them.
 */

import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";

import {
  acquireSessionWriteLock,
  cleanStaleLockFiles,
  getProcessStartTime,
  inspectLock,
  inspectSessionLock,
  type SessionLockRecord,
  SessionWriteLockTimeoutError,
  tryAcquireSessionWriteLock,
} from "../index.js";
import {
  Agent,
  asAnotherUser,
  isOnFallback,
  newSession,
  root,
  testWith,
  until,
  untilAsleep,
} from "./support.js";

/** Beyond the highest number that Linux can be set up to give (2^22). */
const NOBODY = 2 ** 22 + 1;

const HOUR_MS = 3_600_000;

const now = () => new Date().toISOString();

/** A lock file that nobody holds, as old as is said. */
function leave(lockPath: string, record: object | string, ageMs = 0): void {
  writeFileSync(lockPath, typeof record === "string" ? record : JSON.stringify(record, null, 2));
  const then = (Date.now() - ageMs) / 1_000;
  utimesSync(lockPath, then, then);
}

/** What is found of a lock file that says this. */
async function inspectLeft(record: object | string, ageMs = 0, staleMs?: number) {
  const { sessionFile, lockPath } = newSession();
  leave(lockPath, record, ageMs);
  return (await inspectSessionLock(sessionFile, { staleMs }))!;
}

describe("the processes of a lock", () => {
  // By timers nobody queues, so there is no order and nobody is seen to wait.
  test.skipIf(isOnFallback)("are its holder and those that wait, in their order; the holder's place in the queue is not a wait", async () => {
    const { sessionFile } = newSession();
    const agents = await Promise.all([Agent.start(), Agent.start(), Agent.start(), Agent.start()]);
    const [first, second, third] = agents as [Agent, Agent, Agent, Agent];
    await first.acquire({ sessionFile });
    const waits = [];
    for (const agent of agents.slice(1)) {
      waits.push(agent.acquire({ sessionFile, timeoutMs: Infinity }));
      await untilAsleep(agent.pid);
    }
    const numbers = async () => {
      const { holders, waiters, writer } = (await inspectSessionLock(sessionFile, { processes: true }))!;
      return { holders: holders!.map(({ pid }) => pid), waiters: waiters!.map(({ pid }) => pid), writer };
    };
    const pids = agents.map(({ pid }) => pid);
    expect(await numbers()).toEqual({ holders: [pids[0]], waiters: pids.slice(1), writer: "running" });
    await first.release(sessionFile);
    await waits[0];
    expect((await numbers()).holders).toEqual([second.pid]);
    await until("the next one waits", async () => (await numbers()).waiters.length === 2);
    expect((await numbers()).waiters).not.toContain(second.pid);
    await second.kill();
    await waits[1];
    expect((await numbers()).holders).toEqual([third.pid]);
    await third.kill();
    await waits[2];
  });

  test("are told with their names and how each is known; without `processes` there are none", async () => {
    const { sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquireAsTypeScript({ sessionFile });
    const inspection = (await inspectSessionLock(sessionFile, { processes: true }))!;
    expect(inspection.holders).toEqual([
      {
        pid: holder.pid,
        comm: "node",
        command: expect.stringContaining("agent.cjs"),
        witness: "open-for-writing",
        isWriter: true,
        isStopped: false,
      },
    ]);
    expect(inspection).toMatchObject({ waiters: [], ground: "open-for-writing" });
    expect(await inspectSessionLock(sessionFile)).not.toHaveProperty("holders");
    const { locks } = await cleanStaleLockFiles({ sessionsDir: path.dirname(sessionFile), processes: true });
    expect(locks[0]!.holders).toEqual(inspection.holders);
  });

  test("say which of them are stopped", async () => {
    const { sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    const isStopped = async () => (await inspectSessionLock(sessionFile, { processes: true }))!.holders![0]!.isStopped;
    process.kill(holder.pid, "SIGSTOP");
    await until("it is stopped", isStopped);
    process.kill(holder.pid, "SIGCONT");
    await until("it goes on", async () => !(await isStopped()));
  });

  test("include this very process", async () => {
    const { sessionFile } = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile });
    const { holders, writer } = (await inspectSessionLock(sessionFile, { processes: true }))!;
    expect(holders).toMatchObject([{ pid: process.pid, witness: "flock", isWriter: true }]);
    expect(writer).toBe("running");
    expect((await inspectLock(sessionFile, { processes: true }))!.holders).toEqual(holders);
    await lock.release();
  });

  testWith("pid namespaces")("have the reader's own numbers, whatever the record says", async () => {
    const { sessionFile } = newSession();
    const holder = await Agent.start({ through: ["unshare", "-pfm", "--mount-proc"] });
    await holder.acquire({ sessionFile });
    const inspection = (await inspectSessionLock(sessionFile, { processes: true }))!;
    expect(inspection).toMatchObject({ pid: 1, writer: "other-namespace" });
    expect(inspection.holders).toMatchObject([{ comm: "node", witness: "flock", isWriter: true }]);
    const { pid } = inspection.holders![0]!;
    expect(readFileSync(`/proc/${pid}/status`, "utf8")).toMatch(new RegExp(`^NSpid:\\t${pid}\\t1$`, "m"));
  });

  test("do not include a process that was given the number after the lock was written", async () => {
    const { sessionFile, lockPath } = newSession();
    const other = await Agent.start();
    leave(lockPath, { pid: other.pid, createdAt: new Date(Date.now() - HOUR_MS).toISOString() });
    const inspect = () => inspectSessionLock(sessionFile, { processes: true });
    expect(await inspect()).toMatchObject({ writer: "started-later", holders: [], verdict: "unknown" });
    leave(lockPath, { pid: other.pid, createdAt: new Date(Date.now() + 60_000).toISOString() });
    expect(await inspect()).toMatchObject({ writer: "unproved", holders: [] });
    leave(lockPath, { pid: NOBODY, createdAt: now() });
    expect(await inspect()).toMatchObject({ writer: "ended", ground: "no-such-process" });
    leave(lockPath, { pid: other.pid, starttime: 1, createdAt: now() });
    expect(await inspect()).toMatchObject({ writer: "other-process", ground: "other-process" });
    leave(lockPath, { pid: other.pid, bootId: "another", createdAt: now() });
    expect(await inspect()).toMatchObject({ writer: "other-boot", ground: "other-boot" });
    leave(lockPath, "");
    expect(await inspect()).toMatchObject({ writer: "unnamed", ground: "too-young" });
  });
});

describe("a lock that is held", () => {
  test("with this package is held, by its flock", async () => {
    const { sessionFile, lockPath } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile, maxHoldMs: 7_000 });
    const holderRecord: SessionLockRecord = JSON.parse(readFileSync(lockPath, "utf8"));
    expect(await inspectSessionLock(sessionFile)).toEqual({
      lockPath,
      pid: holder.pid,
      pidAlive: true,
      createdAt: holderRecord.createdAt,
      ageMs: expect.any(Number),
      stale: false,
      staleReasons: [],
      removable: false,
      removed: false,
      comm: "node",
      holder: holderRecord,
      witnessed: "flock",
      sharedWith: null,
      verdict: "held",
      ground: "flock",
      label: null,
    });
  });

  test("with the older module is held, by its open file", async () => {
    const { sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquireAsTypeScript({ sessionFile });
    expect(await inspectSessionLock(sessionFile)).toMatchObject({
      pid: holder.pid,
      pidAlive: true,
      removable: false,
      comm: null,
      witnessed: "open-for-writing",
      verdict: "held",
    });
  });

  test("by the caller itself is held", async () => {
    const { sessionFile } = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile });
    expect(await inspectSessionLock(sessionFile)).toMatchObject({
      pid: process.pid,
      pidAlive: true,
      staleReasons: [],
      witnessed: "flock",
      verdict: "held",
    });
    await lock.release();
  });

  test("stays held however old it is, and whatever its file says", async () => {
    const { sessionFile, lockPath } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    const lie = { pid: NOBODY, createdAt: "2001-01-01T00:00:00Z", maxHoldMs: 1, bootId: "another" };
    leave(lockPath, lie, 24 * HOUR_MS);
    expect(await inspectSessionLock(sessionFile, { staleMs: 1 })).toMatchObject({
      pidAlive: true,
      stale: true,
      staleReasons: ["too-old", "hold-exceeded"],
      removable: false,
      witnessed: "flock",
      verdict: "held",
    });
    leave(lockPath, "", 24 * HOUR_MS);
    expect(await inspectSessionLock(sessionFile)).toMatchObject({
      pid: null,
      holder: null,
      pidAlive: true,
      witnessed: "flock",
      verdict: "held",
    });
  });

  test("by a live process without any witness is held by its start time, until it is too old", async () => {
    const holder = await Agent.start();
    const record = (ageMs: number) => ({
      pid: holder.pid,
      starttime: getProcessStartTime(holder.pid),
      createdAt: new Date(Date.now() - ageMs).toISOString(),
    });
    expect(await inspectLeft(record(0))).toMatchObject({ witnessed: null, verdict: "held" });
    // A release that closed the file and could not remove it.
    expect(await inspectLeft(record(HOUR_MS))).toMatchObject({
      pidAlive: true,
      staleReasons: ["too-old"],
      verdict: "dead",
    });
  });
});

describe("each reason", () => {
  test("missing-pid: a record without a number, once the grace is over", async () => {
    for (const record of [{ createdAt: now() }, { pid: "7", createdAt: now() }]) {
      expect(await inspectLeft(record)).toMatchObject({
        pid: null,
        pidAlive: true,
        staleReasons: ["missing-pid"],
        verdict: "unknown",
        removable: false,
      });
      expect(await inspectLeft(record, 31_000)).toMatchObject({
        pid: null,
        pidAlive: false,
        staleReasons: ["missing-pid"],
        verdict: "dead",
        removable: true,
      });
    }
  });

  test("dead-pid: the process has ended", async () => {
    const { sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquireAsTypeScript({ sessionFile });
    await holder.kill();
    expect(await inspectSessionLock(sessionFile)).toMatchObject({
      pid: holder.pid,
      pidAlive: false,
      stale: true,
      staleReasons: ["dead-pid"],
      removable: true,
      removed: false,
      witnessed: null,
      verdict: "dead",
    });
  });

  test("dead-pid: the flock that the record promises is gone, and nothing says that its process lives", async () => {
    // Another namespace's number, which means nothing here.
    const record = { pid: 1, pidNamespace: 1, createdAt: now(), witness: "flock" };
    const dead = { pidAlive: false, staleReasons: ["dead-pid"], verdict: "dead" };
    expect(await inspectLeft(record)).toMatchObject(dead);
  });

  test("recycled-pid: the number belongs to another process", async () => {
    const other = await Agent.start();
    const started = getProcessStartTime(other.pid)!;
    const recycled = { pidAlive: false, staleReasons: ["recycled-pid"], verdict: "dead" };
    const record = { pid: other.pid, createdAt: now() };
    expect(await inspectLeft({ ...record, starttime: started + 1 })).toMatchObject(recycled);
    expect(await inspectLeft({ ...record, comm: "nobody" })).toMatchObject(recycled);
  });

  test("orphan-self-pid: the record names this process, which doesn't hold the lock", async () => {
    const record = { pid: process.pid, createdAt: now() };
    const orphan = { pidAlive: false, staleReasons: ["orphan-self-pid"], verdict: "dead" };
    expect(await inspectLeft(record)).toMatchObject(orphan);
    const complete = { ...record, starttime: getProcessStartTime(process.pid) };
    expect(await inspectLeft(complete)).toMatchObject(orphan);
  });

  test("invalid-createdAt: the record doesn't say when it was written", async () => {
    for (const createdAt of [undefined, "yesterday", 7]) {
      expect(await inspectLeft({ pid: NOBODY, createdAt })).toMatchObject({
        createdAt: null,
        ageMs: null,
        staleReasons: ["dead-pid", "invalid-createdAt"],
      });
    }
  });

  test("too-old and hold-exceeded: older than staleMs, and than its own maxHoldMs", async () => {
    const record = { pid: 1, createdAt: new Date(Date.now() - HOUR_MS).toISOString(), maxHoldMs: 5_000 };
    const found = await inspectLeft(record);
    expect(found.staleReasons).toEqual(["too-old", "hold-exceeded"]);
    expect(found.ageMs).toBeGreaterThanOrEqual(HOUR_MS);
    expect((await inspectLeft(record, 0, 2 * HOUR_MS)).staleReasons).toEqual(["hold-exceeded"]);
  });

  test("none: a lock that its process has given up without removing the file", async () => {
    const other = await Agent.start();
    const record = {
      pid: other.pid,
      starttime: getProcessStartTime(other.pid),
      createdAt: now(),
      witness: "flock",
    };
    expect(await inspectLeft(record)).toMatchObject({
      pidAlive: true,
      stale: false,
      staleReasons: [],
      removable: true,
      verdict: "dead",
    });
  });
});

describe("what can't be known", () => {
  test("is given the grace of those who have time, longer than a hurried acquire's", async () => {
    const { sessionFile, lockPath } = newSession();
    const record = JSON.stringify({ pid: 1, pidNamespace: 1 });
    leave(lockPath, record, 15_000);
    expect((await inspectSessionLock(sessionFile))!.verdict).toBe("unknown");
    expect(tryAcquireSessionWriteLock({ sessionFile })).toBe(null);
    await (await acquireSessionWriteLock({ sessionFile, timeoutMs: 10_000 })).release();
    leave(lockPath, record, 31_000);
    expect((await inspectSessionLock(sessionFile))!.verdict).toBe("dead");
    await tryAcquireSessionWriteLock({ sessionFile })!.release();
  });

  test("counts as alive: another namespace's number without a witness", async () => {
    const record = { pid: 1, pidNamespace: 1, starttime: 1, createdAt: now() };
    expect(await inspectLeft(record)).toMatchObject({
      pidAlive: true,
      staleReasons: [],
      witnessed: null,
      verdict: "unknown",
      removable: false,
    });
  });

  testWith("root", "another user")("a file that we may not read is unknown, and says why", async () => {
    const { sessionFile, folder, lockPath } = newSession();
    leave(lockPath, { pid: NOBODY, createdAt: now() });
    execFileSync("chmod", ["711", folder]);
    execFileSync("chmod", ["600", lockPath]);
    const stranger = await Agent.start({ through: asAnotherUser });
    const found = await stranger.run(async ({ lock }, sessionFile) => {
      const { cause, ...rest } = (await lock.inspectSessionLock(sessionFile))!;
      const { code, path, syscall, message } = cause as NodeJS.ErrnoException;
      return { ...rest, cause: { code, path, syscall, message } };
    }, sessionFile);
    expect(found).toMatchObject({
      lockPath,
      pid: null,
      pidAlive: true,
      staleReasons: [],
      holder: null,
      verdict: "unknown",
      removable: false,
      cause: { code: "EACCES", path: lockPath, syscall: "open" },
    });
  });

  test("what is no regular file is unknown, says what it is, and stays as it is", async () => {
    const makers: Record<string, (file: string) => unknown> = {
      "a folder": mkdirSync,
      "a symbolic link": (file) => symlinkSync("nowhere", file),
      "a named pipe": (file) => execFileSync("mkfifo", [file]),
      "a socket": (file) => {
        const server = createServer().listen(file);
        onTestFinished(() => void server.close());
        return new Promise((resolve) => server.once("listening", resolve));
      },
    };
    for (const [kind, make] of Object.entries(makers)) {
      const { sessionFile, folder, lockPath } = newSession();
      await make(lockPath);
      const found = (await inspectSessionLock(sessionFile))!;
      expect(found, kind).toMatchObject({ verdict: "unknown", holder: null, removable: false });
      expect(found.cause, kind).toMatchObject({
        code: "OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE",
        path: lockPath,
        message: expect.stringContaining(kind),
      });
      expect(readdirSync(folder), kind).toEqual(["chat.jsonl.lock"]);
    }
  });
});

describe("ages", () => {
  const then = Date.parse("2026-07-01T10:00:00.000Z");
  const record = { pid: 1, createdAt: new Date(then).toISOString(), maxHoldMs: 300_000 };

  test("are reckoned from nowMs", async () => {
    const { sessionFile, lockPath } = newSession();
    leave(lockPath, record);
    const at = async (nowMs: number) => {
      const { ageMs, staleReasons } = (await inspectSessionLock(sessionFile, { nowMs }))!;
      return { ageMs, staleReasons };
    };
    expect(await at(then + 1_234)).toEqual({ ageMs: 1_234, staleReasons: [] });
    expect(await at(then + 300_000)).toEqual({ ageMs: 300_000, staleReasons: [] });
    expect(await at(then + 300_001)).toEqual({ ageMs: 300_001, staleReasons: ["hold-exceeded"] });
    expect((await at(then + 1_800_001)).staleReasons).toEqual(["too-old", "hold-exceeded"]);
  });

  test("are zero where the record lies in the future", async () => {
    const { sessionFile, lockPath } = newSession();
    leave(lockPath, record);
    const found = await inspectSessionLock(sessionFile, { nowMs: then - HOUR_MS });
    expect(found).toMatchObject({ ageMs: 0, staleReasons: [] });
  });

  test("decide nothing where there is proof, whatever nowMs is", async () => {
    const { sessionFile } = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile });
    const nowMs = Date.now() + 1_000 * HOUR_MS;
    expect(await inspectSessionLock(sessionFile, { nowMs, staleMs: 1 })).toMatchObject({
      staleReasons: ["too-old", "hold-exceeded"],
      verdict: "held",
    });
    await lock.release();
  });
});

describe("an inspection", () => {
  test("takes the session file or its lock file, by any path to it", async () => {
    const { sessionFile, folder, lockPath } = newSession();
    leave(lockPath, { pid: NOBODY });
    symlinkSync(".", `${folder}/link`);
    const spellings = [
      sessionFile,
      lockPath,
      path.relative(process.cwd(), sessionFile),
      `${folder}/link/chat.jsonl`,
      `${folder}/link/chat.jsonl.lock`,
    ];
    for (const spelling of spellings) {
      expect((await inspectSessionLock(spelling))?.lockPath, spelling).toBe(lockPath);
    }
  });

  test("of nothing is null, and creates no folder", async () => {
    const { sessionFile, folder } = newSession();
    writeFileSync(sessionFile, "{}\n");
    expect(await inspectSessionLock(sessionFile)).toBe(null);
    expect(await inspectSessionLock(path.join(folder, "none/chat.jsonl"))).toBe(null);
    expect(readdirSync(folder)).toEqual(["chat.jsonl"]);
  });

  test("changes nothing", async () => {
    const { sessionFile, folder, lockPath } = newSession();
    leave(lockPath, { pid: NOBODY }, HOUR_MS);
    const look = () => {
      const { ino, mtimeMs, ctimeMs } = statSync(lockPath);
      return { ino, mtimeMs, ctimeMs, text: readFileSync(lockPath, "utf8"), files: readdirSync(folder) };
    };
    const before = look();
    await inspectSessionLock(sessionFile);
    expect(look()).toEqual(before);
  });

  test("isn't taken for a holder by another one, or by an acquire that comes after it", async () => {
    const { sessionFile, lockPath } = newSession();
    // A machine that stops one of them in the middle may make another see it. (If nobody looked
    // twice, one in seven would.)
    const verdicts: Record<string, number> = { dead: 0, held: 0, unknown: 0 };
    for (let round = 0; round < 30; round += 1) {
      leave(lockPath, { pid: NOBODY });
      const found = await Promise.all(Array.from({ length: 50 }, () => inspectSessionLock(sessionFile)));
      for (const inspection of found) {
        verdicts[inspection!.verdict]! += 1;
      }
      await (await acquireSessionWriteLock({ sessionFile, timeoutMs: 1 })).release();
    }
    expect(verdicts["dead"]).toBeGreaterThanOrEqual(30 * 50 * 0.99);
    expect(verdicts["unknown"]).toBe(0);
  });

  test("of a lock that goes from hand to hand never finds it dead, and never half a record", async () => {
    const { sessionFile, folder } = newSession();
    const agents = await Promise.all([Agent.start(), Agent.start(), Agent.start()]);
    let isOver = false;
    const traffic = Promise.all(
      agents.map((agent) =>
        agent.run(async ({ lock }, sessionFile) => {
          for (let round = 0; round < 1_000; round += 1) {
            const held = await lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 60_000 });
            await new Promise(setImmediate);
            await held.release();
          }
        }, sessionFile),
      ),
    ).finally(() => {
      isOver = true;
    });
    const pids = agents.map(({ pid }) => pid);
    const verdicts: Record<string, number> = { held: 0, unknown: 0, dead: 0 };
    while (!isOver) {
      const found = await inspectSessionLock(sessionFile);
      if (found) {
        verdicts[found.verdict]! += 1;
        expect([...pids, null]).toContain(found.pid);
        expect(found.pid === null || found.holder!.token !== undefined).toBe(true);
      }
      const { cleaned } = await cleanStaleLockFiles({ sessionsDir: folder });
      expect(cleaned).toEqual([]);
    }
    await traffic;
    expect(verdicts["dead"], JSON.stringify(verdicts)).toBe(0);
    expect(verdicts["held"]).toBeGreaterThan(0);
  });

  test("says of the holder what the error at the deadline says", async () => {
    const { sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile, maxHoldMs: 300_000 });
    const error: any = await acquireSessionWriteLock({ sessionFile, timeoutMs: 20 }).catch((e) => e);
    expect(error).toBeInstanceOf(SessionWriteLockTimeoutError);
    const found = (await inspectSessionLock(sessionFile))!;
    expect(found.holder).toEqual(error.holder);
    expect(found.staleReasons).toEqual(error.staleReasons);
  });

  test("rejects wrong arguments", async () => {
    const inspect = inspectSessionLock as (...args: any[]) => Promise<unknown>;
    for (const wrong of [undefined, null, 7, {}, Buffer.from("x")]) {
      await expect(inspect(wrong)).rejects.toMatchObject({ name: "TypeError", code: "ERR_INVALID_ARG_TYPE" });
    }
    for (const wrong of ["", "a\0b", "/"]) {
      await expect(inspect(wrong)).rejects.toMatchObject({ name: "TypeError", code: "ERR_INVALID_ARG_VALUE" });
    }
    for (const wrong of [7, "x", { staleMs: "1" }, { nowMs: new Date() }, { processes: "yes" }]) {
      await expect(inspect("x", wrong)).rejects.toMatchObject({ code: "ERR_INVALID_ARG_TYPE" });
    }
  });

  test("rejects with the system's error where it can't be known whether there is a lock file", async () => {
    const { sessionFile } = newSession();
    writeFileSync(sessionFile, "");
    await expect(inspectSessionLock(path.join(sessionFile, "chat.jsonl"))).rejects.toMatchObject({
      code: "ENOTDIR",
      syscall: "lstat",
      path: path.join(sessionFile, "chat.jsonl.lock"),
    });
    await expect(inspectSessionLock(`${sessionFile}${"x".repeat(300)}`)).rejects.toMatchObject({
      code: "ENAMETOOLONG",
    });
    expect(existsSync(`${sessionFile}.lock`)).toBe(false);
  });

  test("works in a worker thread, and keeps the process alive until it has ended", async () => {
    const { sessionFile, lockPath } = newSession();
    leave(lockPath, { pid: NOBODY });
    const source = `
      const { Worker, isMainThread } = require("node:worker_threads");
      const { inspectSessionLock } = require(${JSON.stringify(root)});
      inspectSessionLock(${JSON.stringify(sessionFile)}).then(({ verdict }) => console.log(isMainThread, verdict));
      if (isMainThread) new Worker(process.env.SOURCE, { eval: true });`;
    const output = execFileSync(process.execPath, ["-e", source], {
      env: { ...process.env, SOURCE: source },
      encoding: "utf8",
    });
    expect(output.trim().split("\n").sort()).toEqual(["false dead", "true dead"]);
  });
});
