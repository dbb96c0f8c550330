/**
 * The gateway's own lock file (`examples/gateway/session-write-lock.ts`), export by export: the
 * settings and where they come from, the errors and their guards, what it adds to an acquire and a
 * sweep, and what the gateway's tests use.
 */

import { existsSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";

import * as gateway from "../examples/gateway/session-write-lock.js";
import { getProcessStartTime } from "../index.js";
import { describeLock, remedy } from "./fixtures/callers/callers.js";
import { Agent, newSession, temporaryFolder, until } from "./support.js";

const {
  acquireSessionWriteLock,
  cleanStaleLockFiles,
  drainSessionWriteLockStateForTest,
  inspectSessionLock,
  isSessionWriteLockAcquireError,
  isSessionWriteLockStaleError,
  isSessionWriteLockTimeoutError,
  releaseAllSessionWriteLocks,
  resetSessionWriteLockStateForTest,
  resolveSessionLockMaxHoldFromTimeout,
  resolveSessionWriteLockAcquireTimeoutMs,
  resolveSessionWriteLockOptions,
  resolveSessionWriteLockStaleMs,
  SessionWriteLockStaleError,
  SessionWriteLockTimeoutError,
  testing,
} = gateway;

const TIMEOUT_CODE = "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT";
const STALE_CODE = "OPENCLAW_SESSION_WRITE_LOCK_STALE";

afterEach(async () => {
  vi.unstubAllEnvs();
  await drainSessionWriteLockStateForTest();
});

/** The listeners of a signal run, as if it had been raised. */
function raise(signal: NodeJS.Signals): void {
  process.emit(signal, signal);
}

/** Each setting: its variable, its place in the configuration, the option it becomes. */
const SETTINGS = [
  {
    variable: "OPENCLAW_SESSION_WRITE_LOCK_ACQUIRE_TIMEOUT_MS",
    key: "acquireTimeoutMs",
    option: "timeoutMs",
    fallback: 60_000,
  },
  {
    variable: "OPENCLAW_SESSION_WRITE_LOCK_STALE_MS",
    key: "staleMs",
    option: "staleMs",
    fallback: 1_800_000,
  },
  {
    variable: "OPENCLAW_SESSION_WRITE_LOCK_MAX_HOLD_MS",
    key: "maxHoldMs",
    option: "maxHoldMs",
    fallback: 300_000,
  },
] as const;

/** What no setting takes, as the environment and as the configuration may say it. */
const BAD_TEXTS = [
  ...["", "  ", "0", "00", "-5", "+5", "1.5", "1e3", "0x10", "5s", "5 000", "NaN", "null"],
  ...["infinity", "-Infinity", "9007199254740992", "9".repeat(400), "1 Infinity"],
];
const BAD_NUMBERS = [0, -5, 1.5, NaN, -Infinity, 2 ** 53, "5", null, undefined, {}];

describe.each(SETTINGS)("the setting $key", ({ variable, key, option, fallback }) => {
  const mayBeInfinite = key === "acquireTimeoutMs";
  const resolve = (text?: string, configured?: unknown) => {
    const config = { session: { writeLock: { [key]: configured as number } } };
    return resolveSessionWriteLockOptions(config, { env: { [variable]: text } })[option];
  };

  test("comes from the environment, else from the configuration, else it is the default", () => {
    expect(resolve("1234", 777)).toBe(1234);
    expect(resolve(undefined, 777)).toBe(777);
    expect(resolve()).toBe(fallback);
    expect(resolveSessionWriteLockOptions(undefined, { env: {} })[option]).toBe(fallback);
    expect(resolveSessionWriteLockOptions({}, { env: {} })[option]).toBe(fallback);
    expect(resolveSessionWriteLockOptions({ session: {} }, { env: {} })[option]).toBe(fallback);
  });

  test("is looked up in the environment of the process, if no other is given", () => {
    vi.stubEnv(variable, "4321");
    expect(resolveSessionWriteLockOptions()[option]).toBe(4321);
    expect(resolveSessionWriteLockOptions({}, { env: {} })[option]).toBe(fallback);
  });

  test.each([
    ["1", 1],
    [" 1234\n", 1234],
    ["007", 7],
    ["9007199254740991", Number.MAX_SAFE_INTEGER],
  ])("is taken from the environment: %j", (text, value) => {
    expect(resolve(text, 777)).toBe(value);
  });

  test.each(BAD_TEXTS)("isn't taken from the environment: %j", (text) => {
    expect(resolve(text, 777)).toBe(777);
    expect(resolve(text)).toBe(fallback);
  });

  test.each(BAD_NUMBERS)("isn't taken from the configuration: %j", (value) => {
    expect(resolve(undefined, value)).toBe(fallback);
  });

  test(`may ${mayBeInfinite ? "" : "not "}be infinite`, () => {
    expect(resolve("Infinity", 777)).toBe(mayBeInfinite ? Infinity : 777);
    expect(resolve(" Infinity ")).toBe(mayBeInfinite ? Infinity : fallback);
    expect(resolve(undefined, Infinity)).toBe(mayBeInfinite ? Infinity : fallback);
  });
});

test("a caller's own fallback for maxHoldMs comes before the default, and after all else", () => {
  const [, , { variable }] = SETTINGS;
  const resolve = (maxHoldMs?: number, env = {}) =>
    resolveSessionWriteLockOptions(
      { session: { writeLock: { maxHoldMs } } },
      { env, maxHoldMsFallback: 420_000 },
    ).maxHoldMs;
  expect(resolve()).toBe(420_000);
  expect(resolve(777)).toBe(777);
  expect(resolve(777, { [variable]: "555" })).toBe(555);
});

test("two settings can be asked for by themselves", () => {
  const config = { session: { writeLock: { acquireTimeoutMs: 1, staleMs: 2 } } };
  const [acquireTimeout, stale] = SETTINGS;
  const env = { [acquireTimeout.variable]: "3", [stale.variable]: "4" };
  expect(resolveSessionWriteLockAcquireTimeoutMs()).toBe(60_000);
  expect(resolveSessionWriteLockAcquireTimeoutMs(config, {})).toBe(1);
  expect(resolveSessionWriteLockAcquireTimeoutMs(config, env)).toBe(3);
  expect(resolveSessionWriteLockStaleMs()).toBe(1_800_000);
  expect(resolveSessionWriteLockStaleMs(config, {})).toBe(2);
  expect(resolveSessionWriteLockStaleMs(config, env)).toBe(4);
});

test.each([
  [{ timeoutMs: 600_000 }, 720_000],
  [{ timeoutMs: 180_000 }, 300_000],
  [{ timeoutMs: 180_001 }, 300_001],
  [{ timeoutMs: 1 }, 300_000],
  [{ timeoutMs: 1_000, minMs: 5_000 }, 121_000],
  [{ timeoutMs: 1_000, graceMs: 1_000, minMs: 5_000 }, 5_000],
  [{ timeoutMs: 9_000, graceMs: 1_000, minMs: 5_000 }, 10_000],
  [{ timeoutMs: Infinity }, 2_147_000_000],
  [{ timeoutMs: Infinity, minMs: 5_000, graceMs: 1 }, 2_147_000_000],
  [{ timeoutMs: 2_147_000_000 }, 2_147_000_000],
  [{ timeoutMs: 1, minMs: 2 ** 40 }, 2_147_000_000],
  // What means nothing is as if it hadn't been said.
  [{ timeoutMs: NaN }, 420_000],
  [{ timeoutMs: 0, minMs: 5_000 }, 125_000],
  [{ timeoutMs: -1, graceMs: NaN, minMs: 0 }, 420_000],
  [{ timeoutMs: 600_000, graceMs: Infinity, minMs: Infinity }, 720_000],
])("a run with %o may hold its lock for %d ms", (limits, expected) => {
  expect(resolveSessionLockMaxHoldFromTimeout(limits)).toBe(expected);
});

test.each([
  [500, 1_000, 1_125, 375],
  [500, 1_000, 1_500, 0],
  [500, 1_000, 9_000, 0],
  // The clock was set back.
  [500, 1_000, 900, 500],
  [Infinity, 1_000, 9_000, Infinity],
])("of %d ms since %d at %d there are %d left", (timeoutMs, startedAtMs, nowMs, left) => {
  expect(testing.resolveRemainingAcquireTimeoutMs(timeoutMs, startedAtMs, nowMs)).toBe(left);
});

describe("an error", () => {
  const timeout = new SessionWriteLockTimeoutError({
    timeoutMs: 7,
    owner: "pid=1 alive=true",
    lockPath: "/x.lock",
  });
  const stale = new SessionWriteLockStaleError({
    owner: "pid=1 alive=true ageMs=9",
    lockPath: "/x.lock",
    staleReasons: ["too-old", "hold-exceeded"],
  });

  test("says what it is: the time-out", () => {
    expect(timeout).toBeInstanceOf(Error);
    expect(timeout).toMatchObject({ name: "SessionWriteLockTimeoutError", code: TIMEOUT_CODE });
    expect(timeout).toMatchObject({ timeoutMs: 7, owner: "pid=1 alive=true", lockPath: "/x.lock" });
    expect(timeout.message).toBe("session file locked (timeout 7ms): pid=1 alive=true /x.lock");
  });

  test("says what it is: the stale holder", () => {
    expect(stale).toBeInstanceOf(Error);
    expect(stale).toMatchObject({ name: "SessionWriteLockStaleError", code: STALE_CODE });
    expect(stale).toMatchObject({ owner: "pid=1 alive=true ageMs=9", lockPath: "/x.lock" });
    expect(stale.staleReasons).toEqual(["too-old", "hold-exceeded"]);
    expect(stale.message).toBe(
      "session file lock stale (too-old, hold-exceeded): pid=1 alive=true ageMs=9 /x.lock",
    );
  });

  test.each([undefined, []])("of a stale holder without reasons (%o) says that", (staleReasons) => {
    const error = new SessionWriteLockStaleError({ owner: "o", lockPath: "/x", staleReasons });
    expect(error.staleReasons).toEqual(["unknown"]);
    expect(error.message).toBe("session file lock stale (unknown): o /x");
  });

  const others = [
    new Error("session file locked (timeout 7ms): pid=1 /x.lock"),
    Object.assign(new Error(), { code: "ENOENT" }),
    Object.assign(() => {}, { code: TIMEOUT_CODE }),
    ...[TIMEOUT_CODE, STALE_CODE, undefined, null, 5, {}],
  ];
  test.each<[string, unknown, "timeout" | "stale" | "neither"]>([
    ["the time-out", timeout, "timeout"],
    ["the stale holder", stale, "stale"],
    ["the time-out of another copy", Object.assign(new Error(), { code: TIMEOUT_CODE }), "timeout"],
    ["the stale holder of another copy", { code: STALE_CODE }, "stale"],
    ...others.map((value, n): [string, unknown, "neither"] => [`something else, ${n}`, value, "neither"]),
  ])("is told from others by its guard: %s", (_what, error, kind) => {
    expect(isSessionWriteLockTimeoutError(error)).toBe(kind === "timeout");
    expect(isSessionWriteLockStaleError(error)).toBe(kind === "stale");
    expect(isSessionWriteLockAcquireError(error)).toBe(kind !== "neither");
  });
});

/** What an acquire rejects with. */
async function refusal(acquire: Promise<unknown>): Promise<any> {
  const error = await acquire.then(
    () => undefined,
    (error) => error,
  );
  expect(error, "it has acquired the lock").toBeDefined();
  return error;
}

const readRecord = (lockPath: string) => JSON.parse(readFileSync(lockPath, "utf8"));

describe("an acquire", () => {
  test("isn't re-entrant unless it is told to be", async () => {
    const { sessionFile, lockPath } = newSession();
    const first = await acquireSessionWriteLock({ sessionFile });
    expect(first.lockPath).toBe(lockPath);
    const error = await refusal(acquireSessionWriteLock({ sessionFile, timeoutMs: 20 }));
    expect(error).toMatchObject({ code: TIMEOUT_CODE, holder: { pid: process.pid } });
    const second = await acquireSessionWriteLock({ sessionFile, allowReentrant: true });
    await first.release();
    expect(existsSync(lockPath)).toBe(true);
    await second.release();
    expect(existsSync(lockPath)).toBe(false);
  });

  test("has the gateway's defaults", async () => {
    const { sessionFile, lockPath } = newSession();
    await acquireSessionWriteLock({ sessionFile });
    expect(readRecord(lockPath)).toMatchObject({ maxHoldMs: 300_000 });
  });

  test("takes its defaults from the environment", async () => {
    const { sessionFile, lockPath } = newSession();
    vi.stubEnv("OPENCLAW_SESSION_WRITE_LOCK_MAX_HOLD_MS", "54321");
    vi.stubEnv("OPENCLAW_SESSION_WRITE_LOCK_ACQUIRE_TIMEOUT_MS", "30");
    vi.stubEnv("OPENCLAW_SESSION_WRITE_LOCK_STALE_MS", "10");
    await acquireSessionWriteLock({ sessionFile, maxHoldMs: Infinity });
    expect(readRecord(lockPath)).toMatchObject({ maxHoldMs: 54_321 });
    const other = `${sessionFile}.other`;
    const holder = await Agent.start();
    await holder.acquire({ sessionFile: other });
    const error = await refusal(acquireSessionWriteLock({ sessionFile: other }));
    expect(error).toMatchObject({ code: STALE_CODE, cause: { timeoutMs: 30 } });
  });

  test.each([NaN, 0, -1, undefined])("takes %d for the default", async (nothing) => {
    const { sessionFile, lockPath } = newSession();
    vi.stubEnv("OPENCLAW_SESSION_WRITE_LOCK_ACQUIRE_TIMEOUT_MS", "30");
    const times = { timeoutMs: nothing, staleMs: nothing, maxHoldMs: nothing };
    await acquireSessionWriteLock({ sessionFile, ...times });
    expect(readRecord(lockPath)).toMatchObject({ maxHoldMs: 300_000 });
    const error = await refusal(acquireSessionWriteLock({ sessionFile, ...times }));
    expect(error).toMatchObject({ code: TIMEOUT_CODE, timeoutMs: 30 });
  });

  test("leaves it to the package to refuse what is no number", async () => {
    const { sessionFile } = newSession();
    const timeoutMs = "5" as unknown as number;
    expect(await refusal(acquireSessionWriteLock({ sessionFile, timeoutMs }))).toMatchObject({
      code: "ERR_INVALID_ARG_TYPE",
    });
  });

  test.each(["enough", null, 0])("rejects with an AbortError if it is aborted with %o", async (reason) => {
    const { sessionFile } = newSession();
    await acquireSessionWriteLock({ sessionFile });
    const controller = new AbortController();
    const { signal } = controller;
    const waiting = refusal(acquireSessionWriteLock({ sessionFile, signal }));
    controller.abort(reason);
    const late = refusal(acquireSessionWriteLock({ sessionFile, signal }));
    for (const error of [await waiting, await late]) {
      expect(error).toBeInstanceOf(Error);
      expect(error).toMatchObject({ name: "AbortError", message: "request aborted", cause: reason });
    }
  });

  test.each([
    ["an error", new TypeError("no longer wanted")],
    ["the reason that AbortController gives", AbortSignal.abort().reason],
  ])("rejects with the reason of its signal if that is %s", async (_what, reason) => {
    const { sessionFile } = newSession();
    await acquireSessionWriteLock({ sessionFile });
    const controller = new AbortController();
    const waiting = refusal(acquireSessionWriteLock({ sessionFile, signal: controller.signal }));
    controller.abort(reason);
    expect(await waiting).toBe(reason);
  });

  test("that fails for another reason after its abort says why", async () => {
    const signal = AbortSignal.abort("enough");
    const sessionFile = 7 as unknown as string;
    expect(await refusal(acquireSessionWriteLock({ sessionFile, signal }))).toMatchObject({
      code: "ERR_INVALID_ARG_TYPE",
    });
  });

  test.each([
    { handleSignals: "if-alone", isKept: true },
    { handleSignals: undefined, isKept: false },
  ] as const)("with handleSignals $handleSignals and a listener of the gateway: kept=$isKept", async (signals) => {
    const { handleSignals, isKept } = signals;
    const { sessionFile } = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile, handleSignals });
    let isHeldInDrain: boolean | undefined;
    const drain = () => {
      isHeldInDrain = lock.held;
    };
    process.on("SIGTERM", drain);
    raise("SIGTERM");
    process.off("SIGTERM", drain);
    expect(isHeldInDrain).toBe(isKept);
  });

  test("takes a dead lock over, however old it is", async () => {
    const { sessionFile, lockPath } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    await holder.kill();
    await acquireSessionWriteLock({ sessionFile, staleMs: 1, timeoutMs: 2_000 });
    expect(readRecord(lockPath)).toMatchObject({ pid: process.pid });
  });
});

describe("at its deadline an acquire says that the holder is stale", () => {
  /** Rejected as stale, for these reasons; and not before the deadline. */
  async function expectStale(
    options: Parameters<typeof acquireSessionWriteLock>[0],
    pid: number,
    reasons: string[],
  ) {
    const started = performance.now();
    const error = await refusal(acquireSessionWriteLock(options));
    expect(performance.now() - started).toBeGreaterThanOrEqual(options.timeoutMs! - 1);
    expect(error).toBeInstanceOf(SessionWriteLockStaleError);
    const lockPath = `${options.sessionFile}.lock`;
    expect(error).toMatchObject({ code: STALE_CODE, lockPath, staleReasons: reasons });
    expect(error.owner).toMatch(new RegExp(`^pid=${pid} alive=true ageMs=\\d+$`));
    expect(error.message).toBe(
      `session file lock stale (${reasons.join(", ")}): ${error.owner} ${lockPath}`,
    );
    expect(error.cause).toBeInstanceOf(SessionWriteLockTimeoutError);
    expect(readRecord(lockPath)).toMatchObject({ pid });
  }

  test("if it is alive and too old", async () => {
    const { sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    await expectStale({ sessionFile, timeoutMs: 60, staleMs: 10 }, holder.pid, ["too-old"]);
  });

  test("if it is stopped, and so could not release when its maxHoldMs was over", async () => {
    const { sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile, maxHoldMs: 1_500 });
    process.kill(holder.pid, "SIGSTOP");
    await expectStale({ sessionFile, timeoutMs: 1_700 }, holder.pid, ["hold-exceeded"]);
  });

  test("if it is a gateway with the older module, too old and past its maxHoldMs", async () => {
    const { sessionFile, lockPath } = newSession();
    const holder = await Agent.start();
    await holder.acquireAsTypeScript({ sessionFile });
    const createdAt = new Date(Date.now() - 3_600_000).toISOString();
    const record = { ...readRecord(lockPath), createdAt, maxHoldMs: 300_000 };
    writeFileSync(lockPath, JSON.stringify(record));
    const reasons = ["too-old", "hold-exceeded"];
    await expectStale({ sessionFile, timeoutMs: 60 }, holder.pid, reasons);
    await holder.release(sessionFile);
    await acquireSessionWriteLock({ sessionFile, timeoutMs: 5_000 });
  });

  test("but not if it has held the lock for no longer than it may", async () => {
    const { sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    const error = await refusal(acquireSessionWriteLock({ sessionFile, timeoutMs: 60 }));
    expect(error).toBeInstanceOf(SessionWriteLockTimeoutError);
    expect(error).toMatchObject({ code: TIMEOUT_CODE, staleReasons: [] });
    expect(error.message).toMatch(/^session file locked \(timeout 60ms\): pid=\d+ alive=true ageMs=\d+ /);
  });

  test("but not if this very process holds it", async () => {
    const { sessionFile } = newSession();
    await acquireSessionWriteLock({ sessionFile });
    const error = await refusal(
      acquireSessionWriteLock({ sessionFile, timeoutMs: 60, staleMs: 10 }),
    );
    expect(error).toMatchObject({ code: TIMEOUT_CODE, holder: { pid: process.pid } });
  });
});

describe("a sweep", () => {
  test("removes the locks of the dead, keeps those of the living, and says so", async () => {
    const folder = temporaryFolder();
    const [dead, living] = [await Agent.start(), await Agent.start()];
    await dead.acquire({ sessionFile: path.join(folder, "cut-off.jsonl") });
    await living.acquire({ sessionFile: path.join(folder, "at-work.jsonl") });
    await dead.kill();
    const warnings: string[] = [];
    const { locks, cleaned } = await cleanStaleLockFiles({
      sessionsDir: folder,
      staleMs: 1,
      log: { warn: (message) => warnings.push(message) },
    });
    const lockPath = path.join(folder, "cut-off.jsonl.lock");
    expect(locks.map((lock) => path.basename(lock.lockPath))).toEqual([
      "at-work.jsonl.lock",
      "cut-off.jsonl.lock",
    ]);
    expect(cleaned.map((lock) => lock.lockPath)).toEqual([lockPath]);
    expect(cleaned[0]!.staleReasons).toContain("dead-pid");
    expect(warnings).toEqual([
      `removed stale session lock: ${lockPath} (${cleaned[0]!.staleReasons.join(", ")})`,
    ]);
    expect(existsSync(lockPath)).toBe(false);
    expect(locks[0]).toMatchObject({ pidAlive: true, removed: false });
    expect(existsSync(locks[0]!.lockPath)).toBe(true);
  });

  test("takes its staleMs from the call, the environment, the configuration, in this order", async () => {
    const { folder, sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    const config = { session: { writeLock: { staleMs: 30_000 } } };
    const env = { OPENCLAW_SESSION_WRITE_LOCK_STALE_MS: "60000" };
    const isStale = async (settings: object) => {
      const nowMs = Date.now() + 45_000;
      const { locks } = await cleanStaleLockFiles({ sessionsDir: folder, nowMs, ...settings });
      return locks[0]!.stale;
    };
    expect(await isStale({})).toBe(false);
    expect(await isStale({ config })).toBe(true);
    expect(await isStale({ config, env })).toBe(false);
    expect(await isStale({ config, env, staleMs: 20_000 })).toBe(true);
    expect(await isStale({ config, env, staleMs: NaN })).toBe(false);
  });

  /** A lock file that no process has open, written a minute ago: the grace is over. */
  function leave(lockPath: string, record: object): void {
    writeFileSync(lockPath, JSON.stringify(record));
    const then = Date.now() / 1_000 - 60;
    utimesSync(lockPath, then, then);
  }

  test.each([
    ["without a start time", {}, "recycled-pid"],
    ["past its maxHoldMs", { maxHoldMs: 1 }, "recycled-pid"],
    ["too old", { createdAt: "2026-01-01T00:00:00.000Z" }, "too-old"],
  ])("removes a lock with the pid of another program (%s) as stale", async (_what, fields, reason) => {
    const { folder, lockPath } = newSession();
    const bystander = await Agent.start();
    const createdAt = new Date(Date.now() - 60_000).toISOString();
    leave(lockPath, { pid: bystander.pid, createdAt, ...fields });
    const found = await cleanStaleLockFiles({ sessionsDir: folder, removeStale: false });
    const line = `pid=${bystander.pid} (alive) stale=yes (${reason})`;
    expect(found.locks.map(describeLock)).toEqual([line]);
    expect(found.locks.map(remedy)).toEqual(["fix"]);
    const warnings: string[] = [];
    const { locks, cleaned } = await cleanStaleLockFiles({
      sessionsDir: folder,
      log: { warn: (message) => warnings.push(message) },
    });
    expect(locks.map(describeLock)).toEqual([`${line} [removed]`]);
    expect(cleaned).toEqual(locks);
    expect(warnings).toEqual([`removed stale session lock: ${lockPath} (${reason})`]);
    expect(existsSync(lockPath)).toBe(false);
  });

  test("removes a lock that a live process has let go of as stale", async () => {
    const { folder, lockPath } = newSession();
    const { pid } = await Agent.start();
    const createdAt = new Date().toISOString();
    leave(lockPath, { pid, createdAt, starttime: getProcessStartTime(pid), witness: "flock" });
    const { locks } = await cleanStaleLockFiles({ sessionsDir: folder });
    expect(locks.map(describeLock)).toEqual([
      `pid=${pid} (alive) stale=yes (recycled-pid) [removed]`,
    ]);
  });

  test("doesn't call a live holder stale because it is past its maxHoldMs", async () => {
    const { folder, sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile, maxHoldMs: 60_000 });
    const sweepAt = async (nowMs: number) => {
      const { locks } = await cleanStaleLockFiles({ sessionsDir: folder, nowMs, staleMs: 120_000 });
      return locks;
    };
    const late = Date.now() + 90_000;
    expect(await inspectSessionLock(sessionFile, { nowMs: late })).toMatchObject({
      staleReasons: ["hold-exceeded"],
    });
    expect((await sweepAt(late)).map(describeLock)).toEqual([`pid=${holder.pid} (alive) stale=no`]);
    const old = await sweepAt(Date.now() + 150_000);
    expect(old.map(describeLock)).toEqual([`pid=${holder.pid} (alive) stale=yes (too-old)`]);
    expect(old.map(remedy)).toEqual(["look at its owner"]);
  });

  test("reports a lock of this process by its age, and keeps it", async () => {
    const { folder, sessionFile, lockPath } = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile });
    const createdAt = new Date(Date.now() - 45_000).toISOString();
    writeFileSync(lockPath, JSON.stringify({ ...readRecord(lockPath), createdAt }));
    const { locks } = await cleanStaleLockFiles({ sessionsDir: folder, staleMs: 30_000 });
    expect(locks.map(describeLock)).toEqual([`pid=${process.pid} (alive) stale=yes (too-old)`]);
    expect(lock.held).toBe(true);
  });

  test("says what it has removed also if its log fails", async () => {
    const { folder, lockPath } = newSession();
    leave(lockPath, { pid: 4_194_305, createdAt: new Date().toISOString() });
    const warn = () => {
      throw new Error("the disk of the log is full");
    };
    const { cleaned } = await cleanStaleLockFiles({ sessionsDir: folder, log: { warn } });
    expect(cleaned).toMatchObject([{ lockPath, staleReasons: ["dead-pid"], removed: true }]);
  });

  test("doesn't ask for command lines", async () => {
    const { folder, sessionFile, lockPath } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    const readOwnerProcessArgs = () => {
      throw new Error("it was asked");
    };
    const { cleaned } = await cleanStaleLockFiles({ sessionsDir: folder, readOwnerProcessArgs });
    expect(cleaned).toEqual([]);
    expect(existsSync(lockPath)).toBe(true);
  });
});

describe("for the gateway's tests", () => {
  const { cleanupSignals } = testing;
  const listeners = () =>
    ["exit", ...cleanupSignals].map((event) => process.listenerCount(event as NodeJS.Signals));

  test("testing goes by two names", () => {
    expect(gateway.__testing).toBe(testing);
    expect(cleanupSignals).toEqual(["SIGINT", "SIGTERM", "SIGQUIT", "SIGABRT"]);
  });

  test("the watchdog looks when it is told to, as if it were later", async () => {
    const { sessionFile, lockPath } = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile, maxHoldMs: 60_000 });
    const { signal } = lock;
    expect(await testing.runLockWatchdogCheck()).toBe(0);
    expect(await testing.runLockWatchdogCheck(Date.now() + 50_000)).toBe(0);
    expect(lock.held).toBe(true);
    expect(await testing.runLockWatchdogCheck(Date.now() + 61_000)).toBe(1);
    expect([lock.held, existsSync(lockPath)]).toEqual([false, false]);
    await until("it is told", () => signal?.aborted === true);
    expect(signal?.reason).toMatchObject({ how: "hold-exceeded" });

    // The old handle's release does nothing to the next holder.
    const next = await acquireSessionWriteLock({ sessionFile });
    await lock.release();
    expect(next.held).toBe(true);
    expect(await testing.runLockWatchdogCheck()).toBe(0);
  });

  test("what the watchdog has released by itself counts, once", async () => {
    const { sessionFile, lockPath } = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile, maxHoldMs: 300 });
    await until("the watchdog has come", () => !lock.held);
    expect(await testing.runLockWatchdogCheck()).toBe(1);
    expect(existsSync(lockPath)).toBe(false);
    expect(await testing.runLockWatchdogCheck(Date.now() + 1_000)).toBe(0);
  });

  test("a record is inspected by its age and its own limit, and by nothing else", () => {
    const nowMs = Date.parse("2026-07-01T00:01:00.000Z");
    const record = { pid: 7, createdAt: "2026-07-01T00:00:30.000Z", maxHoldMs: 10_000 };
    const reasons = (...args: Parameters<typeof testing.inspectLockPayloadForTest>) =>
      testing.inspectLockPayloadForTest(...args).staleReasons;
    expect(testing.inspectLockPayloadForTest(record, 60_000, nowMs)).toEqual({
      pid: 7,
      createdAt: record.createdAt,
      ageMs: 30_000,
      stale: false,
      staleReasons: [],
    });
    expect(reasons(record, 60_000, nowMs, { respectMaxHold: true })).toEqual(["hold-exceeded"]);
    expect(reasons({ ...record, maxHoldMs: 30_000 }, 60_000, nowMs, { respectMaxHold: true })).toEqual([]);
    expect(reasons(record, 29_999, nowMs)).toEqual(["too-old"]);
    expect(reasons({ ...record, createdAt: "2026-07-01T00:02:00.000Z" }, 1, nowMs)).toEqual([]);
    expect(reasons({ createdAt: "soon" }, 60_000, nowMs)).toEqual(["missing-pid", "invalid-createdAt"]);
    expect(testing.inspectLockPayloadForTest(null, 1, nowMs)).toMatchObject({ ageMs: null, stale: true });
  });

  test("everything is released before releaseAllLocksSync returns", async () => {
    const { sessionFile, lockPath } = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile });
    testing.releaseAllLocksSync();
    expect(existsSync(lockPath)).toBe(false);
    await lock.release();
  });

  test.each(cleanupSignals)("a %s that somebody listens for releases and does no more", async (signal) => {
    const { sessionFile, lockPath } = newSession();
    let isRaised = false;
    const listener = () => {
      isRaised = true;
    };
    process.on(signal, listener);
    await acquireSessionWriteLock({ sessionFile });
    testing.handleTerminationSignal(signal);
    expect(existsSync(lockPath)).toBe(false);
    expect(process.listeners(signal)).toContain(listener);
    process.off(signal, listener);
    expect(isRaised).toBe(false);
  });

  test("a reset releases, and leaves no listener, however often", async () => {
    const { sessionFile, lockPath } = newSession();
    const before = listeners();
    for (let round = 0; round < 3; round += 1) {
      await acquireSessionWriteLock({ sessionFile });
      expect(listeners()).toEqual(before.map((count) => count + 1));
      resetSessionWriteLockStateForTest();
      expect(existsSync(lockPath)).toBe(false);
      expect(listeners()).toEqual(before);
    }
  });

  test("a reset forgets what the watchdog has released", async () => {
    const { sessionFile } = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile, maxHoldMs: 1 });
    await until("it is lost", () => !lock.held);
    resetSessionWriteLockStateForTest();
    expect(await testing.runLockWatchdogCheck()).toBe(0);
  });

  test("a drain waits until everything is off the disk", async () => {
    const folder = temporaryFolder();
    const sessionFiles = [...Array(20).keys()].map((n) => path.join(folder, `${n}.jsonl`));
    await Promise.all(
      sessionFiles.map((sessionFile, n) =>
        acquireSessionWriteLock({ sessionFile, maxHoldMs: n % 2 ? 1 : 60_000 }),
      ),
    );
    const before = listeners();
    await drainSessionWriteLockStateForTest();
    for (const sessionFile of sessionFiles) {
      expect(existsSync(`${sessionFile}.lock`)).toBe(false);
    }
    expect(listeners()).toEqual(before.map((count) => count - 1));
  });

  describe("under a fake clock", () => {
    beforeEach(() => void vi.useFakeTimers());
    afterEach(() => void vi.useRealTimers());

    /** Disk work that takes longer than a drain: a sweep of many locks. */
    function sweepMany() {
      const folder = temporaryFolder();
      for (let n = 0; n < 1_000; n += 1) {
        writeFileSync(path.join(folder, `${n}.jsonl.lock`), "{}");
      }
      return cleanStaleLockFiles({ sessionsDir: folder });
    }

    test("a drain waits until everything is off the disk", async () => {
      const { sessionFile, lockPath } = newSession();
      await acquireSessionWriteLock({ sessionFile });
      const sweeping = sweepMany();
      await drainSessionWriteLockStateForTest();
      expect(existsSync(lockPath)).toBe(false);
      await sweeping;
    }, 10_000);

    test("the watchdog's check waits until its releases are off the disk", async () => {
      const { sessionFile, lockPath } = newSession();
      await acquireSessionWriteLock({ sessionFile, maxHoldMs: 60_000 });
      const sweeping = sweepMany();
      expect(await testing.runLockWatchdogCheck(Date.now() + 61_000)).toBe(1);
      expect(existsSync(lockPath)).toBe(false);
      await sweeping;
    }, 10_000);

    test("a sweep of many locks ends", async () => {
      expect((await sweepMany()).locks).toHaveLength(1_000);
    }, 10_000);
  });

  test("everything may be released for a restart inside the process", async () => {
    const { sessionFile, lockPath } = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile });
    expect(releaseAllSessionWriteLocks()).toBe(1);
    expect([lock.held, existsSync(lockPath)]).toEqual([false, false]);
    await acquireSessionWriteLock({ sessionFile, timeoutMs: 1_000 });
  });
});
