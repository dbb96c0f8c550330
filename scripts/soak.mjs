/**
 * `npm run soak`: eight processes take one lock a million times between them (`--acquisitions n`).
 * Inside, a counter is read and written back, and each leaves its name. Exits with 1 if an update
 * was lost or two were inside at once.
 */

import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";

import { Actor } from "../benches/crew.mjs";
import { now } from "../benches/numbers.mjs";
import { countIn, createWitness } from "../benches/witness.mjs";
import { setUp } from "./setup.mjs";

const PROCESSES = 8;
const REPORT_EVERY_MS = 3_000;

const { values } = parseArgs({ options: { acquisitions: { type: "string", default: "1000000" } } });
const acquisitions = Number(values.acquisitions);
if (!Number.isSafeInteger(acquisitions) || acquisitions < 1) {
  console.error("--acquisitions takes a whole number above zero");
  process.exit(2);
}

/** The whole, in parts that differ by one at most. */
function share(index) {
  return Math.floor(acquisitions / PROCESSES) + (index < acquisitions % PROCESSES ? 1 : 0);
}

function report(progress, started) {
  const total = (key) => progress.reduce((sum, part) => sum + part[key], 0);
  const seconds = (now() - started) / 1_000;
  const rate = Math.round(total("done") / seconds).toLocaleString("en");
  const done = total("done").toLocaleString("en");
  console.log(`${seconds.toFixed(0).padStart(5)} s  ${done} done, ${rate}/s, ${total("overlaps")} double holds`);
}

async function soak(folder) {
  const counter = path.join(folder, "counter");
  createWitness(counter);
  const task = { sessionFile: path.join(folder, "chat.jsonl"), counter, reportEveryMs: 1_000 };
  const progress = Array.from({ length: PROCESSES }, () => ({ done: 0, overlaps: 0 }));
  const actors = await Promise.all(
    progress.map((part) => Actor.start("addon", { onNote: (note) => Object.assign(part, note) })),
  );
  const started = now();
  const timer = setInterval(report, REPORT_EVERY_MS, progress, started);
  try {
    const runs = actors.map(async (actor, index) => {
      const { done, overlaps } = await actor.run("contend", { ...task, startAt: started, count: share(index) });
      Object.assign(progress[index], { done, overlaps });
    });
    await Promise.all(runs);
    report(progress, started);
  } finally {
    clearInterval(timer);
    await Promise.all(actors.map((actor) => actor.kill()));
  }
  const doubleHolds = progress.reduce((sum, { overlaps }) => sum + overlaps, 0);
  const left = readdirSync(folder).filter((name) => name !== "counter");
  return { counted: countIn(counter), doubleHolds, left };
}

setUp();
const folder = mkdtempSync(path.join(tmpdir(), "session-write-lock-soak-"));
try {
  const { counted, doubleHolds, left } = await soak(folder);
  const lost = acquisitions - counted;
  console.log(`${counted.toLocaleString("en")} counted of ${acquisitions.toLocaleString("en")}: ${lost} lost updates, ${doubleHolds} double holds, ${left.length} files left behind`);
  process.exitCode = lost === 0 && doubleHolds === 0 && left.length === 0 ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
