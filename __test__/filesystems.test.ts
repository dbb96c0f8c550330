/**
 * What disks and folders do to a lock: the whole cycle on every file system that this machine can
 * make, and every refusal. Mounts live in a mount namespace of their own, which ends with the
 * process that keeps it; so nothing is left behind, whatever becomes of the test.
 */

import {
  chmodSync,
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";

import { acquireSessionWriteLock } from "../index.js";
import { FILE_SYSTEMS, freeDescriptor, lackFor, Mounts, startExhausted, startNobody } from "./machines.js";
import {
  Agent,
  attempt,
  DEAD_RECORDS,
  newSession,
  skipAloud,
  succeeds,
  temporaryFolder,
  testWith,
  type Tools,
  until,
} from "./support.js";

const rootTest = testWith("root");
const mountTest = testWith("root", "mounts");

const TIMEOUT = { code: "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT" };
const NOT_A_FILE = "OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE";

/** Generous beside what a call takes, short beside a wait for something that never comes. */
const QUICK_MS = 3_000;

// --- The whole cycle -----------------------------------------------------------------------------

/** Takes the lock `rounds` times; a second process inside could not create the witness. */
async function enter({ lock, require }: Tools, sessionFile: string, rounds: number): Promise<void> {
  const fs = require("node:fs");
  for (let round = 0; round < rounds; round += 1) {
    const held = await lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 60_000 });
    fs.closeSync(fs.openSync(`${sessionFile}.inside`, "wx"));
    fs.appendFileSync(sessionFile, "x");
    fs.unlinkSync(`${sessionFile}.inside`);
    await held.release();
  }
}

for (const [name, fileSystem] of Object.entries(FILE_SYSTEMS)) {
  const title = `on ${name} a lock is taken, waited for, taken over and given back`;
  const lack = lackFor(fileSystem);
  if (lack) {
    skipAloud(title, lack);
    continue;
  }
  mountTest(title, async () => {
    const mounts = await Mounts.start();
    await fileSystem.mount(mounts);
    const { sessionFile } = mounts;
    const files = () => readdirSync(mounts.view).filter((name) => name.startsWith("chat.")).sort();
    const agents = await Promise.all(Array.from({ length: 8 }, () => mounts.agent()));
    const [first, second] = agents as [Agent, Agent];

    const rounds = 8;
    await Promise.all(agents.map((agent) => agent.run(enter, sessionFile, rounds)));
    expect(readFileSync(path.join(mounts.view, "chat.jsonl"), "utf8")).toHaveLength(8 * rounds);
    // Whoever waited leaves the queue a moment after its release.
    await until("only the session is left", () => files().length === 1);
    expect(files()).toEqual(["chat.jsonl"]);

    // Live locks of either module stand.
    for (const acquire of ["acquire", "acquireAsTypeScript"] as const) {
      await first[acquire]({ sessionFile });
      expect(await second.run(attempt, sessionFile)).toBe(false);
      await first.release(sessionFile);
      // As above, after its time-out.
      await until("only the session is left", () => files().length === 1);
      expect(files()).toEqual(["chat.jsonl"]);
    }

    // The dead of either module are replaced at once, by one of eight.
    for (const acquire of ["acquire", "acquireAsTypeScript"] as const) {
      const victim = await mounts.agent();
      await victim[acquire]({ sessionFile });
      await victim.kill();
      const lockPath = path.join(mounts.view, "chat.jsonl.lock");
      const record = readFileSync(lockPath);
      for (let round = 0; round < 10; round += 1) {
        writeFileSync(lockPath, record);
        const won = await Promise.all(agents.map((agent) => agent.run(attempt, sessionFile)));
        expect(won.filter(Boolean), `${acquire}, round ${round}`).toHaveLength(1);
        await agents[won.indexOf(true)]!.release(sessionFile);
        expect(files()).toEqual(["chat.jsonl"]);
      }
    }
  });
}

// --- Full and read-only disks ----------------------------------------------------------------------

/** Writes until not a byte more goes in. Resolves with a function that frees the space. */
function fill(folder: string): () => void {
  const filler = path.join(folder, "filler");
  const file = openSync(filler, "w");
  for (let chunk = 1024 * 1024; chunk >= 1; ) {
    try {
      writeSync(file, Buffer.alloc(chunk));
    } catch (error: any) {
      expect(error.code).toBe("ENOSPC");
      chunk = Math.floor(chunk / 2);
    }
  }
  closeSync(file);
  const more = fillWithFiles(folder, "x");
  return () => {
    unlinkSync(filler);
    more();
  };
}

/** As many files as there can be, with `text` in each. */
function fillWithFiles(folder: string, text = ""): () => void {
  const made: string[] = [];
  for (;;) {
    const file = path.join(folder, `filler-${made.length}`);
    try {
      writeFileSync(file, text);
    } catch (error: any) {
      expect(error.code).toBe("ENOSPC");
      rmSync(file, { force: true }); // made, and not written
      return () => made.forEach((file) => unlinkSync(file));
    }
    made.push(file);
  }
}

const FULL: Record<string, { mount(mounts: Mounts): void; fill: typeof fill }> = {
  "a tmpfs without space": { mount: (mounts) => mounts.tmpfs("-o", "size=1m"), fill },
  "a tmpfs without inodes": {
    mount: (mounts) => mounts.tmpfs("-o", "nr_inodes=10"),
    fill: fillWithFiles,
  },
  "an ext4 without space": { mount: (mounts) => mounts.image(4, "mkfs.ext4", "-q"), fill },
};

for (const [name, { mount, fill }] of Object.entries(FULL)) {
  mountTest(`${name} refuses with ENOSPC, keeps no litter, and works again when there is space`, async () => {
    const mounts = await Mounts.start();
    mount(mounts);
    const { sessionFile } = mounts;
    const agent = await mounts.agent();
    const lockFiles = () => readdirSync(mounts.view).filter((name) => name.startsWith("chat."));
    const lockPath = path.join(mounts.view, "chat.jsonl.lock");

    let free = fill(mounts.view);
    await expect(agent.acquire({ sessionFile })).rejects.toMatchObject({
      code: "ENOSPC",
      syscall: expect.any(String),
      path: expect.stringContaining(sessionFile),
    });
    expect(lockFiles()).toEqual([]);
    free();
    await agent.acquire({ sessionFile });

    // Giving back needs no space.
    free = fill(mounts.view);
    await agent.release(sessionFile);
    expect(lockFiles()).toEqual([]);
    free();

    const empty = statfsSync(mounts.view).bfree;
    for (const [whose, record] of Object.entries(DEAD_RECORDS)) {
      // The last close of a file that was removed gives its space back, whenever that is.
      await until("the disk is empty", () => statfsSync(mounts.view).bfree === empty);
      writeFileSync(lockPath, record);
      free = fill(mounts.view);
      await expect(agent.acquire({ sessionFile }), whose).rejects.toMatchObject({ code: "ENOSPC" });
      expect(lockFiles(), whose).toEqual(["chat.jsonl.lock"]);
      expect(readFileSync(lockPath, "utf8"), whose).toBe(record);
      free();
      await agent.acquire({ sessionFile, timeoutMs: 1 });
      await agent.release(sessionFile);
      expect(lockFiles(), whose).toEqual([]);
    }
  });
}

mountTest("a read-only disk refuses with EROFS and works again when it can be written", async () => {
  const mounts = await Mounts.start();
  mounts.tmpfs();
  const { sessionFile } = mounts;
  const agent = await mounts.agent();
  const lockPath = path.join(mounts.view, "chat.jsonl.lock");
  const remount = (how: string) => mounts.run("mount", "-o", `remount,${how}`, mounts.folder);

  remount("ro");
  await expect(agent.acquire({ sessionFile })).rejects.toMatchObject({ code: "EROFS" });
  const inside = path.join(mounts.folder, "missing", "chat.jsonl");
  await expect(agent.acquire({ sessionFile: inside })).rejects.toMatchObject({ code: "EROFS" });
  remount("rw");
  for (const record of Object.values(DEAD_RECORDS)) {
    writeFileSync(lockPath, record);
    remount("ro");
    await expect(agent.acquire({ sessionFile })).rejects.toMatchObject({ code: "EROFS" });
    remount("rw");
    expect(readFileSync(lockPath, "utf8")).toBe(record);
    await agent.acquire({ sessionFile, timeoutMs: 1 });
    await agent.release(sessionFile);
    expect(readdirSync(mounts.view)).toEqual([]);
  }
});

// --- Rights and limits ----------------------------------------------------------------------------

rootTest("a folder that may not be written refuses with EACCES", async () => {
  const { folder, sessionFile } = newSession();
  const nobody = await startNobody();
  chmodSync(folder, 0o755);
  await expect(nobody.acquire({ sessionFile })).rejects.toMatchObject({
    code: "EACCES",
    path: expect.stringContaining(folder),
  });
  chmodSync(folder, 0o700);
  await expect(nobody.acquire({ sessionFile })).rejects.toMatchObject({ code: "EACCES" });
  expect(readdirSync(folder)).toEqual([]);
});

rootTest("a lock file that may not be read is waited for, and the error says so", async () => {
  const { folder, sessionFile, lockPath } = newSession();
  chmodSync(folder, 0o777);
  const nobody = await startNobody();
  const lock = await acquireSessionWriteLock({ sessionFile });
  expect(lstatSync(lockPath).mode & 0o777).toBe(0o600);
  // An error's cause doesn't travel between processes by itself.
  const failure = await nobody.run(async ({ lock }, sessionFile) => {
    const error: any = await lock
      .acquireSessionWriteLock({ sessionFile, timeoutMs: 50 })
      .catch((error) => error);
    return { ...error, cause: { ...error.cause } };
  }, sessionFile);
  expect(failure).toMatchObject({
    ...TIMEOUT,
    owner: "owner=unknown",
    holder: null,
    cause: { code: "EACCES", path: lockPath },
  });
  const waiting = nobody.acquire({ sessionFile });
  await lock.release();
  await waiting;
  await nobody.release(sessionFile);
  expect(readdirSync(folder)).toEqual([]);
});

rootTest("a lock between two users excludes, and is taken over when its holder is dead", async () => {
  const { folder, sessionFile } = newSession();
  chmodSync(folder, 0o777);
  const nobody = await startNobody();
  await nobody.acquire({ sessionFile });
  await expect(acquireSessionWriteLock({ sessionFile, timeoutMs: 50 })).rejects.toMatchObject(TIMEOUT);
  await nobody.kill();
  await (await acquireSessionWriteLock({ sessionFile, timeoutMs: 1 })).release();
  expect(readdirSync(folder)).toEqual([]);
});

const limitTest = testWith("prlimit");

limitTest("a process without descriptors is refused with EMFILE, and not once it has some", async () => {
  const { folder, sessionFile, lockPath } = newSession();
  for (const record of [undefined, ...Object.values(DEAD_RECORDS)]) {
    const agent = await startExhausted();
    let refusals = 0;
    for (let acquired = false; !acquired; ) {
      if (record !== undefined) {
        writeFileSync(lockPath, record);
      }
      const before = readdirSync(folder);
      acquired = await agent.acquire({ sessionFile, timeoutMs: 1 }).then(
        () => true,
        (error) => {
          expect(error.code).toBe("EMFILE");
          return false;
        },
      );
      if (!acquired) {
        refusals += 1;
        // A dead lock may be gone by then, but nothing new is there.
        expect(before).toEqual(expect.arrayContaining(readdirSync(folder)));
        expect(refusals).toBeLessThan(20);
        await freeDescriptor(agent);
      }
    }
    expect(refusals).toBeGreaterThan(0);
    await agent.release(sessionFile);
    expect(readdirSync(folder)).toEqual([]);
  }
});

limitTest("a process that lacked descriptors at first writes whole records later", async () => {
  const { sessionFile, lockPath } = newSession();
  const [agent, other] = await Promise.all([startExhausted(), Agent.start()]);
  for (let free = 0; free < 20; free += 1) {
    await agent.acquire({ sessionFile, timeoutMs: 1 }).then(
      () => agent.release(sessionFile),
      () => {},
    );
    await freeDescriptor(agent);
  }
  await other.acquire({ sessionFile });
  const whole = Object.keys(JSON.parse(readFileSync(lockPath, "utf8")));
  await other.release(sessionFile);
  await agent.acquire({ sessionFile });
  expect(Object.keys(JSON.parse(readFileSync(lockPath, "utf8")))).toEqual(whole);
});

// --- What stands at the path -----------------------------------------------------------------------

const ODD: Record<string, (at: string) => unknown> = {
  "a folder": (at) => mkdirSync(at),
  "a symbolic link to a file": (at) => {
    writeFileSync(`${at}.target`, DEAD_RECORDS["the addon"]);
    symlinkSync(`${at}.target`, at);
  },
  "a dangling symbolic link": (at) => symlinkSync(`${at}.nowhere`, at),
  "a symbolic link to a folder": (at) => symlinkSync(path.dirname(at), at),
  "a named pipe": (at) => expect(succeeds("mkfifo", at)).toBe(true),
  "a socket": async (at) => {
    const server = createServer().listen(at);
    onTestFinished(() => void server.close());
    await new Promise((resolve) => server.once("listening", resolve));
  },
};
const ODD_FOR_ROOT: typeof ODD = {
  "a character device": (at) => expect(succeeds("mknod", at, "c", "1", "3")).toBe(true),
  "a block device": (at) => expect(succeeds("mknod", at, "b", "7", "200")).toBe(true),
};

for (const [what, make] of [...Object.entries(ODD), ...Object.entries(ODD_FOR_ROOT)]) {
  const oddTest = what in ODD ? test : rootTest;

  oddTest(`${what} where the lock file belongs is refused at once and not touched`, async () => {
    const { folder, sessionFile, lockPath } = newSession();
    await make(lockPath);
    const before = [readdirSync(folder), lstatSync(lockPath)];
    const started = performance.now();
    await expect(acquireSessionWriteLock({ sessionFile })).rejects.toMatchObject({
      code: NOT_A_FILE,
      path: lockPath,
    });
    expect(performance.now() - started).toBeLessThan(QUICK_MS);
    expect([readdirSync(folder), lstatSync(lockPath)]).toEqual(before);
  });

  oddTest(`${what} where the temporary belongs is refused at once and not touched`, async () => {
    for (const record of Object.values(DEAD_RECORDS)) {
      const { folder, sessionFile, lockPath } = newSession();
      writeFileSync(lockPath, record);
      const temporary = `${lockPath}.new`;
      await make(temporary);
      const before = [readdirSync(folder), lstatSync(temporary), readFileSync(lockPath, "utf8")];
      const started = performance.now();
      await expect(acquireSessionWriteLock({ sessionFile })).rejects.toMatchObject({
        code: NOT_A_FILE,
        path: temporary,
      });
      expect(performance.now() - started).toBeLessThan(QUICK_MS);
      expect([readdirSync(folder), lstatSync(temporary), readFileSync(lockPath, "utf8")]).toEqual(before);
      rmSync(temporary, { recursive: true });
      await (await acquireSessionWriteLock({ sessionFile })).release();
      expect(existsSync(lockPath)).toBe(false);
    }
  });
}

// --- Names and folders ------------------------------------------------------------------------------

test("names and paths that are too long are refused with ENAMETOOLONG", async () => {
  const folder = temporaryFolder();
  const names = ["n".repeat(251), "n".repeat(256), "ü".repeat(126), `${"deep/".repeat(1_000)}chat.jsonl`];
  for (const name of names) {
    await expect(
      acquireSessionWriteLock({ sessionFile: path.join(folder, name) }),
      name,
    ).rejects.toMatchObject({ code: "ENAMETOOLONG", path: expect.any(String) });
  }
  expect(readdirSync(folder)).toEqual([]);
});

for (const name of ["n".repeat(250), "ü".repeat(125), "n".repeat(247), "n".repeat(246)]) {
  const bytes = Buffer.byteLength(name);
  test(`a name of ${bytes} bytes in ${name.length} characters can be locked, waited for and taken over`, async () => {
    const folder = temporaryFolder();
    const sessionFile = path.join(folder, name);
    const [holder, waiter] = await Promise.all([Agent.start(), Agent.start()]);
    const lockPath = await holder.acquire({ sessionFile });
    expect(path.basename(lockPath)).toBe(`${name}.lock`);
    await expect(waiter.acquire({ sessionFile, timeoutMs: 20 })).rejects.toMatchObject(TIMEOUT);
    const waiting = waiter.acquire({ sessionFile });
    await holder.kill();
    await waiting;
    await waiter.release(sessionFile);
    for (const record of Object.values(DEAD_RECORDS)) {
      writeFileSync(lockPath, record);
      await waiter.acquire({ sessionFile, timeoutMs: 1 });
      await waiter.release(sessionFile);
      expect(readdirSync(folder)).toEqual([]);
    }
  });
}

test("a file where a folder should be is refused with ENOTDIR", async () => {
  const { folder, sessionFile } = newSession();
  writeFileSync(sessionFile, "transcript\n");
  for (const inside of ["chat.jsonl", "deeper/chat.jsonl"]) {
    await expect(
      acquireSessionWriteLock({ sessionFile: path.join(sessionFile, inside) }),
    ).rejects.toMatchObject({ code: "ENOTDIR" });
  }
  expect(readdirSync(folder)).toEqual(["chat.jsonl"]);
  expect(readFileSync(sessionFile, "utf8")).toBe("transcript\n");
});

test("missing folders are created, also by several at once", async () => {
  const folder = temporaryFolder();
  const sessionFile = path.join(folder, "a/b/c/chat.jsonl");
  const agents = await Promise.all([Agent.start(), Agent.start(), Agent.start()]);
  await Promise.all(agents.map((agent) => agent.run(enter, sessionFile, 1)));
  expect(readdirSync(path.dirname(sessionFile))).toEqual(["chat.jsonl"]);
});

test("two names of one folder are one lock", async () => {
  const folder = temporaryFolder();
  const real = path.join(folder, "real");
  mkdirSync(real);
  symlinkSync(real, path.join(folder, "alias"));
  const agent = await Agent.start();
  const lockPath = await agent.acquire({ sessionFile: path.join(folder, "alias", "chat.jsonl") });
  expect(lockPath).toBe(path.join(real, "chat.jsonl.lock"));
  await expect(
    acquireSessionWriteLock({ sessionFile: path.join(real, "chat.jsonl"), timeoutMs: 20 }),
  ).rejects.toMatchObject({ ...TIMEOUT, lockPath });
});
