/** The API of acquire, release and their errors, as a caller sees it. */

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

import * as api from "../index.js";
import { Agent, root, temporaryFolder } from "./support.js";

const { acquireSessionWriteLock, SessionWriteLockTimeoutError } = api;

function newSession(): { sessionFile: string; lockPath: string } {
  const sessionFile = path.join(temporaryFolder(), "chat.jsonl");
  return { sessionFile, lockPath: `${sessionFile}.lock` };
}

/** What `acquire` rejects with. */
async function refusal(options: unknown): Promise<any> {
  const lock = await acquireSessionWriteLock(options as api.AcquireOptions).catch((error) => ({ error }));
  if ("error" in lock) {
    return lock.error;
  }
  await lock.release();
  throw new Error("the lock was acquired");
}

test("a lock that another process holds is waited for", async () => {
  const { sessionFile, lockPath } = newSession();
  const agent = await Agent.start();
  await agent.acquire({ sessionFile });
  let acquired = false;
  const waiting = acquireSessionWriteLock({ sessionFile }).finally(() => {
    acquired = true;
  });
  await expect(acquireSessionWriteLock({ sessionFile, timeoutMs: 20 })).rejects.toThrow(
    `session file locked (timeout 20ms): pid=${agent.pid} alive=true`,
  );
  expect(acquired).toBe(false);
  await agent.release(sessionFile);
  await (await waiting).release();
  expect(existsSync(lockPath)).toBe(false);
});

test("the lock file says who holds the lock, in the layout of the older module", async () => {
  const { sessionFile, lockPath } = newSession();
  const before = Date.now();
  const lock = await acquireSessionWriteLock({ sessionFile, maxHoldMs: 1234 });
  const text = readFileSync(lockPath, "utf8");
  const record = JSON.parse(text);
  expect(text).toBe(JSON.stringify(record, null, 2));
  expect(record).toEqual({
    pid: process.pid,
    createdAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
    starttime: api.getProcessStartTime(process.pid),
    comm: api.getProcessComm(),
    maxHoldMs: 1234,
    bootId: readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim(),
    pidNamespace: expect.any(Number),
    witness: "flock",
    token: expect.stringMatching(/^[0-9a-f]{32}$/),
  });
  expect(Date.parse(record.createdAt)).toBeGreaterThanOrEqual(before - 1);
  expect(Date.parse(record.createdAt)).toBeLessThanOrEqual(Date.now());
  expect(lock.lockPath).toBe(lockPath);
  await lock.release();
});

test("a second acquire shares the lock, and the file goes with the last release", async () => {
  const { sessionFile, lockPath } = newSession();
  const first = await acquireSessionWriteLock({ sessionFile });
  const second = await acquireSessionWriteLock({ sessionFile, allowReentrant: true });
  await first.release();
  await first.release();
  expect(existsSync(lockPath)).toBe(true);
  await second.release();
  expect(existsSync(lockPath)).toBe(false);
});

test("without re-entrancy a second acquire waits like any other", async () => {
  const { sessionFile } = newSession();
  const lock = await acquireSessionWriteLock({ sessionFile });
  const error = await refusal({ sessionFile, allowReentrant: false, timeoutMs: 5 });
  expect(error).toBeInstanceOf(SessionWriteLockTimeoutError);
  const waiting = acquireSessionWriteLock({ sessionFile, allowReentrant: false });
  await lock.release();
  await (await waiting).release();
});

test("release may be taken out of the lock and called on its own, and await using finds it", async () => {
  const { sessionFile, lockPath } = newSession();
  const { release } = await acquireSessionWriteLock({ sessionFile });
  await release();
  expect(existsSync(lockPath)).toBe(false);
  const lock = await acquireSessionWriteLock({ sessionFile });
  await lock[Symbol.asyncDispose]();
  expect(existsSync(lockPath)).toBe(false);
});

test("an older handle's release does nothing to the next holder", async () => {
  const { sessionFile, lockPath } = newSession();
  const lost = await acquireSessionWriteLock({ sessionFile });
  rmSync(lockPath);
  const agent = await Agent.start();
  await agent.acquire({ sessionFile });
  await lost.release();
  expect(JSON.parse(readFileSync(lockPath, "utf8")).pid).toBe(agent.pid);
  await agent.release(sessionFile);
  expect(existsSync(lockPath)).toBe(false);
});

test("a symlinked folder leads to the same lock", async () => {
  const folder = temporaryFolder();
  mkdirSync(path.join(folder, "real"));
  symlinkSync("real", path.join(folder, "link"));
  const direct = await acquireSessionWriteLock({ sessionFile: path.join(folder, "real/chat.jsonl") });
  const linked = await acquireSessionWriteLock({ sessionFile: path.join(folder, "link/chat.jsonl") });
  expect(linked.lockPath).toBe(direct.lockPath);
  await direct.release();
  expect(existsSync(linked.lockPath)).toBe(true);
  await linked.release();
});

test("a missing folder is created, and a relative path starts at the working directory", async () => {
  const sessionFile = path.join(temporaryFolder(), "a/b/chat.jsonl");
  const lock = await acquireSessionWriteLock({ sessionFile: path.relative(process.cwd(), sessionFile) });
  expect(lock.lockPath).toBe(`${sessionFile}.lock`);
  await lock.release();
});

test("the error at the deadline tells who holds the lock", async () => {
  const { sessionFile, lockPath } = newSession();
  const agent = await Agent.start();
  await agent.acquire({ sessionFile });
  // A holder whose watchdog is late, as it looks from outside.
  const record = JSON.parse(readFileSync(lockPath, "utf8"));
  writeFileSync(lockPath, JSON.stringify({ ...record, maxHoldMs: 1 }));
  const error = await refusal({ sessionFile, timeoutMs: 30, staleMs: 1 });
  expect(error).toBeInstanceOf(SessionWriteLockTimeoutError);
  expect(error).toBeInstanceOf(Error);
  expect(error).toMatchObject({
    name: "SessionWriteLockTimeoutError",
    code: "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT",
    timeoutMs: 30,
    lockPath,
    owner: expect.stringMatching(new RegExp(`^pid=${agent.pid} alive=true ageMs=\\d+$`)),
    holder: { pid: agent.pid, comm: "node", witness: "flock" },
    staleReasons: ["too-old", "hold-exceeded"],
  });
  expect(error.message).toBe(`session file locked (timeout 30ms): ${error.owner} ${lockPath}`);
  expect(error.stack).toContain("acquire.test.ts");
});

test("a holder that nothing is known of is called unknown", async () => {
  const { sessionFile, lockPath } = newSession();
  writeFileSync(lockPath, "{}");
  const error = await refusal({ sessionFile, timeoutMs: 5, staleMs: 60_000 });
  expect(error).toMatchObject({
    owner: "owner=unknown",
    holder: {},
    staleReasons: ["missing-pid", "invalid-createdAt"],
    message: `session file locked (timeout 5ms): owner=unknown ${lockPath}`,
  });
  writeFileSync(lockPath, "not JSON");
  expect(await refusal({ sessionFile, timeoutMs: 5 })).toMatchObject({ holder: null });
  expect(readFileSync(lockPath, "utf8")).toBe("not JSON");
});

test("numbers that are no time mean the default", async () => {
  const { sessionFile } = newSession();
  for (const number of [NaN, 0, -1, -Infinity, undefined, null]) {
    const options: any = { sessionFile, timeoutMs: number, staleMs: number, maxHoldMs: number };
    const lock = await acquireSessionWriteLock(options);
    expect(JSON.parse(readFileSync(lock.lockPath, "utf8")).maxHoldMs, String(number)).toBe(300_000);
    await lock.release();
  }
  const lock = await acquireSessionWriteLock({ sessionFile, timeoutMs: Infinity, maxHoldMs: Infinity });
  expect(JSON.parse(readFileSync(lock.lockPath, "utf8")).maxHoldMs).toBe(undefined);
  const error = await refusal({ sessionFile, allowReentrant: false, timeoutMs: 0.5 });
  expect(error.message).toContain("(timeout 0.5ms)");
  await lock.release();
});

test.each([
  ["no options", undefined, "ERR_INVALID_ARG_TYPE", "options must be an object"],
  ["a string for options", "chat.jsonl", "ERR_INVALID_ARG_TYPE", "options must be an object"],
  ["no session file", {}, "ERR_INVALID_ARG_TYPE", "sessionFile must be a string, not undefined"],
  ["a number for the session file", { sessionFile: 7 }, "ERR_INVALID_ARG_TYPE", "not number"],
  ["an empty session file", { sessionFile: "" }, "ERR_INVALID_ARG_VALUE", "must not be empty"],
  ["a NUL byte in it", { sessionFile: "a\0b" }, "ERR_INVALID_ARG_VALUE", "NUL"],
  ["the root as session file", { sessionFile: "/" }, "ERR_INVALID_ARG_VALUE", "not the root"],
  ["a time-out in words", { sessionFile: "x", timeoutMs: "5" }, "ERR_INVALID_ARG_TYPE", "timeoutMs"],
  ["a stale time in words", { sessionFile: "x", staleMs: {} }, "ERR_INVALID_ARG_TYPE", "staleMs"],
  ["a word for handleSignals", { sessionFile: "x", handleSignals: "no" }, "ERR_INVALID_ARG_VALUE", "handleSignals"],
  ["a hold time in words", { sessionFile: "x", maxHoldMs: [] }, "ERR_INVALID_ARG_TYPE", "maxHoldMs"],
  ["no boolean for re-entrancy", { sessionFile: "x", allowReentrant: 1 }, "ERR_INVALID_ARG_TYPE", "allowReentrant"],
])("a wrong argument is a TypeError: %s", async (_name, options, code, message) => {
  const error = await refusal(options);
  expect(error).toBeInstanceOf(TypeError);
  expect(error.code).toBe(code);
  expect(error.message).toContain(message);
});

test("import and require give the same functions, and the types know all of them", () => {
  const names = "Object.keys(api).filter((name) => !/^(default|module.exports)$/.test(name)).sort().join()";
  const run = (...args: string[]) => execFileSync(process.execPath, args, { cwd: root, encoding: "utf8" });
  const required = run("-p", `const api = require("./index.js"); ${names}`);
  const imported = run(
    "--input-type=module",
    "-e",
    `import * as api from "./index.js"; console.log(${names})`,
  );
  expect(imported).toBe(required);
  const declared = readFileSync(path.join(root, "index.d.ts"), "utf8")
    .matchAll(/^export (?:function|class|const) (\w+)/gm);
  // An overloaded function is declared twice.
  expect(required.trim()).toBe([...new Set([...declared].map((match) => match[1]))].sort().join());
});

test("the names that only CommonJS analysis finds can be imported one by one", () => {
  const source = `
    import { acquireSessionWriteLock, isAlive, SessionWriteLockTimeoutError } from "./index.js";
    console.log(typeof acquireSessionWriteLock, isAlive(process.pid), SessionWriteLockTimeoutError.name);
  `;
  const output = execFileSync(process.execPath, ["--input-type=module", "-e", source], { cwd: root, encoding: "utf8" });
  expect(output.trim()).toBe("function true SessionWriteLockTimeoutError");
});
