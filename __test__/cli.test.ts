/**
 * The command line, as a process: what it prints, how it ends, and what becomes of locks meanwhile.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";

import { Agent, attempt, newSession, root, until, untilAsleep } from "./support.js";

const PROGRAM = path.join(root, "bin/session-write-lock.mjs");

interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** A running `session-write-lock`. */
class Run {
  readonly process: ChildProcess;
  readonly ended: Promise<Ended>;
  stdout = "";
  stderr = "";

  constructor(command: string, args: string[], options: { cwd?: string; env?: NodeJS.ProcessEnv }) {
    const { NO_COLOR, FORCE_COLOR, DEBUG, ...env } = process.env;
    this.process = spawn(command, args, { cwd: options.cwd, env: { ...env, ...options.env } });
    onTestFinished(() => void this.process.kill("SIGKILL"));
    this.process.stdin!.on("error", () => {}); // it need not read what it is told
    this.process.stdout!.setEncoding("utf8").on("data", (text) => {
      this.stdout += text;
    });
    this.process.stderr!.setEncoding("utf8").on("data", (text) => {
      this.stderr += text;
    });
    this.ended = new Promise((resolve) => {
      this.process.on("close", (code, signal) => resolve({ code, signal }));
    });
  }

  /** Until it has printed something. */
  async printed(text: string | RegExp): Promise<void> {
    await until(`it prints ${text}`, () => this.stdout.search(text) >= 0);
  }

  kill(signal: NodeJS.Signals): void {
    process.kill(this.process.pid!, signal);
  }
}

function start(args: string[], options: { cwd?: string; env?: NodeJS.ProcessEnv } = {}): Run {
  return new Run(process.execPath, [PROGRAM, ...args], options);
}

/** Runs it to its end. */
async function call(args: string[], options: { cwd?: string; env?: NodeJS.ProcessEnv } = {}) {
  const run = start(args, options);
  const { code, signal } = await run.ended;
  return { code, signal, stdout: run.stdout, stderr: run.stderr };
}

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
    for (const [timeout, waited] of [["150", " after 150 ms"], ["0", ""]] as const) {
      const run = await call(["run", "--timeout", timeout, sessionFile, "--", "touch", `${sessionFile}.ran`]);
      expect(run.code).toBe(124);
      expect(run.stderr).toMatch(`is still locked${waited}, the command was not run: held for `);
      expect(run.stderr).toMatch(` by ${holder.pid} (node) `);
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
    expect(JSON.parse(readFileSync(lockPath, "utf8")).maxHoldMs).toBeGreaterThan(1e12);
    run.process.stdin!.end();
    await run.ended;
  });

  test("stops a command that holds for longer than --max-hold, and keeps the lock until it has ended", async () => {
    const { sessionFile } = newSession();
    const contender = await Agent.start();
    const run = startCommand(sessionFile, OBEDIENT, "--max-hold", "300");
    await run.printed("SIGTERM");
    expect(await contender.run(attempt, sessionFile)).toBe(false);
    run.process.stdin!.end();
    expect(await run.ended).toEqual({ code: 123, signal: null });
    expect(run.stderr).toMatch("the command has held the lock for 300 ms: stopping the command");
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
    expect(run.stderr).toMatch(`the lock file was removed or replaced by somebody else: ${lockPath}`);
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
    ["no command: put it after --", ["chat.jsonl"]],
    ["no command: put it after --", ["chat.jsonl", "--"]],
    ["too many arguments", ["chat.jsonl", "true"]],
    ["missing required argument 'session'", ["--", "true"]],
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
