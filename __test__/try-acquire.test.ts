/**
 * `tryAcquireSessionWriteLock`: now or not at all.
 */

import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { afterEach, describe, expect, test } from "vitest";

import {
  acquireSessionWriteLock,
  type AcquireOptions,
  releaseAllSessionWriteLocks,
  tryAcquireSessionWriteLock,
} from "../index.js";
import { Agent, asAnotherUser, root, temporaryFolder, testWith, type Tools, newSession } from "./support.js";

/** No matter how busy the machine is, this is no wait: the default one takes 10 s. */
const AT_ONCE_MS = 5_000;

const LIKE_ANOTHER = { allowReentrant: false };

afterEach(() => {
  releaseAllSessionWriteLocks();
});

/** Tries, and says what was thrown; must not wait. */
function attempt(options: AcquireOptions) {
  const started = performance.now();
  try {
    return tryAcquireSessionWriteLock(options);
  } catch (error) {
    return error as NodeJS.ErrnoException;
  } finally {
    expect(performance.now() - started).toBeLessThan(AT_ONCE_MS);
  }
}

/** Takes the lock and gives it back; the folder is empty afterwards. */
async function expectFree({ folder, sessionFile }: ReturnType<typeof newSession>) {
  await tryAcquireSessionWriteLock({ sessionFile, ...LIKE_ANOTHER })!.release();
  expect(readdirSync(folder)).toEqual([]);
}

describe("a lock that is free", () => {
  test("is taken before the call returns", async () => {
    const session = newSession();
    const { sessionFile, lockPath } = session;
    const lock = tryAcquireSessionWriteLock({ sessionFile, maxHoldMs: 7_000 })!;
    expect(lock.lockPath).toBe(lockPath);
    expect(JSON.parse(readFileSync(lockPath, "utf8"))).toMatchObject({
      pid: process.pid,
      maxHoldMs: 7_000,
      witness: "flock",
    });
    expect([lock.held, lock.signal.aborted]).toEqual([true, false]);
    await lock.release();
    expect(lock.held).toBe(false);
    await expectFree(session);
  });

  test("is taken in a folder that is missing", () => {
    const sessionFile = path.join(temporaryFolder(), "a/b/chat.jsonl");
    expect(tryAcquireSessionWriteLock({ sessionFile })!.held).toBe(true);
  });

  test("keeps out others, who wait for it like for any other", async () => {
    const { sessionFile } = newSession();
    const lock = tryAcquireSessionWriteLock({ sessionFile })!;
    const agent = await Agent.start();
    const waiting = agent.acquire({ sessionFile });
    await agent.run(() => {});
    await lock.release();
    await waiting;
    expect(attempt({ sessionFile })).toBe(null);
  });

  test("is given back by releaseAll, and at the end of the process", async () => {
    const { sessionFile, lockPath } = newSession();
    tryAcquireSessionWriteLock({ sessionFile });
    expect(releaseAllSessionWriteLocks()).toBe(1);
    expect(existsSync(lockPath)).toBe(false);
    const agent = await Agent.start();
    await agent.run(({ lock }, sessionFile) => {
      lock.tryAcquireSessionWriteLock({ sessionFile });
      setImmediate(() => process.exit(0));
    }, sessionFile);
    await agent.ended;
    expect(existsSync(lockPath)).toBe(false);
  });
});

describe("a lock that is held", () => {
  test("is not had twice: by this environment, if it doesn't want to share", async () => {
    const { sessionFile } = newSession();
    await acquireSessionWriteLock({ sessionFile });
    expect(attempt({ sessionFile, ...LIKE_ANOTHER })).toBe(null);
    expect(attempt({ sessionFile, ...LIKE_ANOTHER })).toBe(null);
  });

  test("is not had twice: by another environment of this process", async () => {
    const { sessionFile } = newSession();
    const agent = await Agent.start();
    const [inWorker, afterwards] = await agent.run(
      async ({ lock, require }, library, sessionFile) => {
        const { Worker } = require("node:worker_threads") as typeof import("node:worker_threads");
        const { once } = require("node:events") as typeof import("node:events");
        const held = lock.tryAcquireSessionWriteLock({ sessionFile })!;
        const source = `
          const { parentPort, workerData } = require("node:worker_threads");
          const { tryAcquireSessionWriteLock } = require(workerData.library);
          const attempt = () => tryAcquireSessionWriteLock(workerData) !== null;
          parentPort.on("message", () => parentPort.postMessage(attempt()));`;
        const worker = new Worker(source, { eval: true, workerData: { library, sessionFile } });
        const attempt = async () => {
          worker.postMessage("try");
          return (await once(worker, "message"))[0];
        };
        const inWorker = await attempt();
        await held.release();
        return [inWorker, await attempt()];
      },
      root,
      sessionFile,
    );
    expect([inWorker, afterwards]).toEqual([false, true]);
  });

  for (const whose of ["the addon", "the older module"]) {
    test(`is not had twice: by another process with ${whose}`, async () => {
      const session = newSession();
      const { sessionFile, lockPath } = session;
      const holder = await Agent.start();
      await (whose === "the addon"
        ? holder.acquire({ sessionFile })
        : holder.acquireAsTypeScript({ sessionFile }));
      const text = readFileSync(lockPath, "utf8");
      for (let round = 0; round < 20; round += 1) {
        expect(attempt({ sessionFile })).toBe(null);
      }
      expect(readFileSync(lockPath, "utf8")).toBe(text);
      expect(readdirSync(session.folder)).toEqual(["chat.jsonl.lock"]);
      await holder.release(sessionFile);
      await expectFree(session);
    });

    test(`is taken over if its holder with ${whose} has died`, async () => {
      const session = newSession();
      const { sessionFile, lockPath } = session;
      const holder = await Agent.start();
      await (whose === "the addon"
        ? holder.acquire({ sessionFile })
        : holder.acquireAsTypeScript({ sessionFile }));
      await holder.kill();
      const lock = tryAcquireSessionWriteLock({ sessionFile })!;
      expect(lock.held).toBe(true);
      expect(JSON.parse(readFileSync(lockPath, "utf8"))).toMatchObject({ pid: process.pid });
      await lock.release();
      await expectFree(session);
    });
  }

  test("is taken over by one of eight processes that try at once", async () => {
    const { sessionFile } = newSession();
    const agents = await Promise.all(Array.from({ length: 8 }, () => Agent.start()));
    for (const agent of agents.slice(0, 3)) {
      // Whoever had it last time is the one that dies.
      await agent.acquire({ sessionFile }).catch(() => {});
      await agent.kill();
      const others = agents.filter(({ process }) => process.signalCode === null);
      const tries = others.map((other) =>
        other.run(({ lock, kept }, sessionFile) => {
          const held = lock.tryAcquireSessionWriteLock({ sessionFile });
          kept.set(sessionFile, held);
          return held !== null;
        }, sessionFile),
      );
      const got = await Promise.all(tries);
      // None is possible: each may have met another that was just looking.
      expect(got.filter(Boolean).length).toBeLessThanOrEqual(1);
      for (const [index, other] of others.entries()) {
        if (got[index]) {
          await other.release(sessionFile);
        }
      }
    }
  });

  test("by nobody who can be known is respected while it is fresh", () => {
    const { sessionFile, lockPath } = newSession();
    writeFileSync(lockPath, "");
    expect(attempt({ sessionFile })).toBe(null);
    expect(readFileSync(lockPath, "utf8")).toBe("");
  });
});

describe("re-entrancy", () => {
  test("shares a lock of this environment, and the file goes with the last release", async () => {
    const { sessionFile, lockPath } = newSession();
    const first = await acquireSessionWriteLock({ sessionFile });
    const second = tryAcquireSessionWriteLock({ sessionFile })!;
    const third = await acquireSessionWriteLock({ sessionFile });
    await first.release();
    await third.release();
    expect([first.held, second.held, third.held]).toEqual([false, true, false]);
    await second.release();
    expect(existsSync(lockPath)).toBe(false);
  });

  test("shares it also while others wait for it", async () => {
    const { sessionFile } = newSession();
    const first = tryAcquireSessionWriteLock({ sessionFile })!;
    const agent = await Agent.start();
    const waiting = agent.acquire({ sessionFile });
    await agent.run(() => {});
    const second = tryAcquireSessionWriteLock({ sessionFile })!;
    expect(second.held).toBe(true);
    await first.release();
    await second.release();
    await waiting;
  });

  test("does not share a lock whose file is gone", async () => {
    const { sessionFile, lockPath } = newSession();
    const lost = tryAcquireSessionWriteLock({ sessionFile })!;
    readFileSync(lockPath); // it was there
    const other = await Agent.start();
    await other.run(({ require }, lockPath) => require("node:fs").unlinkSync(lockPath), lockPath);
    const next = tryAcquireSessionWriteLock({ sessionFile })!;
    expect([lost.held, next.held]).toEqual([false, true]);
    await lost.release();
    expect(next.held).toBe(true);
  });
});

describe("an attempt", () => {
  test("takes nothing from those who wait, and waits for none of them", async () => {
    const session = newSession();
    const { sessionFile } = session;
    const held = await acquireSessionWriteLock({ sessionFile });
    const served: number[] = [];
    const waiting = Array.from({ length: 20 }, async (_, number) => {
      const { release } = await acquireSessionWriteLock({ sessionFile, ...LIKE_ANOTHER });
      served.push(number);
      // Held by one who has waited: not to be had either.
      expect(attempt({ sessionFile, ...LIKE_ANOTHER })).toBe(null);
      await release();
    });
    expect(attempt({ sessionFile, ...LIKE_ANOTHER })).toBe(null);
    await held.release();
    await Promise.all(waiting);
    expect(served).toEqual(Array.from({ length: 20 }, (_, number) => number));
    await expectFree(session);
  });

  test("excludes as well as a wait does: no update is lost between processes that only try", async () => {
    const { sessionFile } = newSession();
    writeFileSync(sessionFile, "0");
    const agents = await Promise.all(Array.from({ length: 4 }, () => Agent.start()));
    const each = 100;
    await Promise.all(agents.map((agent) => agent.run(countUp, sessionFile, each)));
    expect(readFileSync(sessionFile, "utf8")).toBe(String(agents.length * each));

    async function countUp({ lock, require }: Tools, sessionFile: string, count: number) {
      const fs = require("node:fs") as typeof import("node:fs");
      for (let done = 0; done < count; ) {
        const held = lock.tryAcquireSessionWriteLock({ sessionFile, allowReentrant: false });
        if (held) {
          fs.writeFileSync(sessionFile, String(Number(fs.readFileSync(sessionFile, "utf8")) + 1));
          await held.release();
          done += 1;
        }
        await new Promise(setImmediate);
      }
    }
  });

  test("with wrong arguments throws a TypeError", () => {
    const { folder, sessionFile } = newSession();
    const wrong: [unknown, string][] = [
      [undefined, "ERR_INVALID_ARG_TYPE"],
      [null, "ERR_INVALID_ARG_TYPE"],
      [sessionFile, "ERR_INVALID_ARG_TYPE"],
      [{}, "ERR_INVALID_ARG_TYPE"],
      [{ sessionFile: 1 }, "ERR_INVALID_ARG_TYPE"],
      [{ sessionFile: "" }, "ERR_INVALID_ARG_VALUE"],
      [{ sessionFile: "/" }, "ERR_INVALID_ARG_VALUE"],
      [{ sessionFile: `${sessionFile}\0` }, "ERR_INVALID_ARG_VALUE"],
      [{ sessionFile, staleMs: "1" }, "ERR_INVALID_ARG_TYPE"],
      [{ sessionFile, maxHoldMs: {} }, "ERR_INVALID_ARG_TYPE"],
      [{ sessionFile, allowReentrant: 1 }, "ERR_INVALID_ARG_TYPE"],
    ];
    for (const [options, code] of wrong) {
      const error = attempt(options as AcquireOptions);
      expect(error, JSON.stringify(options)).toBeInstanceOf(TypeError);
      expect(error).toMatchObject({ code });
    }
    expect(readdirSync(folder)).toEqual([]);
  });

  test("where the system refuses throws what it said", () => {
    const { folder, sessionFile } = newSession();
    const tooLong = path.join(folder, "x".repeat(300));
    expect(attempt({ sessionFile: tooLong })).toMatchObject({ code: "ENAMETOOLONG" });
    writeFileSync(sessionFile, "");
    const inFile = path.join(sessionFile, "chat.jsonl");
    const error = attempt({ sessionFile: inFile });
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({ code: expect.stringMatching(/^(ENOTDIR|EEXIST)$/) });
    expect((error as NodeJS.ErrnoException).path).toContain(sessionFile);
    expect(readdirSync(folder)).toEqual(["chat.jsonl"]);
  });

  test("where something else than a file stands throws, and leaves it there", () => {
    const { folder, sessionFile, lockPath } = newSession();
    mkdirSync(lockPath);
    const code = "OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE";
    expect(attempt({ sessionFile })).toMatchObject({ code, path: lockPath });
    const other = path.join(folder, "other.jsonl");
    symlinkSync("/nowhere", `${other}.lock`);
    expect(attempt({ sessionFile: other })).toMatchObject({ code, path: `${other}.lock` });
    expect(readdirSync(folder).sort()).toEqual(["chat.jsonl.lock", "other.jsonl.lock"]);
  });

  testWith("another user")("in a folder that may not be written to throws EACCES", async () => {
    const { folder, sessionFile } = newSession();
    chmodSync(folder, 0o755);
    const agent = await Agent.start({ through: asAnotherUser });
    const attempts = ({ lock }: Tools, sessionFile: string) => {
      lock.tryAcquireSessionWriteLock({ sessionFile });
    };
    await expect(agent.run(attempts, sessionFile)).rejects.toMatchObject({ code: "EACCES" });
    expect(readdirSync(folder)).toEqual([]);
  });

  test("leaves no threads or descriptors", async () => {
    const { sessionFile } = newSession();
    await acquireSessionWriteLock({ sessionFile });
    const before = readdirSync("/proc/self/fd").length;
    for (let round = 0; round < 500; round += 1) {
      tryAcquireSessionWriteLock({ sessionFile, ...LIKE_ANOTHER });
    }
    expect(readdirSync("/proc/self/fd").length).toBeLessThanOrEqual(before);
  });
});
