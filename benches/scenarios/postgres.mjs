/** The lock of a file beside a lock that a PostgreSQL server on the same machine keeps. */

import { postgresLocks } from "../../postgres.js";
import { findPostgres, startPostgres } from "../../scripts/postgres-server.mjs";
import { withActors } from "../crew.mjs";
import { randomBetween, summary } from "../numbers.mjs";
import { handOver } from "./handoff.mjs";

const NAMES = ["addon", "postgres"];

async function besideFiles(context) {
  if (!findPostgres()) {
    return {};
  }
  const server = await startPostgres();
  process.env.BENCH_POSTGRES = server.connectionString;
  try {
    const locks = postgresLocks({ connectionString: server.connectionString });
    await locks.migrate();
    await locks.close();
    const rows = {};
    for (const name of NAMES) {
      rows[`${name}-alone`] = summary(await alone(name, context));
    }
    for (const name of NAMES) {
      rows[`${name}-hand-off`] = summary(await handOffs(name, context));
    }
    return rows;
  } finally {
    delete process.env.BENCH_POSTGRES;
    server.stop();
  }
}

function alone(name, context) {
  const sessionFile = context.sessionFile(`${name}-alone`);
  return withActors(name, 1, async ([actor]) => {
    await actor.run("pairs", { sessionFile, count: 50 });
    return actor.run("pairs", { sessionFile, count: context.quick ? 100 : 1_000 });
  });
}

function handOffs(name, context) {
  const sessionFile = context.sessionFile(`${name}-hand-off`);
  const between = randomBetween(1);
  return withActors(name, 2, async (actors) => {
    const samples = [];
    await actors[0].run("acquire", { sessionFile });
    for (let turn = 0; turn < (context.quick ? 20 : 200); turn += 1) {
      const { began, acquired } = await handOver(actors, turn, sessionFile, between(20, 40));
      samples.push(acquired - began);
    }
    return samples;
  });
}

export const postgres = {
  id: "postgres",
  title: "Beside PostgreSQL",
  unit: "ms",
  method:
    "The same tasks for a lock of `session-write-lock/postgres`, with a server on this machine that flushes its log to " +
    "the disk (`fsync`, `synchronous_commit`) for each grant. *Alone*: one process acquires and releases in a loop. *Hand-off*: between two " +
    "processes, after holds of 20 to 40 ms. Each acquire takes two round trips to the server, or four if it has to wait, and each release one.",
  run: besideFiles,
};
