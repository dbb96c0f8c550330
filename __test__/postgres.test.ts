/** `session-write-lock/postgres`: locks that a PostgreSQL server keeps. With a real server and real processes. */

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import net from "node:net";
import path from "node:path";
import { text } from "node:stream/consumers";
import pg from "pg";
import { beforeAll, describe, expect, onTestFinished, test as testAnywhere } from "vitest";

import { isLockLostError, isLockTimeoutError, LockLostError } from "../index.js";
import { postgresLocks } from "../postgres.js";
import { freePort } from "../scripts/postgres-server.mjs";
import { Machine, newLocks, newName, useServer } from "./postgres.js";
import { aborted, root, temporaryFolder, testWith, until } from "./support.js";

const test = testWith("a PostgreSQL server");

const used = useServer();
const address = () => used.server.connectionString;

const waitersOf = async (locks: ReturnType<typeof postgresLocks>, name: string) =>
  (await locks.inspectLock(name))?.waiters.length ?? 0;

const rejection = (promise: Promise<unknown>) =>
  promise.then(
    () => expect.fail("it resolved"),
    (error) => error,
  );

describe("exclusion between processes", () => {
  test("eight processes are served in the order in which they came", async () => {
    const name = newName();
    const locks = newLocks({ connectionString: address() });
    const first = await locks.lock(name);
    const machines = await Promise.all(Array.from({ length: 8 }, () => Machine.start(address())));
    const served: number[] = [];
    const waits: Promise<void>[] = [];
    for (const [index, machine] of machines.entries()) {
      waits.push(
        machine.lock(name).then(async () => {
          served.push(index);
          await machine.release(name);
        }),
      );
      await until("it waits", async () => (await waitersOf(locks, name)) === index + 1);
    }
    await first.release();
    await Promise.all(waits);
    expect(served).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  test("a counter in a file that only the lock protects loses no update", async () => {
    const name = newName();
    const file = path.join(temporaryFolder(), "counter");
    writeFileSync(file, "0");
    const machines = await Promise.all(Array.from({ length: 8 }, () => Machine.start(address())));
    const generations = await Promise.all(
      machines.map(({ agent }) =>
        agent.run(
          async ({ kept, require }, name, file) => {
            const fs = require("node:fs");
            const seen: number[] = [];
            for (let round = 0; round < 40; round += 1) {
              await kept.get("locks").withLock(name, async (lock: any) => {
                const count = Number(fs.readFileSync(file, "utf8"));
                seen.push(Number(lock.generation));
                await new Promise(setImmediate);
                fs.writeFileSync(file, String(count + 1));
              });
            }
            return seen;
          },
          name,
          file,
        ),
      ),
    );
    expect(readFileSync(file, "utf8")).toBe("320");
    expect(new Set(generations.flat()).size).toBe(320);
    for (const seen of generations) {
      expect(seen).toEqual(seen.toSorted((one, other) => one - other));
    }
  });

  test("a killed holder's lock goes to the waiter at once", async () => {
    const name = newName();
    const holder = await Machine.start(address());
    const waiter = await Machine.start(address());
    const before = await holder.lock(name);
    const wait = waiter.lock(name, { timeoutMs: 10_000 });
    const locks = newLocks({ connectionString: address() });
    await until("it waits", async () => (await waitersOf(locks, name)) === 1);
    const killedAt = performance.now();
    await holder.agent.kill();
    expect(await wait).toBeGreaterThan(before);
    expect(performance.now() - killedAt).toBeLessThan(2_000);
  });

  test("a killed waiter leaves the queue, and the next one is served", async () => {
    const name = newName();
    const locks = newLocks({ connectionString: address() });
    const held = await locks.lock(name);
    const killed = await Machine.start(address());
    const next = await Machine.start(address());
    const lost = killed.lock(name).catch(() => {});
    await until("it waits", async () => (await waitersOf(locks, name)) === 1);
    const wait = next.lock(name);
    await until("both wait", async () => (await waitersOf(locks, name)) === 2);
    await killed.agent.kill();
    await lost;
    await until("the server has noticed", async () => (await waitersOf(locks, name)) === 1);
    await held.release();
    await wait;
  });

  test("a stopped holder keeps its lock", async () => {
    const name = newName();
    const holder = await Machine.start(address());
    await holder.lock(name);
    holder.agent.process.kill("SIGSTOP");
    const locks = newLocks({ connectionString: address() });
    const refused = await rejection(locks.lock(name, { timeoutMs: 300 }));
    expect(isLockTimeoutError(refused)).toBe(true);
    holder.agent.process.kill("SIGCONT");
    await holder.release(name);
    await (await locks.lock(name)).release();
  });

  test("a process that ends while it holds a lock is not kept alive, and its lock is free", async () => {
    const name = newName();
    const program = `
      const locks = require(${JSON.stringify(path.join(root, "postgres.js"))}).postgresLocks({ connectionString: ${JSON.stringify(address())} });
      locks.lock(${JSON.stringify(name)}).then((lock) => console.log(lock.held));`;
    const { stdout, status } = spawnSync(process.execPath, ["-e", program], { encoding: "utf8", timeout: 20_000 });
    expect({ stdout, status }).toEqual({ stdout: "true\n", status: 0 });
    const locks = newLocks({ connectionString: address() });
    await (await locks.lock(name, { timeoutMs: 5_000 })).release();
  });
});

describe("waiting", () => {
  test("many calls of one process take one connection, and are served in order", async () => {
    const name = newName();
    const locks = newLocks({ connectionString: address(), maxConnections: 2 });
    const first = await locks.lock(name);
    const served: number[] = [];
    const waits = Array.from({ length: 50 }, (_, index) =>
      locks.withLock(name, () => {
        served.push(index);
      }),
    );
    expect(locks.heldLocks()).toMatchObject([{ name, waiters: 50, acquisitions: 1 }]);
    const { rows } = await used.sql.query("SELECT count(*)::int AS n FROM pg_locks WHERE locktype = 'advisory'");
    expect(rows[0].n).toBe(1);
    await first.release();
    await Promise.all(waits);
    expect(served).toEqual(Array.from({ length: 50 }, (_, index) => index));
  });

  test("a time-out names the holder, and leaves nothing behind", async () => {
    const name = newName();
    const holder = await Machine.start(address());
    await holder.lock(name, { label: "a long job" });
    const locks = newLocks({ connectionString: address() });
    const error = await rejection(locks.lock(name, { timeoutMs: 200 }));
    expect(error).toMatchObject({
      code: "ERR_LOCK_TIMEOUT",
      timeoutMs: 200,
      lockPath: `postgres:${name}`,
      holder: { pid: holder.agent.pid, comm: "node", label: "a long job" },
    });
    expect(error.message).toMatch(`lock timeout after 200 ms: postgres:${name} is held by process ${holder.agent.pid} (node) on `);
    expect(error.message).toMatch('for "a long job"');
    await until("the server has noticed", async () => (await waitersOf(locks, name)) === 0);
    await holder.release(name);
    await (await locks.lock(name)).release();
  });

  test("one attempt does not wait, by `timeoutMs: 0` or `tryLock`", async () => {
    const name = newName();
    const holder = await Machine.start(address());
    await holder.lock(name);
    const locks = newLocks({ connectionString: address() });
    expect(await locks.tryLock(name)).toBeNull();
    const error = await rejection(locks.lock(name, { timeoutMs: 0 }));
    expect(error.message).toMatch(`locked: postgres:${name} is held by process ${holder.agent.pid} (node)`);
    await holder.release(name);
    const held = (await locks.tryLock(name))!;
    expect(await locks.tryLock(name)).toBeNull();
    await held.release();
  });

  test("an abort ends the wait with its reason, at the server too, and before it as well", async () => {
    const name = newName();
    const locks = newLocks({ connectionString: address() });
    const held = await locks.lock(name);
    const others = newLocks({ connectionString: address() });
    const controller = new AbortController();
    const first = rejection(others.lock(name, { signal: controller.signal }));
    const second = rejection(others.lock(name, { signal: controller.signal }));
    await until("it waits", async () => (await waitersOf(locks, name)) === 1);
    const reason = new Error("enough");
    controller.abort(reason);
    expect([await first, await second]).toEqual([reason, reason]);
    expect(await rejection(others.lock(name, { signal: controller.signal }))).toBe(reason);
    await until("the server has noticed", async () => (await waitersOf(locks, name)) === 0);
    await held.release();
    await (await others.lock(name)).release();
  });

  test("a call beyond `maxConnections` waits for a connection, within its `timeoutMs`", async () => {
    const locks = newLocks({ connectionString: address(), maxConnections: 1 });
    const [one, other] = [newName(), newName()];
    const held = await locks.lock(one);
    expect(await rejection(locks.lock(other, { timeoutMs: 100 }))).toMatchObject({ code: "ERR_LOCK_TIMEOUT" });
    const wait = locks.lock(other);
    await held.release();
    await (await wait).release();
  });

  test("one attempt waits ten seconds for a connection, if all are in use", async () => {
    const locks = newLocks({ connectionString: address(), maxConnections: 1 });
    const held = await locks.lock(newName());
    const attempts = [locks.tryLock(newName()), locks.lock(newName(), { timeoutMs: 0 })];
    for (const attempt of attempts) {
      expect(await rejection(attempt)).toMatchObject({ code: "ERR_LOCK_DATABASE" });
    }
    await held.release();
  });

  test("two schemas have two locks of one name", async () => {
    const name = newName();
    await used.sql.query("CREATE SCHEMA tenant");
    const locks = newLocks({ connectionString: address() });
    const others = newLocks({ connectionString: address(), schema: "tenant" });
    await others.migrate();
    const [one, other] = [await locks.lock(name), await others.lock(name, { timeoutMs: 5_000 })];
    await Promise.all([one.release(), other.release()]);
  });

  test("a release that passes `wanted` leaves no hold time to the next lock", async () => {
    const all = Array.from({ length: 10 }, () => newLocks({ connectionString: address(), maxConnections: 1 }));
    const held = await Promise.all(
      all.map(async (locks) => {
        const bounded = await locks.lock(newName(), { maxHoldMs: 300 });
        void bounded.wanted;
        await bounded.release();
        return locks.lock(newName());
      }),
    );
    await used.sql.query("SELECT pg_sleep(0.6)");
    expect(held.map((lock) => lock.held)).toEqual(held.map(() => true));
    await Promise.all(held.map((lock) => lock.release()));
  });

  test("`wanted` aborts when another process or this one begins to wait, also before it is asked for", async () => {
    const locks = newLocks({ connectionString: address() });
    for (const isAskedFirst of [true, false]) {
      for (const isHere of [true, false]) {
        const name = newName();
        const held = await locks.lock(name);
        const other = isHere ? undefined : await Machine.start(address());
        const early = isAskedFirst ? aborted(held.wanted) : undefined;
        const wait: Promise<unknown> = other ? other.lock(name) : locks.lock(name).then((lock) => lock.release());
        await (early ?? until("it waits", async () => isHere || (await waitersOf(locks, name)) === 1));
        await aborted(held.wanted);
        await held.release();
        await wait;
      }
    }
  });
});

describe("a lock that is lost", () => {
  test("by a restart or a crash of the server: the holder hears of it, waiters reject, then all goes on", async () => {
    for (const mode of ["fast", "immediate"]) {
      const name = newName();
      const locks = newLocks({ connectionString: address() });
      const others = newLocks({ connectionString: address() });
      const held = await locks.lock(name);
      const wait = rejection(others.lock(name));
      await until("it waits", async () => (await waitersOf(locks, name)) === 1);
      used.server.restart(mode);
      expect(await wait).toMatchObject({ code: "ERR_LOCK_DATABASE", cause: expect.anything() });
      await until("it is lost", () => held.signal.aborted);
      expect(held.signal.reason).toMatchObject({ code: "ERR_LOCK_LOST", how: "connection-lost" });
      expect(held.held).toBe(false);
      expect(isLockLostError(await rejection(held.release()))).toBe(true);
      const again = await others.lock(name);
      expect(again.generation).toBeGreaterThan(held.generation);
      await again.release();
    }
  });

  test("by a cut connection", async () => {
    const name = newName();
    const { held, proxy } = await holdThroughProxy(name);
    const others = newLocks({ connectionString: address() });
    const wait = others.lock(name);
    await until("it waits", async () => (await waitersOf(others, name)) === 1);
    proxy.cut();
    const next = await wait;
    await until("it is lost", () => held.signal.aborted);
    expect(held.signal.reason).toMatchObject({ how: "connection-lost" });
    await next.release();
  });

  test("by a server that no longer answers: the release rejects after ten seconds", async () => {
    const name = newName();
    const { held, proxy } = await holdThroughProxy(name);
    proxy.pause();
    const startedAt = performance.now();
    expect(await rejection(held.release())).toMatchObject({ how: "connection-lost" });
    expect(performance.now() - startedAt).toBeLessThan(12_000);
    proxy.cut();
    const others = newLocks({ connectionString: address() });
    await (await others.lock(name, { timeoutMs: 5_000 })).release();
  });

  test("by a server that no longer answers, when `wanted` is asked for: within eleven seconds", async () => {
    const { held, proxy } = await holdThroughProxy(newName());
    proxy.pause();
    const startedAt = performance.now();
    void held.wanted;
    await until("it is lost", () => held.signal.aborted, 12_000);
    expect(performance.now() - startedAt).toBeGreaterThan(9_000);
    expect(held.signal.reason).toMatchObject({ how: "connection-lost" });
    expect(await rejection(held.release())).toBe(held.signal.reason);
    proxy.cut();
  });

  test("not by a server that refuses to say who waits", async () => {
    await used.sql.query("CREATE SCHEMA refusing");
    const locks = newLocks({ connectionString: address(), schema: "refusing" });
    await locks.migrate();
    const held = await locks.lock(newName());
    await used.sql.query("DROP TABLE refusing.session_write_locks");
    void held.wanted;
    const since = performance.now();
    await until("it has answered", () => performance.now() - since > 500);
    expect(held.held).toBe(true);
    await held.release();
  });

  test("by `maxHoldMs`, which `release` finds first", async () => {
    const locks = newLocks({ connectionString: address() });
    const warnings: Error[] = [];
    const held = await locks.lock(newName(), { maxHoldMs: 100, onWarning: (warning) => warnings.push(warning) });
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 600); // the event loop is busy
    expect(await rejection(held.release())).toMatchObject({ how: "hold-exceeded" });
    expect(warnings).toMatchObject([{ code: "LOCK_HOLD_EXCEEDED" }]);
  });

  test("by `maxHoldMs`, which the server watches, also if the holder is stopped", async () => {
    const name = newName();
    const holder = await Machine.start(address());
    await holder.lock(name, { maxHoldMs: 300 });
    holder.agent.process.kill("SIGSTOP");
    const locks = newLocks({ connectionString: address() });
    const next = await locks.lock(name, { timeoutMs: 5_000 });
    holder.agent.process.kill("SIGCONT");
    expect(await holder.loss(name)).toBe("hold-exceeded");
    await next.release();
  });

  test("by `maxHoldMs`, counted from the grant, whatever is asked in between; with one warning", async () => {
    const name = newName();
    const locks = newLocks({ connectionString: address() });
    const warnings: Error[] = [];
    const held = await locks.lock(name, { maxHoldMs: 1_000, label: "job", onWarning: (warning) => warnings.push(warning) });
    const startedAt = performance.now();
    await until("most of it is over", () => performance.now() - startedAt > 700);
    const askedAt = performance.now();
    void held.wanted;
    await until("it is lost", () => held.signal.aborted);
    expect(performance.now() - askedAt).toBeLessThan(1_000);
    expect(held.signal.reason).toMatchObject({ how: "hold-exceeded", label: "job" });
    expect(await rejection(held.release())).toBe(held.signal.reason);
    expect(warnings).toMatchObject([{ name: "LockWarning", code: "LOCK_HOLD_EXCEEDED", maxHoldMs: 1_000, label: "job" }]);
    // The connection that served a bounded hold serves an unbounded one.
    const unbounded = await locks.lock(name, { maxHoldMs: 400 });
    await unbounded.release();
    const next = await locks.lock(name);
    await until("longer than that", () => performance.now() - startedAt > 2_500);
    expect(next.held).toBe(true);
    await next.release();
  });

  test("by `close`", async () => {
    const name = newName();
    const locks = postgresLocks({ connectionString: address() });
    const held = await locks.lock(name);
    const wait = rejection(locks.lock(name));
    await locks.close();
    await locks.close();
    expect(await wait).toMatchObject({ code: "ERR_LOCK_CLOSED" });
    expect(held.signal.reason).toMatchObject({ how: "released" });
    expect(await rejection(locks.lock(name))).toMatchObject({ code: "ERR_LOCK_CLOSED" });
    expect(await rejection(locks.inspectLock(name))).toMatchObject({ code: "ERR_LOCK_CLOSED" });
    const others = newLocks({ connectionString: address() });
    await (await others.lock(name, { timeoutMs: 5_000 })).release();
  });

  test("`withLock` tells a loss with what the function threw", async () => {
    const name = newName();
    const locks = newLocks({ connectionString: address() });
    const error = await rejection(
      locks.withLock(name, async (lock) => {
        const { backend } = (await locks.inspectLock(name))!;
        await used.sql.query("SELECT pg_terminate_backend($1)", [backend!.pid]);
        await until("it is lost", () => lock.signal.aborted);
        throw new Error("the work");
      }),
    );
    expect(error).toBeInstanceOf(LockLostError);
    expect(await rejection(locks.withLock(name, () => locks.withLock(name, () => 0)))).toMatchObject({
      code: "ERR_LOCK_SELF_DEADLOCK",
    });
  });
});

describe("the fence", () => {
  beforeAll(async () => {
    await used.sql?.query("CREATE TABLE writes (id bigserial PRIMARY KEY, name text, generation bigint)");
  });

  test("lets the last holder write, and aborts the transaction of an earlier one", async () => {
    const name = newName();
    const [locks, others] = [newLocks({ pool: used.sql }), newLocks({ pool: used.sql })];
    const early = await locks.lock(name);
    const client = await used.sql.connect();
    onTestFinished(() => client.release());
    await client.query("BEGIN");
    await early.fence(client);
    await client.query("COMMIT");
    await used.sql.query("SELECT pg_terminate_backend($1)", [(await others.inspectLock(name))!.backend!.pid]);
    const late = await others.lock(name);
    // As an earlier holder that has not heard of its loss yet, on the server.
    await client.query("BEGIN");
    const error = await rejection(client.query("SELECT session_write_lock_fence($1, $2)", [name, String(early.generation)]));
    expect(error.code).toBe("SWL01");
    expect((await rejection(client.query("SELECT 1"))).code).toBe("25P02");
    await client.query("ROLLBACK");
    expect(await rejection(early.fence(client))).toMatchObject({ code: "ERR_LOCK_LOST" });
    await client.query("BEGIN");
    await late.fence(client);
    await client.query("COMMIT");
    await late.release();
    expect(await rejection(late.fence(client))).toMatchObject({ code: "ERR_LOCK_LOST", how: "released" });
  });

  test("of a lock that was released meanwhile fails, and ends no later lock of this process", async () => {
    const name = newName();
    const [locks, others] = [newLocks({ connectionString: address() }), newLocks({ connectionString: address() })];
    const [client, other] = [await used.sql.connect(), await used.sql.connect()];
    const early = await locks.lock(name);
    await other.query("BEGIN; SELECT pg_advisory_xact_lock(1, 1)");
    const slow = client.query("SELECT pg_advisory_xact_lock(1, 1)");
    const fenced = rejection(early.fence(client)); // after that
    await early.release();
    await (await others.lock(name)).release();
    const late = await locks.lock(name);
    await other.query("COMMIT");
    expect(await fenced).toMatchObject({ code: "ERR_LOCK_LOST", how: "superseded" });
    await slow;
    [client, other].forEach((it) => it.release());
    expect(early.signal.aborted).toBe(false);
    expect(late.held).toBe(true);
    expect(locks.heldLocks()).toMatchObject([{ name, generation: late.generation }]);
    await late.release();
  });

  test("is a serialization failure, and no loss, where the transaction began to read before the first grant", async () => {
    const client = await used.sql.connect();
    await client.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    await client.query("SELECT count(*) FROM session_write_locks");
    const held = await newLocks({ connectionString: address() }).lock(newName());
    expect(await rejection(held.fence(client))).toMatchObject({ code: "40001" });
    expect(held.held).toBe(true);
    await client.query("ROLLBACK");
    client.release();
    await held.release();
  });

  test("holds back the next grant until the fenced transaction ends", async () => {
    const name = newName();
    const [locks, others] = [newLocks({ pool: used.sql }), newLocks({ pool: used.sql })];
    const early = await locks.lock(name);
    const client = await used.sql.connect();
    onTestFinished(() => client.release());
    await client.query("BEGIN");
    await early.fence(client);
    await used.sql.query("SELECT pg_terminate_backend($1)", [(await others.inspectLock(name))!.backend!.pid]);
    expect(await rejection(others.lock(name, { timeoutMs: 300 }))).toMatchObject({ code: "ERR_LOCK_TIMEOUT" });
    await client.query("INSERT INTO writes (name, generation) VALUES ($1, $2)", [name, String(early.generation)]);
    await client.query("COMMIT");
    await (await others.lock(name)).release();
  });

  /** Two processes write under one lock. Each round stops the holder and has the server free its lock. */
  async function pausedHolders(name: string, rounds: number, isFenced: boolean) {
    const machines = await Promise.all([0, 1].map(() => Machine.start(address())));
    const loops = machines.map(({ agent }) =>
      agent.run(
        async ({ kept, require }, name, connectionString, isFenced) => {
          const { Pool } = require("pg");
          const pool = new Pool({ connectionString });
          pool.on("error", () => {});
          let isOver = false;
          kept.set("stop", () => (isOver = true));
          let refused = 0;
          while (!isOver) {
            const lock = await kept.get("locks").lock(name);
            while (!isOver && lock.held) {
              const client = await pool.connect();
              try {
                await client.query("BEGIN");
                if (isFenced) {
                  await lock.fence(client);
                }
                await client.query("INSERT INTO writes (name, generation) VALUES ($1, $2)", [name, String(lock.generation)]);
                await client.query("COMMIT");
              } catch (error: any) {
                await client.query("ROLLBACK");
                if (error.code !== "ERR_LOCK_LOST") {
                  throw error;
                }
                refused += 1;
              } finally {
                client.release();
              }
            }
            await lock.release().catch(() => {});
          }
          await pool.end();
          return refused;
        },
        name,
        address(),
        isFenced,
      ),
    );
    const locks = newLocks({ connectionString: address() });
    for (let round = 0; round < rounds; round += 1) {
      let seen = await locks.inspectLock(name);
      while (!seen?.holder) {
        seen = await locks.inspectLock(name);
      }
      const { holder, generation, backend } = seen;
      process.kill(holder.pid, "SIGSTOP");
      await used.sql.query("SELECT pg_terminate_backend($1)", [backend!.pid]);
      // The holder may have been stopped inside its fenced transaction. Then nobody gets the lock before it goes on.
      const deadline = performance.now() + (isFenced ? 30 : Infinity);
      const WROTE = "SELECT 1 FROM writes WHERE name = $1 AND generation > $2 LIMIT 1";
      while (performance.now() < deadline && (await used.sql.query(WROTE, [name, String(generation)])).rows.length === 0);
      process.kill(holder.pid, "SIGCONT");
    }
    await Promise.all(machines.map(({ agent }) => agent.run(({ kept }) => kept.get("stop")())));
    const refused = await Promise.all(loops);
    const { rows } = await used.sql.query(
      `SELECT count(*) FILTER (WHERE generation < latest)::int AS stale, count(*)::int AS writes FROM
         (SELECT generation, max(generation) OVER (ORDER BY id) AS latest FROM writes WHERE name = $1) AS w`,
      [name],
    );
    return { ...rows[0], refused: refused[0]! + refused[1]! };
  }

  test("a thousand paused holders write nothing stale; without the fence they do", { timeout: 240_000 }, async () => {
    await used.sql.query("CREATE INDEX ON writes (name, generation)");
    const fenced = await pausedHolders(newName(), 1_000, true);
    const unfenced = await pausedHolders(newName(), 200, false);
    console.log(`paused holders: fenced ${JSON.stringify(fenced)}, not fenced ${JSON.stringify(unfenced)}`);
    expect(fenced.stale).toBe(0);
    expect(fenced.refused).toBeGreaterThan(0);
    expect(unfenced.stale).toBeGreaterThan(0);
  });
});

describe("what the server may be like", () => {
  test("settings of the role or the pool that would cut a wait short have no effect", async () => {
    await used.sql.query(`CREATE ROLE hasty LOGIN; GRANT SELECT, INSERT, UPDATE ON session_write_locks TO hasty;
      ALTER ROLE hasty SET statement_timeout = '50ms'; ALTER ROLE hasty SET lock_timeout = '50ms';
      ALTER ROLE hasty SET idle_session_timeout = '50ms'; ALTER ROLE hasty SET synchronous_commit = 'off';
      ALTER ROLE hasty SET default_transaction_isolation = 'serializable'; ALTER ROLE hasty SET default_transaction_read_only = 'on'`);
    const pool = new pg.Pool({
      connectionString: address().replace("test@", "hasty@"),
      query_timeout: 50,
      statement_timeout: 50,
      connectionTimeoutMillis: 5_000,
    });
    const name = newName();
    const [locks, others] = [newLocks({ pool }), newLocks({ connectionString: address() })];
    const held = await others.lock(name);
    const wait = locks.lock(name);
    await until("it waits", async () => (await others.inspectLock(name))?.waiters[0]?.waitsForMs! > 300);
    await held.release();
    const late = await wait;
    await until("it is held", async () => (await others.inspectLock(name))?.ageMs! > 300);
    expect(late.held).toBe(true);
    await late.release();
    await pool.end();
  });

  test("how the application talks to the server has no effect", async () => {
    const odd = { binary: true, pipeline: true, connectionString: `${address()}?query_timeout=50` };
    const pool = new pg.Pool(odd as pg.PoolConfig);
    const [locks, others] = [newLocks({ pool }), newLocks({ connectionString: address() })];
    const name = newName();
    const held = await locks.tryLock(name);
    expect(held?.held).toBe(true);
    expect(await rejection(others.lock(name, { timeoutMs: 1 }))).toMatchObject({ code: "ERR_LOCK_TIMEOUT" });
    await held!.release();
    const theirs = await others.lock(name);
    expect(await rejection(locks.lock(name, { timeoutMs: 200 }))).toMatchObject({ code: "ERR_LOCK_TIMEOUT" });
    await until("it waits no more", async () => (await waitersOf(others, name)) === 0);
    await theirs.release();
    await pool.end();
  });

  test("the application's own parsers of types have no effect", async () => {
    const types = { getTypeParser: () => (value: string) => ({ odd: value }) };
    const pool = new pg.Pool({ connectionString: address(), types } as pg.PoolConfig);
    const locks = newLocks({ pool });
    const held = await locks.lock(newName());
    expect(typeof held.generation).toBe("bigint");
    expect(await locks.inspectLock(held.name)).toMatchObject({ holder: { pid: process.pid }, generation: held.generation });
    await held.release();
    await pool.end();
  });

  test("eight migrations at once, then the file of SQL by itself, leave one table", async () => {
    await used.sql.query(`CREATE SCHEMA "odd ""schema"`);
    const all = Array.from({ length: 8 }, () => newLocks({ connectionString: address(), schema: 'odd "schema' }));
    expect(await rejection(all[0]!.lock("x"))).toMatchObject({ code: "ERR_LOCK_DATABASE", message: expect.stringMatching(/locks\.migrate\(\)/) });
    await Promise.all(all.map((locks) => locks.migrate()));
    const schema = readFileSync(path.join(root, "lib/postgres/schema.sql"), "utf8");
    await used.sql.query(`BEGIN; SET LOCAL search_path TO "odd ""schema"; ${schema}; COMMIT`);
    const held = await all[0]!.lock("x");
    const client = await used.sql.connect();
    await client.query("BEGIN");
    await held.fence(client);
    await client.query("COMMIT");
    client.release();
    await held.release();
    const missing = newLocks({ connectionString: address(), schema: "nowhere" });
    expect(await rejection(missing.migrate())).toMatchObject({ code: "ERR_LOCK_DATABASE" });
  });

  test("a role without rights, no server, and a full server are clear errors", async () => {
    await used.sql.query("CREATE ROLE nobody LOGIN");
    const powerless = newLocks({ connectionString: address().replace("test@", "nobody@") });
    expect(await rejection(powerless.lock(newName()))).toMatchObject({ code: "ERR_LOCK_DATABASE", message: expect.stringMatching(/needs SELECT, INSERT and UPDATE/) });
    const nowhere = newLocks({ connectionString: "postgres://test@127.0.0.1:1/postgres" });
    expect(await rejection(nowhere.lock(newName()))).toMatchObject({ code: "ERR_LOCK_DATABASE", cause: { code: "ECONNREFUSED" } });
    await used.sql.query("CREATE ROLE narrow LOGIN CONNECTION LIMIT 1; GRANT SELECT, INSERT, UPDATE ON session_write_locks TO narrow");
    const narrow = newLocks({ connectionString: address().replace("test@", "narrow@") });
    const held = await narrow.lock(newName());
    expect(await rejection(narrow.lock(newName()))).toMatchObject({ code: "ERR_LOCK_DATABASE", message: expect.stringMatching(/maxConnections/) });
    await held.release();
  });

  testWith("a PostgreSQL server", "pgbouncer")("a pooler is refused, unless it is said to keep a connection for each client", async () => {
    const name = newName();
    for (const mode of ["transaction", "session"]) {
      const port = await startPgBouncer(mode);
      const connectionString = addressAt(port);
      const refused = newLocks({ connectionString });
      expect(await rejection(refused.lock(name))).toMatchObject({ code: "ERR_LOCK_POOLER", message: expect.stringMatching(/behindSessionPooler/) });
      if (mode === "session") {
        const holder = await Machine.start(connectionString, { behindSessionPooler: true });
        await holder.lock(name);
        const locks = newLocks({ connectionString, behindSessionPooler: true });
        expect(await locks.tryLock(name)).toBeNull();
        const wait = locks.lock(name, { timeoutMs: 10_000 });
        await until("it waits", async () => (await waitersOf(locks, name)) === 1);
        await holder.agent.kill();
        await (await wait).release();
      }
    }
  });
});

describe("what the documents say", () => {
  test("the example of docs/postgres.md prints what it says, whatever was there before", async () => {
    const text = readFileSync(path.join(root, "docs/postgres.md"), "utf8");
    const source = /^```js\n(.*?)^```$/ms.exec(text)![1]!;
    const folder = temporaryFolder();
    mkdirSync(path.join(folder, "node_modules"));
    symlinkSync(root, path.join(folder, "node_modules/session-write-lock"));
    symlinkSync(path.join(root, "node_modules/pg"), path.join(folder, "node_modules/pg"));
    writeFileSync(path.join(folder, "example.mjs"), source);
    await used.sql.query("CREATE DATABASE example");
    const env = { ...process.env, DATABASE_URL: address().replace(/postgres$/, "example") };
    for (const visits of [1, 2]) {
      const { stdout, stderr } = spawnSync(process.execPath, ["example.mjs"], { cwd: folder, encoding: "utf8", env });
      expect({ stdout, stderr }).toEqual({ stdout: `${visits}\n`, stderr: "" });
    }
  });

  testWith("a PostgreSQL server", "root", "network namespaces")("two machines lose nothing while one of them is cut off", { timeout: 180_000 }, async () => {
    const example = path.join(root, "examples/postgres/two-machines.mjs");
    const child = spawn(process.execPath, [example], { stdio: ["ignore", "pipe", "pipe"], detached: true });
    onTestFinished(() => {
      if (child.exitCode === null && child.signalCode === null) {
        process.kill(-child.pid!, "SIGTERM");
      }
    });
    const [stdout, stderr, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "close")]);
    expect({ stderr, status }, stdout).toEqual({ stderr: "", status: 0 });
    expect(stdout).toMatch("a failed: lock lost, the connection to the server ended: postgres:chat");
    expect(stdout).toMatch("400 messages, 400 different ones, numbered 1 to 400");
    const at = (event: string) => Number(new RegExp(`([\\d.]+) s  ${event}`).exec(stdout)![1]);
    const cut = at("the network of machine a is cut");
    expect(at("a failed: lock lost") - cut).toBeLessThan(17);
    expect(at("machine b goes on") - cut).toBeGreaterThan(20);
    expect(at("machine b goes on") - cut).toBeLessThan(40);
  });
});

describe("arguments", () => {
  const wrong: [string, unknown, string][] = [
    ["no options", undefined, "ERR_INVALID_ARG_TYPE"],
    ["neither pool nor connectionString", {}, "ERR_INVALID_ARG_VALUE"],
    ["both", { pool: new pg.Pool(), connectionString: "postgres:" }, "ERR_INVALID_ARG_VALUE"],
    ["an unknown option", { connectionString: "postgres:", max: 3 }, "ERR_INVALID_ARG_VALUE"],
    ["no pool", { pool: {} }, "ERR_INVALID_ARG_TYPE"],
    ["no string", { connectionString: 3 }, "ERR_INVALID_ARG_TYPE"],
    ["half a connection", { connectionString: "postgres:", maxConnections: 0.5 }, "ERR_OUT_OF_RANGE"],
    ["a schema without a name", { connectionString: "postgres:", schema: "" }, "ERR_INVALID_ARG_VALUE"],
    ["a word for a flag", { connectionString: "postgres:", behindSessionPooler: "yes" }, "ERR_INVALID_ARG_TYPE"],
  ];
  testAnywhere.each(wrong)("postgresLocks refuses %s", (_, options, code) => {
    expect(() => postgresLocks(options as any)).toThrow(expect.objectContaining({ code }));
  });

  const wrongNames: [string, unknown, string][] = [
    ["a number", 7, "ERR_INVALID_ARG_TYPE"],
    ["an empty name", "", "ERR_INVALID_ARG_VALUE"],
    ["a NUL byte", "a\0b", "ERR_INVALID_ARG_VALUE"],
    ["half a character", "a\ud800", "ERR_INVALID_ARG_VALUE"],
    ["1,001 bytes", "x".repeat(1_001), "ERR_OUT_OF_RANGE"],
  ];
  testAnywhere.each(wrongNames)("a lock refuses %s", async (_, name, code) => {
    const locks = newLocks({ connectionString: "postgres://nowhere" });
    expect(await rejection(locks.lock(name as string))).toMatchObject({ code });
    expect(await rejection(locks.tryLock(name as string))).toMatchObject({ code });
    expect(await rejection(locks.withLock(name as string, () => 0))).toMatchObject({ code });
    expect(await rejection(locks.inspectLock(name as string))).toMatchObject({ code });
    expect(await rejection(locks.lock("x", { timeOutMs: 3 } as object))).toMatchObject({ code: "ERR_INVALID_ARG_VALUE" });
    expect(await rejection(locks.lock("x", { label: "a\0b" }))).toMatchObject({ code: "ERR_INVALID_ARG_VALUE" });
  });

  test("any other name is a name", async () => {
    const locks = newLocks({ connectionString: address() });
    for (const name of ["'; DROP TABLE session_write_locks; --", "x".repeat(1_000), "名前\n\u001b[31m", "a\\b%_$1"]) {
      const held = await locks.lock(name, { label: "'; \u001b" });
      expect(await locks.inspectLock(name)).toMatchObject({ name, label: "'; \u001b" });
      await held.release();
      expect(await locks.inspectLock(name)).toBeNull();
    }
  });
});

/** The same server on another port. */
const addressAt = (port: number) => address().replace(/:\d+\/postgres/, `:${port}/postgres`);

async function holdThroughProxy(name: string) {
  const proxy = await startProxy();
  const held = await newLocks({ connectionString: addressAt(proxy.port) }).lock(name);
  return { held, proxy };
}

/** A proxy before the server, whose connections the test can cut or pause. */
async function startProxy() {
  const sockets = new Set<net.Socket>();
  const proxy = net.createServer((client) => {
    const server = net.connect(used.server.port, "127.0.0.1");
    for (const [from, to] of [[client, server], [server, client]] as const) {
      sockets.add(from);
      from.on("error", () => {});
      from.on("close", () => to.destroy());
      from.pipe(to);
    }
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  const cut = () => sockets.forEach((socket) => socket.destroy());
  onTestFinished(() => {
    cut();
    proxy.close();
  });
  const pause = () => sockets.forEach((socket) => socket.unpipe().pause());
  return { port: (proxy.address() as net.AddressInfo).port, cut, pause };
}

async function startPgBouncer(mode: string): Promise<number> {
  const folder = temporaryFolder();
  const port = await freePort();
  const file = path.join(folder, "pgbouncer.ini");
  writeFileSync(path.join(folder, "users"), '"test" ""\n');
  writeFileSync(
    file,
    `[databases]\npostgres = host=127.0.0.1 port=${used.server.port} user=test\n[pgbouncer]\nlisten_addr = 127.0.0.1\n` +
      `listen_port = ${port}\nauth_type = any\nauth_file = ${folder}/users\npool_mode = ${mode}\nunix_socket_dir =\n`,
  );
  spawnSync("chmod", ["-R", "a+rX", folder]);
  const asUser = process.getuid!() === 0 ? ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] : [];
  const [command, ...args] = [...asUser, "pgbouncer", "--quiet", file];
  const bouncer = spawn(command!, args, { stdio: "ignore" });
  onTestFinished(() => void bouncer.kill("SIGKILL"));
  await until("the pooler listens", () => {
    return new Promise<boolean>((resolve) => {
      const probe = net.connect(port, "127.0.0.1", () => resolve(true));
      probe.on("error", () => resolve(false));
      probe.unref();
    });
  });
  return port;
}
