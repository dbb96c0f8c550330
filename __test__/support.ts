/**
 * What all tests share: folders that go away, processes that do as they are told, and rights that
 * a machine may lack.
 */

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { onTestFinished, test } from "vitest";

import type * as api from "../index.js";
import { findPostgres } from "../scripts/postgres-server.mjs";

export const root = path.resolve(import.meta.dirname, "..");

/** A folder of its own for the running test. */
export function temporaryFolder(parent = tmpdir()): string {
  const folder = mkdtempSync(path.join(parent, "session-write-lock-"));
  // Windows: a file goes when the last process that has it open, and was just killed, has ended.
  onTestFinished(() => rmSync(folder, { recursive: true, force: true, maxRetries: 10 }));
  return folder;
}

/** A session that nobody has used yet. */
export function newSession(): { folder: string; sessionFile: string; lockPath: string } {
  const folder = temporaryFolder();
  const sessionFile = path.join(folder, "chat.jsonl");
  return { folder, sessionFile, lockPath: `${sessionFile}.lock` };
}

/** The greatest pid that Linux can be set to give out, which no process is likely to have. */
export const DEAD_PID = 4_194_303;

/** What a dead holder leaves in a lock file, by who wrote it. */
export const DEAD_RECORDS = {
  "the addon": JSON.stringify({
    pid: DEAD_PID,
    createdAt: "2026-01-01T00:00:00.000Z",
    witness: "flock",
    token: "t",
  }),
  "the older module": JSON.stringify({ pid: DEAD_PID, createdAt: "2026-01-01T00:00:00.000Z" }),
};

/** What a function that runs in an agent is given first. */
export interface Tools {
  lock: typeof api;
  kept: Map<string, any>;
  require: NodeJS.Require;
  send(note: unknown): void;
}

type Task<Args extends unknown[], Value> = (tools: Tools, ...args: Args) => Value | Promise<Value>;

/** How an agent's process is started. */
export interface AgentOptions {
  /** The Node to run, if not this one. */
  node?: string;
  /** A command that starts it, such as `["unshare", "-pf"]`. */
  through?: string[];
  env?: NodeJS.ProcessEnv;
}

/** A process of its own, driven by functions that are sent to it. */
export class Agent {
  readonly process: ChildProcess;
  /** How it ended. */
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  /** What it wrote to stderr so far. */
  stderr = "";
  readonly #replies = new Map<number, { resolve(value: any): void; reject(error: Error): void }>();
  readonly #notes: unknown[] = [];
  #noted: (() => void) | undefined;
  #calls = 0;

  private constructor({ node = process.execPath, through = [], env }: AgentOptions) {
    const fixture = path.join(root, "__test__/fixtures/agent.cjs");
    const [command, ...args] = [...through, node, fixture];
    this.process = spawn(command!, args, {
      env: { ...process.env, ...env },
      stdio: ["ignore", "ignore", "pipe", "ipc"],
    });
    this.process.stderr!.on("data", (data) => {
      this.stderr += data;
    });
    this.ended = new Promise((resolve) => {
      this.process.on("exit", (code, signal) => {
        resolve({ code, signal });
        for (const { reject } of this.#replies.values()) {
          reject(new Error(`the agent ended (${code ?? signal}): ${this.stderr}`));
        }
      });
    });
    this.process.on("message", (message: any) => this.#receive(message));
  }

  static async start(options: AgentOptions = {}): Promise<Agent> {
    const agent = new Agent(options);
    onTestFinished(() => void agent.process.kill("SIGKILL"));
    await new Promise((resolve, reject) => {
      agent.#replies.set(0, { resolve, reject });
    });
    return agent;
  }

  /** As this process numbers it; in another pid namespace it goes by another. */
  get pid(): number {
    return this.process.pid!;
  }

  /** Runs `task` over there. It must not use anything but its arguments. */
  run<Args extends unknown[], Value>(task: Task<Args, Value>, ...args: Args): Promise<Value> {
    const id = ++this.#calls;
    return new Promise((resolve, reject) => {
      this.#replies.set(id, { resolve, reject });
      // An agent that has ended can't be told anything.
      this.process.send({ id, source: task.toString(), args }, (error) => error && reject(error));
    });
  }

  /** Acquires over there and keeps the lock under the name of its file. */
  acquire(options: api.AcquireOptions): Promise<string> {
    return this.run(async ({ lock, kept }, options) => {
      const held = await lock.acquireSessionWriteLock(options);
      kept.set(options.sessionFile, held);
      return held.lockPath;
    }, options);
  }

  /** The same by the stand-in for the older module. */
  acquireAsTypeScript(options: {
    sessionFile: string;
    timeoutMs?: number;
    staleMs?: number;
    startTime?: boolean;
  }): Promise<string> {
    return this.run(async ({ require, kept }, options) => {
      const held = await require("./typescript-lock.cjs").acquire(options);
      kept.set(options.sessionFile, held);
      return held.lockPath;
    }, options);
  }

  /** Releases what `acquire` keeps. */
  release(sessionFile: string): Promise<void> {
    return this.run(({ kept }, sessionFile) => kept.get(sessionFile).release(), sessionFile);
  }

  /** The next thing that a task of it sends with `tools.send`. */
  async note(): Promise<any> {
    while (this.#notes.length === 0) {
      await new Promise<void>((resolve) => {
        this.#noted = resolve;
      });
    }
    return this.#notes.shift();
  }

  async kill(signal: NodeJS.Signals = "SIGKILL") {
    this.process.kill(signal);
    return this.ended;
  }

  #receive(message: any): void {
    if ("note" in message) {
      this.#notes.push(message.note);
      this.#noted?.();
      return;
    }
    const id = message.ready ? 0 : message.id;
    const reply = this.#replies.get(id)!;
    this.#replies.delete(id);
    if (message.error) {
      reply.reject(Object.assign(new Error(message.error.message), message.error));
    } else {
      reply.resolve(message.value);
    }
  }
}

/** Starts a command as a user who owns nothing and may nothing. */
export const asAnotherUser: [string, ...string[]] = [
  "setpriv",
  "--reuid=65534",
  "--regid=65534",
  "--clear-groups",
];

/** How an agent waits, whatever this process was told: woken by events, or on the fallback. */
export const waitModes = {
  events: { SESSION_WRITE_LOCK_WAIT: "events" },
  timers: { SESSION_WRITE_LOCK_WAIT: "timers" },
};

/** How processes wait that weren't told otherwise: the whole suite also runs on the fallback. */
export const isOnFallback = process.env.SESSION_WRITE_LOCK_WAIT === "timers";

/**
 * Looks until something is so. For what no process can report by itself: that another one sleeps,
 * or that idle threads have gone.
 */
export async function until(
  what: string,
  isSo: () => boolean | Promise<boolean>,
  withinMs = 10_000,
): Promise<void> {
  const deadline = performance.now() + withinMs;
  while (!(await isSo())) {
    if (performance.now() > deadline) {
      throw new Error(`after ${withinMs} ms it is still not so: ${what}`);
    }
    await delay(2);
  }
}

/** Resolves when a signal has aborted, which may have been before. */
export async function aborted(signal: AbortSignal): Promise<void> {
  if (!signal.aborted) {
    await once(signal, "abort");
  }
}

/** What a process has of the things that a wait can leave behind. */
export interface Footprint {
  descriptors: number;
  threads: number;
  /** Those of the threads that are the addon's. */
  lockThreads: number;
  /** Files watched through inotify. */
  watches: number;
  /** Threads that block for a turn or for a flock. */
  blocked: number;
}

export function footprint(pid: number): Footprint {
  const descriptors = readdirSync(`/proc/${pid}/fdinfo`);
  const infos = descriptors.map((fd) => readOrNothing(`/proc/${pid}/fdinfo/${fd}`));
  return {
    descriptors: descriptors.length,
    threads: readdirSync(`/proc/${pid}/task`).length,
    lockThreads: lockThreads(pid).length,
    watches: infos.join("").match(/^inotify wd:/gm)?.length ?? 0,
    blocked: blockedThreads(pid),
  };
}

/** Whether the binary has only what macOS has (scripts/restricted.mjs). */
export const isRestricted = process.env["SKIP_LIST"] === "restricted";

/** Waits until a process that has called acquire has done all it can, and sleeps. */
export async function untilAsleep(pid: number, waits = 1): Promise<void> {
  const isWaiting = ({ watches, blocked }: Footprint) => watches + blocked >= waits;
  const isAsleep = () =>
    isWaiting(footprint(pid)) && lockThreads(pid).every((stat) => /\) S /.test(stat));
  // Twice: between two looks at threads work can go from one to another.
  await until("it waits", () => isAsleep() && isAsleep());
}

/**
 * By the call that each is in (proc_pid_syscall(5)): `flock` for an exclusive lock that it waits for,
 * or `fcntl` with F_OFD_SETLKW.
 */
function blockedThreads(pid: number): number {
  const [flock, fcntl] = process.arch === "arm64" ? [32, 25] : [73, 72];
  const waiting = new RegExp(`^(${flock} 0x\\w+ 0x2|${fcntl} 0x\\w+ 0x26) `);
  const tasks = readdirSync(`/proc/${pid}/task`);
  const calls = tasks.map((task) => readOrNothing(`/proc/${pid}/task/${task}/syscall`));
  return calls.filter((call) => waiting.test(call)).length;
}

/** The status line of each of the addon's threads in a process. */
function lockThreads(pid: number): string[] {
  const tasks = readdirSync(`/proc/${pid}/task`);
  const stats = tasks.map((task) => readOrNothing(`/proc/${pid}/task/${task}/stat`));
  return stats.filter((stat) => stat.includes("(session-lock)"));
}

export function readOrNothing(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return ""; // closed or ended meanwhile
  }
}

/** What some tests need of the machine, and how to find out. */
const RIGHTS = {
  root: () => process.getuid?.() === 0,
  "pid namespaces": () => succeeds("unshare", "-pfm", "--mount-proc", "true"),
  mounts: () => succeeds("unshare", "-m", "mount", "-t", "tmpfs", "none", tmpdir()),
  "chosen pids": () =>
    succeeds("unshare", "-pfm", "--mount-proc", "sh", "-c", "echo 9 >/proc/sys/kernel/ns_last_pid"),
  "a terminal of script(1)": () => succeeds("script", "-qec", "true", "/dev/null"),
  strace: () => succeeds("strace", "-o", "/dev/null", "true"),
  "a kernel thread": () => readComm(2) === "kthreadd",
  "a C compiler": () => succeeds("cc", "--version"),
  python3: () => succeeds("python3", "--version"),
  bindfs: () => succeeds("bindfs", "--version") && succeeds("test", "-c", "/dev/fuse"),
  fsfreeze: () => succeeds("fsfreeze", "--version") && succeeds("mkfs.ext4", "-V"),
  "a PostgreSQL server": () => findPostgres() !== undefined,
  pgbouncer: () => succeeds("pgbouncer", "--version"),
  "network namespaces": () => succeeds("unshare", "--net", "ip", "link"),
  prlimit: () => succeeds("prlimit", "--version"),
  "user namespaces": () => succeeds("unshare", "-Ur", "sh", "-c", "echo 0 >/proc/sys/user/max_inotify_instances"),
  // Not only the right to become one: it must also be able to read us, which may be under /root.
  "another user": () => succeeds(...asAnotherUser, process.execPath, "-e", `require("${root}")`),
};

function readComm(pid: number): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return undefined;
  }
}

export function succeeds(command: string, ...args: string[]): boolean {
  return spawnSync(command, args, { stdio: "ignore" }).status === 0;
}

const answers = new Map<string, boolean>();

/** `test`, or where the machine lacks a right a test that is skipped, and says why. */
export function testWith(...rights: (keyof typeof RIGHTS)[]) {
  const missing = rights.filter((right) => {
    if (!answers.has(right)) {
      answers.set(right, RIGHTS[right]());
    }
    return !answers.get(right);
  });
  if (missing.length === 0) {
    return test;
  }
  return (name: string, ..._rest: unknown[]) => skipAloud(name, missing.join(", "));
}

/** A test that can't run here, and says so. */
export function skipAloud(name: string, lack: string): void {
  process.stderr.write(`SKIPPED here for lack of ${lack}: ${name}\n`);
  test.skip(`${name} (needs ${lack})`, () => {});
}

/** How an acquire failed. */
export interface Refusal {
  code: string;
  message: string;
  cause?: { code: string; message: string; syscall?: string; path?: string };
  afterMs: number;
  /** What the process spent on it, in milliseconds of CPU time. */
  cpuMs: number;
}

/** An acquire that fails over there. An error's cause does not travel between processes by itself. */
export function refusal(agent: Agent, options: api.AcquireOptions): Promise<Refusal> {
  return agent.run(async ({ lock }, options) => {
    const [startedAt, cpu] = [performance.now(), process.cpuUsage()];
    const failure: any = await lock.acquireSessionWriteLock(options).then(
      () => new Error("the lock was acquired"),
      (error) => error,
    );
    const afterMs = performance.now() - startedAt;
    const { user, system } = process.cpuUsage(cpu);
    const { message, cause } = failure;
    return {
      ...failure,
      message,
      cause: cause && { ...cause, message: cause.message },
      afterMs,
      cpuMs: (user + system) / 1_000,
    };
  }, options);
}

/** For agents: one attempt; a lock that it gives is kept. */
export async function attempt({ lock, kept }: Tools, sessionFile: string): Promise<boolean> {
  try {
    kept.set(sessionFile, await lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 1 }));
    return true;
  } catch (error: any) {
    if (error.code === "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT") {
      return false;
    }
    throw error;
  }
}
