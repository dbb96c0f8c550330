/**
 * Each system call of each step fails with each error that its manual page gives (`fixtures/errnos.json`, written by
 * `scripts/man-errnos.mjs`). Which calls a step makes is taken from a trace of it. After each fault: the step ends in time, with
 * the lock or with an error that says what failed; nothing is printed; others get the lock; nothing is left.
 *
 * `npm run test:errnos` tries all errors; by itself this tries one for each call, in turns. `close` is left out: the
 * kernel closes a file also when it reports an error, which strace can't imitate.
 */

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect } from "vitest";

import { callsIn, inject, isBeside, trace, warmAgent } from "./strace.js";
import { type Agent, DEAD_RECORDS, footprint, root, temporaryFolder, testWith, until } from "./support.js";

const straceTest = testWith("strace");

const triesAll = process.env.ERRNOS === "all";

const ERRORS: Record<string, string[]> = JSON.parse(readFileSync(path.join(root, "__test__/fixtures/errnos.json"), "utf8"));

/** Calls that are not the lock's; and `close`, see above. */
const BESIDE = ["close", "poll", "ppoll", "getpid"];

/** No step comes near this many calls of one kind in one thread. */
const MOST_CALLS = 60;

/** A lock that is not free is not waited for longer. */
const TIMEOUT_MS = 200;

interface Scene {
  folder: string;
  sessionFile: string;
  clumsy: Agent;
  other: Agent;
}

interface Step {
  /** Without faults. */
  prepare(scene: Scene): Promise<unknown> | void;
  /** With a fault. Resolves to what went wrong. */
  run(scene: Scene): Promise<Failure | null>;
}

interface Failure {
  code: string;
  syscall?: string;
  path?: string;
}

/** What went wrong, or nothing. An abort by time is what was asked for. */
async function failureOf(work: Promise<unknown>): Promise<Failure | null> {
  try {
    await work;
    return null;
  } catch ({ name, code, syscall, path }: any) {
    return name === "TimeoutError" ? null : { code, syscall, path };
  }
}

const hold = (agent: Agent, { sessionFile }: Scene) => agent.acquire({ sessionFile });

/** Waits for a lock that another one holds, which lets go when the waiter sleeps, or a moment later. */
async function handOver({ clumsy, other, sessionFile }: Scene, waiter: Agent, releaser: Agent) {
  const waiting = failureOf(waiter.acquire({ sessionFile, timeoutMs: 5_000 }));
  let isOver = false;
  void waiting.then(() => (isOver = true));
  const deadline = performance.now() + 150;
  await until("it waits, or can't", () => {
    const { watches, blocked } = footprint(waiter.pid);
    return isOver || watches + blocked > 0 || performance.now() > deadline;
  });
  const released = await failureOf(releaser.release(sessionFile));
  const acquired = await waiting;
  if (waiter === other && !acquired) {
    await other.release(sessionFile);
  }
  return waiter === clumsy ? acquired : released;
}

const acquire = ({ clumsy, sessionFile }: Scene) => failureOf(clumsy.acquire({ sessionFile, timeoutMs: TIMEOUT_MS }));

const putRecord = (record: string) => ({ sessionFile }: Scene) => writeFileSync(`${sessionFile}.lock`, record);

const STEPS: Record<string, Step> = {
  "a first acquire": { prepare: () => {}, run: acquire },
  "a takeover": { prepare: putRecord(DEAD_RECORDS["the addon"]), run: acquire },
  "a takeover from the older module": { prepare: putRecord(DEAD_RECORDS["the older module"]), run: acquire },
  "a release": {
    prepare: (scene) => hold(scene.clumsy, scene),
    run: ({ clumsy, sessionFile }) => failureOf(clumsy.release(sessionFile)),
  },
  "a hand-over, by the waiter": {
    prepare: (scene) => hold(scene.other, scene),
    run: (scene) => handOver(scene, scene.clumsy, scene.other),
  },
  "a hand-over, by the holder": {
    prepare: (scene) => hold(scene.clumsy, scene),
    run: (scene) => handOver(scene, scene.other, scene.clumsy),
  },
  "an abort": {
    prepare: (scene) => hold(scene.other, scene),
    async run({ clumsy, other, sessionFile }) {
      const acquired = clumsy.run(async ({ lock }, sessionFile) => {
        const signal = AbortSignal.timeout(30);
        await (await lock.acquireSessionWriteLock({ sessionFile, signal })).release();
      }, sessionFile);
      const failure = await failureOf(acquired);
      await other.release(sessionFile);
      return failure;
    },
  },
  "a sweep": {
    prepare: putRecord(DEAD_RECORDS["the addon"]),
    run: ({ clumsy, folder }) => {
      const swept = clumsy.run(async ({ lock }, sessionsDir) => {
        const { locks } = await lock.cleanStaleLockFiles({ sessionsDir });
        if (locks[0]?.cause) {
          throw locks[0].cause;
        }
      }, folder);
      return failureOf(swept);
    },
  },
};

/** The names of the calls that a step makes. */
async function callsOf({ prepare, run }: Step, agents: { clumsy: Agent; other: Agent }): Promise<string[]> {
  const scene = newScene(agents);
  await prepare(scene);
  const log = path.join(temporaryFolder(), "calls");
  const detach = await trace(scene.clumsy, "-o", log);
  expect(await run(scene)).toBe(null);
  await detach();
  await restore(scene);
  return callsIn(log).filter((name) => !isBeside(name, ...BESIDE));
}

function newScene(agents: { clumsy: Agent; other: Agent }): Scene {
  const folder = temporaryFolder();
  return { folder, sessionFile: path.join(folder, "chat.jsonl"), ...agents };
}

/** Both give back what they hold. */
async function restore({ clumsy, other, sessionFile }: Scene): Promise<void> {
  for (const agent of [clumsy, other]) {
    await agent.run(async ({ kept }, sessionFile) => {
      const held = kept.get(sessionFile);
      kept.delete(sessionFile);
      await held?.release().catch(() => {});
    }, sessionFile);
  }
}

/** The lock can be had, and is gone without a trace afterwards. */
async function expectUsable({ folder, other, sessionFile }: Scene, what: string): Promise<void> {
  expect(await failureOf(other.acquire({ sessionFile, timeoutMs: 5_000 })), what).toBe(null);
  await other.release(sessionFile);
  const left = () => readdirSync(folder).filter((name) => !name.endsWith(".new"));
  await until(`nothing is left: ${what}`, () => left().length === 0);
}

for (const [name, step] of Object.entries(STEPS)) {
  straceTest(`${name}: every call fails with every error of its manual page`, { timeout: 1_800_000 }, async () => {
    const agents = { clumsy: await warmAgent(), other: await warmAgent() };
    const calls = await callsOf(step, agents);
    expect(calls.filter((call) => !(call in ERRORS)), "has no errors in fixtures/errnos.json").toEqual([]);
    const before = footprint(agents.clumsy.pid);
    const outcomes: Record<string, number> = {};
    for (const call of calls) {
      for (let n = 1, injected = true; injected && n <= MOST_CALLS; n += 1) {
        const all = ERRORS[call]!;
        injected = false;
        for (const error of triesAll ? all : all.slice((n + call.length) % all.length).slice(0, 1)) {
          const what = `${name}: ${call} number ${n} fails with ${error}`;
          const scene = newScene(agents);
          await step.prepare(scene);
          const log = path.join(temporaryFolder(), "log");
          const detach = await trace(scene.clumsy, "-o", log, ...inject(call, `error=${error}:when=${n}`));
          const failure = await inTime(step.run(scene), what);
          await detach();
          injected = readFileSync(log, "utf8").includes("(INJECTED)");
          await restore(scene);
          if (!injected) {
            break;
          }
          expectClear(failure, error, what);
          outcomes[failure?.code ?? "done"] = (outcomes[failure?.code ?? "done"] ?? 0) + 1;
          await expectUsable(scene, what);
        }
      }
    }
    console.log(`${name}: ${calls.join(" ")}: ${JSON.stringify(outcomes)}`);
    expect(agents.clumsy.stderr).toBe("");
    // Two descriptors are those that watch, and stay.
    await until("no descriptor is left", () => footprint(agents.clumsy.pid).descriptors <= before.descriptors + 2);
    await until("no thread is left", () => footprint(agents.clumsy.pid).lockThreads <= before.lockThreads + 2, 20_000);
  });
}

/** No step takes longer, whatever fails in it. */
async function inTime<T>(step: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not over after ten seconds: ${what}`)), 10_000);
  });
  return Promise.race([step, late]).finally(() => clearTimeout(timer));
}

/** An error says what failed, and where. A time-out or an odd file at the path is an answer to some of them. */
function expectClear(failure: Failure | null, error: string, what: string): void {
  if (failure === null || failure.code === "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT") {
    return;
  }
  if (failure.code === "OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE") {
    expect(failure.path, what).toEqual(expect.any(String));
    return;
  }
  expect(failure, what).toEqual({ code: error, syscall: expect.any(String), path: expect.any(String) });
}
