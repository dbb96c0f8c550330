/**
 * The command line, as a process: what it prints, how it ends, and what becomes of locks meanwhile.
 */

import { spawn } from "node:child_process";
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";

import { getProcessStartTime, lock } from "../index.js";
import { call, CTRL_C, type Options, type Run, start } from "./program.js";
import {
  Agent,
  asAnotherUser,
  attempt,
  isOnFallback,
  newSession,
  root,
  temporaryFolder,
  testWith,
  until,
  untilAsleep,
} from "./support.js";

// --- Screens ------------------------------------------------------------------------------------

/** What differs from one run to the next goes by a name. */
function normal(text: string): string {
  return text
    .replace(/\d+( \(node\))? \/.*?(?= {2})/g, "PID$1 COMMAND")
    .replace(/\b\d+(\.\d+)? m?s\b/g, "AGE")
    .replace(/\b\d{3,}( \(node\)|(?= {2}))/g, "PID$1")
    .replace(/ {2,}/g, " | ");
}

/** Writes a lock file that nobody holds, so long ago. */
function leave(lockPath: string, record: object | string, agoMs = 0): void {
  writeFileSync(lockPath, typeof record === "string" ? record : JSON.stringify(record));
  const then = (Date.now() - agoMs) / 1_000;
  utimesSync(lockPath, then, then);
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

/** A little longer ago, so that it is still the same when it is looked at. */
function ago(ms: number): string {
  return new Date(Date.now() - ms - 2_000).toISOString();
}

/** Above the highest number that Linux gives. */
const NOBODY = 4_194_305;

/** A folder with a lock file of every kind. */
async function everyKind() {
  const { folder } = newSession();
  mkdirSync(path.join(folder, "agents"));
  const session = (name: string) => path.join(folder, `${name}.jsonl`);
  const lockPath = (name: string) => `${session(name)}.lock`;
  const [ours, older, doomed] = await Promise.all([Agent.start(), Agent.start(), Agent.start()]);
  await ours.acquire({ sessionFile: session("agents/held") });
  await ours.acquire({ sessionFile: session("overdue"), maxHoldMs: MINUTE });
  await older.acquireAsTypeScript({ sessionFile: session("older") });
  await doomed.acquire({ sessionFile: session("killed") });
  await doomed.kill();
  const overdue = JSON.parse(readFileSync(lockPath("overdue"), "utf8"));
  writeFileSync(lockPath("overdue"), JSON.stringify({ ...overdue, createdAt: ago(3 * HOUR + 5 * MINUTE) }));
  const starttime = getProcessStartTime(ours.pid)! - 1;
  leave(lockPath("another"), { pid: ours.pid, starttime, comm: "node", createdAt: ago(30 * HOUR) });
  leave(lockPath("gone"), { pid: NOBODY, createdAt: ago(72 * HOUR) });
  leave(lockPath("reboot"), { pid: ours.pid, bootId: "another", createdAt: ago(HOUR) });
  leave(lockPath("old"), "", HOUR);
  leave(lockPath("new"), "");
  leave(lockPath("maybe"), { pid: ours.pid });
  leave(lockPath("container"), { pid: 7, pidNamespace: 1, comm: "node" });
  mkdirSync(lockPath("folder"));
  return { folder, session, lockPath, ours, older };
}

const DEAD = ["another", "gone", "killed", "old", "reboot"];

const TABLE = [
  "SESSION | HOLDER | AGE | VERDICT | HOW IT IS KNOWN",
  "another.jsonl | was PID (node) | 1 d 6 h | dead | another process has its pid",
  "gone.jsonl | was PID | 3 d | dead | no such process",
  "killed.jsonl | was PID (node) | AGE | dead | nobody holds its flock",
  "old.jsonl | unknown | ? | dead | nobody has it open for writing",
  "reboot.jsonl | was PID | 1 h | dead | from before a restart of the machine",
  "agents/held.jsonl | PID (node) COMMAND | AGE | held | holds the flock",
  "older.jsonl | PID (node) COMMAND | AGE | held | has the file open for writing",
  "overdue.jsonl | PID (node) COMMAND | 3 h 5 min | held | holds the flock, past its limit of 1 min",
  "container.jsonl | unknown; its record says 7 (node) in another container | ? | unknown | nobody has it open, may be new",
  "folder.jsonl | unknown | ? | unknown | is no regular file",
  "maybe.jsonl | perhaps PID | ? | unknown | nobody has it open, may be new",
  "new.jsonl | unknown | ? | unknown | names no process, may be new",
  "",
  "12 lock files: 5 dead, 3 held, 4 unknown",
  "`session-write-lock clean` removes what is dead",
  "",
];

const NONE = "No *.jsonl.lock files in .;";

describe("status", () => {
  test("shows who holds what, since when, and how that is known; and removes nothing", async () => {
    const { folder, lockPath } = await everyKind();
    const run = await call(["status"], { cwd: folder });
    expect(normal(run.stdout).split("\n")).toEqual(TABLE);
    expect(run).toMatchObject({ code: 1, stderr: "" });
    expect(DEAD.filter((name) => !existsSync(lockPath(name)))).toEqual([]);
  });

  test("lines its columns up, whatever characters are in them", async () => {
    const { folder, sessionFile } = newSession();
    for (const name of ["a", "会話の記録", "re\u0301sume\u0301", "🔒"]) {
      leave(path.join(folder, `${name}.jsonl.lock`), { pid: NOBODY });
    }
    const { stdout } = await call(["status"], { cwd: path.dirname(sessionFile) });
    expect(stdout.split("\n").slice(0, 5)).toEqual([
      "SESSION           HOLDER       AGE  VERDICT  HOW IT IS KNOWN",
      "a.jsonl           was 4194305  ?    dead     no such process",
      "re\u0301sume\u0301.jsonl      was 4194305  ?    dead     no such process",
      "会話の記録.jsonl  was 4194305  ?    dead     no such process",
      "🔒.jsonl          was 4194305  ?    dead     no such process",
    ]);
  });

  test("lets no control character through, from a name, a record or a command line", async () => {
    const { folder, sessionFile } = newSession();
    const holder = await Agent.start({ through: ["sh", "-c", 'exec "$@" "$(printf "\\033]0;owned\\007")"', "sh"] });
    await holder.acquire({ sessionFile });
    leave(path.join(folder, "\x1b[31mred\u202e\x9b.jsonl.lock"), { pid: NOBODY, comm: "a\x1b[2J\nb" });
    for (const words of [["status"], ["clean", "--dry-run"], ["why", sessionFile], ["why", "\x1b[31mred\u202e\x9b.jsonl"]]) {
      const { stdout, stderr } = await call(words, { cwd: folder });
      expect(stdout + stderr).not.toMatch(/(?!\n)[\p{Cc}\p{Cf}]/u);
    }
    const { stdout } = await call(["status"], { cwd: folder });
    expect(stdout).toContain("\\x1b[31mred\\u{202e}\\x9b.jsonl");
    expect(stdout).toContain("4194305 (a\\x1b[2J\\x0ab)");
    const json = (await call(["status", "--json"], { cwd: folder })).stdout;
    expect(json).not.toMatch(/(?!\n)[\p{Cc}\p{Cf}]/u);
    expect(JSON.parse(json)[0].lockPath).toBe(path.join(folder, "\x1b[31mred\u202e\x9b.jsonl.lock"));
  });

  test("says so where there are no lock files", async () => {
    const { folder } = newSession();
    expect(await call(["status"], { cwd: folder })).toMatchObject({ code: 0, stdout: `${NONE} --all shows other names\n` });
    const all = await call(["status", "--all"], { cwd: folder });
    expect(all).toMatchObject({ code: 0, stdout: "No lock files in .\n" });
    expect((await call(["status", "--json"], { cwd: folder })).stdout).toBe("[]\n");
  });

  test("ends with 0 where nothing is dead", async () => {
    const { folder, sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    const run = await call(["status", folder]);
    expect(run).toMatchObject({ code: 0, stderr: "" });
    // Elsewhere than in the current folder a session goes by its whole path.
    expect(run.stdout).toMatch(`${sessionFile}  ${holder.pid} (node) `);
  });

  test("takes several folders, and counts each lock file once", async () => {
    const { folder } = await everyKind();
    const run = await call(["status", folder, path.join(folder, "agents"), "."], { cwd: folder });
    expect(run.stdout).toMatch("12 lock files: ");
  });

  test("prints JSON with these fields, in this order", async () => {
    const { folder, lockPath, ours } = await everyKind();
    const run = await call(["status", "--json", folder]);
    expect(run).toMatchObject({ code: 1, stderr: "" });
    const inspections = JSON.parse(run.stdout);
    expect(inspections).toHaveLength(12);
    const record = JSON.parse(readFileSync(lockPath("agents/held"), "utf8"));
    expect(inspections[0]).toEqual({
      lockPath: lockPath("agents/held"),
      verdict: "held",
      ground: "flock",
      witnessed: "flock",
      sharedWith: null,
      pid: ours.pid,
      pidAlive: true,
      comm: "node",
      createdAt: record.createdAt,
      ageMs: expect.any(Number),
      stale: false,
      staleReasons: [],
      removable: false,
      removed: false,
      holder: record,
      holders: [
        {
          pid: ours.pid,
          comm: "node",
          command: expect.stringContaining("agent.cjs"),
          witness: "flock",
          isWriter: true,
          isStopped: false,
        },
      ],
      waiters: [],
      writer: "running",
      cause: null,
    });
    for (const inspection of inspections) {
      expect(Object.keys(inspection)).toEqual(Object.keys(inspections[0]));
    }
    expect(inspections.filter(({ cause }: any) => cause)).toMatchObject([
      { lockPath: lockPath("folder"), cause: { code: "OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE" } },
    ]);
  });

  test("shows what can be read, says what can't be, and ends with 2", async () => {
    const { folder, sessionFile } = newSession();
    leave(`${sessionFile}.lock`, { pid: NOBODY });
    writeFileSync(sessionFile, "");
    const run = await call(["status", path.join(folder, "missing"), folder, sessionFile]);
    expect(run.code).toBe(2);
    expect(run.stdout).toMatch("1 lock file: 1 dead");
    expect(run.stderr.split("\n")).toEqual([
      expect.stringMatching(/^session-write-lock: .*missing: no such folder$/),
      expect.stringMatching(/^session-write-lock: .*chat.jsonl: not a folder; `session-write-lock why` tells about one session$/),
      "",
    ]);
  });

  testWith("another user")("names a folder that may not be read", async () => {
    const { folder } = newSession();
    const run = await call(["status", folder], { through: asAnotherUser });
    expect(run).toMatchObject({ code: 2, stdout: "" });
    expect(run.stderr).toBe(`session-write-lock: ${folder}: permission denied (EACCES)\n`);
  });

  testWith("another user")("shows the rest where a folder below may not be read, and says so once", async () => {
    const { folder, lockPath } = newSession();
    chmodSync(folder, 0o755);
    mkdirSync(path.join(folder, "closed"), { mode: 0o700 });
    leave(lockPath, { pid: NOBODY });
    chmodSync(lockPath, 0o644);
    const run = await call(["status"], { cwd: folder, through: asAnotherUser });
    expect(run).toMatchObject({
      code: 2,
      stderr: "session-write-lock: closed: permission denied (EACCES)\n",
    });
    expect(run.stdout).toMatch("1 lock file: 1 dead");
    const watch = start(["status", "--watch"], { cwd: folder, through: asAnotherUser });
    await watch.printed("1 lock file: 1 dead");
    watch.kill("SIGINT");
    expect(await watch.ended).toEqual({ code: 2, signal: null });
  });

  test("with --all shows locks of any name, and no other program's lock files", async () => {
    const { folder } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile: path.join(folder, "config.json") });
    leave(path.join(folder, "gone.txt.lock"), { pid: NOBODY, createdAt: ago(HOUR) });
    writeFileSync(path.join(folder, "yarn.lock"), "# yarn lockfile v1\n");
    const options = { cwd: folder };
    expect((await call(["status"], options)).stdout).toBe(`${NONE} --all shows other names\n`);
    const lines = normal((await call(["status", "--all"], options)).stdout).split("\n");
    expect(lines.slice(1)).toEqual([
      "gone.txt | was PID | 1 h | dead | no such process",
      "config.json | PID (node) COMMAND | AGE | held | holds the flock",
      "",
      "2 lock files: 1 dead, 1 held",
      "`session-write-lock clean --all` removes what is dead",
      "",
    ]);
    expect((await call(["clean"], options)).stdout).toBe(`${NONE} --all cleans other names\n`);
    expect((await call(["clean", "--all"], options)).stdout).toMatch("removed gone.txt: ");
    expect(readdirSync(folder).sort()).toEqual(["config.json.lock", "yarn.lock"]);
  });

  test.skipIf(isOnFallback)("says how many processes wait, where any do", async () => {
    const { folder, sessionFile } = newSession();
    const [holder, waiter] = await Promise.all([Agent.start(), Agent.start()]);
    await holder.acquire({ sessionFile });
    const waits = waiter.acquire({ sessionFile, timeoutMs: Infinity });
    await untilAsleep(waiter.pid);
    const lines = normal((await call(["status"], { cwd: folder })).stdout).split("\n");
    expect(lines.slice(0, 2)).toEqual([
      "SESSION | HOLDER | WAITING | AGE | VERDICT | HOW IT IS KNOWN",
      "chat.jsonl | PID (node) COMMAND | 1 | AGE | held | holds the flock",
    ]);
    await holder.kill();
    await waits;
  });
});

describe("on a terminal", () => {
  const testOnTerminal = testWith("a terminal of script(1)");
  const terminal = { columns: 72, rows: 12 };

  testOnTerminal("it has colours, and is no wider than that", async () => {
    const { folder } = await everyKind();
    const run = await call(["status"], { cwd: folder, terminal });
    expect(run.code).toBe(1);
    expect(run.stdout).toMatch("\x1b[1mSESSION");
    expect(run.stdout).toMatch("\x1b[32mheld\x1b[39m  ");
    expect(run.stdout).toMatch("\x1b[31mdead\x1b[39m  ");
    expect(run.stdout).toMatch("\x1b[33munknown\x1b[39m  ");
    const lines = run.stdout.replace(/\x1b\[\d+m/g, "").split("\r\n");
    expect(Math.max(...lines.map((line) => line.length))).toBe(72);
    expect(lines).toHaveLength(TABLE.length);
    const column = lines[0]!.indexOf("VERDICT");
    for (const line of lines.slice(1, 13)) {
      expect(line.slice(column - 2)).toMatch(/^ {2}(held|dead|unknown) /);
    }
  });

  testOnTerminal("it shows a label rather than the command line and the whole name of the session", async () => {
    const { folder } = newSession();
    const sessionFile = path.join(folder, "a-session-with-a-long-name.jsonl");
    const holder = await Agent.start();
    await holder.acquire({ sessionFile, label: "backup" });
    const { stdout } = await call(["status"], { cwd: folder, terminal });
    expect(stdout).toMatch(`${holder.pid} (node) [backup]`);
  });

  testOnTerminal("it has no colours with NO_COLOR", async () => {
    const { folder } = await everyKind();
    for (const words of [["status"], ["clean", "--dry-run"], ["why", "gone.jsonl"]]) {
      const run = await call(words, { cwd: folder, terminal, env: { NO_COLOR: "1" } });
      expect(run.code).toBe(1);
      expect(run.stdout).not.toContain("\x1b");
    }
  });

  testOnTerminal("a key that reaches the command anyway isn't passed on", async () => {
    const { sessionFile } = newSession();
    const source = `
      let interrupts = 0;
      process.on("SIGINT", () => console.log("interrupt " + ++interrupts));
      process.on("SIGTERM", () => process.exit(interrupts));
      setInterval(() => {}, 1e6);
      console.log("up");
    `;
    const run = start(["run", sessionFile, "--", process.execPath, "-e", source], { terminal });
    await run.printed("up");
    run.press(CTRL_C);
    await run.printed("interrupt 1");
    // Whatever was to be passed on comes before this.
    process.kill(run.pidOnTerminal(), "SIGTERM");
    expect(await run.ended).toEqual({ code: 1, signal: null });
    expect(run.stdout).not.toMatch("interrupt 2");
  });

  testOnTerminal("clean says how far it is, if there is much to do, and leaves no trace of it", async () => {
    const { folder } = newSession();
    for (let number = 0; number < 1_500; number += 1) {
      leave(path.join(folder, `${number}.jsonl.lock`), { pid: NOBODY });
    }
    const run = start(["clean"], { cwd: folder, terminal });
    await run.printed(/\rsession-write-lock: \d+ of 1500 files done\x1b\[K/);
    expect(await run.ended).toEqual({ code: 0, signal: null });
    const [, report] = run.stdout.split("files done\x1b[K\r\x1b[K");
    expect(report).toMatch(/^\x1b\[32mremoved\x1b\[39m 0.jsonl: [^]*\n1500 dead lock files removed\r\n$/);
  });

  testOnTerminal("run says whom it waits for", async () => {
    const { sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    const run = start(["run", sessionFile, "--", "true"], { terminal });
    await run.printed(`waiting for ${sessionFile}: held for `);
    await holder.release(sessionFile);
    expect(await run.ended).toEqual({ code: 0, signal: null });
  });

  describe("status --watch", () => {
    const ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l";
    const LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l";

    /** A watch that has shown its first table, which is empty. */
    async function startWatch() {
      const session = newSession();
      const run = start(["status", "--watch"], { cwd: session.folder, terminal });
      await run.printed(NONE);
      return { ...session, run };
    }

    testOnTerminal("shows what has changed, and leaves the terminal as it was", async () => {
      const { run, sessionFile } = await startWatch();
      const holder = await Agent.start();
      await holder.acquire({ sessionFile });
      await run.printed("\x1b[32mheld\x1b[39m");
      await holder.kill();
      await run.printed("\x1b[31mdead\x1b[39m");
      run.press(CTRL_C);
      expect(await run.ended).toEqual({ code: 1, signal: null });
      expect(run.stdout.startsWith(ENTER)).toBe(true);
      // Nothing is ever cleared before it is written over: that would flicker.
      expect(run.stdout).not.toContain("\x1b[2J");
      const [, left] = run.stdout.split(LEAVE);
      expect(left!.replace(/\x1b\[\d+m/g, "").split("\r\n")).toEqual([
        expect.stringMatching(/^SESSION/),
        expect.stringMatching(/^chat.jsonl .* dead {5}nobody holds its flock$/),
        "",
        "1 lock file: 1 dead",
        "`session-write-lock clean` removes what is dead",
        "",
      ]);
    });

    testOnTerminal("shows no more than there is room for", async () => {
      const { run, folder } = await startWatch();
      const before = run.stdout.length;
      for (let number = 10; number < 40; number += 1) {
        leave(path.join(folder, `${number}.jsonl.lock`), { pid: NOBODY });
      }
      // 30 locks, a title, an empty line and the sum; 12 rows, of which one is the cursor's. The sum is always shown.
      await run.printed(/… 24 more\x1b\[K\r?\n30 lock files: 30 dead/, before);
      run.press(CTRL_C);
      await run.ended;
    });

    testOnTerminal("leaves the terminal as it was when a signal ends it", async () => {
      const { run } = await startWatch();
      process.kill(run.pidOnTerminal(), "SIGTERM");
      expect(await run.ended).toEqual({ code: 128 + 15, signal: null });
      expect(run.stdout.split(LEAVE)).toHaveLength(2);
    });

    testOnTerminal("gives the terminal back while it is stopped", async () => {
      const { run } = await startWatch();
      const pid = run.pidOnTerminal();
      process.kill(pid, "SIGTSTP");
      await until("it is stopped", () => / T /.test(readFileSync(`/proc/${pid}/stat`, "utf8")));
      await until("it is back", () => {
        // Both, and again: script stops as well when what it runs does, a moment later.
        process.kill(run.process.pid!, "SIGCONT");
        process.kill(pid, "SIGCONT");
        return run.stdout.split(LEAVE).at(1)?.includes(`${ENTER}\x1b[H${NONE}`) ?? false;
      });
      run.press(CTRL_C);
      expect(await run.ended).toEqual({ code: 0, signal: null });
    });
  });
});

describe("status --watch elsewhere than on a terminal", () => {
  test("prints a new table after each change, and none for time that goes by", async () => {
    const { folder, sessionFile } = newSession();
    const run = start(["status", "--watch"], { cwd: folder });
    await run.printed(NONE);
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    await run.printed("1 lock file: 1 held\n");
    await holder.kill();
    await run.printed("1 lock file: 1 dead");
    run.kill("SIGINT");
    expect(await run.ended).toEqual({ code: 1, signal: null });
    expect(normal(run.stdout).split("\n")).toEqual([
      `${NONE} --all shows other names`,
      "",
      "SESSION | HOLDER | AGE | VERDICT | HOW IT IS KNOWN",
      "chat.jsonl | PID (node) COMMAND | AGE | held | holds the flock",
      "",
      "1 lock file: 1 held",
      "",
      "SESSION | HOLDER | AGE | VERDICT | HOW IT IS KNOWN",
      "chat.jsonl | was PID (node) | AGE | dead | nobody holds its flock",
      "",
      "1 lock file: 1 dead",
      "`session-write-lock clean` removes what is dead",
      "",
    ]);
  });

  test("prints one line of JSON for each change", async () => {
    const { folder, sessionFile } = newSession();
    const run = start(["status", "--watch", "--json"], { cwd: folder });
    await run.printed("[]\n");
    leave(`${sessionFile}.lock`, { pid: NOBODY });
    await run.printed("dead");
    run.kill("SIGTERM");
    expect(await run.ended).toEqual({ code: null, signal: "SIGTERM" });
    const lines = run.stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    expect(lines).toMatchObject([[], [{ lockPath: `${sessionFile}.lock`, verdict: "dead" }]]);
  });

  test("goes on when a folder has gone, and says so", async () => {
    const { folder } = newSession();
    const run = start(["status", "--watch", folder]);
    await run.printed("No *.jsonl.lock files in ");
    rmSync(folder, { recursive: true });
    await until("it complains", () => run.stderr.includes("no such folder"));
    mkdirSync(folder);
    leave(path.join(folder, "chat.jsonl.lock"), { pid: NOBODY });
    await run.printed("1 dead");
    run.kill("SIGINT");
    expect(await run.ended).toEqual({ code: 1, signal: null });
  });

  test("refuses at once a folder that isn't there", async () => {
    const { folder } = newSession();
    expect(await call(["status", "--watch", path.join(folder, "missing")])).toMatchObject({ code: 2, stdout: "" });
  });
});

describe("clean", () => {
  test("removes what is dead, says why, and keeps the rest", async () => {
    const { folder, session, lockPath, ours, older } = await everyKind();
    const run = await call(["clean"], { cwd: folder });
    expect(normal(run.stdout).replace(/\d{3,}/g, "PID").split("\n")).toEqual([
      "removed another.jsonl: another process has its pid, 1 d 6 h old; holder was PID (node)",
      "removed gone.jsonl: no such process, 3 d old; holder was PID",
      "removed killed.jsonl: nobody holds its flock, AGE old; holder was PID (node)",
      "removed old.jsonl: nobody has it open for writing; holder unknown",
      "removed reboot.jsonl: from before a restart of the machine, 1 h old; holder was PID",
      "kept 7: 1 held, has the file open for writing; 1 held, holds the flock; " +
        "1 held, holds the flock, past its limit of 1 min; 1 unknown, is no regular file; " +
        "1 unknown, names no process, may be new; 2 unknown, nobody has it open, may be new",
      "5 dead lock files removed",
      "",
    ]);
    expect(run).toMatchObject({ code: 0, stderr: "" });
    expect(DEAD.filter((name) => existsSync(lockPath(name)))).toEqual([]);
    expect(readdirSync(folder).filter((name) => name.includes(".lock"))).toHaveLength(6);
    await ours.release(session("agents/held"));
    await older.release(session("older"));
  });

  test("with --dry-run only says what it would remove, and ends with 1", async () => {
    const { folder, lockPath } = await everyKind();
    const run = await call(["clean", "--dry-run"], { cwd: folder });
    expect(run).toMatchObject({ code: 1, stderr: "" });
    expect(run.stdout.match(/^would remove /gm)).toHaveLength(5);
    expect(run.stdout).toMatch("\n5 dead lock files to remove\n");
    expect(DEAD.filter((name) => !existsSync(lockPath(name)))).toEqual([]);
  });

  test("prints what it found as JSON, and what of it is removed", async () => {
    const { folder, lockPath } = await everyKind();
    const run = await call(["clean", "--json", folder]);
    expect(run).toMatchObject({ code: 0, stderr: "" });
    const removed = JSON.parse(run.stdout).filter((each: any) => each.removed);
    expect(removed.map((each: any) => each.lockPath)).toEqual(DEAD.map(lockPath));
    expect((await call(["clean", "--json", folder])).code).toBe(0);
  });

  testWith("another user")("says what could not be removed, and ends with 2", async () => {
    const { folder, lockPath } = newSession();
    leave(lockPath, { pid: NOBODY });
    await openToAll(folder, 0o755);
    await openToAll(lockPath, 0o644);
    const run = await call(["clean", folder], { through: asAnotherUser });
    expect(run.code).toBe(2);
    expect(run.stdout).toMatch(/^not removed .*chat.jsonl: no such process; holder was 4194305 \(permission denied \(EACCES\)\)$/m);
    expect(run.stdout).toMatch("0 dead lock files removed\n");
    expect(existsSync(lockPath)).toBe(true);
  });

  test("with nothing to do says so, and ends with 0", async () => {
    const { folder } = newSession();
    expect(await call(["clean"], { cwd: folder })).toMatchObject({
      code: 0,
      stdout: `${NONE} --all cleans other names\n`,
    });
  });
});

async function openToAll(file: string, mode: number): Promise<void> {
  const { chmod } = await import("node:fs/promises");
  await chmod(file, mode);
}

describe("why", () => {
  /** The paragraphs by their titles, each on one line. */
  async function reasons(session: string, options: Options = {}) {
    const { code, stdout, stderr } = await call(["why", session], options);
    expect(stderr).toBe("");
    const [heading, ...parts] = stdout.trimEnd().split("\n\n");
    const paragraphs = parts.map((part) => {
      const [title, ...lines] = part.split("\n");
      return [title, lines.map((line) => line.trim()).join(" ")];
    });
    return { code, heading: heading!.replaceAll("\n", " "), ...Object.fromEntries(paragraphs) };
  }

  test("tells of a lock that is held by a flock", async () => {
    const { session, lockPath, ours } = await everyKind();
    const held = await reasons(session("agents/held"));
    expect(held).toMatchObject({ code: 0 });
    expect(held.heading).toMatch(`held.jsonl is held by process ${ours.pid} (node), for `);
    const says = held["What the file says"];
    expect(says).toMatch(`${lockPath("agents/held")} was written on `);
    expect(says).toMatch(`by process ${ours.pid}, called node. It means to hold the lock for at most 5 min, and keeps a flock`);
    const kernel = held["What the kernel says"];
    expect(kernel).toBe("A process holds the flock on the file.");
    const has = held["Which processes have it"];
    expect(has).toMatch(`Process ${ours.pid} (${process.execPath} `);
    expect(has).toMatch(/ holds the flock; it wrote the file\.$/);
    expect(held["What an acquire would do"]).toMatch(/^Wait until .* It would not take this lock, however old it is\.$/);
    expect(held["Why"]).toMatch("The kernel frees a flock when its last holder ends");
    expect(held["What you can do"]).toMatch(`Let process ${ours.pid} finish`);
    expect(held["What you can do"]).toMatch("Do not remove the file");
    const overdue = await reasons(session("overdue"));
    expect(overdue["Why"]).toMatch("It is held for longer than its own limit of 1 min");
  });

  const NOBODY_SEEN = "No process is seen to hold a flock on the file";
  const KERNEL: Record<string, [number, ...string[]]> = {
    older: [0, "No process holds a flock on the file, but one has it open for writing."],
    killed: [1, NOBODY_SEEN, "There is no process "],
    gone: [1, "There is no process 4194305."],
    another: [1, " now is another one: it is not the writer."],
    reboot: [1, "is from another boot, or another machine, and means nothing here."],
    container: [0, "The number 7 is one of another container, and can't be looked up from here."],
    maybe: [0, ", which may be the writer or not."],
    new: [0, NOBODY_SEEN],
    old: [1, NOBODY_SEEN],
  };
  const WHY: Record<string, string> = {
    older: "A holder without a flock keeps the file open for writing until it releases the lock",
    killed: "The writer promised a flock for as long as it holds the lock, and nobody has it",
    gone: "The only process that could have released the lock has ended.",
    another: "The number was given to another process, so the writer has ended.",
    reboot: "The machine was restarted since, so the writer has ended.",
    container: "Doubt counts as alive",
    maybe: "Doubt counts as alive",
    new: "Doubt counts as alive",
    old: "A holder without a flock would have the file open for writing, and it was written long ago.",
  };

  test("tells of each other kind what the kernel says, what follows and why", async () => {
    const { session, lockPath } = await everyKind();
    for (const [name, [code, ...sayings]] of Object.entries(KERNEL)) {
      if (name === "new") {
        leave(lockPath("new"), ""); // new again
      }
      const told = await reasons(session(name));
      expect(told.code, name).toBe(code);
      for (const saying of sayings) {
        expect(told["What the kernel says"], name).toContain(saying);
      }
      expect(told["Why"], name).toContain(WHY[name]);
      expect(told["What an acquire would do"], name).toMatch(code === 1 ? /^Take the lock over within 50 ms, if this user may write/ : /^Wait/);
    }
  });

  test("says that a session does not exist, with the nearest name, and ends with 2", async () => {
    const { folder } = newSession();
    const options = { cwd: folder };
    const complaint = (rest: string) => `session-write-lock: no such session: ${rest}\n`;
    expect(await call(["why", "chat.jsonl"], options)).toMatchObject({
      code: 2,
      stdout: "",
      stderr: complaint("chat.jsonl"),
    });
    expect(await call(["why", "--json", "none/chat.jsonl"], options)).toMatchObject({
      code: 2,
      stdout: "null\n",
      stderr: complaint("none/chat.jsonl (there is no such folder)"),
    });
    writeFileSync(path.join(folder, "main.jsonl"), "");
    leave(path.join(folder, "chat.jsonl.lock"), { pid: NOBODY });
    const near = async (name: string) => (await call(["why", name], options)).stderr;
    expect(await near("mian.jsonl")).toBe(complaint("mian.jsonl (did you mean main.jsonl?)"));
    expect(await near("caht.jsonl")).toBe(complaint("caht.jsonl (did you mean chat.jsonl?)"));
    expect(await near("other")).toBe(complaint("other"));
    expect(await near("none/chat.jsonl.lock")).toBe(complaint("none/chat.jsonl.lock (there is no such folder)"));
  });

  test("tells that a lock file that is not there is not locked, and that a folder is none", async () => {
    const { folder } = newSession();
    const gone = await reasons("gone.jsonl.lock", { cwd: folder });
    expect(gone).toMatchObject({ code: 0, heading: "gone.jsonl.lock is not locked." });
    for (const name of [".", folder]) {
      const stderr = `session-write-lock: ${name} is a folder; use \`session-write-lock status\`\n`;
      expect(await call(["why", name], { cwd: folder })).toMatchObject({ code: 2, stdout: "", stderr });
    }
  });

  test.skipIf(isOnFallback)("says how to continue a holder and a waiter that are stopped", async () => {
    const { sessionFile } = newSession();
    const [holder, waiter] = await Promise.all([Agent.start(), Agent.start()]);
    await holder.acquire({ sessionFile });
    const waits = waiter.acquire({ sessionFile, timeoutMs: Infinity });
    await untilAsleep(waiter.pid);
    const stopped = (pid: number) => `Process ${pid} is stopped (SIGSTOP). Continue it with \`kill -CONT ${pid}\`, or end it.`;
    const advice = async () => (await reasons(sessionFile))["What you can do"]!;
    process.kill(waiter.pid, "SIGSTOP");
    await until("the waiter is stopped", async () => (await advice()).endsWith(stopped(waiter.pid)));
    expect(await advice()).toMatch(`Let process ${holder.pid} finish`);
    process.kill(holder.pid, "SIGSTOP");
    await until("the holder is stopped", async () => (await advice()).startsWith(stopped(holder.pid)));
    expect(await advice()).toMatch("Do not remove the file");
    process.kill(waiter.pid, "SIGCONT");
    process.kill(holder.pid, "SIGCONT");
    await until("both go on", async () => !/is stopped/.test(await advice()));
    await holder.kill();
    await waits;
  });

  test("tells that a session is not locked", async () => {
    const { folder, sessionFile } = newSession();
    writeFileSync(sessionFile, "");
    expect(await reasons("chat.jsonl", { cwd: folder })).toEqual({
      code: 0,
      heading: "chat.jsonl is not locked.",
      "What the file says": "There is no lock file.",
      "What an acquire would do": "Take the lock at once, if this user may write in the folder.",
      Why: "A file is locked while its lock file exists.",
    });
  });

  test("tells that something else stands where the lock file belongs, and ends with 2", async () => {
    const { folder, lockPath } = newSession();
    symlinkSync("elsewhere", lockPath);
    const told = await reasons("chat.jsonl", { cwd: folder });
    expect(told).toMatchObject({ code: 2, heading: "chat.jsonl can't be locked: its lock file is no regular file." });
    expect(told["What the kernel says"]).toMatch(`'${lockPath}' is a symbolic link, not a lock file`);
    expect(told["What an acquire would do"]).toMatch("OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE");
  });

  test("tells that a file is another program's, and ends with 2", async () => {
    const { folder } = newSession();
    writeFileSync(path.join(folder, "yarn.lock"), "# yarn lockfile v1\n");
    for (const name of ["yarn", "yarn.lock"]) {
      const told = await reasons(name, { cwd: folder });
      expect(told).toMatchObject({
        code: 2,
        heading: "yarn can't be locked: yarn.lock is not a lock file of this package.",
      });
      expect(told["What an acquire would do"]).toMatch("Fail at once, with the code ERR_LOCK_FOREIGN_FILE");
    }
    expect(await call(["run", "yarn", "true"], { cwd: folder })).toMatchObject({ code: 125 });
    expect(readFileSync(path.join(folder, "yarn.lock"), "utf8")).toBe("# yarn lockfile v1\n");
  });

  testWith("another user")("tells that a lock file may not be read", async () => {
    const { folder, sessionFile, lockPath } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    await openToAll(folder, 0o755);
    const told = await reasons(sessionFile, { through: asAnotherUser });
    expect(told).toMatchObject({ code: 0 });
    expect(told.heading).toMatch("counts as held: it is unknown whether its holder is alive.");
    expect(told["What the file says"]).toMatch("It can't be read.");
    expect(told["What the kernel says"]).toMatch("It refuses: EACCES: ");
    expect(told["What you can do"]).toBe(
      "Only root can judge this lock. If it is dead, root must run `session-write-lock clean`.",
    );
    chownSync(lockPath, 54_321, 54_321); // nobody's number
    const others = await reasons(sessionFile, { through: asAnotherUser });
    expect(others["What you can do"]).toBe(
      "Only user 54321 or root can judge this lock. If it is dead, that user must run `session-write-lock clean`.",
    );
  });

  test("takes the lock file as well as the session file, and prints JSON", async () => {
    const { sessionFile, lockPath } = newSession();
    const holder = await Agent.start();
    writeFileSync(sessionFile, "");
    expect(await call(["why", "--json", sessionFile])).toMatchObject({ code: 0, stdout: "null\n" });
    await holder.acquire({ sessionFile });
    for (const name of [sessionFile, lockPath]) {
      const { stdout } = await call(["why", "--json", name]);
      expect(JSON.parse(stdout)).toMatchObject({ lockPath, verdict: "held", pid: holder.pid });
    }
  });

  test("finds out who holds a lock whose first holder has been killed", async () => {
    const { sessionFile } = newSession();
    const run = start(["run", sessionFile, "--", "sh", "-c", "echo $$; exec sleep 60"]);
    await run.printed("\n");
    const command = Number(run.stdout);
    onTestFinished(() => void process.kill(command, "SIGKILL"));
    run.kill("SIGKILL");
    await until("it is gone", () => run.process.signalCode !== null);
    const told = await reasons(sessionFile);
    expect(told["What the kernel says"]).toBe(
      `A process holds the flock on the file. There is no process ${run.process.pid}.`,
    );
    expect(told["Which processes have it"]).toBe(
      `Process ${command} (sleep 60) holds the flock; it is not the process that wrote the file.`,
    );
    expect(told["What you can do"]).toMatch(`Let process ${command} finish`);
    expect((await call(["status", path.dirname(sessionFile)])).stdout).toMatch("another process holds the flock\n");
  });

  testWith("pid namespaces")("never advises to end a process that only has the number in the record", async () => {
    const { sessionFile } = newSession();
    const holder = await Agent.start({ through: ["unshare", "-pfm", "--mount-proc"] });
    await holder.acquire({ sessionFile });
    const told = await reasons(sessionFile);
    // The record says 1, which is the machine's init here.
    expect(told["What the file says"]).toMatch("by process 1, called node, in another container.");
    expect(told["What you can do"]).toMatch(/^Let process \d{2,} finish/);
    expect(told.heading).toMatch(/ is held by process \d{2,} \(node\), for /);
    expect((await call(["status", path.dirname(sessionFile)])).stdout).toMatch(/ {2}\d{2,} \(node\) /);
  });

  test("gives its advice first", async () => {
    const { sessionFile, lockPath } = newSession();
    leave(lockPath, { pid: NOBODY });
    expect((await call(["why", sessionFile])).stdout.split("\n")[2]).toBe("What you can do");
  });
});

/** For `run`: a command that says it is there, which signals it gets, and ends with its stdin. */
const OBEDIENT = `
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"]) {
    process.on(signal, () => console.log(signal));
  }
  process.stdin.on("data", () => {}).on("end", () => process.exit(7));
  console.log("up");
`;

function startCommand(sessionFile: string, source: string, ...options: string[]): Run {
  return start(["run", ...options, sessionFile, "--", process.execPath, "-e", source]);
}

describe("run", () => {
  test("gives the command its arguments and its stdio, and its status back", async () => {
    const { sessionFile, lockPath } = newSession();
    const source = 'process.stdin.pipe(process.stderr); console.log(process.argv.slice(1)); process.exitCode = 42';
    const run = start(["run", sessionFile, "--", process.execPath, "-e", source, "--", "--json", "a b", "--"]);
    run.process.stdin!.end("from stdin");
    expect(await run.ended).toEqual({ code: 42, signal: null });
    expect([run.stdout, run.stderr]).toEqual(["[ '--json', 'a b', '--' ]\n", "from stdin"]);
    expect(existsSync(lockPath)).toBe(false);
  });

  test.each<[string, string[], string]>([
    ["without --", ["chat.jsonl", "printf", "%s,", "-n", "--", "--help"], "-n,--,--help,"],
    ["after --", ["chat.jsonl", "--", "printf", "%s,", "--", "-c"], "--,-c,"],
    ["after options", ["-n", "--max-hold=60000", "chat.jsonl", "printf", "%s", "-w"], "-w"],
    ["after options behind the session", ["chat.jsonl", "--timeout", "5000", "--", "echo", "-n", "a"], "a"],
    ["of the shell with -c", ["chat.jsonl", "-c", "echo $((6 * 7))"], "42\n"],
    ["of the shell with -c before the session", ["-nc", "echo $0", "chat.jsonl"], "/bin/sh\n"],
  ])("takes the command %s, as flock(1) does", async (_, words, printed) => {
    const { folder } = newSession();
    expect(await call(["run", ...words], { cwd: folder })).toMatchObject({ code: 0, stdout: printed, stderr: "" });
  });

  test("refuses at once a nested run of the same session, and no other", async () => {
    const { folder } = newSession();
    const script = `
      "$NODE" "$PROGRAM" run other.jsonl -- "$NODE" "$PROGRAM" run chat.jsonl touch ran; echo nested $?
      "$NODE" "$PROGRAM" run other.jsonl true; echo other $?`;
    const env = { NODE: process.execPath, PROGRAM: path.join(root, "bin/session-write-lock.mjs") };
    const run = await call(["run", "chat.jsonl", "-c", script], { cwd: folder, env });
    expect(run).toEqual({
      code: 0,
      signal: null,
      stdout: "nested 125\nother 0\n",
      stderr:
        "session-write-lock: this command already runs under the lock of chat.jsonl: it would wait for itself\n",
    });
    expect(existsSync(path.join(folder, "ran"))).toBe(false);
  });

  test("refuses it also for a file whose own name ends in .lock, and looks at that file's lock", async () => {
    const { folder } = newSession();
    writeFileSync(path.join(folder, "yarn.lock"), "# not a lock");
    const script = `"$NODE" "$PROGRAM" run yarn.lock --timeout 0 touch ran; echo nested $?`;
    const env = { NODE: process.execPath, PROGRAM: path.join(root, "bin/session-write-lock.mjs") };
    expect(await call(["run", "yarn.lock", "-c", script], { cwd: folder, env })).toMatchObject({ code: 0, stdout: "nested 125\n" });
    const held = await lock(path.join(folder, "yarn.lock"));
    const late = await call(["run", "yarn.lock", "--timeout", "0", "true"], { cwd: folder });
    await held.release();
    expect(late.code).toBe(124);
    expect(late.stderr).toMatch(`yarn.lock is still locked, the command was not run: held`);
  });

  test("does not take a process that has outlived its run for nested", async () => {
    const { folder, sessionFile } = newSession();
    const printed = await call(["run", sessionFile, "-c", "echo $SESSION_WRITE_LOCK_HELD"], { cwd: folder });
    const env = { SESSION_WRITE_LOCK_HELD: printed.stdout.trim() };
    expect(env.SESSION_WRITE_LOCK_HELD).toMatch(/^[0-9a-f]+$/);
    expect(await call(["run", sessionFile, "true"], { cwd: folder, env })).toMatchObject({ code: 0, stderr: "" });
  });

  test("holds the lock for as long as the command lives, and no longer", async () => {
    const { sessionFile, lockPath } = newSession();
    const contender = await Agent.start();
    const run = startCommand(sessionFile, OBEDIENT);
    await run.printed("up");
    expect(await contender.run(attempt, sessionFile)).toBe(false);
    expect(JSON.parse(readFileSync(lockPath, "utf8"))).toMatchObject({ pid: run.process.pid });
    run.process.stdin!.end();
    expect(await run.ended).toEqual({ code: 7, signal: null });
    expect(existsSync(lockPath)).toBe(false);
    expect(await contender.run(attempt, sessionFile)).toBe(true);
  });

  test("waits for the lock before it starts the command", async () => {
    const { sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    const proof = `${sessionFile}.proof`;
    const source = `console.log(require("fs").existsSync(${JSON.stringify(proof)}))`;
    const run = startCommand(sessionFile, source);
    await untilAsleep(run.process.pid!);
    writeFileSync(proof, "");
    await holder.release(sessionFile);
    expect(await run.ended).toEqual({ code: 0, signal: null });
    expect(run.stdout).toBe("true\n");
  });

  test("passes signals on, each once, and keeps the lock until the command has ended", async () => {
    const { sessionFile } = newSession();
    const contender = await Agent.start();
    const run = startCommand(sessionFile, OBEDIENT);
    await run.printed("up");
    const signals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const;
    for (const signal of signals) {
      run.kill(signal);
      await run.printed(signal);
      expect(await contender.run(attempt, sessionFile), signal).toBe(false);
    }
    run.process.stdin!.end();
    expect(await run.ended).toEqual({ code: 7, signal: null });
    expect(run.stdout).toBe(["up", ...signals, ""].join("\n"));
    expect(await contender.run(attempt, sessionFile)).toBe(true);
  });

  test.each(["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL", "SIGUSR2"] as const)(
    "ends by the signal that ended the command: %s",
    async (signal) => {
      const { sessionFile, lockPath } = newSession();
      const run = start(["run", sessionFile, "--", "sh", "-c", `kill -s ${signal.slice(3)} $$`]);
      expect(await run.ended).toEqual({ code: null, signal });
      expect(existsSync(lockPath)).toBe(false);
    },
  );

  test("ends with 128 and its number where a signal would write a memory image", async () => {
    const { sessionFile } = newSession();
    const run = start(["run", sessionFile, "--", "sh", "-c", "ulimit -c 0; kill -QUIT $$"]);
    expect(await run.ended).toEqual({ code: 131, signal: null });
  });

  test("keeps the session locked when it is killed itself, until the command has ended", async () => {
    const { sessionFile } = newSession();
    const contender = await Agent.start();
    const run = startCommand(sessionFile, "setInterval(() => {}, 1e6); console.log(process.pid)");
    await run.printed(/\d+\n/);
    const command = Number(run.stdout);
    run.kill("SIGKILL");
    await until("it is gone", () => run.process.signalCode !== null);
    expect(await contender.run(attempt, sessionFile)).toBe(false);
    const acquired = contender.acquire({ sessionFile });
    process.kill(command);
    await acquired;
  });

  test("leaves the lock to nobody whom the command has left behind", async () => {
    const { sessionFile } = newSession();
    const contender = await Agent.start();
    // It inherits everything from its parent, which ends at once.
    const run = start(["run", sessionFile, "--", "sh", "-c", "sleep 60 > /dev/null 2>&1 < /dev/null & echo $!"]);
    expect(await run.ended).toEqual({ code: 0, signal: null });
    const left = Number(run.stdout);
    onTestFinished(() => void process.kill(left, "SIGKILL"));
    expect(existsSync(`/proc/${left}`)).toBe(true);
    expect(await contender.run(attempt, sessionFile)).toBe(true);
  });

  test("says who holds the lock when its time is over, and ends with 124", async () => {
    const { sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    const waits = [
      ["--timeout=150", " after 150 ms"],
      ["--timeout=1500", " after 1.5 s"],
      ["--timeout=0", ""],
      ["--wait=0.2", " after 200 ms"],
      ["-w1", " after 1 s"],
      ["--nonblock", ""],
      ["-n", ""],
    ] as const;
    for (const [option, waited] of waits) {
      const run = await call(["run", option, sessionFile, "--", "touch", `${sessionFile}.ran`]);
      expect(run.code).toBe(124);
      expect(run.stderr).toMatch(`is still locked${waited}, the command was not run: held for `);
      expect(run.stderr).toMatch(` by process ${holder.pid} (node) `);
      expect(run.stderr).toMatch("(holds the flock)\n");
    }
    expect(existsSync(`${sessionFile}.ran`)).toBe(false);
  });

  test.each(["SIGINT", "SIGTERM"] as const)("ends by %s while it waits, and leaves nothing", async (signal) => {
    const { sessionFile } = newSession();
    const holder = await Agent.start();
    await holder.acquire({ sessionFile });
    const run = startCommand(sessionFile, OBEDIENT);
    await untilAsleep(run.process.pid!);
    run.kill(signal);
    expect(await run.ended).toEqual({ code: null, signal });
    expect(run.stdout + run.stderr).toBe("");
    await holder.release(sessionFile);
    expect(await holder.run(attempt, sessionFile)).toBe(true);
  });

  test("has no limit of its own to how long the command may hold", async () => {
    const { sessionFile, lockPath } = newSession();
    const run = startCommand(sessionFile, OBEDIENT);
    await run.printed("up");
    expect(JSON.parse(readFileSync(lockPath, "utf8"))).not.toHaveProperty("maxHoldMs");
    run.process.stdin!.end();
    await run.ended;
  });

  test("stops a command that holds for longer than --max-hold, and keeps the lock until it has ended", async () => {
    const { sessionFile } = newSession();
    const contender = await Agent.start();
    const run = startCommand(sessionFile, OBEDIENT, "--max-hold", "2000");
    await run.printed("SIGTERM");
    expect(await contender.run(attempt, sessionFile)).toBe(false);
    run.process.stdin!.end();
    expect(await run.ended).toEqual({ code: 123, signal: null });
    expect(run.stderr).toMatch("the command has held the lock for 2 s: stopping the command");
  });

  test("keeps the lock although nobody reads what it complains of", async () => {
    const { sessionFile } = newSession();
    const contender = await Agent.start();
    const run = startCommand(sessionFile, OBEDIENT, "--max-hold", "2000");
    run.process.stderr!.destroy();
    await run.printed("SIGTERM");
    expect(await contender.run(attempt, sessionFile)).toBe(false);
    run.process.stdin!.end();
    expect(await run.ended).toEqual({ code: 123, signal: null });
  });

  test("takes over a dead lock without waiting", async () => {
    const { sessionFile, lockPath } = newSession();
    leave(lockPath, { pid: NOBODY });
    expect(await call(["run", "--timeout", "0", sessionFile, "--", "true"])).toMatchObject({ code: 0, stderr: "" });
    expect(existsSync(lockPath)).toBe(false);
  });

  test("stops a command that has lost its lock", async () => {
    const { sessionFile, lockPath } = newSession();
    const other = await Agent.start();
    const run = startCommand(sessionFile, OBEDIENT);
    await run.printed("up");
    await other.run(({ require }, lockPath) => require("node:fs").unlinkSync(lockPath), lockPath);
    await other.acquire({ sessionFile });
    await run.printed("SIGTERM");
    run.process.stdin!.end();
    expect(await run.ended).toEqual({ code: 123, signal: null });
    expect(run.stderr).toMatch(`somebody removed or replaced the lock file: ${lockPath}`);
    // What is there now is the other one's.
    expect(JSON.parse(readFileSync(lockPath, "utf8"))).toMatchObject({ pid: other.pid });
  });

  test.each([
    [127, "no such file or directory", ["session-write-lock-has-no-such-command"]],
    [126, "permission denied", ["/etc/passwd"]],
    [126, "not a directory", ["/etc/passwd/command"]],
  ])("ends with %i for a command that can't be run: %s", async (code, reason, command) => {
    const { sessionFile, lockPath } = newSession();
    const run = await call(["run", sessionFile, "--", ...command]);
    expect(run).toMatchObject({ code, stdout: "" });
    expect(run.stderr).toBe(`session-write-lock: can't run ${command[0]}: ${reason}\n`);
    expect(existsSync(lockPath)).toBe(false);
  });

  test.each([
    ["no command: put it after the file", ["chat.jsonl"]],
    ["no command: put it after the file", ["chat.jsonl", "--"]],
    ["-c takes the whole command as one argument", ["chat.jsonl", "-c", "echo", "hello"]],
    ["option '-c <command>' needs an argument", ["chat.jsonl", "-c"]],
    ["missing argument <file>", []],
    ["missing argument <file> before --", ["--", "true"]],
    ["option '-w <seconds>' argument 'soon' is invalid. Seconds:", ["-w", "soon", "chat.jsonl", "true"]],
    ["option '--nonblock' takes no argument", ["--nonblock=1", "chat.jsonl", "true"]],
    ["option '--timeout <ms>' argument '1s' is invalid", ["--timeout", "1s", "chat.jsonl", "--", "true"]],
    ["option '--max-hold <ms>' argument '0' is invalid", ["--max-hold", "0", "chat.jsonl", "--", "true"]],
    ["ENOENT: no such file or directory, mkdir '/proc/none'", ["/proc/none/chat.jsonl", "--", "true"]],
  ])("ends with 125 for an error of its own: %s (%j)", async (message, args) => {
    const { folder } = newSession();
    const run = await call(["run", ...args], { cwd: folder });
    expect(run).toMatchObject({ code: 125, stdout: "" });
    expect(run.stderr).toMatch(`session-write-lock: ${message}`);
    expect(run.stderr).not.toMatch(/^ {4}at /m);
  });
});

describe("the documents", () => {
  /** Commands and what they print, as a document shows them. */
  function consoles(document: string): { words: string[]; shown: string }[] {
    const text = readFileSync(path.join(root, document), "utf8");
    const blocks = [...text.matchAll(/^```console\n\$ npx session-write-lock (.*)\n([^]*?)^```$/gm)];
    return blocks.map(([, words, shown]) => ({ words: words!.split(" "), shown: shown! }));
  }

  /** Numbers of processes, times and line breaks are others each time. */
  function essence(text: string, folder: string): string {
    return text
      .replaceAll(folder, "/srv/gateway")
      .replace(/\d{4}-\d\d-\d\d(T| at )\d\d:\d\d:\d\d(\.\d{3}Z)?/g, "TIME")
      .replace(/\b\d+(\.\d+)? (d|h|min|s|ms)( \d+ (h|min|s))?\b(?! at most)/g, "AGE")
      .replace(/\b\d{3,}\b(?! ms)/g, "NUMBER")
      .replace(/\s+/g, " ");
  }

  const GATEWAY = `
    const { acquireSessionWriteLock } = require(${JSON.stringify(root)});
    acquireSessionWriteLock({ sessionFile: process.argv[2] }).then(() => console.log("up"));
    setInterval(() => {}, 1e6);
  `;
  const OLD_GATEWAY = `
    const fs = require("node:fs");
    const fd = fs.openSync(process.argv[2] + ".lock", "wx");
    fs.writeSync(fd, JSON.stringify({ pid: process.pid, createdAt: new Date() }));
    console.log("up");
    setInterval(() => fd, 1e6);
  `;

  /** The folder that the documents show: two gateways, of which one is old, and one that was killed. */
  async function asInTheDocuments(): Promise<string> {
    const folder = temporaryFolder();
    mkdirSync(path.join(folder, "sessions"));
    writeFileSync(path.join(folder, "gateway.js"), GATEWAY);
    writeFileSync(path.join(folder, "old-gateway.js"), OLD_GATEWAY);
    const startGateway = async (program: string, session: string) => {
      const gateway = spawn(process.execPath, [program, session], { cwd: folder, argv0: "node" });
      onTestFinished(() => void gateway.kill("SIGKILL"));
      await new Promise((resolve) => gateway.stdout.once("data", resolve));
      return gateway;
    };
    await startGateway("gateway.js", "sessions/main.jsonl");
    await startGateway("old-gateway.js", "sessions/chat.jsonl");
    const killed = await startGateway("gateway.js", "sessions/cron.jsonl");
    killed.kill("SIGKILL");
    await new Promise((resolve) => killed.once("exit", resolve));
    return folder;
  }

  test.each(["README.md", "docs/command-line.md"])("what %s shows is what is printed", async (document) => {
    const folder = await asInTheDocuments();
    expect(consoles(document)).not.toEqual([]);
    for (const { words, shown } of consoles(document)) {
      const { stdout, stderr } = await call(words, { cwd: folder });
      expect(essence(stdout + stderr, folder), words.join(" ")).toBe(essence(shown, "/srv/gateway"));
    }
  });

  test("docs/command-line.md has every command and every option", async () => {
    const text = readFileSync(path.join(root, "docs/command-line.md"), "utf8");
    for (const command of ["status", "clean", "run", "why"]) {
      const section = text.split(/^## /m).find((part) => part.startsWith(`\`${command}\``))!;
      const { stdout } = await call([command, "--help"]);
      const options = [...stdout.matchAll(/^ {2}(?:-\w, )?(--(?!help)[a-z-]+)/gm)].map((match) => match[1]!);
      expect(options.length).toBeGreaterThan(1);
      for (const option of options) {
        expect(section, `${command} ${option}`).toContain(`\`${option}`);
      }
    }
  });
});

describe("the program", () => {
  test.each([
    ["--help", "status \\[options\\] \\[dir...\\]"],
    ["status --help", "Verdicts:"],
    ["clean --help", "--dry-run"],
    ["run --help", "session-write-lock run \\[options\\] <file> <command> \\[args...\\]"],
    ["why --help", "the file to protect, or its lock file"],
    ["help run", "Exit status"],
  ])("%s tells what one needs, with examples", async (words, text) => {
    const run = await call(words.split(" "));
    expect(run).toMatchObject({ code: 0, stderr: "" });
    expect(run.stdout).toMatch(new RegExp(text));
    expect(run.stdout).toMatch(/\nExamples:\n|Exit status/);
    expect(run.stdout).not.toContain("\x1b");
    expect(run.stdout.split("\n").filter((line) => line.length > 80)).toEqual([]);
  });

  test("says its version", async () => {
    const { version } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8"));
    expect(await call(["--version"])).toMatchObject({ code: 0, stdout: `${version}\n` });
  });

  test.each([
    [[], /^Usage: session-write-lock /],
    [["stauts"], /^session-write-lock: unknown command 'stauts'\n\(Did you mean status\?\)\n/],
    [["status", "--al\x1bl"], /^session-write-lock: unknown option '--al\\x1bl'\n/],
    [["status", "--stale-ms", "-1"], /^session-write-lock: option '--stale-ms <ms>' argument '-1' is invalid\./],
    [["why"], /^session-write-lock: missing argument <file>\n/],
    [["why", "a", "b"], /^session-write-lock: too many arguments/],
    [["help", "stauts"], /^session-write-lock: unknown command 'stauts'\n\(Did you mean status\?\)\n/],
    [["--versoin"], /^session-write-lock: unknown option '--versoin'\n\(Did you mean --version\?\)\n/],
    [["status", "--jsn"], /^session-write-lock: unknown option '--jsn'\n\(Did you mean --json\?\)\n/],
    [["why", ""], /^session-write-lock: file must not be empty\n$/],
  ])("ends with 2 where it is misused: %j", async (words, message) => {
    const run = await call(words);
    expect(run).toMatchObject({ code: 2, stdout: "" });
    expect(run.stderr).toMatch(message);
  });

  test("says in a line what went wrong, and where only with DEBUG", async () => {
    const missing = ["why", ""];
    expect((await call(missing)).stderr.split("\n")).toHaveLength(2);
    expect((await call(missing, { env: { DEBUG: "1" } })).stderr).toMatch(/ {4}at .*lib\/\w+\.js:/m);
  });

  test("says that there is no binary for this system, but helps all the same", async () => {
    const copy = temporaryFolder();
    for (const name of ["bin", "dist", "lib", "index.js", "package.json"]) {
      cpSync(path.join(root, name), path.join(copy, name), { recursive: true });
    }
    const program = path.join(copy, "bin/session-write-lock.mjs");
    expect(await call(["--help"], { program })).toMatchObject({ code: 0 });
    for (const [words, code] of [[["status"], 2], [["run", "a", "--", "true"], 125]] as const) {
      const run = await call([...words], { program });
      expect(run).toMatchObject({ code, stdout: "" });
      expect(run.stderr).toMatch(/^session-write-lock: session-write-lock does not find the package of its binary for .*\n$/);
    }
  });

  test("is one file that needs no other package, and runs from its sources where it was not built", async () => {
    const { dependencies = {} } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8"));
    expect(dependencies).toEqual({});
    const bundle = readFileSync(path.join(root, "dist/cli.cjs"), "utf8");
    const needed = [...bundle.matchAll(/\b(?:require|import)\("([^"]+)"\)/g)].map((match) => match[1]!);
    expect(needed.filter((name) => !name.startsWith("node:"))).toEqual([]);
    const copy = temporaryFolder();
    for (const name of ["bin", "cli", "package.json"]) {
      cpSync(path.join(root, name), path.join(copy, name), { recursive: true });
    }
    const program = path.join(copy, "bin/session-write-lock.mjs");
    expect(await call(["--help"], { program })).toEqual(await call(["--help"]));
  });

  test("ends quietly when nobody reads any more", async () => {
    const { folder } = newSession();
    const run = start(["status", "--watch"], { cwd: folder });
    await run.printed(NONE);
    run.process.stdout!.destroy();
    leave(path.join(folder, "chat.jsonl.lock"), { pid: NOBODY });
    expect(await run.ended).toEqual({ code: 2, signal: null });
    expect(run.stderr).toBe("");
  });
});
