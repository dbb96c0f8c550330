/**
 * A small gateway, to show what is to be done around the lock in a real one.
 *
 * `gateway <folder> [config.json]` reads messages from stdin and tells on stdout what it does, one
 * line of JSON each way:
 *
 *     {"session":"chat","user":"How are you?"}        takes the session's lock; a turn begins
 *     {"session":"chat","assistant":"Fine, thanks."}  writes the answer; the turn ends, and the lock
 *
 * - At the start it sweeps the folder: a lock of a process that is gone tells which session was cut
 *   off in the middle of a turn.
 * - SIGUSR1 restarts it inside its process. Its locks are released, so that nothing of the life
 *   before stays locked; what it was about to write, it writes under new locks.
 * - SIGTERM, SIGINT and the end of stdin drain it: it writes what it has received, and ends. A turn
 *   that still waits for its answer is given up.
 *
 * It exits with 0, or with 1 if there was a message that it could not write.
 */

import { once } from "node:events";
import fs from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";

import {
  acquireSessionWriteLock,
  cleanStaleLockFiles,
  heldSessionWriteLocks,
  releaseAllSessionWriteLocks,
  resolveSessionWriteLockOptions,
  type SessionWriteLock,
  type SessionWriteLockAcquireTimeoutConfig,
} from "./session-write-lock.js";
import { appendEntry, type Role } from "./transcript.js";

const LOCK_SUFFIX = ".jsonl.lock";

function tell(event: string, details: object = {}): void {
  process.stdout.write(`${JSON.stringify({ event, ...details })}\n`);
}

function sessionOf({ lockPath }: { lockPath: string }): string {
  return path.basename(lockPath, LOCK_SUFFIX);
}

interface Message {
  session: string;
  user?: string;
  assistant?: string;
}

/** Throws if the line is no message. */
function parse(line: string): Message {
  const message: Message = JSON.parse(line);
  const { session, user, assistant } = message;
  if (typeof session !== "string" || session === "" || path.basename(session) !== session) {
    throw new TypeError("session must be the name of a file, without its folder");
  }
  for (const content of [user, assistant]) {
    if (content !== undefined && typeof content !== "string") {
      throw new TypeError("user and assistant must be strings");
    }
  }
  return message;
}

/** One conversation. What it receives is written in its order. */
class Session {
  readonly #name: string;
  readonly #sessionFile: string;
  readonly #config: SessionWriteLockAcquireTimeoutConfig;
  #turn: SessionWriteLock | undefined;
  #written: Promise<void> = Promise.resolve();

  constructor(name: string, folder: string, config: SessionWriteLockAcquireTimeoutConfig) {
    this.#name = name;
    this.#sessionFile = path.join(folder, `${name}.jsonl`);
    this.#config = config;
  }

  receive(role: Role, content: string): void {
    this.#written = this.#written
      .then(() => this.#write(role, content))
      .catch((error) => this.#fail(role, error));
  }

  /** Everything that was received is written, and the lock is given back. */
  async drain(): Promise<void> {
    await this.#written;
    if (this.#turn) {
      tell("unanswered", { session: this.#name });
    }
    await this.#endTurn();
  }

  async #write(role: Role, content: string): Promise<void> {
    // A turn's lock may have been lost since it was taken: by a restart, by the watchdog.
    while (!this.#turn?.held) {
      await this.#beginTurn();
    }
    const { id } = appendEntry(this.#sessionFile, role, content);
    tell("written", { session: this.#name, role, id });
    if (role === "assistant") {
      await this.#endTurn();
    }
  }

  async #beginTurn(): Promise<void> {
    this.#turn = await acquireSessionWriteLock({
      sessionFile: this.#sessionFile,
      handleSignals: "if-alone",
      ...resolveSessionWriteLockOptions(this.#config),
    });
  }

  async #endTurn(): Promise<void> {
    const turn = this.#turn;
    this.#turn = undefined;
    await turn?.release();
  }

  /** What can't be written is told, not dropped in silence; the next message tries anew. */
  #fail(role: Role, error: Error & { code?: string }): void {
    process.exitCode = 1;
    tell("failed", { session: this.#name, role, code: error.code, message: error.message });
  }
}

class Gateway {
  readonly #folder: string;
  readonly #config: SessionWriteLockAcquireTimeoutConfig;
  readonly #sessions = new Map<string, Session>();

  constructor(folder: string, config: SessionWriteLockAcquireTimeoutConfig) {
    this.#folder = folder;
    this.#config = config;
  }

  async start(): Promise<void> {
    await this.#sweep();
    tell("started", { pid: process.pid });
  }

  /** Messages that wait for a lock go on waiting; those that come meanwhile are taken as ever. */
  async restart(): Promise<void> {
    const interrupted = heldSessionWriteLocks().map(sessionOf);
    releaseAllSessionWriteLocks();
    await this.#sweep();
    tell("restarted", { interrupted });
  }

  receive(line: string): void {
    try {
      const message = parse(line);
      for (const role of ["user", "assistant"] as const) {
        const content = message[role];
        if (content !== undefined) {
          this.#session(message.session).receive(role, content);
        }
      }
    } catch (error) {
      tell("rejected", { line, message: String(error) });
    }
  }

  async drain(): Promise<void> {
    await Promise.all([...this.#sessions.values()].map((session) => session.drain()));
    tell("drained");
  }

  /** Removes the locks of processes that are gone, and tells which sessions they cut off. */
  async #sweep(): Promise<void> {
    const { cleaned } = await cleanStaleLockFiles({
      sessionsDir: this.#folder,
      config: this.#config,
      log: { warn: (message) => process.stderr.write(`${message}\n`) },
    });
    for (const lock of cleaned) {
      tell("cut-off", { session: sessionOf(lock), reasons: lock.staleReasons });
    }
  }

  #session(name: string): Session {
    const session = this.#sessions.get(name) ?? new Session(name, this.#folder, this.#config);
    this.#sessions.set(name, session);
    return session;
  }
}

async function main([folder, configFile]: string[]): Promise<void> {
  if (folder === undefined) {
    throw new Error("which folder? usage: gateway <folder> [config.json]");
  }
  const config = configFile === undefined ? {} : JSON.parse(fs.readFileSync(configFile, "utf8"));
  const gateway = new Gateway(folder, config);

  const input = createInterface({ input: process.stdin });
  input.on("line", (line) => gateway.receive(line));
  const ended = once(input, "close");
  process.on("SIGUSR1", () => void gateway.restart());
  // Its locks are acquired with `handleSignals: "if-alone"`. These listeners decide, so the locks are kept until the
  // drain has released them.
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => input.close());
  }

  // Nothing is written before the sweep has told which sessions were cut off.
  input.pause();
  await gateway.start();
  input.resume();
  await ended;
  await gateway.drain();
  process.exit();
}

void main(process.argv.slice(2));
