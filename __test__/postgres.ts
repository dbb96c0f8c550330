/** What the tests of `session-write-lock/postgres` share: a server, and processes that use it. */

import pg from "pg";
import path from "node:path";
import { afterAll, beforeAll, onTestFinished } from "vitest";

import { type PostgresLockOptions, type PostgresLocksOptions, postgresLocks } from "../postgres.js";
import { findPostgres, type PostgresServer as Server, startPostgres } from "../scripts/postgres-server.mjs";
import { Agent, root } from "./support.js";

/** One server for all tests of a file, with the table in it. */
export function useServer(): { server: Server; sql: pg.Pool } {
  const used = {} as { server: Server; sql: pg.Pool };
  beforeAll(async () => {
    if (findPostgres()) {
      used.server = await startPostgres();
      used.sql = newPool(used.server);
      const locks = postgresLocks({ pool: used.sql });
      await locks.migrate();
      await locks.close();
    }
  });
  afterAll(async () => {
    await used.sql?.end();
    used.server?.stop();
  });
  return used;
}

/** A pool that outlives a restart of the server. */
export function newPool(server: Server): pg.Pool {
  const pool = new pg.Pool({ connectionString: server.connectionString });
  pool.on("error", () => {});
  return pool;
}

let names = 0;

/** A name that no other test of the file uses. */
export function newName(): string {
  return `chat ${++names}`;
}

/** The locks of this process, which are closed when the test is over. */
export function newLocks(options: PostgresLocksOptions) {
  const locks = postgresLocks(options);
  onTestFinished(() => locks.close());
  return locks;
}

/** A process that uses the server, driven by the test. */
export class Machine {
  private constructor(
    readonly agent: Agent,
    readonly connectionString: string,
  ) {}

  static async start(connectionString: string, options: PostgresLocksOptions = {}): Promise<Machine> {
    const agent = await Agent.start();
    const all = { connectionString, ...options };
    await agent.run(
      ({ require, kept }, module, options) => {
        kept.set("locks", require(module).postgresLocks(options));
      },
      path.join(root, "postgres.js"),
      all,
    );
    return new Machine(agent, connectionString);
  }

  /** Waits for a lock over there, and keeps it. Resolves to its generation. */
  lock(name: string, options: Omit<PostgresLockOptions, "signal" | "onWarning"> = {}): Promise<number> {
    return this.agent.run(
      async ({ kept }, name, options) => {
        const lock = await kept.get("locks").lock(name, options);
        kept.set(name, lock);
        return Number(lock.generation);
      },
      name,
      options,
    );
  }

  release(name: string): Promise<void> {
    return this.agent.run(({ kept }, name) => kept.get(name).release(), name);
  }

  /** Why the lock of a name was lost over there; waits until it is. */
  loss(name: string): Promise<string> {
    return this.agent.run(async ({ kept }, name) => {
      const { signal } = kept.get(name);
      if (!signal.aborted) {
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      }
      return signal.reason.how;
    }, name);
  }
}
