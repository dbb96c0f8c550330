/**
 * The system refuses something: events, locks, descriptors, links, a disk's answer. Real processes,
 * and real refusals where they can be made; strace makes the others.
 */

import { spawn, spawnSync } from "node:child_process";
import { chmodSync, existsSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, onTestFinished } from "vitest";

import { freeDescriptor, Mounts, startExhausted, startNobody } from "./machines.js";
import { inject, trace, warmAgent } from "./strace.js";
import {
  Agent,
  attempt,
  DEAD_RECORDS,
  newSession,
  readOrNothing,
  refusal,
  temporaryFolder,
  testWith,
  type Tools,
  until,
  untilAsleep,
  waitModes,
} from "./support.js";

const straceTest = testWith("strace");

const TIMEOUT = { code: "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT" };

/** Generous for what an event brings; on the fallback a look now and then is as good. */
const PROMPT_MS = 3_000;

async function expectWithin(ms: number, work: Promise<unknown>): Promise<void> {
  const startedAt = performance.now();
  await work;
  expect(performance.now() - startedAt).toBeLessThan(ms);
}

// --- No inotify -----------------------------------------------------------------------------------

/** Ways to a process that gets no inotify instance. */
const WITHOUT_INOTIFY: [string, ReturnType<typeof testWith>, () => Promise<Agent>][] = [
  [
    "because strace refuses it",
    straceTest,
    async () => {
      const agent = await warmAgent();
      await trace(agent, ...inject("inotify_init1", "error=EMFILE"));
      return agent;
    },
  ],
  ["because there is none left", testWith("user namespaces"), () => startWithoutInotify({})],
  [
    "and waits by timers",
    testWith("user namespaces"),
    () => startWithoutInotify(waitModes.timers),
  ],
];

/** An agent in a user namespace of its own, which may have no inotify instance. */
function startWithoutInotify(env: NodeJS.ProcessEnv): Promise<Agent> {
  const script = 'echo 0 >/proc/sys/user/max_inotify_instances && exec "$0" "$@"';
  return Agent.start({ through: ["unshare", "-Ur", "sh", "-c", script], env });
}

for (const [why, itsTest, start] of WITHOUT_INOTIFY) {
  itsTest(`a process that gets no inotify instance ${why} waits, expires and takes over`, async () => {
    const { folder, sessionFile, lockPath } = newSession();
    const [agent, holder] = await Promise.all([start(), Agent.start()]);

    await holder.acquireAsTypeScript({ sessionFile });
    const { code, afterMs } = await refusal(agent, { sessionFile, timeoutMs: 300 });
    expect(code).toBe(TIMEOUT.code);
    expect(afterMs).toBeGreaterThanOrEqual(295);
    expect(afterMs).toBeLessThan(PROMPT_MS);

    const waiting = agent.acquire({ sessionFile });
    await untilCalled(agent);
    await holder.release(sessionFile);
    await expectWithin(PROMPT_MS, waiting);
    await agent.release(sessionFile);

    for (const record of Object.values(DEAD_RECORDS)) {
      writeFileSync(lockPath, record);
      await expectWithin(PROMPT_MS, agent.acquire({ sessionFile }));
      await agent.release(sessionFile);
    }

    const how = agent.run(async ({ lock }, sessionFile) => {
      const { signal } = await lock.acquireSessionWriteLock({ sessionFile, maxHoldMs: 100 });
      if (!signal.aborted) {
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      }
      return signal.reason.how;
    }, sessionFile);
    await expectWithin(PROMPT_MS, how);
    expect(await how).toBe("hold-exceeded");

    await holder.acquireAsTypeScript({ sessionFile });
    const next = agent.acquire({ sessionFile });
    await untilCalled(agent);
    await holder.kill();
    await expectWithin(PROMPT_MS, next);
    await agent.release(sessionFile);
    await until("nothing is left", () => readdirSync(folder).length === 0);
  });

  itsTest(`a process that gets no inotify instance ${why} is told when its lock is lost`, async () => {
    const { sessionFile, lockPath } = newSession();
    const agent = await start();
    const lost = agent.run(
      async ({ lock, require }, sessionFile, lockPath) => {
        const { signal } = await lock.acquireSessionWriteLock({ sessionFile });
        const told = new Promise((resolve) => signal.addEventListener("abort", resolve));
        require("node:fs").unlinkSync(lockPath);
        await told;
        return signal.reason.how;
      },
      sessionFile,
      lockPath,
    );
    await expectWithin(PROMPT_MS, lost);
    expect(await lost).toBe("removed");
  });
}

/** What was sent to an agent before, it has begun by then. */
function untilCalled(agent: Agent): Promise<unknown> {
  return agent.run(() => true);
}

// --- A flock that fails ----------------------------------------------------------------------------

/** What a waiter's thread blocks in, its how manieth call of that name this is, and how strace shows it. */
const BLOCKING = {
  // The first is the flock of the blank file that it makes before.
  "the lock file": { call: "flock", number: 2, shown: /LOCK_EX\) += -1 E\w+ .*\(INJECTED\)/ },
  "its turn": { call: "fcntl", number: 2, shown: /F_OFD_SETLKW,.* = -1 E\w+ .*\(INJECTED\)/ },
};

/**
 * Makes that call fail in every thread. In the main thread it fails at once, where it does no harm; so the
 * first one that matters is that of the thread that blocks. The answer says whether that call has failed.
 */
async function failToBlock(
  agent: Agent,
  sessionFile: string,
  { call, number, shown }: (typeof BLOCKING)[keyof typeof BLOCKING],
  error: string,
) {
  const primer = path.join(path.dirname(sessionFile), "primer.jsonl");
  const prime = async () => {
    writeFileSync(`${primer}.lock`, DEAD_RECORDS["the addon"]);
    await agent.acquire({ sessionFile: primer });
    await agent.release(primer);
  };
  await prime(); // from now on the main thread itself looks at locks in this folder
  const log = path.join(temporaryFolder(), "log");
  await trace(agent, "-o", log, ...inject(call, `error=${error}:when=${number}`));
  await prime();
  return () => shown.test(readFileSync(log, "utf8"));
}

/**
 * On a loaded machine an order may take so long that the folder counts as slow. Then a worker looks at the
 * lock, and its call fails in place of the blocked one: try again.
 */
const MAY_BE_SLOW = { retry: 3 };

for (const error of ["ENOLCK", "EIO"]) {
  for (const [what, blocking] of Object.entries(BLOCKING)) {
    /** A waiter that can't block, a holder in its way, and for the queue another waiter before it. */
    const prepare = async () => {
      const { sessionFile } = newSession();
      const [holder, first, waiter] = await Promise.all([Agent.start(), Agent.start(), warmAgent()]);
      const hasFailed = await failToBlock(waiter, sessionFile, blocking, error);
      await holder.acquire({ sessionFile });
      let ahead: Promise<unknown> = Promise.resolve();
      if (what === "its turn") {
        ahead = first.acquire({ sessionFile }).then(() => first.release(sessionFile));
        ahead.catch(() => {}); // where the test ends before its turn comes
        await untilAsleep(first.pid);
      }
      return { sessionFile, holder, ahead, waiter, hasFailed };
    };

    straceTest(`a waiter whose wait for ${what} fails with ${error} gets the lock at its release`, MAY_BE_SLOW, async () => {
      const { sessionFile, holder, ahead, waiter, hasFailed } = await prepare();
      const waiting = waiter.acquire({ sessionFile });
      await until("the call has failed", hasFailed);
      await holder.release(sessionFile);
      await ahead;
      await expectWithin(PROMPT_MS, waiting);
      await waiter.release(sessionFile);
    });

    straceTest(`a waiter whose wait for ${what} fails with ${error} says so at its deadline`, MAY_BE_SLOW, async () => {
      const { sessionFile, waiter, hasFailed } = await prepare();
      const failure = await refusal(waiter, { sessionFile, timeoutMs: 300 });
      expect(hasFailed()).toBe(true);
      expect(failure).toMatchObject({ ...TIMEOUT, cause: { code: error, syscall: blocking.call } });
      expect(failure.afterMs).toBeLessThan(PROMPT_MS);
    });
  }
}

// --- No timers -------------------------------------------------------------------------------------

straceTest("where no timer may be set, an acquire is refused at once, free or held", async () => {
  const { sessionFile, lockPath } = newSession();
  const [holder, agent] = await Promise.all([Agent.start(), Agent.start()]);
  await trace(agent, ...inject("timerfd_settime", "error=EPERM"));
  const refused = { code: "EPERM", path: expect.stringContaining(sessionFile) };
  expect(await refusal(agent, { sessionFile })).toMatchObject(refused);
  expect(existsSync(lockPath)).toBe(false);
  await holder.acquire({ sessionFile });
  const failure = await refusal(agent, { sessionFile });
  expect(failure).toMatchObject(refused);
  expect(failure.afterMs).toBeLessThan(PROMPT_MS);
  await holder.release(sessionFile);
});

// --- Few descriptors --------------------------------------------------------------------------------

testWith("prlimit")("with few descriptors an acquire is refused, or its watchdog works", async () => {
  const spares = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12];
  const tryWith = async (spare: number, record?: string) => {
    const { sessionFile, lockPath } = newSession();
    const agent = await startExhausted();
    for (let free = 0; free < spare; free += 1) {
      await freeDescriptor(agent);
    }
    if (record) {
      writeFileSync(lockPath, record);
    }
    const code = await agent
      .acquire({ sessionFile, maxHoldMs: 100, timeoutMs: 1_000 })
      .then(() => "acquired", (error) => error.code);
    if (code === "acquired") {
      await until(`the watchdog comes with ${spare} spare`, () => !existsSync(lockPath), PROMPT_MS);
    } else {
      expect(code, `with ${spare} spare`).toBe("EMFILE");
    }
    await agent.kill();
    return code;
  };
  for (const record of [undefined, ...Object.values(DEAD_RECORDS)]) {
    const outcomes = await Promise.all(spares.map((spare) => tryWith(spare, record)));
    expect(outcomes[0]).toBe("EMFILE");
    expect(outcomes.at(-1)).toBe("acquired");
    // With more descriptors it does not get worse.
    expect(outcomes).toEqual([...outcomes].sort()); // "EMFILE", then "acquired"
  }
});

// --- No threads -------------------------------------------------------------------------------------

/** How many threads the user of `agent` may have, as far as `other` is concerned: one of the same user has to set it. */
function limitThreads(agent: Agent, other: Agent, most: number): Promise<void> {
  const limit = ({ require }: Tools, pid: number, most: number) => {
    require("node:child_process").execFileSync("prlimit", ["--pid", String(pid), `--nproc=${most}:`]);
  };
  return agent.run(limit, other.pid, most);
}

// The limit is one of a user, and root has none.
testWith("root", "prlimit", "another user")(
  "without threads an acquire is refused with EAGAIN, free or held, and not once it gets some",
  async () => {
    const { folder, sessionFile, lockPath } = newSession();
    chmodSync(folder, 0o777);
    const [holder, agent] = await Promise.all([startNobody(), startNobody()]);
    await limitThreads(holder, agent, 1);
    const refused = { code: "EAGAIN", syscall: "pthread_create", path: expect.stringContaining(sessionFile) };

    await expect(agent.acquire({ sessionFile, maxHoldMs: 100 })).rejects.toMatchObject(refused);
    expect(readdirSync(folder)).toEqual([]);
    await holder.acquire({ sessionFile });
    await expect(agent.acquire({ sessionFile, timeoutMs: 300 })).rejects.toMatchObject(refused);
    await holder.release(sessionFile);

    await limitThreads(holder, agent, 1_000);
    await agent.acquire({ sessionFile, maxHoldMs: 100 });
    await until("the watchdog comes", () => !existsSync(lockPath), PROMPT_MS);
    await until("nothing is left", () => readdirSync(folder).length === 0);
  },
);

// --- Links and codes --------------------------------------------------------------------------------

straceTest("where a security policy forbids hard links the lock is had without them", async () => {
  for (const record of [undefined, ...Object.values(DEAD_RECORDS)]) {
    const { folder, sessionFile, lockPath } = newSession();
    const [agent, other] = await Promise.all([warmAgent(), Agent.start()]);
    const log = path.join(temporaryFolder(), "log");
    await trace(agent, "-o", log, ...inject("?link,linkat", "error=EACCES"));
    if (record) {
      writeFileSync(lockPath, record);
    }
    await agent.acquire({ sessionFile, timeoutMs: 1 });
    expect(readFileSync(log, "utf8")).toContain("(INJECTED)");
    expect(await other.run(attempt, sessionFile)).toBe(false);
    await agent.release(sessionFile);
    expect(await other.run(attempt, sessionFile)).toBe(true);
    await other.release(sessionFile);
    await until("nothing is left", () => readdirSync(folder).length === 0);
  }
});

straceTest("the kernel's refusals go by their names", async () => {
  const agent = await warmAgent();
  for (const error of ["EDQUOT", "ESTALE", "ENOLCK", "EUCLEAN", "ENOMEM", "EIO"]) {
    const { folder, sessionFile } = newSession();
    const detach = await trace(agent, ...inject("?link,linkat", `error=${error}`));
    expect(await refusal(agent, { sessionFile })).toMatchObject({ code: error, syscall: "link" });
    await detach();
    expect(readdirSync(folder)).toEqual([]);
  }
});

straceTest("only a removal that is not permitted is put down to a sticky folder", async () => {
  const agent = await warmAgent();
  const messageOf = async (call: string, record: string) => {
    const { sessionFile, lockPath } = newSession();
    writeFileSync(lockPath, record);
    const detach = await trace(agent, ...inject(call, "error=EPERM"));
    const { code, message } = await refusal(agent, { sessionFile, timeoutMs: 50 });
    await detach();
    expect(code, call).toBe("EPERM");
    return message;
  };
  expect(await messageOf("pwrite64", DEAD_RECORDS["the addon"])).not.toMatch(/sticky/);
  expect(await messageOf("getrandom", DEAD_RECORDS["the addon"])).not.toMatch(/sticky/);
  expect(await messageOf("renameat2", DEAD_RECORDS["the addon"])).toMatch(/sticky/);
});

// --- A disk that does not answer ---------------------------------------------------------------------

/** Freezes a file system. Resolves when it is frozen, with a function that thaws it. */
async function freeze(mounts: Mounts): Promise<() => Promise<unknown>> {
  const script = 'fsfreeze -f "$0" && echo frozen; read line; fsfreeze -u "$0"';
  const [program, ...args] = mounts.through("sh", "-c", script, mounts.folder);
  const child = spawn(program!, args, { stdio: ["pipe", "pipe", "inherit"] });
  const ended = new Promise((resolve) => child.on("exit", resolve));
  const thaw = () => {
    child.stdin.end();
    return ended;
  };
  onTestFinished(async () => void (await thaw()));
  await new Promise((resolve) => child.stdout.once("data", resolve));
  return thaw;
}

/** Comes back when a thread of the agent has hung in the kernel for so long. */
async function untilHung(agent: Agent, forMs: number): Promise<void> {
  const tasks = `/proc/${agent.pid}/task`;
  const hangs = (task: string) => /\) D /.test(readOrNothing(`${tasks}/${task}/stat`));
  let since = performance.now();
  await until("it hangs", () => {
    if (!readdirSync(tasks).some(hangs)) {
      since = performance.now();
    }
    return performance.now() - since > forMs;
  });
}

/** Acquires and releases over there; how long the event loop stood still meanwhile, and after how long. */
function timeLoop(agent: Agent, sessionFile: string) {
  return agent.run(async ({ lock }, sessionFile) => {
    const startedAt = performance.now();
    let [lastAt, stoodMs] = [startedAt, 0];
    const look = () => {
      stoodMs = Math.max(stoodMs, performance.now() - lastAt);
      lastAt = performance.now();
    };
    const timer = setInterval(look, 5);
    const held = await lock.acquireSessionWriteLock({ sessionFile });
    look();
    clearInterval(timer);
    await held.release();
    return { stoodMs, afterMs: performance.now() - startedAt };
  }, sessionFile);
}

const freezeTest = testWith("root", "mounts", "fsfreeze");

for (const name of ["by its real name", "by a symbolic link"]) {
  freezeTest(`a disk that hangs again does not stop the event loop again: a folder ${name}`, async () => {
    const mounts = await Mounts.start();
    mounts.image(16, "mkfs.ext4", "-q");
    let { folder } = mounts;
    if (name === "by a symbolic link") {
      folder = path.join(mounts.scratch, "alias");
      symlinkSync(mounts.folder, folder);
    }
    const agent = await mounts.agent();
    const session = (name: string) => path.join(folder, `${name}.jsonl`);
    await timeLoop(agent, session("warm"));

    const timeFrozen = async (name: string, forMs: number) => {
      const thaw = await freeze(mounts);
      const timing = timeLoop(agent, session(name));
      await untilHung(agent, forMs);
      await thaw();
      return timing;
    };

    await timeFrozen("first", 300);
    await timeLoop(agent, session("between"));

    for (const round of ["second", "third"]) {
      const { stoodMs, afterMs } = await timeFrozen(round, 600);
      expect(afterMs, round).toBeGreaterThan(500);
      expect(stoodMs, round).toBeLessThan(250);
    }
  });
}

freezeTest("deadlines and watchdogs are kept while a disk hangs", async () => {
  const mounts = await Mounts.start();
  mounts.image(16, "mkfs.ext4", "-q");
  const elsewhere = newSession();
  const [holder, agent] = await Promise.all([mounts.agent(), mounts.agent()]);
  const sessions = ["a", "b", "c"].map((name) => path.join(mounts.folder, `${name}.jsonl`));
  for (const [index, sessionFile] of sessions.entries()) {
    await (index === 0 ? holder.acquire({ sessionFile }) : holder.acquireAsTypeScript({ sessionFile }));
  }
  await agent.acquire({ sessionFile: elsewhere.sessionFile, maxHoldMs: 1_200 });
  const waits = sessions.map((sessionFile, index) =>
    refusal(agent, { sessionFile, timeoutMs: 700 + 100 * index }),
  );
  await untilAsleep(agent.pid, waits.length);
  const thaw = await freeze(mounts);
  for (const { code, afterMs } of await Promise.all(waits)) {
    expect(code).toBe(TIMEOUT.code);
    expect(afterMs).toBeLessThan(1_400);
  }
  await until("the watchdog comes", () => !existsSync(elsewhere.lockPath));
  await thaw();
});
