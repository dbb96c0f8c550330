/**
 * What others do to the paths of a lock: files of other users, leases, guards and temporaries that are
 * left behind, dates that can't be, and two mounts of one folder.
 */

import { spawn } from "node:child_process";
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";

import { Mounts, startNobody } from "./machines.js";
import { inject, trace } from "./strace.js";
import {
  Agent,
  attempt,
  DEAD_PID,
  DEAD_RECORDS,
  footprint,
  newSession,
  refusal,
  temporaryFolder,
  testWith,
  type Tools,
  until,
  untilAsleep,
} from "./support.js";

const rootTest = testWith("root");

const TIMEOUT = { code: "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT" };
const GUARDED = "OPENCLAW_SESSION_WRITE_LOCK_GUARDED";

/** Well above what a look now and then takes, and well below the 30 s after which age counts. */
const BOUNDED_MS = 5_000;

async function expectWithin(ms: number, work: Promise<unknown>): Promise<void> {
  const startedAt = performance.now();
  await work;
  expect(performance.now() - startedAt).toBeLessThan(ms);
}

// --- Another user's file ---------------------------------------------------------------------------

/** Every way by which a dead file at the path is done away with. `inspect` sees our lock, if there is one. */
const WAYS: Record<string, (agent: Agent, sessionFile: string, inspect: () => void) => Promise<void>> = {
  acquire: async (agent, sessionFile, inspect) => {
    await agent.acquire({ sessionFile, timeoutMs: 1_000 });
    inspect();
    await agent.release(sessionFile);
  },
  tryAcquire: async (agent, sessionFile, inspect) => {
    const isHeld = await agent.run(({ lock, kept }, sessionFile) => {
      kept.set(sessionFile, lock.tryAcquireSessionWriteLock({ sessionFile }));
      return kept.get(sessionFile) !== null;
    }, sessionFile);
    expect(isHeld).toBe(true);
    inspect();
    await agent.release(sessionFile);
  },
  sweep: async (agent, sessionFile) => {
    const cleaned = await agent.run(async ({ lock }, sessionsDir) => {
      const result = await lock.cleanStaleLockFiles({ sessionsDir });
      return result.cleaned.length;
    }, path.dirname(sessionFile));
    expect(cleaned).toBe(1);
  },
};

for (const [who, start] of [["root", () => Agent.start()], ["nobody", startNobody]] as const) {
  rootTest(`a file of another user at the lock path is replaced by ${who}, never written into`, async () => {
    const agent = await start();
    for (const content of ["", "precious", "!precious", ...Object.values(DEAD_RECORDS)]) {
      for (const [how, way] of Object.entries(WAYS)) {
        const what = `${how}: ${content}`;
        const { folder, sessionFile, lockPath } = newSession();
        chmodSync(folder, 0o777);
        writeFileSync(lockPath, content);
        chmodSync(lockPath, 0o666);
        chownSync(lockPath, 1_000, 1_000);
        utimesSync(lockPath, 1, 1);
        const file = openSync(lockPath, "r"); // leads to that file, whatever becomes of its name
        const before = fstatSync(file);
        await way(agent, sessionFile, () => {
          const ours = statSync(lockPath);
          expect(ours.ino, what).not.toBe(before.ino);
          expect(ours.mode & 0o777, what).toBe(0o600);
          expect(ours.uid, what).toBe(who === "root" ? 0 : 65_534);
        });
        const { mode, uid, gid, size, mtimeMs } = fstatSync(file);
        expect({ mode, uid, gid, size, mtimeMs }, what).toEqual({
          mode: before.mode,
          uid: 1_000,
          gid: 1_000,
          size: content.length,
          mtimeMs: 1_000,
        });
        const text = Buffer.alloc(content.length);
        readSync(file, text, 0, text.length, 0);
        expect(text.toString(), what).toBe(content);
        closeSync(file);
        expect(existsSync(lockPath), what).toBe(false);
      }
    }
  });
}

// --- Two mounts of one folder -------------------------------------------------------------------------

const bindfsTest = testWith("root", "mounts", "bindfs");

/** Takes the lock `rounds` times; a second process inside could not make the folder. */
async function enter(
  { lock, require }: Tools,
  sessionFile: string,
  witness: string,
  rounds: number,
): Promise<void> {
  const fs = require("node:fs");
  for (let round = 0; round < rounds; round += 1) {
    const held = await lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 30_000 });
    fs.mkdirSync(witness);
    await new Promise((resolve) => setImmediate(resolve));
    fs.rmdirSync(witness);
    await held.release();
  }
}

/** A folder that is seen through bindfs too. */
async function mountBindfs() {
  const mounts = await Mounts.start();
  const { upper } = mounts.layers();
  await mounts.serve("bindfs", "-f", upper, mounts.folder);
  const beneath = path.join(upper, "chat.jsonl");
  return { mounts, beneath, through: mounts.sessionFile, view: mounts.view };
}

// An older build promised a flock in the record, which nobody can see beneath the mount.
for (const from of ["through", "beneath"] as const) {
  const other = from === "through" ? "beneath" : "through";
  bindfsTest(`a lock that is taken ${from} a FUSE mount is respected ${other} it until its holder dies`, async () => {
    const scene = await mountBindfs();
    const [holder, contender] = await Promise.all([scene.mounts.agent(), scene.mounts.agent()]);
    for (const acquire of ["acquire", "acquireAsTypeScript"] as const) {
      await holder[acquire]({ sessionFile: scene[from] });
      expect(await refusal(contender, { sessionFile: scene[other], timeoutMs: 300 })).toMatchObject({
        ...TIMEOUT,
        holder: { pid: holder.pid },
      });
      const waiting = contender.acquire({ sessionFile: scene[other] });
      await contender.run(() => true);
      await holder.release(scene[from]);
      await expectWithin(BOUNDED_MS, waiting);
      await contender.release(scene[other]);
    }
    await holder.acquire({ sessionFile: scene[from] });
    const waiting = contender.acquire({ sessionFile: scene[other] });
    await contender.run(() => true);
    await holder.kill();
    await expectWithin(BOUNDED_MS, waiting);
    await contender.release(scene[other]);
    await until("nothing is left", () => readdirSync(scene.view).length === 0);
  });
}

bindfsTest("processes on both sides of a FUSE mount exclude each other", async () => {
  const { mounts, beneath, through, view } = await mountBindfs();
  const agents = await Promise.all(Array.from({ length: 4 }, () => mounts.agent()));
  const sides = [beneath, through, beneath, through];
  const inside = `${beneath}.inside`;
  await Promise.all(agents.map((agent, index) => agent.run(enter, sides[index]!, inside, 10)));
  await until("nothing is left", () => readdirSync(view).length === 0);
});

testWith("root", "mounts", "bindfs", "strace")(
  "a lock file that could not be removed on a FUSE mount is removed a moment later, while its process lives on",
  async () => {
    const { mounts, through, view } = await mountBindfs();
    const [agent, other] = await Promise.all([mounts.agent(), mounts.agent()]);
    const release = async () => {
      await agent.acquire({ sessionFile: through });
      const detach = await trace(agent, ...inject("?unlink,unlinkat", "error=EIO"));
      await expect(agent.release(through)).rejects.toMatchObject({ code: "EIO", syscall: "unlink" });
      await detach();
    };
    const sweep = async () => {
      const dead = await mounts.agent();
      await dead.acquire({ sessionFile: through });
      await dead.kill();
      const detach = await trace(agent, ...inject("?unlink,unlinkat", "error=EIO"));
      const sweep = ({ lock }: Tools, sessionsDir: string) => lock.cleanStaleLockFiles({ sessionsDir });
      const { locks } = await agent.run(sweep, path.dirname(through));
      expect(locks).toMatchObject([{ pid: dead.pid, removed: false }]);
      await detach();
    };
    for (const leave of [release, sweep]) {
      await leave();
      expect(readdirSync(view)).toContain("chat.jsonl.lock");
      for (const next of [other, agent]) {
        await expectWithin(BOUNDED_MS, next.acquire({ sessionFile: through, timeoutMs: BOUNDED_MS }));
        await next.release(through);
      }
      await until("nothing is left", () => readdirSync(view).length === 0);
    }
  },
);

// --- Temporaries --------------------------------------------------------------------------------------

bindfsTest("a temporary whose maker is dead does not keep anybody out on a FUSE mount", async () => {
  const { mounts, through, view } = await mountBindfs();
  const agent = await mounts.agent();
  const temporary = path.join(view, "chat.jsonl.lock.new");
  const records = [
    ...Object.values(DEAD_RECORDS),
    JSON.stringify({ pid: DEAD_PID, createdAt: new Date().toISOString(), token: "t" }),
  ];
  for (const record of records) {
    for (const dead of [undefined, record]) {
      writeFileSync(temporary, record);
      if (dead) {
        writeFileSync(path.join(view, "chat.jsonl.lock"), dead);
      }
      await expectWithin(BOUNDED_MS, agent.acquire({ sessionFile: through, timeoutMs: BOUNDED_MS }));
      await agent.release(through);
      await until("nothing is left", () => readdirSync(view).length === 0);
    }
  }
});

bindfsTest("a temporary that a living process could not remove keeps nobody out for longer than 30 s on a FUSE mount", async () => {
  const { mounts, through, view } = await mountBindfs();
  const [maker, other] = await Promise.all([mounts.agent(), mounts.agent()]);
  const [lockFile, temporary] = ["chat.jsonl.lock", "chat.jsonl.lock.new"].map((name) => path.join(view, name));
  await maker.acquire({ sessionFile: through });
  const record = JSON.parse(readFileSync(lockFile!, "utf8"));
  await maker.release(through);
  const leftAgo = (ms: number) =>
    writeFileSync(temporary!, JSON.stringify({ ...record, createdAt: new Date(Date.now() - ms).toISOString() }));
  for (const agent of [maker, other]) {
    leftAgo(10_000);
    expect(await agent.run(attempt, through)).toBe(false);
    leftAgo(31_000);
    await expectWithin(BOUNDED_MS, agent.acquire({ sessionFile: through, timeoutMs: BOUNDED_MS }));
    await agent.release(through);
    await until("nothing is left", () => readdirSync(view).length === 0);
  }
});

bindfsTest("a lock of a machine whose clock is behind is not old before it is by the file system's clock, on a FUSE mount", async () => {
  const { mounts, through, view } = await mountBindfs();
  const agent = await mounts.agent();
  const lockFile = path.join(view, "chat.jsonl.lock");
  await agent.acquire({ sessionFile: through });
  const record = JSON.parse(readFileSync(lockFile, "utf8"));
  await agent.release(through);
  const hourAgo = Date.now() - 3_600_000;
  const bootId = "11111111-2222-3333-4444-555555555555";
  writeFileSync(lockFile, JSON.stringify({ ...record, bootId, createdAt: new Date(hourAgo).toISOString() }));
  expect(await agent.run(attempt, through)).toBe(false);
  await until("the lock file alone is left", () => readdirSync(view).join() === "chat.jsonl.lock");
  utimesSync(lockFile, hourAgo / 1_000, hourAgo / 1_000);
  await expectWithin(BOUNDED_MS, agent.acquire({ sessionFile: through, timeoutMs: BOUNDED_MS }));
  await agent.release(through);
});

testWith("root", "mounts", "bindfs", "strace")(
  "a process that is killed before it links its temporary keeps nobody out on a FUSE mount",
  async () => {
    const { mounts, through, view } = await mountBindfs();
    const [agent, waiter] = await Promise.all([mounts.agent(), mounts.agent()]);
    for (const call of ["?link,linkat", "?unlink,unlinkat"]) {
      const victim = await mounts.agent();
      await trace(victim, ...inject(call, "signal=SIGKILL:when=1"));
      const dying = victim.acquire({ sessionFile: through }).catch(() => {});
      await victim.ended;
      await dying;
      expect(readdirSync(view)).toContain("chat.jsonl.lock.new");
      await expectWithin(BOUNDED_MS, agent.acquire({ sessionFile: through, timeoutMs: BOUNDED_MS }));
      expect(await waiter.run(attempt, through)).toBe(false);
      await agent.release(through);
      await agent.acquire({ sessionFile: through });
      await agent.release(through);
      await until(`nothing is left: ${call}`, () => readdirSync(view).length === 0);
    }
  },
);

// --- Dates that can't be ------------------------------------------------------------------------------

const AHEAD = new Date(Date.now() + 365 * 24 * 3_600_000);

/** A record from a process that nobody here can judge. */
const STRANGER = JSON.stringify({
  pid: 1,
  createdAt: AHEAD.toISOString(),
  pidNamespace: 1,
});

const unjudgeable: Record<string, (lockPath: string) => Promise<Agent>> = {
  "another user's": (lockPath) => {
    chmodSync(lockPath, 0o644);
    return startNobody();
  },
  "open for writing": (lockPath) => {
    const file = openSync(lockPath, "r+");
    onTestFinished(() => closeSync(file));
    return Agent.start();
  },
};

for (const [whose, start] of Object.entries(unjudgeable)) {
  rootTest(`a lock from the future costs its waiter nothing, however late it is stale: ${whose}`, async () => {
    const { folder, sessionFile, lockPath } = newSession();
    chmodSync(folder, 0o777);
    writeFileSync(lockPath, STRANGER);
    const agent = await start(lockPath);
    utimesSync(lockPath, AHEAD, AHEAD);
    for (const staleMs of [Number.MAX_VALUE, Number.MAX_SAFE_INTEGER, 2 ** 63, 2 ** 64]) {
      const { code, afterMs, cpuMs } = await refusal(agent, { sessionFile, timeoutMs: 500, staleMs });
      expect(code).toBe(TIMEOUT.code);
      expect(afterMs).toBeGreaterThanOrEqual(495);
      expect(afterMs).toBeLessThan(1_500);
      // Sixteen looks take some milliseconds; a loop would take all 500.
      expect(cpuMs).toBeLessThan(150);
    }
    expect(readFileSync(lockPath, "utf8")).toBe(STRANGER);
  });
}

test("an empty file from the future that nobody has open is taken over", async () => {
  const { sessionFile, lockPath } = newSession();
  const agent = await Agent.start();
  writeFileSync(lockPath, "");
  utimesSync(lockPath, AHEAD, AHEAD);
  await expectWithin(BOUNDED_MS, agent.acquire({ sessionFile, timeoutMs: 10_000 }));
});

// --- Guards and leases --------------------------------------------------------------------------------

test("a guard from the future does not lock the session", async () => {
  const agent = await Agent.start();
  for (const record of [undefined, ...Object.values(DEAD_RECORDS)]) {
    const { sessionFile, lockPath } = newSession();
    if (record) {
      writeFileSync(lockPath, record);
    }
    mkdirSync(`${lockPath}.reclaim`);
    utimesSync(`${lockPath}.reclaim`, AHEAD, AHEAD);
    await agent.acquire({ sessionFile, timeoutMs: 1 });
    await agent.release(sessionFile);
  }
});

test("a fresh guard is waited for, and the error at the deadline names it", async () => {
  const agent = await Agent.start();
  for (const record of [undefined, ...Object.values(DEAD_RECORDS)]) {
    const { sessionFile, lockPath } = newSession();
    if (record) {
      writeFileSync(lockPath, record);
    }
    const guard = `${lockPath}.reclaim`;
    mkdirSync(guard);
    const failure = await refusal(agent, { sessionFile, timeoutMs: 100 });
    expect(failure).toMatchObject({ ...TIMEOUT, cause: { code: GUARDED, path: guard } });
    const waiting = agent.acquire({ sessionFile });
    rmSync(guard, { recursive: true });
    await waiting;
    await agent.release(sessionFile);
  }
});

/** Takes a write lease on the file that it is given, says so, and never gives it back. */
const LEASE_HOLDER = `
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("leased", flush=True)
sys.stdin.read()
`;

testWith("python3")("a file that somebody has a lease on counts as alive, and the error says so", async () => {
  const agent = await Agent.start();
  for (const record of Object.values(DEAD_RECORDS)) {
    const { folder, sessionFile, lockPath } = newSession();
    writeFileSync(lockPath, record);
    const holder = spawn("python3", ["-c", LEASE_HOLDER, lockPath], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    onTestFinished(() => void holder.kill("SIGKILL"));
    await new Promise((resolve) => holder.stdout.once("data", resolve));
    const { cause, ...failure } = await refusal(agent, { sessionFile, timeoutMs: 200 });
    expect(failure).toMatchObject({ ...TIMEOUT, owner: "owner=unknown" });
    expect(cause).toMatchObject({ code: "EAGAIN", syscall: "open", path: lockPath });
    expect(cause!.message).toMatch(/lease/);
    expect(cause!.message).not.toMatch(/thread/);
    const waiting = agent.acquire({ sessionFile });
    await agent.run(() => true);
    holder.kill("SIGKILL");
    await expectWithin(BOUNDED_MS, waiting);
    await agent.release(sessionFile);
    await until("nothing is left", () => readdirSync(folder).length === 0);
  }
});
