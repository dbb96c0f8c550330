/**
 * `npm run storm:postgres`: processes take locks of a PostgreSQL server in every way. In the first half they are killed
 * and stopped; in the second half the server ends their connections as well, and is restarted.
 *
 * `--seconds 30 --processes 8 --sessions 4 --seed 1`. In the second half a holder can have lost its lock before it
 * hears of it, so there only the fence is to be believed, and only the counters are judged.
 */

import { fork } from "node:child_process";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import pg from "pg";

import { postgresLocks } from "../postgres.js";
import { findPostgres, startPostgres } from "./postgres-server.mjs";
import { chance } from "./storm/chance.mjs";

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "30" },
    processes: { type: "string", default: "8" },
    sessions: { type: "string", default: "4" },
    seed: { type: "string", default: String(Date.now() % 1_000_000) },
  },
});
const [seconds, processes, sessions, seed] = ["seconds", "processes", "sessions", "seed"].map((name) => Number(values[name]));

if (!findPostgres()) {
  console.log("skipped: the storm over PostgreSQL, for want of a PostgreSQL server");
  process.exit(0);
}

const ACTOR = fileURLToPath(new URL("storm/postgres-actor.mjs", import.meta.url));
const random = chance(seed);
const server = await startPostgres({ settings: { max_connections: 200, fsync: "off" } });
const { connectionString } = server;
const report = { kills: 0, stops: 0, terminations: 0, restarts: 0, doubleHolds: 0, refused: 0, longestWaitMs: 0 };
const errors = [];

async function sql(text, values) {
  const client = new pg.Client({ connectionString });
  client.on("error", () => {});
  await client.connect();
  try {
    return (await client.query(text, values)).rows;
  } finally {
    await client.end();
  }
}

function start(names) {
  const plan = { connectionString, storm: server.folder, sessions, seed: random.below(2 ** 31), names };
  const actor = fork(ACTOR, [JSON.stringify(plan)]);
  actor.on("exit", (code) => {
    if (code) {
      errors.push(`a process ended with status ${code}`);
    }
  });
  actor.on("message", (seen) => {
    report.doubleHolds += seen.doubleHolds;
    report.refused += seen.refused;
    report.longestWaitMs = Math.max(report.longestWaitMs, seen.longestWaitMs);
    errors.push(...seen.errors);
    actor.disconnect();
  });
  return actor;
}

/** Half of the storm. `trouble` is what happens to the server. */
async function half(names, trouble) {
  const actors = Array.from({ length: processes }, () => start(names));
  const deadline = performance.now() + (seconds * 1_000) / 2;
  while (performance.now() < deadline) {
    await delay(random.below(150));
    const at = random.below(processes);
    if (random.one(2)) {
      actors[at].kill("SIGKILL");
      report.kills += 1;
      actors[at] = start(names);
    } else {
      actors[at].kill("SIGSTOP");
      report.stops += 1;
      await delay(random.below(100));
      actors[at].kill("SIGCONT");
    }
    await trouble();
  }
  await Promise.all(
    actors.map(async (actor) => {
      if (!actor.connected) {
        return; // it is among the errors
      }
      actor.send("stop");
      const wedge = setTimeout(() => {
        errors.push("a process did not end within 30 s");
        actor.kill("SIGKILL");
      }, 30_000);
      await once(actor, "exit");
      clearTimeout(wedge);
    }),
  );
}

const TERMINATE = `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' ORDER BY random() LIMIT 1`;

try {
  const locks = postgresLocks({ connectionString });
  await locks.migrate();
  await locks.close();
  await sql(`CREATE TABLE storm_counters (name text PRIMARY KEY, n integer); CREATE TABLE storm_log (id bigserial, name text,
    generation bigint); INSERT INTO storm_counters SELECT s::text, 0 FROM generate_series(0, ${sessions - 1}) AS s`);
  await half(true, async () => {});
  await half(false, async () => {
    if (random.one(100)) {
      server.restart();
      report.restarts += 1;
    } else {
      report.terminations += (await sql(TERMINATE)).length;
    }
  });
  // The backend of an actor that was killed while it waited lives until the server looks after its connection.
  const OTHERS = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
  const patience = performance.now() + 30_000;
  while ((await sql(OTHERS)).length > 0 && performance.now() < patience) {
    await delay(10);
  }
  const [counted] = await sql(`
    SELECT (SELECT sum(n) FROM storm_counters)::int AS counter, (SELECT count(*) FROM storm_log)::int AS sections,
      (SELECT count(*) FROM (SELECT generation, max(generation) OVER (PARTITION BY name ORDER BY id) AS latest
        FROM storm_log) AS w WHERE generation < latest)::int AS stale,
      (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')::int AS locks_left`);
  const { counter, sections, stale, locks_left: locksLeft } = counted;
  Object.assign(report, { sections, lostUpdates: sections - counter, staleWrites: stale, locksLeft });
  console.log(`storm over PostgreSQL, seed ${seed}, ${seconds} s, ${processes} processes, ${sessions} sessions`);
  console.log(Object.entries(report).map(([name, value]) => `  ${name}: ${value}`).join("\n"));
  errors.slice(0, 10).forEach((error) => console.log(`  error: ${error}`));
  const { doubleHolds, lostUpdates, staleWrites } = report;
  process.exitCode = doubleHolds + lostUpdates + staleWrites + locksLeft + errors.length > 0 || sections === 0 ? 1 : 0;
} finally {
  server.stop();
}
