/** Actors, seen from the process that tells them what to do. */

import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";

const ACTOR = fileURLToPath(new URL("actor.mjs", import.meta.url));

const running = new Set();

export class Actor {
  #replies = new Map();
  #lastId = 0;
  #onNote;

  /**
   * `through`: a command that starts it, such as strace. `onNote` hears what its tasks tell while
   * they run.
   */
  static async start(lock, { through = [], nodeOptions = [], onNote } = {}) {
    const actor = new Actor();
    const [execPath, ...execArgv] = [...through, process.execPath, ...nodeOptions];
    actor.process = fork(ACTOR, [lock], { execPath, execArgv, stdio: ["ignore", 2, 2, "ipc"] });
    actor.ended = new Promise((resolve) => actor.process.once("exit", resolve));
    running.add(actor);
    const ready = new Promise((resolve) => (actor.#onNote = resolve));
    actor.process.on("message", (message) => actor.#receive(message));
    actor.process.once("exit", () => actor.#end());
    await Promise.race([ready, actor.ended.then(() => actor.#fail("it did not start"))]);
    actor.#onNote = onNote;
    return actor;
  }

  get pid() {
    return this.process.pid;
  }

  run(task, args = {}) {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      this.#replies.set(id, { resolve, reject });
      this.process.send({ id, task, args }, (error) => error && reject(error));
    });
  }

  async kill() {
    this.process.kill("SIGKILL");
    await this.ended;
  }

  /** Lets it end by itself, and whatever it runs under finish its own work. */
  async leave() {
    if (this.process.connected) {
      this.process.disconnect();
    }
    await this.ended;
  }

  #receive({ id, value, error, note }) {
    if (note !== undefined) {
      this.#onNote?.(note);
      return;
    }
    const { resolve, reject } = this.#replies.get(id);
    this.#replies.delete(id);
    if (error === undefined) {
      resolve(value);
    } else {
      reject(new Error(error));
    }
  }

  #end() {
    running.delete(this);
    for (const { reject } of this.#replies.values()) {
      reject(this.#error("it ended"));
    }
    this.#replies.clear();
  }

  #error(what) {
    return new Error(`actor ${this.process.spawnargs.join(" ")}: ${what}`);
  }

  #fail(what) {
    throw this.#error(what);
  }
}

/** Starts actors, hands them to `use`, and ends them whatever happens. */
export async function withActors(lock, count, use, options) {
  const actors = await Promise.all(
    Array.from({ length: count }, () => Actor.start(lock, options)),
  );
  try {
    return await use(actors);
  } finally {
    await Promise.all(actors.map((actor) => actor.kill()));
  }
}

export async function killAll() {
  await Promise.all([...running].map((actor) => actor.kill()));
}

