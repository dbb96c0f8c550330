/**
 * A crash before every system call of the protocol, and every system call refused. strace is
 * attached to a process that is ready to acquire or release, counts each thread's calls, and
 * kills it or makes the call fail at the n-th. Each call is tried for n = 1, 2, 3, … until nothing
 * happens any more, so no place is left out, and what the protocol calls needn't be known here.
 */

import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect } from "vitest";

import { callsIn, inject, isBeside, trace, warmAgent } from "./strace.js";
import { type Agent, attempt, isRestricted, temporaryFolder, testWith, type Tools, until } from "./support.js";

const straceTest = testWith("strace");

/**
 * The calls of a step, on any architecture: `?` lets strace pass over those that this one lacks. Before each of
 * them a process may die. A test below fails if one is missing.
 */
const CALLS = [
  "?open",
  "openat",
  "?newfstatat",
  "?fstat",
  "?statx",
  "fstatfs",
  "?readlink",
  "readlinkat",
  "flock",
  "fcntl",
  "pread64",
  "pwrite64",
  "utimensat",
  "?link",
  "linkat",
  "?rename",
  "?renameat",
  "renameat2",
  "?unlink",
  "unlinkat",
  "close",
  "getdents64",
  "getrandom",
  "kill",
  "timerfd_settime",
];

/** No step of the protocol comes near this many calls of one kind in one thread. */
const MOST_CALLS = 60;

const DEAD_PID = 4_194_303;

/** What a contender finds. Records of the dead, each in a file of its own. */
const STATES = {
  "nothing": undefined,
  "a dead lock of the addon": JSON.stringify({
    pid: DEAD_PID,
    createdAt: "2026-01-01T00:00:00.000Z",
    witness: "flock",
    token: "t",
  }),
  "a dead lock of the older module": JSON.stringify({
    pid: DEAD_PID,
    createdAt: new Date().toISOString(),
    starttime: 7,
  }),
};

class Scene {
  readonly folder = temporaryFolder();
  readonly sessionFile = path.join(this.folder, "chat.jsonl");
  readonly lockPath = `${this.sessionFile}.lock`;

  constructor(record?: string) {
    if (record !== undefined) {
      writeFileSync(this.lockPath, record);
    }
  }

  without(file: string): this {
    rmSync(file);
    return this;
  }

  files(): string[] {
    return readdirSync(this.folder).sort();
  }
}

/** The queue is left a moment after the lock was released. */
async function untilFree(scene: Scene): Promise<void> {
  const isLeft = (file: string) => existsSync(file);
  const files = [scene.lockPath, `${scene.lockPath}.queue`];
  await until("no lock file and no queue file is left", () => !files.some(isLeft));
}

/**
 * All of `agents` try once, at the same time: one of them must get the lock, and its release must
 * leave nothing but perhaps a temporary, which the next takeover removes.
 */
async function expectUsable(scene: Scene, agents: Agent[], what: string): Promise<void> {
  const tryAll = () => Promise.all(agents.map((agent) => agent.run(attempt, scene.sessionFile)));
  let won = await tryAll();
  // Without unnamed files a crash can leave a temporary without a record, which counts for 2 s.
  for (let tries = 0; isRestricted && !won.includes(true) && tries < 30; tries += 1) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    won = await tryAll();
  }
  expect(won.filter(Boolean), what).toHaveLength(1);
  await agents[won.indexOf(true)]!.release(scene.sessionFile);
  await untilFree(scene);
  const left = scene.files();
  if (left.length > 0) {
    expect(left, what).toEqual(["chat.jsonl.lock.new"]);
    writeFileSync(scene.lockPath, STATES["a dead lock of the addon"]);
    await agents[0]!.acquire({ sessionFile: scene.sessionFile, timeoutMs: 1 });
    expect(scene.files(), what).toEqual(["chat.jsonl.lock"]);
    await agents[0]!.release(scene.sessionFile);
    expect(scene.files(), what).toEqual([]);
  }
}

/** What a process dies in. */
const STEPS = {
  acquire: (victim: Agent, { sessionFile }: Scene) => victim.acquire({ sessionFile }),
  release: (victim: Agent, { sessionFile }: Scene) => victim.release(sessionFile),
  sweep: (victim: Agent, { folder }: Scene) =>
    victim.run(async ({ lock }, sessionsDir) => {
      const { locks } = await lock.cleanStaleLockFiles({ sessionsDir });
      return locks.length;
    }, folder),
};

/**
 * Kills a process before each of its calls in turn, and lets others find what it left. Says how
 * many crashes each call gave.
 */
async function crashEverywhere(
  step: keyof typeof STEPS,
  record: string | undefined,
): Promise<Record<string, number>> {
  const contenders = await Promise.all([warmAgent(), warmAgent(), warmAgent()]);
  const crashes: Record<string, number> = {};
  let next = warmAgent();
  for (const call of CALLS) {
    for (let n = 1; n <= MOST_CALLS; n += 1) {
      const scene = new Scene(record);
      const { sessionFile } = scene;
      const victim = await next;
      next = warmAgent();
      if (step === "release") {
        await victim.acquire({ sessionFile });
      }
      const detach = await trace(victim, ...inject(call, `signal=SIGKILL:when=${n}`));
      await STEPS[step](victim, scene).catch(() => {}); // that it died is asked below
      await detach();
      const survived = await victim.run(() => true).catch(() => false);
      await victim.kill();
      if (survived) {
        break;
      }
      crashes[call] = n;
      await expectUsable(scene, contenders, `killed before ${call} number ${n}`);
    }
  }
  await next; // or its end, with the test's, would come before its beginning
  return crashes;
}

straceTest("no call that a step makes is missing among those before which somebody dies", async () => {
  const isKnown = (name: string) => isBeside(name, "eventfd2") || CALLS.some((call) => call.replace("?", "") === name);
  const missing = new Set<string>();
  for (const record of Object.values(STATES)) {
    for (const [step, run] of Object.entries(STEPS)) {
      const scene = new Scene(step === "release" ? undefined : record);
      const victim = await warmAgent();
      if (step === "release") {
        await victim.acquire({ sessionFile: scene.sessionFile });
      }
      const log = path.join(temporaryFolder(), "calls");
      const detach = await trace(victim, "-o", log);
      await run(victim, scene);
      await detach();
      callsIn(log).filter((name) => !isKnown(name)).forEach((name) => missing.add(name));
      await victim.kill();
    }
  }
  expect([...missing].sort()).toEqual([]);
});

/** Whether a call of one of these names was among those before which somebody died. */
function died(crashes: Record<string, number>, ...names: string[]): boolean {
  // Leases and locks of bytes.
  const isMissing = isRestricted && names.includes("fcntl");
  return isMissing || names.some((name) => name in crashes || `?${name}` in crashes);
}

straceTest("whoever dies before any system call of a first acquire blocks nobody", async () => {
  const crashes = await crashEverywhere("acquire", STATES["nothing"]);
  for (const names of [["open", "openat"], ["flock"], ["pwrite64"], ["linkat"]]) {
    expect(died(crashes, ...names), names[0]).toBe(true);
  }
}, 120_000);

straceTest("whoever dies before any system call of a takeover blocks nobody", async () => {
  const crashes = await crashEverywhere("acquire", STATES["a dead lock of the addon"]);
  for (const names of [["open", "openat"], ["flock"], ["fcntl"], ["pwrite64"]]) {
    expect(died(crashes, ...names), names[0]).toBe(true);
  }
  expect(crashes["pwrite64"]).toBe(1); // nothing that has a name is ever written into
}, 120_000);

straceTest("whoever dies before any system call of a takeover from the older module blocks nobody", async () => {
  const crashes = await crashEverywhere("acquire", STATES["a dead lock of the older module"]);
  for (const names of [["fcntl"], ["flock"], ["pwrite64"], ["renameat2"], ["unlink", "unlinkat"]]) {
    expect(died(crashes, ...names), names[0]).toBe(true);
  }
}, 120_000);

straceTest("whoever dies before any system call of a release blocks nobody", async () => {
  const crashes = await crashEverywhere("release", STATES["nothing"]);
  for (const names of [["unlink", "unlinkat"], ["flock"]]) {
    expect(died(crashes, ...names), names[0]).toBe(true);
  }
}, 120_000);

for (const [state, call] of [["a dead lock of the addon", "pwrite64"], ["a dead lock of the older module", "renameat2"]] as const) {
  straceTest(`whoever dies before any system call of a sweep blocks nobody: ${state}`, async () => {
    const crashes = await crashEverywhere("sweep", STATES[state]);
    for (const names of [["open", "openat"], ["flock"], [call], ["unlink", "unlinkat"]]) {
      expect(died(crashes, ...names), names[0]).toBe(true);
    }
  }, 120_000);
}

// --- Calls that fail ------------------------------------------------------------------------------

/** Acquires; the code of what went wrong, or nothing. */
async function acquireOrCode({ lock, kept }: Tools, sessionFile: string): Promise<string | null> {
  try {
    kept.set(sessionFile, await lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 1 }));
    return null;
  } catch (error: any) {
    return error.code;
  }
}

/** The calls that change something; what can't be looked at is another matter. */
const CHANGING = CALLS.filter((call) => !/stat|readlink|fcntl|pread|close|getdents|kill|timerfd/.test(call));

/**
 * Lets each call of an acquire fail in turn. Either there is another way, and the lock excludes
 * others like any; or the error has the kernel's code, and the folder looks as before. (What could not
 * be written over a dead lock to the end is removed: it would say less than the dead one.)
 */
async function failEverywhere(record: string | undefined, error: string): Promise<string[]> {
  const [clumsy, other, third] = await Promise.all([warmAgent(), warmAgent(), warmAgent()]);
  const outcomes: string[] = [];
  for (const call of CHANGING) {
    for (let n = 1; n <= MOST_CALLS; n += 1) {
      const scene = new Scene(record);
      const before = scene.files();
      const what = `${call} number ${n} fails with ${error}`;
      // `injected` is whether strace had anything to do: it writes a line only then.
      const log = path.join(temporaryFolder(), "log");
      const detach = await trace(clumsy, "-o", log, ...inject(call, `error=${error}:when=${n}`));
      const code = await clumsy.run(acquireOrCode, scene.sessionFile);
      await detach();
      const injected = readFileSync(log, "utf8").includes("(INJECTED)");
      if (code === null) {
        await expect(
          other.acquire({ sessionFile: scene.sessionFile, timeoutMs: 1 }),
          what,
        ).rejects.toMatchObject({ code: "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT" });
        await clumsy.release(scene.sessionFile);
        await untilFree(scene);
      } else {
        expect(code, what).toBe(error);
        const files = scene.files();
        expect(files, what).toEqual(call === "pwrite64" && files.length === 0 ? [] : before);
      }
      if (!injected) {
        expect(code).toBe(null);
        break;
      }
      outcomes.push(`${call} ${n}: ${code ?? "acquired"}`);
      await expectUsable(scene, [other, third], what);
    }
  }
  return outcomes;
}

for (const [state, record] of Object.entries(STATES)) {
  straceTest(`a disk that fails in the middle of an acquire leaves no litter: ${state}`, async () => {
    const outcomes = await failEverywhere(record, "EIO");
    expect(outcomes.length).toBeGreaterThan(3);
  }, 120_000);

  straceTest(`a disk that is full in the middle of an acquire leaves no litter: ${state}`, async () => {
    const outcomes = await failEverywhere(record, "ENOSPC");
    expect(outcomes.length).toBeGreaterThan(3);
  }, 120_000);
}

// --- File systems that lack something --------------------------------------------------------------

/** What some file systems don't have, and how that looks from here. */
const LACKS: Record<string, (scene: Scene) => string[]> = {
  // `-P` leaves only the call that opens the folder itself.
  "unnamed files": ({ folder }) => ["-P", folder, ...inject("?open,openat", "error=EOPNOTSUPP")],
  "hard links": () => inject("?link,linkat", "error=EPERM"),
  "exchanging renames": () => inject("renameat2", "error=EINVAL"),
  "flock (ENOLCK)": () => inject("flock", "error=ENOLCK"),
  "flock (EOPNOTSUPP)": () => inject("flock", "error=EOPNOTSUPP"),
};

/**
 * Takes the lock `rounds` times; a second process inside could not create the witness. That is a
 * folder, because none of the calls that fail or kill here makes or removes folders.
 */
async function enter({ lock, require }: Tools, sessionFile: string, rounds: number): Promise<void> {
  const fs = require("node:fs");
  for (let round = 0; round < rounds; round += 1) {
    const held = await lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 60_000 });
    fs.mkdirSync(`${sessionFile}.inside`);
    fs.appendFileSync(sessionFile, "x");
    fs.rmdirSync(`${sessionFile}.inside`);
    await held.release();
  }
}

for (const [what, faults] of Object.entries(LACKS)) {
  straceTest(`processes exclude each other on a file system without ${what}`, async () => {
    const scene = new Scene();
    const { sessionFile, lockPath } = scene;
    const agents = await Promise.all([warmAgent(), warmAgent(), warmAgent()]);
    const detach = await Promise.all(agents.map((agent) => trace(agent, ...faults(scene))));

    const rounds = 20;
    await Promise.all(agents.map((agent) => agent.run(enter, sessionFile, rounds)));
    expect(readFileSync(sessionFile, "utf8")).toHaveLength(agents.length * rounds);
    await untilFree(scene);
    expect(scene.files()).toEqual(["chat.jsonl"]);

    for (const record of Object.values(STATES)) {
      for (let round = 0; round < 12; round += 1) {
        if (record !== undefined) {
          writeFileSync(lockPath, record);
        }
        const won = await Promise.all(agents.map((agent) => agent.run(attempt, sessionFile)));
        expect(won.filter(Boolean)).toHaveLength(1);
        await agents[won.indexOf(true)]!.release(sessionFile);
        await untilFree(scene);
        expect(scene.files()).toEqual(["chat.jsonl"]);
      }
    }
    await Promise.all(detach.map((detach) => detach()));
  });
}

straceTest("a release that can't remove its file says so, and the lock is free all the same", async () => {
  const scene = new Scene();
  const [clumsy, other] = await Promise.all([warmAgent(), warmAgent()]);
  await clumsy.acquire({ sessionFile: scene.sessionFile });
  const inode = statSync(scene.lockPath).ino;
  const detach = await trace(clumsy, ...inject("?unlink,unlinkat", "error=EIO"));
  await expect(clumsy.release(scene.sessionFile)).rejects.toMatchObject({
    code: "EIO",
    path: scene.lockPath,
  });
  await detach();
  expect(statSync(scene.lockPath).ino).toBe(inode);
  await other.acquire({ sessionFile: scene.sessionFile, timeoutMs: 1 });
  await other.release(scene.sessionFile);
  expect(existsSync(scene.lockPath)).toBe(false);
});

straceTest("whoever dies in the middle of a takeover that others want too lets one of them in", async () => {
  const others = await Promise.all([warmAgent(), warmAgent(), warmAgent()]);
  for (const record of [STATES["a dead lock of the addon"], STATES["a dead lock of the older module"]]) {
    for (const call of ["flock", "pwrite64", "?rename,?renameat,renameat2", "?unlink,unlinkat"]) {
      for (const n of [1, 2]) {
        const scene = new Scene(record);
        const { sessionFile } = scene;
        const victim = await warmAgent();
        const detach = await trace(victim, ...inject(call, `signal=SIGKILL:when=${n}`));
        const dying = victim.run(enter, sessionFile, 3).catch(() => {});
        // Dying inside an acquire or a release it is outside the critical section, and has taken
        // its witness along.
        await Promise.all(others.map((agent) => agent.run(enter, sessionFile, 5)));
        await dying;
        await detach();
        await victim.kill();
        await expectUsable(scene.without(sessionFile), others, `${call} number ${n}`);
      }
    }
  }
});
