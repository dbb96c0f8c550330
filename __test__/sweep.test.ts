/**
 * `cleanStaleLockFiles`: all locks of a folder; the dead ones go, and nobody else's. What is dead is
 * compared with what an acquire takes over; that nothing live is lost is proved beside real traffic.
 */

import { execFileSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import path from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { Worker } from "node:worker_threads";
import { describe, expect, test } from "vitest";

import {
  acquireSessionWriteLock,
  cleanStaleLockFiles,
  type CleanStaleLockFilesOptions,
  getProcessStartTime,
  isAlive,
  type SessionLockInspection,
} from "../index.js";
import { Agent, asAnotherUser, root, temporaryFolder, testWith, type Tools, until } from "./support.js";

/** Beyond the highest number that Linux can be set up to give (2^22). */
const NOBODY = 2 ** 22 + 1;

const HOUR_MS = 3_600_000;

/** How long a removal by path has no new lock to hit. */
const SETTLE_MS = 50;

const now = () => new Date().toISOString();

/** The record of a holder that is gone. */
const dead = () => ({ pid: NOBODY, createdAt: now(), witness: "flock" });

function leave(file: string, record: object | string = dead(), ageMs = 0): string {
  writeFileSync(file, typeof record === "string" ? record : JSON.stringify(record, null, 2));
  const then = (Date.now() - ageMs) / 1_000;
  utimesSync(file, then, then);
  return file;
}

/** Sweeps, and says by their names what became of the files. */
async function sweep(sessionsDir: string, options: Partial<CleanStaleLockFilesOptions> = {}) {
  const warnings: string[] = [];
  const log = { warn: (message: string) => void warnings.push(message) };
  const { locks, cleaned } = await cleanStaleLockFiles({ sessionsDir, log, ...options });
  const names = (list: SessionLockInspection[]) =>
    list.map(({ lockPath }) => path.relative(sessionsDir, lockPath));
  return { locks, cleaned, warnings, found: names(locks), removed: names(cleaned) };
}

const contents = (folder: string) => readdirSync(folder, { recursive: true }).map(String).sort();

describe("a sweep", () => {
  test("removes the dead, keeps the living, and reports both, sorted by path", async () => {
    const folder = temporaryFolder();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile: path.join(folder, "b.jsonl") });
    await holder.acquireAsTypeScript({ sessionFile: path.join(folder, "d.jsonl") });
    for (const name of ["e", "c", "a"]) {
      leave(path.join(folder, `${name}.jsonl.lock`));
    }
    const { locks, cleaned, found, removed } = await sweep(folder);
    expect(found).toEqual(["a", "b", "c", "d", "e"].map((name) => `${name}.jsonl.lock`));
    expect(removed).toEqual(["a", "c", "e"].map((name) => `${name}.jsonl.lock`));
    expect(contents(folder)).toEqual(["b.jsonl.lock", "d.jsonl.lock"]);
    expect(locks.map(({ verdict }) => verdict)).toEqual(["dead", "held", "dead", "held", "dead"]);
    expect(locks.filter(({ removed }) => removed)).toEqual(cleaned);
    expect(cleaned[0]).toMatchObject({ pid: NOBODY, removable: true, removed: true });
  });

  test("sees only files whose names end in .jsonl.lock", async () => {
    const folder = temporaryFolder();
    const others = ["a.json.lock", "a.jsonl", "a.jsonl.lock.bak", "a.jsonl.LOCK", "jsonl.lock", "a.lock.new"];
    for (const name of others) {
      leave(path.join(folder, name));
    }
    leave(path.join(folder, ".jsonl.lock"));
    expect((await sweep(folder)).found).toEqual([".jsonl.lock"]);
    expect(contents(folder)).toEqual(others.toSorted());
  });

  test("removes a lock also if its name is no text, and shows what can be shown of it", async () => {
    const folder = temporaryFolder();
    const name = Buffer.concat([Buffer.from(`${folder}/a`), Buffer.from([0xff]), Buffer.from(".jsonl.lock")]);
    writeFileSync(name, JSON.stringify(dead()));
    expect((await sweep(folder)).removed).toEqual(["a\ufffd.jsonl.lock"]);
    expect(contents(folder)).toEqual([]);
  });

  test("of a missing folder finds nothing, and doesn't create it", async () => {
    const folder = path.join(temporaryFolder(), "none");
    expect(await cleanStaleLockFiles({ sessionsDir: folder })).toEqual({ locks: [], cleaned: [] });
    symlinkSync("nowhere", folder);
    expect(await cleanStaleLockFiles({ sessionsDir: folder })).toEqual({ locks: [], cleaned: [] });
  });

  test("throws what else keeps it from reading a folder", async () => {
    const folder = temporaryFolder();
    const file = leave(path.join(folder, "file"));
    await expect(cleanStaleLockFiles({ sessionsDir: file })).rejects.toMatchObject({
      code: "ENOTDIR",
      syscall: "scandir",
      path: file,
    });
    await expect(cleanStaleLockFiles({ sessionsDir: path.join(file, "x") })).rejects.toMatchObject({
      code: "ENOTDIR",
    });
  });

  testWith("root", "another user")("skips a folder in it that can't be read, and says so", async () => {
    const folder = temporaryFolder();
    chmodSync(folder, 0o777);
    mkdirSync(path.join(folder, "closed"), { mode: 0o700 });
    const stranger = await Agent.start({ through: asAnotherUser });
    const clean = (recursive: boolean) =>
      stranger.run(
        async ({ lock, require }, folder, recursive, record) => {
          require("node:fs").writeFileSync(`${folder}/a.jsonl.lock`, JSON.stringify(record));
          const { cleaned, skipped } = await lock.cleanStaleLockFiles({ sessionsDir: folder, recursive });
          return { cleaned: cleaned.length, skipped: skipped?.map((error) => ({ ...error })) };
        },
        folder,
        recursive,
        dead(),
      );
    expect(await clean(true)).toMatchObject({
      cleaned: 1,
      skipped: [{ code: "EACCES", syscall: "scandir", path: path.join(folder, "closed") }],
    });
    expect(contents(folder)).toEqual(["closed"]);
    expect(await clean(false)).toMatchObject({ cleaned: 1 });
  });

  test("with anyName sees locks of any name by their record, and leaves other programs' files alone", async () => {
    const folder = temporaryFolder();
    leave(path.join(folder, "chat.jsonl.lock"));
    leave(path.join(folder, "config.json.lock"));
    writeFileSync(path.join(folder, "yarn.lock"), "# yarn lockfile v1\n");
    writeFileSync(path.join(folder, "package.lock"), JSON.stringify({ pid: 1 }));
    writeFileSync(path.join(folder, "empty.lock"), "");
    mkdirSync(path.join(folder, "folder.lock"));
    symlinkSync("config.json.lock", path.join(folder, "link.lock"));
    const names = async (options: object) => {
      const { locks } = await cleanStaleLockFiles({ sessionsDir: folder, removeStale: false, ...options });
      return locks.map(({ lockPath }) => path.basename(lockPath));
    };
    expect(await names({})).toEqual(["chat.jsonl.lock"]);
    expect(await names({ anyName: true })).toEqual(["chat.jsonl.lock", "config.json.lock"]);
    expect((await cleanStaleLockFiles({ sessionsDir: folder, anyName: true })).cleaned).toHaveLength(2);
    expect(contents(folder)).toEqual(["empty.lock", "folder.lock", "link.lock", "package.lock", "yarn.lock"]);
  });

  test("says how far it is", async () => {
    const folder = temporaryFolder();
    for (let number = 0; number < 300; number += 1) {
      leave(path.join(folder, `${number}.jsonl.lock`));
    }
    const seen: { done: number; total: number }[] = [];
    await cleanStaleLockFiles({ sessionsDir: folder, onProgress: (progress) => seen.push(progress) });
    expect(seen.length).toBeGreaterThan(0);
    expect(seen.every(({ total, done }) => total === 300 && done <= 300)).toBe(true);
    expect(seen.map(({ done }) => done)).toEqual(seen.map(({ done }) => done).sort((a, b) => a - b));
  });

  test("without removeStale changes nothing", async () => {
    const folder = temporaryFolder();
    const files = ["a.jsonl.lock", "a.jsonl.lock.new"].map((name) => leave(path.join(folder, name)));
    const inodes = files.map((file) => statSync(file).ino);
    const { locks, cleaned, warnings } = await sweep(folder, { removeStale: false });
    expect(locks).toMatchObject([{ verdict: "dead", removable: true, removed: false }]);
    expect([cleaned, warnings]).toEqual([[], []]);
    expect(files.map((file) => statSync(file).ino)).toEqual(inodes);
  });

  test("keeps the caller's own locks, whatever their age", async () => {
    const folder = temporaryFolder();
    const sessionFile = path.join(folder, "own.jsonl");
    const lock = await acquireSessionWriteLock({ sessionFile });
    leave(lock.lockPath, { pid: process.pid, createdAt: "2001-01-01T00:00:00Z", maxHoldMs: 1 }, HOUR_MS);
    const { locks, removed } = await sweep(folder, { staleMs: 1, nowMs: Date.now() + 1_000 * HOUR_MS });
    expect(locks).toMatchObject([{ verdict: "held", staleReasons: ["too-old", "hold-exceeded"] }]);
    expect(removed).toEqual([]);
    expect(lock.held).toBe(true);
    await lock.release();
  });

  test("keeps live locks of other processes, whatever their age and their files say", async () => {
    const folder = temporaryFolder();
    const holder = await Agent.start();
    const lockPaths = [
      await holder.acquire({ sessionFile: path.join(folder, "addon.jsonl") }),
      await holder.acquireAsTypeScript({ sessionFile: path.join(folder, "typescript.jsonl") }),
    ];
    for (const lie of ["", "{", JSON.stringify({ pid: NOBODY, createdAt: "2001-01-01T00:00:00Z" })]) {
      lockPaths.forEach((lockPath) => leave(lockPath, lie, 24 * HOUR_MS));
      const { locks, removed } = await sweep(folder, { staleMs: 1 });
      expect(locks.map(({ witnessed }) => witnessed)).toEqual(["flock", "open-for-writing"]);
      expect(removed).toEqual([]);
    }
  });

  test("takes staleMs for what only age can tell, and nowMs for the age", async () => {
    const folder = temporaryFolder();
    const holder = await Agent.start();
    const record = () => ({ pid: holder.pid, starttime: getProcessStartTime(holder.pid), createdAt: now() });
    leave(path.join(folder, "a.jsonl.lock"), record());
    expect((await sweep(folder)).locks).toMatchObject([{ verdict: "held", staleReasons: [] }]);
    const nowMs = Date.now() + 60_000;
    expect((await sweep(folder, { nowMs, staleMs: 120_000 })).removed).toEqual([]);
    const { cleaned, warnings } = await sweep(folder, { nowMs, staleMs: 30_000 });
    expect(cleaned).toMatchObject([{ staleReasons: ["too-old"], pidAlive: true }]);
    expect(warnings).toEqual([
      `removed stale session lock: ${path.join(folder, "a.jsonl.lock")} (too-old)`,
    ]);
  });

  test("keeps what is no regular file, and a folder that looks like a lock", async () => {
    const folder = temporaryFolder();
    mkdirSync(path.join(folder, "folder.jsonl.lock"));
    leave(path.join(folder, "folder.jsonl.lock/inner.jsonl.lock"));
    leave(path.join(folder, "target"));
    symlinkSync("target", path.join(folder, "link.jsonl.lock"));
    symlinkSync("target", path.join(folder, "link.jsonl.lock.new"));
    execFileSync("mkfifo", [path.join(folder, "pipe.jsonl.lock")]);
    const before = contents(folder);
    const { locks, found, removed } = await sweep(folder, { recursive: true });
    expect(found).toEqual(["folder.jsonl.lock", "link.jsonl.lock", "pipe.jsonl.lock"]);
    expect(removed).toEqual([]);
    for (const inspection of locks) {
      expect(inspection).toMatchObject({
        verdict: "unknown",
        cause: { code: "OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE", path: inspection.lockPath },
      });
    }
    expect(contents(folder)).toEqual(before);
  });

  testWith("root", "another user")("keeps what it can't read or can't remove just now, and says why", async () => {
    const folder = temporaryFolder();
    chmodSync(leave(path.join(folder, "private.jsonl.lock")), 0o600);
    chmodSync(leave(path.join(folder, "public.jsonl.lock")), 0o644);
    chmodSync(folder, 0o755);
    const stranger = await Agent.start({ through: asAnotherUser });
    const locks = await stranger.run(async ({ lock }, sessionsDir) => {
      const { locks } = await lock.cleanStaleLockFiles({ sessionsDir });
      return locks.map(({ verdict, removed, cause }) => {
        const { code, path } = cause as NodeJS.ErrnoException;
        return { verdict, removed, code, path };
      });
    }, folder);
    const [unreadable, fixed] = ["private", "public"].map((name) => path.join(folder, `${name}.jsonl.lock`));
    expect(locks).toMatchObject([
      { verdict: "unknown", removed: false, code: "EACCES", path: unreadable },
      { verdict: "dead", removed: false, code: "EACCES", path: expect.stringContaining(fixed!) },
    ]);
    expect(contents(folder)).toEqual(["private.jsonl.lock", "public.jsonl.lock"]);
  });

  test("goes into folders only if it is told to, and never through symbolic links", async () => {
    const folder = temporaryFolder();
    const elsewhere = temporaryFolder();
    leave(path.join(elsewhere, "x.jsonl.lock"));
    mkdirSync(path.join(folder, "agent/deep"), { recursive: true });
    for (const name of ["a.jsonl.lock", "agent/b.jsonl.lock", "agent/deep/c.jsonl.lock", "agent.jsonl.lock"]) {
      leave(path.join(folder, name));
    }
    symlinkSync(elsewhere, path.join(folder, "link"));
    expect((await sweep(folder)).removed).toEqual(["a.jsonl.lock", "agent.jsonl.lock"]);
    leave(path.join(folder, "agent.jsonl.lock"));
    const { found, removed } = await sweep(folder, { recursive: true });
    expect(found).toEqual(["agent.jsonl.lock", "agent/b.jsonl.lock", "agent/deep/c.jsonl.lock"]);
    expect(removed).toEqual(found);
    expect(contents(elsewhere)).toEqual(["x.jsonl.lock"]);
  });

  test("of a folder by a symbolic link reports real paths, as a lock has them", async () => {
    const folder = temporaryFolder();
    const link = path.join(temporaryFolder(), "link");
    symlinkSync(folder, link);
    leave(path.join(folder, "a.jsonl.lock"));
    const { cleaned } = await cleanStaleLockFiles({ sessionsDir: link });
    expect(cleaned.map(({ lockPath }) => lockPath)).toEqual([path.join(folder, "a.jsonl.lock")]);
  });

  test("says in the log what it removed and why, and survives a log that throws", async () => {
    const folder = temporaryFolder();
    const holder = await Agent.start();
    const fill = () => {
      leave(path.join(folder, "a.jsonl.lock"), { pid: NOBODY, createdAt: "2001-01-01T00:00:00Z" });
      const given = { ...dead(), pid: holder.pid, starttime: getProcessStartTime(holder.pid) };
      leave(path.join(folder, "b.jsonl.lock"), given);
    };
    fill();
    expect((await sweep(folder)).warnings).toEqual([
      `removed stale session lock: ${folder}/a.jsonl.lock (dead-pid, too-old)`,
      `removed stale session lock: ${folder}/b.jsonl.lock (no longer held)`,
    ]);
    fill();
    let calls = 0;
    const warn = () => {
      calls += 1;
      throw new Error("the disk of the log is full");
    };
    expect((await sweep(folder, { log: { warn } })).removed).toHaveLength(2);
    expect(calls).toBe(2);
    fill();
    expect((await sweep(folder, { log: {} })).removed).toHaveLength(2);
  });

  test("rejects wrong arguments", async () => {
    const clean = cleanStaleLockFiles as (options?: any) => Promise<unknown>;
    for (const wrong of [undefined, null, "folder", {}, { sessionsDir: 7 }]) {
      await expect(clean(wrong)).rejects.toMatchObject({ name: "TypeError", code: "ERR_INVALID_ARG_TYPE" });
    }
    for (const sessionsDir of ["", "a\0b"]) {
      await expect(clean({ sessionsDir })).rejects.toMatchObject({ code: "ERR_INVALID_ARG_VALUE" });
    }
    const options = [
      ...[{ staleMs: "1" }, { nowMs: "1" }, { removeStale: 1 }, { recursive: "no" }, { log: "x" }, { log: { warn: 1 } }],
      ...[{ anyName: "yes" }, { processes: 1 }, { onProgress: {} }],
    ];
    for (const wrong of options) {
      await expect(clean({ sessionsDir: "x", ...wrong })).rejects.toMatchObject({ code: "ERR_INVALID_ARG_TYPE" });
    }
  });
});

/** FNV-1a in 64 bits: what a temporary is called after whose lock's name leaves no room. */
function fnv1a(name: string): string {
  const hash = Buffer.from(name).reduce(
    (hash, byte) => BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100_0000_01b3n),
    0xcbf2_9ce4_8422_2325n,
  );
  return hash.toString(16).padStart(16, "0");
}

describe("abandoned temporaries", () => {
  /** A session whose lock's name leaves no room for a suffix. */
  const LONG = `${"x".repeat(243)}.jsonl`;

  test("are swept too, those with hashed names among them", async () => {
    const folder = temporaryFolder();
    leave(path.join(folder, "a.jsonl.lock.new"));
    leave(path.join(folder, "0123456789abcdef.lock.new"));
    leave(path.join(folder, "0123456789abcdeg.lock.new")); // no hash
    const { locks, warnings } = await sweep(folder);
    expect([locks, warnings]).toEqual([[], []]);
    expect(contents(folder)).toEqual(["0123456789abcdeg.lock.new"]);
  });

  test("are swept whether or not the lock that they belong to is dead as well", async () => {
    const folder = temporaryFolder();
    for (const [session, temporary] of [
      ["chat.jsonl", "chat.jsonl.lock.new"],
      [LONG, `${fnv1a(`${LONG}.lock`)}.lock.new`],
    ] as const) {
      const files = [leave(path.join(folder, `${session}.lock`)), leave(path.join(folder, temporary))];
      // What a live contender keeps open is in nobody's way to take, and in a takeover's.
      const isInUse = await Agent.start();
      await isInUse.run(({ require }, file) => void require("node:fs").openSync(file, "r+"), files[1]!);
      expect((await sweep(folder)).locks).toMatchObject([{ verdict: "dead", removed: false }]);
      expect(contents(folder)).toHaveLength(2);
      await isInUse.kill();
      expect((await sweep(folder)).removed).toEqual([`${session}.lock`]);
      expect(contents(folder)).toEqual([]);
    }
  });

  test("are kept while anybody has them: a flock, an open file", async () => {
    const folder = temporaryFolder();
    const holder = await Agent.start();
    // A lock file under that name is what a live takeover looks like.
    await holder.run(async ({ lock, kept, require }, folder) => {
      const fs = require("node:fs");
      kept.set("lock", await lock.acquireSessionWriteLock({ sessionFile: `${folder}/a.jsonl` }));
      fs.renameSync(`${folder}/a.jsonl.lock`, `${folder}/a.jsonl.lock.new`);
      kept.set("file", fs.openSync(`${folder}/b.jsonl.lock.new`, "w"));
    }, folder);
    await sweep(folder);
    expect(contents(folder)).toEqual(["a.jsonl.lock.new", "b.jsonl.lock.new"]);
    await holder.kill();
    await sweep(folder);
    expect(contents(folder)).toEqual([]);
  });
});

// --- One judgement ---------------------------------------------------------------------------------

/** Every combination of what stands in the columns. */
function product<T extends Record<string, readonly unknown[]>>(columns: T): { [K in keyof T]: T[K][number] }[] {
  return Object.entries(columns).reduce<any[]>(
    (rows, [name, values]) => rows.flatMap((row) => values.map((value) => ({ ...row, [name]: value }))),
    [{}],
  );
}

const PIDS = ["ours", "another's", "a dead one's", "a thread's", "nobody's", "missing", "garbage"] as const;
const FIELD = ["right", "wrong", "missing"] as const;
const DATES = ["fresh", "old", "invalid"] as const;

const rows = [
  ...product({
    pid: PIDS,
    starttime: FIELD,
    comm: FIELD,
    bootId: FIELD,
    witness: [undefined, "flock"] as const,
    createdAt: DATES,
    held: ["by nobody"] as const,
    written: ["just now", "long ago"] as const,
  }),
  ...product({
    pid: PIDS,
    starttime: FIELD,
    comm: ["missing"] as const,
    bootId: ["right"] as const,
    witness: [undefined, "flock"] as const,
    createdAt: DATES,
    held: ["with a flock", "open for writing"] as const,
    written: ["long ago"] as const,
  }),
];

type Row = (typeof rows)[number];

const describeRow = (row: Row) => JSON.stringify(row);

test(`sweep and acquire agree on a table of ${rows.length} lock files`, async () => {
  const [other, ended, holder] = await Promise.all([Agent.start(), Agent.start(), Agent.start()]);
  await ended.kill();
  const thread = readdirSync(`/proc/${other.pid}/task`).map(Number).find((tid) => tid !== other.pid)!;
  const bootId = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  const pids = {
    "ours": process.pid,
    "another's": other.pid,
    "a dead one's": ended.pid,
    "a thread's": thread,
    "nobody's": NOBODY,
    "missing": undefined,
    "garbage": "7",
  };
  const dates = { fresh: now(), old: "2001-01-01T00:00:00.000Z", invalid: "yesterday" };

  const recordOf = (row: Row) => {
    const pid = pids[row.pid];
    const started = (typeof pid === "number" && getProcessStartTime(pid)) || 7;
    return JSON.stringify({
      pid,
      createdAt: dates[row.createdAt],
      starttime: { right: started, wrong: started + 1, missing: undefined }[row.starttime],
      comm: { right: "node", wrong: "nobody", missing: undefined }[row.comm],
      bootId: { right: bootId, wrong: "another", missing: undefined }[row.bootId],
      witness: row.witness,
    });
  };
  /**
   * The table as a folder: session `n` is row `n`. What was written just now bears a later time, so
   * that no grace comes to its end on a slow machine.
   */
  const lay = async () => {
    const folder = temporaryFolder();
    const sessionFiles = rows.map((_, index) => path.join(folder, `${String(index).padStart(5, "0")}.jsonl`));
    const heldSo = (held: Row["held"]) => sessionFiles.filter((_, index) => rows[index]!.held === held);
    await holder.run(
      async ({ lock, require }, flocked, open) => {
        await Promise.all(flocked.map((sessionFile) => lock.acquireSessionWriteLock({ sessionFile })));
        open.forEach((sessionFile) => require("node:fs").openSync(`${sessionFile}.lock`, "w"));
      },
      heldSo("with a flock"),
      heldSo("open for writing"),
    );
    rows.forEach((row, index) =>
      leave(`${sessionFiles[index]}.lock`, recordOf(row), row.written === "just now" ? -HOUR_MS : HOUR_MS),
    );
    return { folder, sessionFiles };
  };

  const swept = await lay();
  const contended = await lay();
  const before = swept.sessionFiles.map((sessionFile) => statSync(`${sessionFile}.lock`).ino);
  const looked = await cleanStaleLockFiles({ sessionsDir: swept.folder, removeStale: false });
  const { locks } = await cleanStaleLockFiles({ sessionsDir: swept.folder });
  const acquired = await tryAll(contended.sessionFiles);

  expect(looked.locks).toHaveLength(rows.length);
  expect(locks).toHaveLength(rows.length);
  const verdicts: Record<string, number> = {};
  for (const [index, row] of rows.entries()) {
    const { verdict, removed, witnessed, staleReasons } = locks[index]!;
    if (["missing", "garbage"].includes(row.pid) && row.written === "just now" && row.held === "by nobody") {
      continue; // its grace of two seconds may come to its end between two looks
    }
    expect(removed, describeRow(row)).toBe(acquired[index]);
    expect(verdict === "dead", describeRow(row)).toBe(removed);
    // A look by itself comes to the same, and what is kept is the same file.
    expect(looked.locks[index], describeRow(row)).toMatchObject({ verdict, witnessed, staleReasons });
    const lockPath = `${swept.sessionFiles[index]}.lock`;
    expect(existsSync(lockPath) && statSync(lockPath).ino, describeRow(row)).toBe(!removed && before[index]);
    // Where a flock was promised, who has the file open may be one who only waits for it.
    const opener = row.witness ? null : "open-for-writing";
    expect(witnessed, describeRow(row)).toBe(
      { "by nobody": null, "with a flock": "flock", "open for writing": opener }[row.held],
    );
    if (witnessed !== null) {
      expect(verdict, describeRow(row)).toBe("held");
    }
    verdicts[verdict] = (verdicts[verdict] ?? 0) + 1;
  }
  // Or the table would show little.
  for (const verdict of ["held", "dead", "unknown"]) {
    expect(verdicts[verdict], verdict).toBeGreaterThan(10);
  }
}, 120_000);

/**
 * Tries each of them, in worker threads: in this process as the sweep was, but side by side, because
 * a thread is blocked for 50 ms by each dead lock.
 */
async function tryAll(sessionFiles: string[]): Promise<boolean[]> {
  const SHARE = 60;
  const source = `
    const { parentPort, workerData: [index, sessionFiles] } = require("node:worker_threads");
    const { tryAcquireSessionWriteLock } = require(index);
    parentPort.postMessage(sessionFiles.map((sessionFile) => tryAcquireSessionWriteLock({ sessionFile }) !== null));`;
  const shares = Array.from({ length: Math.ceil(sessionFiles.length / SHARE) }, async (_, share) => {
    const files = sessionFiles.slice(share * SHARE, (share + 1) * SHARE);
    const worker = new Worker(source, { eval: true, workerData: [path.join(root, "index.js"), files] });
    const [acquired] = await once(worker, "message");
    return acquired as boolean[];
  });
  return (await Promise.all(shares)).flat();
}

// --- Beside others ---------------------------------------------------------------------------------

/**
 * Has a dead lock swept, and does something while it settles. The sweep doesn't need this thread, so
 * that is blocked until the lock file says that it is ours. On a machine that is slow just then it
 * can be too late: once more.
 */
async function whileSettling<T>(record: object, folder: string, act: (lockPath: string) => T) {
  const lockPath = path.join(folder, "chat.jsonl.lock");
  for (let attempt = 1; ; attempt += 1) {
    leave(lockPath, record);
    const sweeping = sweep(folder);
    try {
      const deadline = performance.now() + 10_000;
      while (!readFileSync(lockPath, "utf8").startsWith(`{\n  "pid": ${process.pid},`)) {
        expect(performance.now()).toBeLessThan(deadline);
      }
      return { lockPath, sweeping, acted: act(lockPath) };
    } catch (error: any) {
      if (error.code !== "ENOENT" || attempt === 20) {
        throw error;
      }
      await sweeping;
    }
  }
}

describe("beside others", () => {
  /** The one is written over, the other exchanged. */
  const kinds = { "the addon": dead(), "the older module": { pid: NOBODY, createdAt: now() } };

  for (const [whose, record] of Object.entries(kinds)) {
    test(`a lock that somebody else took while it settled is not cleaned, but his: of ${whose}`, async () => {
      // What an older contender does that has read the dead record before.
      const { lockPath, sweeping, acted: fd } = await whileSettling(record, temporaryFolder(), (lockPath) => {
        rmSync(lockPath);
        return openSync(lockPath, "wx");
      });
      writeSync(fd, JSON.stringify({ pid: process.pid, createdAt: now() }));
      const { locks, removed, warnings } = await sweeping;
      expect([removed, warnings]).toEqual([[], []]);
      expect(locks).toMatchObject([{ verdict: "held", lockPath, witnessed: "open-for-writing" }]);
      expect(fstatSync(fd).ino).toBe(statSync(lockPath).ino);
      closeSync(fd);
    });

    test(`a lock that has gone while it settled is in no list: of ${whose}`, async () => {
      const { sweeping } = await whileSettling(record, temporaryFolder(), rmSync);
      expect((await sweeping).locks).toEqual([]);
    });

    test(`who waits in this process is served as soon as the dead lock has gone: of ${whose}`, async () => {
      const folder = temporaryFolder();
      const sessionFile = path.join(folder, "chat.jsonl");
      const { sweeping, acted } = await whileSettling(record, folder, () =>
        acquireSessionWriteLock({ sessionFile, timeoutMs: 5_000 }),
      );
      expect((await sweeping).removed).toEqual(["chat.jsonl.lock"]);
      const lock = await acted;
      expect(lock.held).toBe(true);
      await lock.release();
    });
  }

  test("two sweeps of one folder report each dead lock once", async () => {
    const folder = temporaryFolder();
    const names = Array.from({ length: 200 }, (_, n) => `${n}.jsonl.lock`).sort();
    names.forEach((name) => leave(path.join(folder, name)));
    const agents = await Promise.all([Agent.start(), Agent.start()]);
    const cleanOver = ({ lock }: Tools, sessionsDir: string) =>
      lock.cleanStaleLockFiles({ sessionsDir }).then(({ cleaned }) => cleaned.map(({ lockPath }) => lockPath));
    const cleaned = await Promise.all(agents.map((agent) => agent.run(cleanOver, folder)));
    expect(cleaned.flat().map((file) => path.basename(file)).sort()).toEqual(names);
    expect(contents(folder)).toEqual([]);
  });

  test("a late release of an older process is waited for: its guard keeps a dead lock", async () => {
    const folder = temporaryFolder();
    leave(path.join(folder, "chat.jsonl.lock"));
    mkdirSync(path.join(folder, "chat.jsonl.lock.reclaim"));
    expect((await sweep(folder)).locks).toMatchObject([{ verdict: "dead", removed: false }]);
    const then = Date.now() / 1_000 - 60;
    utimesSync(path.join(folder, "chat.jsonl.lock.reclaim"), then, then);
    expect((await sweep(folder)).removed).toEqual(["chat.jsonl.lock"]);
  });

  test("live traffic of eight processes loses nothing and is robbed of nothing, while holders die", async () => {
    const folder = temporaryFolder();
    const busy = Array.from({ length: 6 }, (_, n) => path.join(folder, `busy-${n}.jsonl`));
    busy.forEach((sessionFile) => writeFileSync(sessionFile, "0"));
    const [workers, sweepers] = await Promise.all([startAgents(8), startAgents(2)]);
    const sweeping = sweepers.map((agent) => agent.run(sweepUntilTold, folder));
    const rounds = 90;
    const corpse = JSON.stringify({ pid: NOBODY, createdAt: now(), witness: "flock" });
    const working = workers.map((agent, index) => agent.run(work, busy, index, rounds, corpse));

    // Meanwhile some are killed while they hold a busy session, and one that nobody else wants.
    const victims = new Map<string, number>();
    for (let death = 0; death < 12; death += 1) {
      const victim = await Agent.start();
      const quiet = path.join(folder, `quiet-${death}.jsonl`);
      await (death % 2 ? victim.acquire({ sessionFile: quiet }) : victim.acquireAsTypeScript({ sessionFile: quiet }));
      await victim.acquire({ sessionFile: busy[death % busy.length]!, timeoutMs: 60_000 });
      await victim.kill();
      victims.set(`${quiet}.lock`, victim.pid);
    }
    await Promise.all(working);
    // The last death may just have been.
    await until("every dead lock has been swept", () => !contents(folder).some((name) => name.includes(".lock")));
    writeFileSync(path.join(folder, "stop"), "");
    const cleaned = (await Promise.all(sweeping)).flat();

    const counts = busy.map((sessionFile) => Number(readFileSync(sessionFile, "utf8")));
    expect(counts.reduce((sum, count) => sum + count)).toBe(workers.length * rounds);
    const deadPids = new Set([...victims.values(), NOBODY]);
    expect(cleaned.filter(({ pid }) => !deadPids.has(pid!))).toEqual([]);
    const quiet = cleaned.filter(({ lockPath }) => lockPath.includes("quiet"));
    expect(new Map(quiet.map(({ lockPath, pid }) => [lockPath, pid]))).toEqual(victims);
    expect(quiet).toHaveLength(victims.size);
    expect(cleaned.length).toBeGreaterThan(quiet.length);
  });

  test("contenders with the older module and with the addon hold one after the other", async () => {
    const folder = temporaryFolder();
    const sessionFiles = Array.from({ length: 8 }, (_, n) => path.join(folder, `${n}.jsonl`));
    const [typescript, addon, sweeper] = (await startAgents(3)) as [Agent, Agent, Agent];
    let [swept, both, quick] = [0, 0, 0];
    // More, if by chance one of the three never came first.
    for (let round = 0; round < 20 || (Math.min(swept, quick) === 0 && round < 200); round += 1) {
      for (const sessionFile of sessionFiles) {
        leave(`${sessionFile}.lock`, round % 2 ? dead() : { pid: NOBODY, createdAt: now(), starttime: 7 });
      }
      const sweeping = sweeper.run(
        ({ lock }, sessionsDir) => lock.cleanStaleLockFiles({ sessionsDir }).then(({ cleaned }) => cleaned.length),
        folder,
      );
      // Whoever gets one keeps it until all have had their answer: two would hold at one time.
      const [older, newer] = await Promise.all([
        typescript.run(take, sessionFiles, "typescript"),
        addon.run(take, sessionFiles, "addon"),
      ]);
      swept += await sweeping;
      for (const [index, gapMs] of older.entries()) {
        // A machine that stops the older one for longer may let it remove another's lock: no
        // protocol of ours can help that, and it says nothing of the sweep.
        if (gapMs !== null && gapMs < SETTLE_MS) {
          quick += 1;
          both += Number(newer[index] !== null);
        }
      }
      await Promise.all([typescript, addon].map((agent) => agent.run(putBack)));
      // An acquire that has timed out leaves the queue a moment later.
      await until("nothing is left", () => contents(folder).length === 0);
    }
    expect(both).toBe(0);
    expect(Math.min(swept, quick)).toBeGreaterThan(0);
  });
});

function startAgents(count: number): Promise<Agent[]> {
  return Promise.all(Array.from({ length: count }, () => Agent.start()));
}

/**
 * Counts in one session after the other, under its lock. Who was in there at the same time could not
 * make the folder, and would lose a count. Every third time it goes like one that was killed, and
 * leaves a dead lock: whatever stands at the path instead of its own isn't its to remove.
 */
async function work({ lock, require }: Tools, sessionFiles: string[], start: number, rounds: number, corpse: string) {
  const fs = require("node:fs") as typeof import("node:fs");
  for (let round = 0; round < rounds; round += 1) {
    const sessionFile = sessionFiles[(start + round) % sessionFiles.length]!;
    const held = await lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 60_000 });
    fs.mkdirSync(`${sessionFile}.inside`);
    const count = Number(fs.readFileSync(sessionFile, "utf8"));
    await new Promise(setImmediate);
    fs.writeFileSync(sessionFile, String(count + 1));
    fs.rmdirSync(`${sessionFile}.inside`);
    if (!held.held) {
      throw new Error(`robbed of ${sessionFile}`);
    }
    if (round % 3 === 0) {
      fs.writeFileSync(`${sessionFile}.${process.pid}`, corpse);
      fs.renameSync(`${sessionFile}.${process.pid}`, held.lockPath);
    }
    await held.release();
  }
}

/** Sweeps again and again until there is a file `stop`. Says what it removed. */
async function sweepUntilTold({ lock, require }: Tools, sessionsDir: string) {
  const { existsSync } = require("node:fs") as typeof import("node:fs");
  const all: { lockPath: string; pid: number | null }[] = [];
  while (!existsSync(`${sessionsDir}/stop`)) {
    const { cleaned } = await lock.cleanStaleLockFiles({ sessionsDir });
    all.push(...cleaned.map(({ lockPath, pid }) => ({ lockPath, pid })));
  }
  return all;
}

/**
 * Tries to take all of them at the same time, and keeps what it gets. Says for each of these how long
 * its removals took at most, which matters of the older module's.
 */
async function take({ lock, kept, require }: Tools, sessionFiles: string[], module: string) {
  const acquire = module === "addon" ? lock.acquireSessionWriteLock : require("./typescript-lock.cjs").acquire;
  return Promise.all(
    sessionFiles.map(async (sessionFile): Promise<number | null> => {
      try {
        const held = await acquire({ sessionFile, timeoutMs: 150 });
        kept.set(sessionFile, held);
        return held.gapMs ?? 0;
      } catch (error: any) {
        if (error.code === "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT" || error.code === "LOCKED") {
          return null;
        }
        throw error;
      }
    }),
  );
}

async function putBack({ kept }: Tools): Promise<void> {
  await Promise.all([...kept.values()].map((held) => held.release()));
  kept.clear();
}

// --- Many ------------------------------------------------------------------------------------------

test("a folder of 10,000 locks leaves the event loop and other sessions as fast as before", async () => {
  const folder = temporaryFolder();
  const alive = { pid: 1, createdAt: now(), maxHoldMs: 300_000 };
  const isDead = (_: string, n: number) => n % 20 === 0;
  const files = Array.from({ length: 10_000 }, (_, n) => path.join(folder, `${String(n).padStart(5, "0")}.jsonl.lock`));
  files.forEach((file, n) => leave(file, isDead(file, n) ? dead() : alive));

  // What it takes to look at them here, in one go: some 400 ms where this was written. A sweep came to 11 ms there; with
  // all inspections handed over at once it was 45 and more.
  const lookInOneGo = () => {
    const started = performance.now();
    for (const file of files) {
      isAlive(JSON.parse(readFileSync(file, "utf8")).pid);
    }
    return performance.now() - started;
  };

  // The best of ten: the machine may have other things to do.
  let parts = { longest: 1, slowest: 1 };
  for (let attempt = 0; attempt < 10 && Math.max(parts.longest, parts.slowest) > 1 / 12; attempt += 1) {
    const inOneGo = lookInOneGo();
    const delays = monitorEventLoopDelay({ resolution: 1 });
    delays.enable();
    let isOver = false;
    const sweeping = sweep(folder).finally(() => {
      isOver = true;
    });
    const slowest = await slowestAcquire(() => isOver);
    const { found, removed } = await sweeping;
    delays.disable();
    parts = { longest: delays.max / 1e6 / inOneGo, slowest: slowest / inOneGo };
    expect(found).toEqual(files.map((file) => path.basename(file)));
    expect(removed).toEqual(files.filter(isDead).map((file) => path.basename(file)));
    files.filter(isDead).forEach((file) => leave(file));
  }
  expect(parts.longest).toBeLessThan(1 / 12);
  expect(parts.slowest).toBeLessThan(1 / 12);
}, 120_000);

/** The longest time that an acquire of a free lock takes, in folders that are new each time. */
async function slowestAcquire(isOver: () => boolean): Promise<number> {
  const folder = temporaryFolder();
  let slowest = 0;
  for (let n = 0; !isOver(); n += 1) {
    const started = performance.now();
    // A folder that nobody knows: its first look is had on the threads that sweep.
    const lock = await acquireSessionWriteLock({ sessionFile: path.join(folder, String(n), "chat.jsonl") });
    slowest = Math.max(slowest, performance.now() - started);
    await lock.release();
  }
  return slowest;
}
