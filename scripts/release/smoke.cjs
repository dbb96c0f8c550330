"use strict";

/**
 * What `npm run test:targets` runs on each runtime, in a folder in which the packed package is installed:
 * one line for each check, and a last line of JSON that counts them. `SMOKE_COMMAND` is the command for
 * further processes, as a JSON array.
 *
 * The same file is the agent in those processes and the worker in threads.
 */

const started = performance.now();
const lockModule = require("session-write-lock");
const loadMs = performance.now() - started;

const assert = require("node:assert");
const { spawn } = require("node:child_process");
const { mkdtempSync, existsSync, readFileSync, renameSync, rmSync, unlinkSync, writeFileSync } = require("node:fs");
const { tmpdir } = require("node:os");
const path = require("node:path");
const { createInterface } = require("node:readline");
const { isMainThread, parentPort, Worker, workerData } = require("node:worker_threads");

const { acquireSessionWriteLock, tryAcquireSessionWriteLock } = lockModule;

/** Emulators are slow. No check waits that long if all is well. */
const PATIENCE_MS = 60_000;

const isWindows = process.platform === "win32";

const [role, argument] = process.argv.slice(2);

// --- Other processes ------------------------------------------------------------------------------

/** Takes the lock, and ends as it is told. */
async function runAgent(sessionFile) {
  const lock = await acquireSessionWriteLock({ sessionFile, timeoutMs: PATIENCE_MS });
  const lines = createInterface({ input: process.stdin });
  lines.on("line", async (order) => {
    switch (order) {
      case "release":
        await lock.release();
        console.log("released");
        break;
      case "end":
        lines.close();
        process.stdin.destroy();
        break;
      case "exit":
        process.exit(0);
        break;
      case "throw":
        setTimeout(() => {
          throw new Error("on purpose");
        });
        break;
      case "reject":
        Promise.reject(new Error("on purpose"));
        break;
    }
  });
  console.log("held");
}

/** Adds to a number in a file, which loses additions where two processes do it at once. */
async function runCounter(argument) {
  const { sessionFile, additions } = JSON.parse(argument);
  for (let left = additions; left > 0; left -= 1) {
    const lock = await acquireSessionWriteLock({ sessionFile, timeoutMs: PATIENCE_MS });
    writeFileSync(sessionFile, String(Number(readFileSync(sessionFile, "utf8")) + 1));
    await lock.release();
  }
}

function start(...args) {
  const [command, ...before] = JSON.parse(process.env.SMOKE_COMMAND ?? JSON.stringify([process.execPath]));
  const child = spawn(command, [...before, __filename, ...args], { stdio: ["pipe", "pipe", "pipe"] });
  const ended = new Promise((resolve) => child.once("close", (code, signal) => resolve({ code, signal })));
  let complaint = "";
  child.stderr.on("data", (chunk) => (complaint += chunk));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    child,
    ended,
    complaint: () => complaint,
    say: (order) => child.stdin.write(`${order}\n`),
    async expect(line) {
      const { value } = await lines.next();
      assert.strictEqual(value, line, complaint);
    },
  };
}

async function startHolder(sessionFile) {
  const holder = start("agent", sessionFile);
  await holder.expect("held");
  return holder;
}

// --- Threads --------------------------------------------------------------------------------------

async function runWorker({ sessionFile, end }) {
  const lock = await acquireSessionWriteLock({ sessionFile, timeoutMs: PATIENCE_MS, allowReentrant: false });
  parentPort.postMessage("held");
  if (end === "release") {
    await lock.release();
    parentPort.postMessage("released");
  } else if (end === "busy") {
    for (;;);
  } else {
    parentPort.on("message", () => process.exit(0));
  }
}

function startWorker(sessionFile, end) {
  const worker = new Worker(__filename, { workerData: { sessionFile, end } });
  worker.on("error", () => {});
  const messages = [];
  let wake;
  worker.on("message", (message) => {
    messages.push(message);
    wake?.();
  });
  return {
    worker,
    async expect(message) {
      while (messages.length === 0) {
        await new Promise((resolve) => (wake = resolve));
      }
      assert.strictEqual(messages.shift(), message);
    },
  };
}

// --- The checks -----------------------------------------------------------------------------------

const folder = role === undefined ? mkdtempSync(path.join(tmpdir(), "smoke-")) : "";
let sessions = 0;

function newSession() {
  sessions += 1;
  return path.join(folder, `session-${sessions}.jsonl`);
}

/** The lock of `sessionFile` must be free, now or in a moment. */
async function takeAndRelease(sessionFile, timeoutMs = 10_000) {
  const lock = await acquireSessionWriteLock({ sessionFile, timeoutMs, allowReentrant: false });
  await lock.release();
}

async function holderThat(order, expectEnd) {
  const sessionFile = newSession();
  const holder = await startHolder(sessionFile);
  holder.say(order);
  expectEnd(await holder.ended);
  await takeAndRelease(sessionFile);
  return sessionFile;
}

async function workerThat(end, stop) {
  const sessionFile = newSession();
  const worker = startWorker(sessionFile, end);
  await worker.expect("held");
  assert.strictEqual(tryAcquireSessionWriteLock({ sessionFile, allowReentrant: false }), null);
  await stop(worker.worker);
  await takeAndRelease(sessionFile);
}

/** The paths of the libraries in this process, in one text. */
function loadedLibraries() {
  if (!isWindows) {
    return readFileSync("/proc/self/maps", "utf8");
  }
  process.report.excludeNetwork = true;
  return process.report.getReport().sharedObjects.join("\n");
}

const CHECKS = {
  "the package is the one in this folder, and the binary that of a platform's package": () => {
    const installed = path.join(__dirname, "node_modules");
    assert.strictEqual(path.dirname(require.resolve("session-write-lock")), path.join(installed, "session-write-lock"));
    assert.ok(loadedLibraries().includes(path.join(installed, "@session-write-lock")));
  },
  "require and import give the same names": async () => {
    const imported = await import("session-write-lock");
    for (const name of Object.keys(lockModule)) {
      assert.strictEqual(imported[name], lockModule[name], name);
    }
  },
  "an acquire makes the lock file, with this process in it; a release removes it": async () => {
    const sessionFile = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile });
    assert.strictEqual(JSON.parse(readFileSync(lock.lockPath, "utf8")).pid, process.pid);
    assert.strictEqual(lock.held, true);
    await lock.release();
    assert.strictEqual(existsSync(lock.lockPath), false);
    assert.strictEqual(lock.held, false);
  },
  "a second acquire shares the lock": async () => {
    const sessionFile = newSession();
    const [first, second] = [await acquireSessionWriteLock({ sessionFile }), await acquireSessionWriteLock({ sessionFile })];
    await first.release();
    assert.strictEqual(second.held, true);
    await second.release();
    assert.strictEqual(existsSync(second.lockPath), false);
  },
  "a deadline rejects with the holder's record": async () => {
    const sessionFile = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile });
    const refused = acquireSessionWriteLock({ sessionFile, timeoutMs: 30, allowReentrant: false });
    const error = await refused.then(() => assert.fail("it was acquired twice"), (reason) => reason);
    assert.strictEqual(error.code, "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT");
    assert.strictEqual(error.holder.pid, process.pid);
    assert.ok(error instanceof lockModule.SessionWriteLockTimeoutError);
    await lock.release();
  },
  "wrong arguments are TypeErrors": async () => {
    await assert.rejects(acquireSessionWriteLock({ sessionFile: 1 }), { name: "TypeError", code: "ERR_INVALID_ARG_TYPE" });
    await assert.rejects(acquireSessionWriteLock({ sessionFile: "" }), { name: "TypeError", code: "ERR_INVALID_ARG_VALUE" });
    assert.throws(() => tryAcquireSessionWriteLock(), { name: "TypeError" });
  },
  "an abort ends a wait with its reason": async () => {
    const sessionFile = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile });
    const controller = new AbortController();
    const reason = new Error("enough");
    const refused = acquireSessionWriteLock({ sessionFile, allowReentrant: false, signal: controller.signal });
    setTimeout(() => controller.abort(reason), 10);
    assert.strictEqual(await refused.catch((error) => error), reason);
    await lock.release();
  },
  "a signal that is aborted already rejects": async () => {
    const signal = AbortSignal.abort(new Error("never"));
    const error = await acquireSessionWriteLock({ sessionFile: newSession(), signal }).catch((reason) => reason);
    assert.strictEqual(error, signal.reason);
  },
  "tryAcquire takes a free lock before it returns": () => {
    const lock = tryAcquireSessionWriteLock({ sessionFile: newSession() });
    assert.strictEqual(existsSync(lock.lockPath), true);
    return lock.release();
  },
  "locks are disposable where the runtime can": async () => {
    const lock = await acquireSessionWriteLock({ sessionFile: newSession() });
    await (Symbol.asyncDispose ? lock[Symbol.asyncDispose]() : lock.release());
    assert.strictEqual(existsSync(lock.lockPath), false);
  },
  "releaseAll frees every lock": async () => {
    const lock = await acquireSessionWriteLock({ sessionFile: newSession() });
    assert.strictEqual(lockModule.releaseAllSessionWriteLocks(), 1);
    assert.strictEqual(existsSync(lock.lockPath), false);
  },
  "withLock holds the lock of any file while its function runs": async () => {
    const file = newSession();
    const result = await lockModule.withLock(file, (lock) => [lock.held, existsSync(`${file}.lock`)]);
    assert.deepStrictEqual(result, [true, true]);
    assert.strictEqual(existsSync(`${file}.lock`), false);
  },
  "a lock file that is taken away is a loss that is told": async () => {
    const lock = await acquireSessionWriteLock({ sessionFile: newSession() });
    const told = new Promise((resolve) => lock.signal.addEventListener("abort", resolve));
    // Under Wine a removed file keeps its name for as long as it is open.
    isWindows ? renameSync(lock.lockPath, `${lock.lockPath}.away`) : unlinkSync(lock.lockPath);
    await told;
    assert.strictEqual(lock.signal.reason.code, "OPENCLAW_SESSION_WRITE_LOCK_LOST");
    assert.strictEqual(lock.held, false);
    await lock.release();
  },
  "the watchdog ends a hold at maxHoldMs": async () => {
    const sessionFile = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile, maxHoldMs: 50 });
    await takeAndRelease(sessionFile);
    assert.strictEqual(lock.held, false);
  },
  "an inspection finds a held lock by its flock": async () => {
    const sessionFile = newSession();
    const lock = await acquireSessionWriteLock({ sessionFile });
    const { verdict, witnessed, holder } = await lockModule.inspectSessionLock(sessionFile);
    assert.deepStrictEqual([verdict, witnessed, holder.pid], ["held", "flock", process.pid]);
    assert.strictEqual(lockModule.heldSessionWriteLocks().length, 1);
    await lock.release();
  },
  "a sweep removes a dead lock and keeps a live one": async () => {
    const [live, dead] = [newSession(), newSession()];
    const lock = await acquireSessionWriteLock({ sessionFile: live });
    writeFileSync(`${dead}.lock`, JSON.stringify({ pid: 2 ** 22 + 1, createdAt: new Date().toISOString() }));
    const { cleaned } = await lockModule.cleanStaleLockFiles({ sessionsDir: folder });
    assert.deepStrictEqual(cleaned.map(({ lockPath }) => path.basename(lockPath)), [path.basename(`${dead}.lock`)]);
    assert.strictEqual(lock.held, true);
    await lock.release();
  },
  "four processes exclude each other": async () => {
    const sessionFile = newSession();
    writeFileSync(sessionFile, "0");
    const additions = 25;
    const counters = Array.from({ length: 4 }, () => start("count", JSON.stringify({ sessionFile, additions })));
    for (const { ended, complaint } of counters) {
      assert.deepStrictEqual(await ended, { code: 0, signal: null }, complaint());
    }
    assert.strictEqual(readFileSync(sessionFile, "utf8"), String(4 * additions));
  },
  "a lock of another process is refused": async () => {
    const sessionFile = newSession();
    const holder = await startHolder(sessionFile);
    assert.strictEqual(tryAcquireSessionWriteLock({ sessionFile }), null);
    const error = await acquireSessionWriteLock({ sessionFile, timeoutMs: 20 }).catch((reason) => reason);
    assert.strictEqual(error.holder.pid, JSON.parse(readFileSync(`${sessionFile}.lock`, "utf8")).pid);
    holder.say("exit");
    await holder.ended;
  },
  "a release hands the lock to a process that waits": async () => {
    const sessionFile = newSession();
    const holder = await startHolder(sessionFile);
    const waiting = acquireSessionWriteLock({ sessionFile, timeoutMs: PATIENCE_MS });
    holder.say("release");
    await holder.expect("released");
    await (await waiting).release();
    holder.say("end");
    await holder.ended;
  },
  "a killed holder's lock goes to the one that waits": async () => {
    const sessionFile = newSession();
    const holder = await startHolder(sessionFile);
    const waiting = acquireSessionWriteLock({ sessionFile, timeoutMs: PATIENCE_MS });
    holder.child.kill("SIGKILL");
    await (await waiting).release();
    assert.strictEqual(existsSync(`${sessionFile}.lock`), false);
  },
  "a killed holder's lock is taken later": async () => {
    const sessionFile = newSession();
    const holder = await startHolder(sessionFile);
    holder.child.kill("SIGKILL");
    await holder.ended;
    assert.strictEqual(existsSync(`${sessionFile}.lock`), true);
    await takeAndRelease(sessionFile);
  },
  "process.exit frees the lock": () => holderThat("exit", ({ code }) => assert.strictEqual(code, 0)),
  "the end of the program frees the lock": () => holderThat("end", ({ code }) => assert.strictEqual(code, 0)),
  "an uncaught error frees the lock": () => holderThat("throw", ({ code }) => assert.notStrictEqual(code, 0)),
  "an unhandled rejection frees the lock": () => holderThat("reject", ({ code }) => assert.notStrictEqual(code, 0)),
  "SIGTERM ends the process, and frees the lock": async () => {
    const sessionFile = newSession();
    const holder = await startHolder(sessionFile);
    holder.child.kill("SIGTERM");
    await holder.ended;
    assert.strictEqual(existsSync(`${sessionFile}.lock`), isWindows); // where a signal from outside is the end
    await takeAndRelease(sessionFile);
  },
  "SIGINT ends the process, and frees the lock": async () => {
    const sessionFile = newSession();
    const holder = await startHolder(sessionFile);
    holder.child.kill("SIGINT");
    await holder.ended;
    assert.strictEqual(existsSync(`${sessionFile}.lock`), isWindows); // as above
    await takeAndRelease(sessionFile);
  },
  "a worker thread takes and releases": async () => {
    const sessionFile = newSession();
    const worker = startWorker(sessionFile, "release");
    await worker.expect("held");
    await worker.expect("released");
    await takeAndRelease(sessionFile);
  },
  "a worker that exits frees its lock": () => workerThat("exit", (worker) => worker.postMessage("exit")),
  "a terminated worker frees its lock": () => workerThat("wait", (worker) => worker.terminate()),
  "a busy worker that is terminated frees its lock": () => workerThat("busy", (worker) => worker.terminate()),
  "this process is alive, also by its name": () => {
    assert.strictEqual(lockModule.isAlive(process.pid), true);
    assert.strictEqual(lockModule.isAlive(process.pid, lockModule.getProcessComm()), true);
    assert.strictEqual(lockModule.isAlive(2 ** 22 + 1), false);
  },
  "the process name is that of the runtime": () => {
    // The executable of an emulated process is the emulator.
    const name = process.env.SMOKE_NAME ?? (globalThis.Deno ? "deno" : globalThis.Bun ? "bun" : "node");
    assert.strictEqual(lockModule.getProcessComm(), name);
  },
  "the start of a process is known": () => {
    assert.ok(lockModule.getProcessStartTime(process.pid) > 0);
    assert.strictEqual(lockModule.getProcessStartTime(2 ** 22 + 1), null);
  },
};

async function runChecks() {
  const failed = [];
  let passed = 0;
  for (const [name, check] of Object.entries(CHECKS)) {
    let timer;
    try {
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`not done after ${PATIENCE_MS} ms`)), PATIENCE_MS);
      });
      await Promise.race([check(), late]);
      passed += 1;
      console.log(`ok      ${name}`);
    } catch (error) {
      failed.push(name);
      console.log(`FAILED  ${name}: ${error.stack ?? error}`);
    } finally {
      clearTimeout(timer);
    }
  }
  rmSync(folder, { recursive: true, force: true, maxRetries: 10 });
  console.log(JSON.stringify({ passed, failed }));
  process.exit(failed.length > 0 ? 1 : 0);
}

if (!isMainThread) {
  runWorker(workerData);
} else if (role === "load") {
  console.log(loadMs);
} else if (role === "agent") {
  runAgent(argument);
} else if (role === "count") {
  runCounter(argument);
} else {
  runChecks();
}
