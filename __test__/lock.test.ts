/**
 * The general face: `lock`, `tryLock`, `withLock`, `inspectLock`, `heldLocks`.
 */

import {
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { spawnSync } from "node:child_process";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { afterEach, describe, expect, onTestFinished, test, vi } from "vitest";

import {
  __testing,
  acquireSessionWriteLock,
  heldLocks,
  inspectLock,
  isLockLostError,
  isLockTimeoutError,
  lock,
  type Lock,
  LOCK_ERROR_CODES,
  LockLostError,
  LockTimeoutError,
  releaseAllSessionWriteLocks,
  SessionWriteLockTimeoutError,
  tryLock,
  withLock,
} from "../index.js";
import { aborted, Agent, asAnotherUser, DEAD_RECORDS, root, temporaryFolder, testWith, until } from "./support.js";

function newFile() {
  const folder = temporaryFolder();
  const file = path.join(folder, "config.json");
  return { folder, file, lockPath: `${file}.lock` };
}

/** Takes a lock that the test gives back at its end. */
async function take(...args: Parameters<typeof lock>): Promise<Lock> {
  const held = await lock(...args);
  onTestFinished(() => held.release().catch(() => {}));
  return held;
}

async function startAgent(): Promise<Agent> {
  const agent = await Agent.start();
  onTestFinished(() => void agent.kill());
  return agent;
}

function holdElsewhere(agent: Agent, file: string, options = {}) {
  return agent.run(
    async ({ lock: api, kept }, file, options) => {
      kept.set(file, await api.lock(file, options));
    },
    file,
    options,
  );
}

const releaseElsewhere = (agent: Agent, file: string) => agent.run(({ kept }, file) => kept.get(file).release(), file);

/** What a call rejects with or throws. */
async function refusal(call: () => unknown): Promise<any> {
  try {
    await call();
  } catch (error) {
    return error;
  }
  throw new Error("it was not refused");
}

afterEach(() => {
  releaseAllSessionWriteLocks();
});

describe("lock", () => {
  test("excludes every other call, of this environment as well", async () => {
    const { file, folder } = newFile();
    const held = await lock(file);
    expect(held.lockPath).toBe(`${file}.lock`);
    expect(held.held).toBe(true);
    expect(await refusal(() => lock(file, { timeoutMs: 0 }))).toBeInstanceOf(LockTimeoutError);
    expect(tryLock(file)).toBe(null);
    const next = lock(file);
    await held.release();
    await (await next).release();
    expect(readdirSync(folder)).toEqual([]);
  });

  test("and the session face exclude each other", async () => {
    const { file } = newFile();
    const held = await take(file);
    const error = await refusal(() => acquireSessionWriteLock({ sessionFile: file, timeoutMs: 1 }));
    expect(error).toBeInstanceOf(SessionWriteLockTimeoutError);
    await held.release();
    const session = await acquireSessionWriteLock({ sessionFile: file });
    expect(tryLock(file)).toBe(null);
    await session.release();
  });

  test("excludes other processes, and is taken over when its holder is killed", async () => {
    const { file } = newFile();
    const agent = await startAgent();
    await holdElsewhere(agent, file);
    expect(tryLock(file)).toBe(null);
    const waiting = lock(file);
    await agent.kill();
    await (await waiting).release();
  });

  test("takes a URL, and any name", async () => {
    const { folder } = newFile();
    for (const name of ["Cargo.lock", "with space", "日本"]) {
      const file = path.join(folder, name);
      const held = await lock(pathToFileURL(file));
      expect(held.lockPath).toBe(`${file}.lock`);
      expect(tryLock(file)).toBe(null);
      await held.release();
    }
  });

  test("waits for ever unless it is told otherwise, and ends by its signal", async () => {
    const { file } = newFile();
    await take(file);
    const controller = new AbortController();
    const waiting = lock(file, { signal: controller.signal });
    controller.abort(new Error("enough"));
    expect((await refusal(() => waiting)).message).toBe("enough");
  });

  test("has no limit unless it is told otherwise, and the record has none", async () => {
    const { file, lockPath } = newFile();
    await take(file);
    expect(JSON.parse(readFileSync(lockPath, "utf8"))).not.toHaveProperty("maxHoldMs");
    expect(heldLocks()).toMatchObject([{ lockPath, maxHoldMs: Infinity }]);
    await __testing.runLockWatchdogCheck(Date.now() + 1e12);
    expect(existsSync(lockPath)).toBe(true);
  });

  test("is left alone by releaseAllSessionWriteLocks", async () => {
    const { file } = newFile();
    const held = await take(file);
    expect(releaseAllSessionWriteLocks()).toBe(0);
    expect(held.held).toBe(true);
  });

  test("takes over what a dead holder left", async () => {
    for (const record of Object.values(DEAD_RECORDS)) {
      const { file, lockPath } = newFile();
      writeFileSync(lockPath, record);
      await (await lock(file, { timeoutMs: 5_000 })).release();
    }
  });

  const wrong: [string, unknown, unknown, string, RegExp][] = [
    ["a number for the file", 7, {}, "ERR_INVALID_ARG_TYPE", /file must be a string/],
    ["an empty name", "", {}, "ERR_INVALID_ARG_VALUE", /must not be empty/],
    ["a URL of another kind", new URL("http://a/b"), {}, "ERR_INVALID_URL_SCHEME", /file/],
    ["null for a time", "x", { timeoutMs: null }, "ERR_INVALID_ARG_TYPE", /timeoutMs must be a number, not null/],
    ["a word for a time", "x", { timeoutMs: "5" }, "ERR_INVALID_ARG_TYPE", /timeoutMs must be a number/],
    ["NaN", "x", { timeoutMs: NaN }, "ERR_OUT_OF_RANGE", /timeoutMs must be at least 0/],
    ["a negative time", "x", { timeoutMs: -1 }, "ERR_OUT_OF_RANGE", /not -1/],
    ["no hold at all", "x", { maxHoldMs: 0 }, "ERR_OUT_OF_RANGE", /maxHoldMs must be at least 1/],
    ["a label that is too long", "x", { label: "ä".repeat(101) }, "ERR_OUT_OF_RANGE", /200 bytes, not 202/],
    ["a label that is no string", "x", { label: 7 }, "ERR_INVALID_ARG_TYPE", /label must be a string/],
    ["a signal that is none", "x", { signal: {} }, "ERR_INVALID_ARG_TYPE", /AbortSignal/],
    ["an unknown option", "x", { timeout: 5 }, "ERR_INVALID_ARG_VALUE", /"timeout": did you mean timeoutMs\?/],
    ["another one", "x", { retries: 5 }, "ERR_INVALID_ARG_VALUE", /there are timeoutMs, signal/],
    ["options that are none", "x", 5, "ERR_INVALID_ARG_TYPE", /options must be an object/],
  ];
  test.each(wrong)("refuses %s", async (_, file: any, options: any, code, message) => {
    const error = await refusal(() => lock(file, options));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expect(error).toBeInstanceOf(code === "ERR_OUT_OF_RANGE" ? RangeError : TypeError);
  });

  test("no name or time of a holder is an order to a terminal", () => {
    const holder = { pid: 1, comm: "\u001b]0;node\u0007", createdAt: "\u009b1\n" };
    const { message } = new LockTimeoutError({ timeoutMs: 1, lockPath: "x.lock", owner: "", holder });
    expect(message).toMatch("process 1 (\\u001b]0;node\\u0007) since \\u009b1\\n;");
    expect(message).not.toMatch(/\p{Cc}/u);
  });

  test("refuses what stands at the path and is no file, and names it", async () => {
    const { file, lockPath } = newFile();
    mkdirSync(lockPath);
    expect(await refusal(() => lock(file))).toMatchObject({ code: LOCK_ERROR_CODES.NOT_A_FILE, path: lockPath });
    expect(await refusal(() => tryLock(file))).toMatchObject({ code: LOCK_ERROR_CODES.NOT_A_FILE });
  });
});

describe("a file of another program at the path of the lock file", () => {
  const contents = { "yarn.lock": "# THIS IS AN AUTOGENERATED FILE\n", "composer.lock": '{"packages": []}', "x.lock": "4242\n" };
  test.each(Object.entries(contents))("is refused and left alone, whatever its age: %s", async (name, content) => {
    const { folder } = newFile();
    const lockPath = path.join(folder, name);
    const file = lockPath.slice(0, -".lock".length);
    for (const age of [0, 3_600]) {
      writeFileSync(lockPath, content);
      utimesSync(lockPath, Date.now() / 1_000 - age, Date.now() / 1_000 - age);
      const told = { code: "ERR_LOCK_FOREIGN_FILE", path: lockPath };
      expect(await refusal(() => lock(file))).toMatchObject(told);
      expect(await refusal(() => withLock(file, () => {}))).toMatchObject(told);
      expect(await refusal(() => tryLock(file))).toMatchObject(told);
      expect(await inspectLock(file)).toMatchObject({ verdict: "unknown", cause: told });
      expect(readFileSync(lockPath, "utf8")).toBe(content);
      expect(readdirSync(folder)).toEqual([name]);
    }
  });

  test("is no matter where it is a torn record, or empty", async () => {
    for (const content of ["", '{\n  "pid": 4242', "\0\0\0"]) {
      const { file, lockPath } = newFile();
      writeFileSync(lockPath, content);
      utimesSync(lockPath, 1, 1);
      await (await lock(file, { timeoutMs: 5_000 })).release();
    }
  });
});

describe("an error", () => {
  test("says who holds the lock, what for, and what to do", async () => {
    const { file, lockPath } = newFile();
    const agent = await startAgent();
    await holdElsewhere(agent, file, { label: "nightly \"job\"" });
    const error = await refusal(() => lock(file, { timeoutMs: 1 }));
    expect(error).toMatchObject({
      name: "LockTimeoutError",
      code: "ERR_LOCK_TIMEOUT",
      timeoutMs: 1,
      lockPath,
      holder: { pid: agent.pid, label: 'nightly "job"' },
    });
    expect(error.message).toContain(`is held by process ${agent.pid} (node)`);
    expect(error.message).toContain('for "nightly \\"job\\""');
    expect(error.message).toContain("npx session-write-lock why");
    expect(error.owner).toMatch(new RegExp(`^pid=${agent.pid} alive=true ageMs=\\d+ label="nightly`));
  });

  test("says that this very process holds the lock, and where by its label", async () => {
    const { file } = newFile();
    await take(file, { label: "start-up" });
    const general = await refusal(() => lock(file, { timeoutMs: 0 }));
    expect(general.message).toContain("this very process");
    expect(general.owner).toMatch(/ label="start-up" \(this process\)$/);
    const session = await refusal(() => acquireSessionWriteLock({ sessionFile: file, timeoutMs: 1 }));
    expect(session.message).toMatch(/^session file locked \(timeout 1ms\): pid=\d+ .*\(this process\)/);
  });

  test("of the session face is one of the general face, with its own code", async () => {
    const { file } = newFile();
    await take(file);
    const error = await refusal(() => acquireSessionWriteLock({ sessionFile: file, timeoutMs: 1 }));
    expect(error.code).toBe("OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT");
    expect(error).toBeInstanceOf(LockTimeoutError);
    expect(isLockTimeoutError(error)).toBe(true);
    expect(isLockLostError(error)).toBe(false);
    expect(new LockTimeoutError({ timeoutMs: 1, lockPath: "x", owner: "" })).not.toBeInstanceOf(
      SessionWriteLockTimeoutError,
    );
  });

  test("of another copy of the package is an instance, of a subclass only if it is one", async () => {
    const agent = await startAgent();
    const seen = await agent.run(({ lock: api, require }) => {
      // Of another version: nothing is shared.
      const key = Object.getOwnPropertySymbols(globalThis).find((it) => String(it).includes("session-write-lock@"))!;
      delete (globalThis as any)[key];
      Object.keys(require.cache).filter((name) => name.endsWith(".js")).forEach((name) => delete require.cache[name]);
      const other: typeof api = require("../../index.js");
      class Own extends api.LockTimeoutError {}
      const error = new other.LockTimeoutError({ timeoutMs: 1, lockPath: "x", owner: "" });
      return [
        other.LockTimeoutError !== api.LockTimeoutError,
        error instanceof api.LockTimeoutError,
        api.isLockTimeoutError(error),
        error instanceof Own,
        (null as any) instanceof api.LockTimeoutError,
      ];
    });
    expect(seen).toEqual([true, true, true, false, false]);
  });
});

describe("release", () => {
  test("rejects if somebody removed the lock file", async () => {
    const { file, lockPath } = newFile();
    const held = await lock(file);
    unlinkSync(lockPath);
    expect(held.held).toBe(false);
    const error = await refusal(() => held.release());
    expect(error).toBeInstanceOf(LockLostError);
    expect(error).toMatchObject({ code: "ERR_LOCK_LOST", how: "removed", lockPath });
    expect(await refusal(() => held.release())).toBe(error);
  });

  test("rejects if the watchdog was faster, and with the reason of the signal if that was asked for", async () => {
    const { file } = newFile();
    const heard: unknown[] = [];
    const held = await lock(file, { maxHoldMs: 10, label: "short", onWarning: (it) => heard.push(it) });
    const { signal } = held;
    await until("the watchdog has released it", () => signal.aborted && heard.length > 0);
    expect(heard).toMatchObject([
      { name: "LockWarning", code: "LOCK_HOLD_EXCEEDED", maxHoldMs: 10, label: "short" },
    ]);
    expect(await refusal(() => held.release())).toBe(signal.reason);
    expect(signal.reason).toMatchObject({ code: "ERR_LOCK_LOST", how: "hold-exceeded" });
  });

  test("rejects when the lock is free, not before, if the watchdog has ended it", async () => {
    for (let round = 0; round < 100; round += 1) {
      const { file, folder } = newFile();
      const held = await lock(file, { maxHoldMs: 1, onWarning() {} });
      await refusal(async () => {
        for (;;) {
          held.signal.throwIfAborted();
          await new Promise(setImmediate);
        }
      });
      expect((await refusal(() => held.release())).how).toBe("hold-exceeded");
      expect(readdirSync(folder)).toEqual([]);
    }
  });

  test("of the session face resolves, as the older module's did", async () => {
    const { file, lockPath } = newFile();
    const held = await acquireSessionWriteLock({ sessionFile: file });
    unlinkSync(lockPath);
    await held.release();
  });

  test("needs no object, and twice is once", async () => {
    const { release } = await lock(newFile().file);
    expect(release()).toBe(release());
    await release();
  });
});

test("the watchdog's warning comes from every realm, once", async () => {
  const agent = await startAgent();
  const warnings = await agent.run(
    async ({ require }, file, root) => {
      const vm = require("node:vm");
      const fs = require("node:fs");
      // As a test runner loads modules into a context: with its own `Error`, and this process.
      const context = vm.createContext({ process, Buffer, URL, AbortController, queueMicrotask, setImmediate, setInterval, setTimeout, performance });
      const loaded = new Map<string, any>();
      const load = (name: string): any => {
        const file = require.resolve(name);
        if (!loaded.has(file) && file.endsWith(".json")) loaded.set(file, { exports: JSON.parse(fs.readFileSync(file, "utf8")) });
        if (!loaded.has(file)) {
          const module = { exports: {} };
          loaded.set(file, module);
          const source = `(function (module, exports, require, __dirname) {${fs.readFileSync(file, "utf8")}\n})`;
          const dirname = require("node:path").dirname(file);
          const inner = (name: string) =>
            name.startsWith(".") ? load(require.resolve(name, { paths: [dirname] })) : require(name);
          vm.runInContext(source, context, { filename: file })(module, module.exports, inner, dirname);
        }
        return loaded.get(file).exports;
      };
      const warnings: string[] = [];
      process.on("warning", ({ code }: any) => warnings.push(code));
      const held = await load(`${root}/index.js`).lock(file, { maxHoldMs: 10 });
      while (warnings.length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
      await held.release().catch(() => {});
      return warnings;
    },
    newFile().file,
    root,
  );
  expect(warnings).toEqual(["LOCK_HOLD_EXCEEDED"]);
});

describe("withLock", () => {
  test("returns what the function returns, and has released by then", async () => {
    const { file, folder } = newFile();
    const inside = await withLock(file, (held) => ({ held: held.held, path: held.lockPath }));
    expect(inside).toEqual({ held: true, path: `${file}.lock` });
    expect(readdirSync(folder)).toEqual([]);
    expect(await withLock(file, { label: "x" }, async () => 5)).toBe(5);
  });

  test("releases when the function throws, and rejects with its error", async () => {
    const { file, folder } = newFile();
    const error = new Error("mine");
    expect(await refusal(() => withLock(file, () => Promise.reject(error)))).toBe(error);
    expect(await refusal(() => withLock(file, () => { throw error; }))).toBe(error);
    expect(readdirSync(folder)).toEqual([]);
  });

  test("rejects if the lock was lost meanwhile, whatever the function returned", async () => {
    const { file, lockPath } = newFile();
    const lost = await refusal(() => withLock(file, () => unlinkSync(lockPath)));
    expect(lost).toMatchObject({ code: "ERR_LOCK_LOST", how: "removed" });
    const cause = new Error("aborted");
    const both = await refusal(() =>
      withLock(file, () => {
        unlinkSync(lockPath);
        throw cause;
      }),
    );
    expect(both).toMatchObject({ code: "ERR_LOCK_LOST", how: "removed", cause });
    let reason: unknown;
    const exceeded = await refusal(() =>
      withLock(file, { maxHoldMs: 10, onWarning() {} }, async ({ signal }) => {
        await aborted(signal);
        reason = signal.reason;
      }),
    );
    expect(exceeded).toBe(reason);
    const thrown = await refusal(() =>
      withLock(file, { maxHoldMs: 10, onWarning() {} }, async ({ signal }) => {
        await aborted(signal);
        signal.throwIfAborted();
      }),
    );
    expect(thrown).toMatchObject({ how: "hold-exceeded" });
    expect(thrown.cause).toBe(undefined);
    expect(exceeded).toMatchObject({ how: "hold-exceeded" });
  });

  testWith("root", "another user")("resolves with a warning if only the lock file could not be removed", async () => {
    const { file, folder, lockPath } = newFile();
    chownSync(folder, 65534, 65534);
    const agent = await Agent.start({ through: asAnotherUser });
    const seen = await agent.run(
      async ({ lock: api, require }, file, folder) => {
        const { chmodSync } = require("node:fs");
        const warnings: string[] = [];
        process.on("warning", ({ code }: any) => warnings.push(code));
        const result = await api.withLock(file, () => {
          chmodSync(folder, 0o555);
          return 7;
        });
        await new Promise(setImmediate);
        chmodSync(folder, 0o755);
        return { result, warnings };
      },
      file,
      folder,
    );
    expect(seen).toEqual({ result: 7, warnings: ["EACCES"] });
    expect(existsSync(lockPath)).toBe(true);
    await (await lock(file, { timeoutMs: 5_000 })).release();
  });

  test("inside of itself is told so, by every name of the folder", async () => {
    const { file, folder } = newFile();
    const alias = path.join(temporaryFolder(), "alias");
    symlinkSync(folder, alias);
    for (const name of [file, path.relative(process.cwd(), file), path.join(alias, "config.json")]) {
      const error = await refusal(() => withLock(file, () => withLock(name, () => {})));
      expect(error).toMatchObject({ code: "ERR_LOCK_SELF_DEADLOCK", lockPath: `${file}.lock` });
    }
  });

  test("inside of another file's asks nothing of a folder on the event loop: it may hang", async () => {
    const [file, other] = [newFile().file, newFile().file];
    const asked = vi.spyOn(realpathSync, "native");
    onTestFinished(() => asked.mockRestore());
    expect(await withLock(file, () => withLock(other, () => 7))).toBe(7);
    expect(asked).not.toHaveBeenCalled();
  });

  test("inside of itself is told so through calls, timers and other locks", async () => {
    const { file } = newFile();
    const other = newFile().file;
    const error = await refusal(() =>
      withLock(file, () =>
        withLock(other, async () => {
          await new Promise((resolve) => setTimeout(resolve, 1));
          await withLock(file, () => {});
        }),
      ),
    );
    expect(error.code).toBe("ERR_LOCK_SELF_DEADLOCK");
    await (await lock(file, { timeoutMs: 0 })).release();
  });

  test("may lock other files inside, and the same file when it is over", async () => {
    const { file } = newFile();
    let later!: Promise<string>;
    await withLock(file, async () => {
      await withLock(newFile().file, () => {});
      // Begins inside and asks later.
      later = new Promise((resolve) => setTimeout(resolve, 30)).then(() => withLock(file, () => "later"));
    });
    expect(await later).toBe("later");
  });

  test("side by side wait for each other", async () => {
    const { file } = newFile();
    let inside = 0;
    const work = () =>
      withLock(file, async () => {
        expect(++inside).toBe(1);
        await new Promise(setImmediate);
        inside -= 1;
      });
    await Promise.all([work(), work(), work()]);
  });

  test("refuses options after the function, instead of ignoring them", async () => {
    const { file, lockPath } = newFile();
    const call = (withLock as any)(file, () => {}, { timeoutMs: 1 });
    await expect(call).rejects.toMatchObject({ code: "ERR_INVALID_ARG_TYPE", message: expect.stringContaining("before fn") });
    expect(existsSync(lockPath)).toBe(false);
  });

  test("refuses what is no function", async () => {
    expect(await refusal(() => (withLock as any)("x", {}))).toMatchObject({ code: "ERR_INVALID_ARG_TYPE" });
    expect(await refusal(() => (withLock as any)("x", {}, 5))).toMatchObject({ code: "ERR_INVALID_ARG_TYPE" });
  });
});

describe("a label", () => {
  test("is in the record, in inspections and among the held locks, and reads back as it was", async () => {
    const label = `a "b" \\ \u0007 ${"ü".repeat(80)}`;
    const { file, lockPath } = newFile();
    await take(file, { label });
    expect(JSON.parse(readFileSync(lockPath, "utf8")).label).toBe(label);
    expect(await inspectLock(file)).toMatchObject({ label, holder: { label }, verdict: "held" });
    expect(heldLocks()).toMatchObject([{ lockPath, label }]);
  });
});

test("a label can do nothing to a terminal", async () => {
  const { file } = newFile();
  await take(file, { label: "\u009b31m \u202e x" });
  const general = await refusal(() => lock(file, { timeoutMs: 0 }));
  const session = await refusal(() => acquireSessionWriteLock({ sessionFile: file, timeoutMs: 1 }));
  for (const { message, owner } of [general, session]) {
    expect(message + owner).not.toMatch(/[\p{Cc}\p{Cf}]/u);
  }
});

describe("inspectLock", () => {
  test("means the file, whatever its name is", async () => {
    const { folder } = newFile();
    const file = path.join(folder, "yarn.lock");
    expect(await inspectLock(file)).toBe(null);
    await take(file);
    expect(await inspectLock(file)).toMatchObject({ lockPath: `${file}.lock`, verdict: "held" });
    expect(await inspectLock(pathToFileURL(file))).toMatchObject({ pid: process.pid });
  });

  test("refuses options that make no sense", async () => {
    expect(await refusal(() => inspectLock("x", { staleMs: -1 }))).toMatchObject({ code: "ERR_OUT_OF_RANGE" });
    expect(await refusal(() => inspectLock("x", { stale: 1 } as any))).toMatchObject({
      code: "ERR_INVALID_ARG_VALUE",
    });
  });
});

describe("under node --permission", () => {
  const restricted = (allowed: string, script: string) => [
    process.versions.node.startsWith("20.") ? "--experimental-permission" : "--permission",
    "--allow-addons",
    ...[root, allowed].map((folder) => `--allow-fs-read=${folder}`),
    `--allow-fs-write=${allowed}`,
    "-e",
    script,
  ];

  test("a lock outside of the allowed folders is refused as fs would", async () => {
    const [inside, outside] = [newFile(), newFile()];
    const script = `
      const { lock, tryLock, inspectLock } = require(${JSON.stringify(root)});
      const tell = (error) => console.log(error.code, error.permission, error.resource);
      (async () => {
        await (await lock(${JSON.stringify(inside.file)})).release();
        await lock(${JSON.stringify(outside.file)}).catch(tell);
        try { tryLock(${JSON.stringify(outside.file)}); } catch (error) { tell(error); }
        await inspectLock("/etc/passwd").catch(tell);
      })();`;
    const { stdout, stderr } = spawnSync(process.execPath, restricted(inside.folder, script), { encoding: "utf8" });
    expect(stdout, stderr).toBe(
      `ERR_ACCESS_DENIED FileSystemWrite ${outside.lockPath}\n`.repeat(2) +
        "ERR_ACCESS_DENIED FileSystemRead /etc/passwd.lock\n",
    );
    expect(readdirSync(outside.folder)).toEqual([]);
  });
});
