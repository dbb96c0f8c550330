/**
 * One process of the storm over PostgreSQL: takes locks in every way, until it is told to stop or killed.
 *
 * Inside of each lock it counts in the database, in a transaction that the fence protects: it reads the counter, adds
 * one and writes it back, and notes its generation. With `names`, the kernel is a witness as well: see `name-witness.mjs`.
 */

import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";

import { postgresLocks } from "../../postgres.js";
import { chance } from "./chance.mjs";
import { NameWitness } from "./name-witness.mjs";

/** `{ connectionString, storm, sessions, seed, names }` */
const plan = JSON.parse(process.argv[2]);
const { connectionString, storm, sessions } = plan;

const random = chance(plan.seed);
const locks = postgresLocks({ connectionString });
const pool = new pg.Pool({ connectionString, max: 3 });
pool.on("error", () => {});
const seen = { doubleHolds: 0, refused: 0, errors: [], longestWaitMs: 0 };
let isOver = false;

process.on("message", () => {
  isOver = true;
});
process.on("disconnect", () => process.exit());

async function work(lock) {
  const witness = plan.names ? new NameWitness(`${storm}/${lock.name}`) : undefined;
  await witness?.enter();
  try {
    if (random.one(20)) {
      await delay(random.below(3));
    }
    await count(lock);
  } finally {
    await witness?.leave();
    seen.doubleHolds += witness?.overlaps ?? 0;
  }
}

async function count(lock) {
  const client = await pool.connect();
  client.on("error", () => {}); // the query that is under way rejects
  try {
    await client.query("BEGIN");
    await lock.fence(client);
    const { rows } = await client.query("SELECT n FROM storm_counters WHERE name = $1", [lock.name]);
    await client.query("UPDATE storm_counters SET n = $2 WHERE name = $1", [lock.name, rows[0].n + 1]);
    await client.query("INSERT INTO storm_log (name, generation) VALUES ($1, $2)", [lock.name, String(lock.generation)]);
    await client.query("COMMIT");
    client.removeAllListeners("error");
    client.release();
  } catch (error) {
    client.release(true); // the server rolls back
    throw error;
  }
}

const WAYS = [
  (name) => locks.withLock(name, work),
  async (name) => {
    const lock = await locks.tryLock(name);
    if (lock) {
      await work(lock).finally(() => lock.release());
    }
  },
  (name) => locks.withLock(name, { timeoutMs: 1 + random.below(50) }, work),
  (name) => locks.withLock(name, { signal: AbortSignal.timeout(random.below(30)) }, work),
  (name) => locks.withLock(name, { maxHoldMs: 10_000, label: "storm" }, work),
  async (name) => {
    const lock = await locks.lock(name);
    void lock.wanted;
    await work(lock).finally(() => lock.release());
  },
];

/** What a storm brings about: time-outs, aborts, losses, and servers that went away. */
const EXPECTED = new Set(["ERR_LOCK_TIMEOUT", "ERR_LOCK_LOST", "ERR_LOCK_DATABASE", 23]);

async function task() {
  while (!isOver) {
    const startedAt = performance.now();
    try {
      await random.of(WAYS)(String(random.below(sessions)));
    } catch (error) {
      if (error.code === "ERR_LOCK_LOST") {
        seen.refused += 1;
      }
      if (!EXPECTED.has(error.code) && !isServerGone(error)) {
        seen.errors.push(`${error.code} ${error.message}`);
      }
      await delay(random.below(5));
    }
    seen.longestWaitMs = Math.max(seen.longestWaitMs, Math.round(performance.now() - startedAt));
  }
}

/** Errors of the application's own connections, which the storm ends as well. */
function isServerGone({ code, message }) {
  return /^(57P0|08|ECONN|EPIPE|40001)/.test(code ?? "") || /terminated|not queryable|timeout/i.test(message);
}

await Promise.all([task(), task(), task()]);
await locks.close();
await pool.end();
process.send(seen);
