/**
 * `run`: a command under the lock of a session, like flock(1). The lock is held from before the
 * command starts until after it has ended.
 *
 * Signals are the command's business: they are passed on, and what it makes of them is what this
 * process makes of them. So the lock is acquired with `handleSignals: false`, or it would be
 * released by a signal that the command may ignore.
 *
 * The command inherits a descriptor of the lock file, and with it the flock. If this process is
 * killed, the session stays locked until the command has ended as well.
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { fstatSync, readdirSync, readFileSync, statSync } from "node:fs";
import { getSystemErrorMap } from "node:util";

import { howKnown } from "./grounds.mjs";
import { complain } from "./output.mjs";
import { describeHolder, holdersOf } from "./processes.mjs";
import { dieBy } from "./signals.mjs";
import { duration, FAILED, messageOf, printable } from "./words.mjs";

/** Not a status of the command, as timeout(1), env(1) and others count; so is `FAILED`. */
const STOPPED = 123;
const TIMED_OUT = 124;
const CANNOT_RUN = 126;
const NOT_FOUND = 127;

/** Passed on to the command. */
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"];

/** What a key on the terminal sends to all processes in the foreground at once. */
const FROM_KEYS = ["SIGINT", "SIGQUIT"];

/** How long a command that is told to end may take for it. */
const GRACE_MS = 10_000;

/** On a terminal it says whom it waits for after this long. */
const PATIENCE_MS = 1_000;

/**
 * In the command's environment: the tokens of the locks under which it runs. A nested `run` that wants one of
 * these locks would wait for its own end.
 */
const HELD_LOCKS = "SESSION_WRITE_LOCK_HELD";

/** Returns the status to end with; or ends this process by the signal that ended the command. */
export async function run(sessionFile, command, options, lock) {
  const { timeout = Infinity, maxHold } = options;
  if (await isNested(sessionFile, lock)) {
    complain(`this command already runs under the lock of ${printable(sessionFile)}: it would wait for itself`);
    return FAILED;
  }
  const signals = new Signals();
  const held = await acquire(sessionFile, { timeout, maxHold, signals }, lock);
  const token = held && (await tokenOf(sessionFile, lock));
  if (signals.caught) {
    dieBy(signals.caught); // what we hold, or are just given, is released on the way
  }
  if (held === null) {
    return TIMED_OUT;
  }
  const env = { ...process.env, [HELD_LOCKS]: [...heldTokens(), token].join() };
  const outcome = await outcomeOf(command, held, { maxHold, signals, env });
  await release(held);
  return outcome.signal ? dieBy(outcome.signal) : outcome.status;
}

/**
 * Whether the lock is held by a `run` above this process. A process may outlive that `run`, so the variable alone
 * proves nothing: the lock must still be held with that token.
 */
async function isNested(sessionFile, lock) {
  if (heldTokens().length === 0) {
    return false;
  }
  const inspection = await lock.inspectLock(sessionFile);
  return inspection?.verdict === "held" && heldTokens().includes(inspection.holder?.token);
}

function heldTokens() {
  return process.env[HELD_LOCKS]?.split(",").filter(Boolean) ?? [];
}

/** The token of the lock that we hold; nothing if somebody has just removed it. */
async function tokenOf(sessionFile, lock) {
  const inspection = await lock.inspectLock(sessionFile).catch(() => null);
  return inspection?.holder?.token;
}

// --- The lock -----------------------------------------------------------------------------------

/** `null`: a signal has come; or it was not to be had in time, and that has been said. */
async function acquire(sessionFile, { timeout, maxHold, signals }, lock) {
  // The watchdog releases only if the command could not be stopped.
  const maxHoldMs = maxHold === undefined ? Infinity : maxHold + 2 * GRACE_MS;
  const notice = announceWait(sessionFile, lock);
  try {
    return await lock.lock(sessionFile, { timeoutMs: timeout, maxHoldMs, signal: signals.whileWaiting });
  } catch (error) {
    if (signals.caught) {
      return null;
    }
    if (error instanceof lock.LockTimeoutError) {
      complain(await timeoutMessage(sessionFile, timeout, error, lock));
      return null;
    }
    throw error;
  } finally {
    clearTimeout(notice);
  }
}

function announceWait(sessionFile, lock) {
  if (!process.stderr.isTTY) {
    return undefined;
  }
  const announce = async () => {
    const inspection = await lookAt(sessionFile, lock);
    if (inspection) {
      complain(`waiting for ${printable(sessionFile)}: ${whoHolds(inspection)}`);
    }
  };
  return setTimeout(announce, PATIENCE_MS);
}

/** Who was in the way. Looked up now, as the error itself doesn't say how it is known. */
async function timeoutMessage(sessionFile, timeout, error, lock) {
  const inspection = await lookAt(sessionFile, lock);
  const who = inspection ? whoHolds(inspection) : `it was held by ${printable(error.owner)}`;
  const waited = timeout > 0 ? ` after ${duration(timeout)}` : "";
  return `${printable(sessionFile)} is still locked${waited}, the command was not run: ${who}`;
}

function lookAt(sessionFile, lock) {
  return lock.inspectLock(sessionFile, { processes: true }).catch(() => null);
}

function whoHolds(inspection) {
  const since = inspection.ageMs === null ? "" : ` for ${duration(inspection.ageMs)}`;
  const by = holdersOf(inspection).length > 0 ? " by process" : ", holder";
  return `${inspection.verdict}${since}${by} ${describeHolder(inspection)} (${howKnown(inspection)})`;
}

async function release(held) {
  try {
    await held.release();
  } catch (error) {
    // It is free all the same, and what the command did is done.
    complain(`the lock file could not be removed: ${messageOf(error)}`);
  }
}

/**
 * The descriptor by which this process has the flock on a lock file; `undefined` where it has none,
 * or the system doesn't tell.
 */
function descriptorOf(lockPath) {
  try {
    const { dev, ino } = statSync(lockPath, { bigint: true });
    const hasFlock = (fd) => /FLOCK/.test(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"));
    return readdirSync("/proc/self/fd").map(Number).find((fd) => {
      const info = tryTo(() => fstatSync(fd, { bigint: true }));
      return info?.ino === ino && info.dev === dev && hasFlock(fd);
    });
  } catch {
    return undefined;
  }
}

function tryTo(read) {
  try {
    return read();
  } catch {
    return undefined; // closed or ended by now
  }
}

// --- The command --------------------------------------------------------------------------------

/** Runs it. Says with which `status`, or by which `signal`, it has ended. */
async function outcomeOf([file, ...args], held, { maxHold, signals, env }) {
  try {
    const child = spawn(file, args, {
      env,
      stdio: ["inherit", "inherit", "inherit", descriptorOf(held.lockPath) ?? "ignore"],
    });
    const ended = once(child, "exit"); // or throws if it could not be started
    signals.passTo((signal) => passOn(signal, child));
    const guard = new Guard(child, held, maxHold);
    const [status, signal] = await ended.finally(() => guard.leave());
    return guard.hasStopped ? { status: STOPPED } : { status, signal };
  } catch (error) {
    const reason = getSystemErrorMap().get(error.errno)?.[1] ?? messageOf(error);
    complain(`can't run ${printable(file)}: ${reason}`);
    return { status: error.code === "ENOENT" ? NOT_FOUND : CANNOT_RUN };
  }
}

/** Stops a command that has lost its lock, or has held it for too long. */
class Guard {
  hasStopped = false;
  #child;
  #held;
  #timers = [];

  constructor(child, held, maxHold) {
    this.#child = child;
    this.#held = held;
    held.signal.addEventListener("abort", this.#onLoss);
    if (held.signal.aborted) {
      this.#onLoss();
    }
    if (maxHold !== undefined) {
      const tooLong = `the command has held the lock for ${duration(maxHold)}`;
      this.#timers.push(setTimeout(() => this.#stop(tooLong), maxHold));
    }
  }

  /** The command has ended. */
  leave() {
    this.#timers.forEach((timer) => clearTimeout(timer));
    this.#held.signal.removeEventListener("abort", this.#onLoss);
  }

  #onLoss = () => this.#stop(messageOf(this.#held.signal.reason));

  /** Like timeout(1), but for the lock, which is kept until the command has really ended. */
  #stop(why) {
    if (this.hasStopped) {
      return;
    }
    this.hasStopped = true;
    complain(`${why}: stopping the command`);
    this.#child.kill("SIGTERM");
    this.#timers.push(setTimeout(() => this.#child.kill("SIGKILL"), GRACE_MS));
  }
}

/** Passes a signal on, unless the command has it already, from the terminal. */
function passOn(signal, child) {
  if (!FROM_KEYS.includes(signal) || !sharesForeground(child.pid)) {
    child.kill(signal);
  }
}

/**
 * Whether a key such as Ctrl-C reaches the command as well as us. Many programs take a second SIGINT
 * as "at once, without tidying up", so it must not come twice.
 */
function sharesForeground(pid) {
  const [own, command] = [jobOf(process.pid), jobOf(pid)];
  return own !== undefined && own.group === own.foreground && command?.group === own.group;
}

/** The process group of a process, and the one in the foreground of its terminal; `undefined` if unknown. */
function jobOf(pid) {
  const stat = tryTo(() => readFileSync(`/proc/${pid}/stat`, "utf8"));
  if (stat === undefined) {
    return undefined;
  }
  // The name, in brackets, may contain anything: count from the last bracket.
  const [, , group, , , foreground] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return { group: Number(group), foreground: Number(foreground) };
}

/** The signals that are passed on. Until there is a command, each of them ends the wait. */
class Signals {
  /** The first that came while there was no command. */
  caught;
  #wait = new AbortController();
  #take = (signal) => {
    this.caught ??= signal;
    this.#wait.abort();
  };

  constructor() {
    SIGNALS.forEach((signal) => process.on(signal, () => this.#take(signal)));
  }

  get whileWaiting() {
    return this.#wait.signal;
  }

  passTo(take) {
    this.#take = take;
  }
}
