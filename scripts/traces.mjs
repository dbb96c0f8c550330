/**
 * `npm run test:traces`: a short storm of three processes on one session, with strace on all of them. What it saw is
 * given to the simulated kernel, which must explain every call: its answer, and when it can have been given
 * (tests/simulation/traces.rs). And it is given to the state machine, which must ask for every call
 * (tests/simulation/paths.rs).
 *
 * `--seconds 5`, `--seed 1`, `--write FILE`: keep the calls.
 */

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { createWitness } from "../benches/witness.mjs";
import { root, setUp } from "./setup.mjs";
import { chance } from "./storm/chance.mjs";
import { readCalls } from "./storm/calls.mjs";
import { startActor } from "./storm/start.mjs";

/** As many as the simulated kernel has. */
const PROCESSES = 3;

const { values: options } = parseArgs({
  options: {
    seconds: { type: "string", default: "5" },
    seed: { type: "string", default: "1" },
    write: { type: "string" },
    /** For itself: the storm, in this folder. */
    folder: { type: "string" },
  },
});

const notes = fileURLToPath(new URL("storm/notes.cjs", import.meta.url));
const self = fileURLToPath(import.meta.url);

async function storm(folder) {
  const random = chance(Number(options.seed));
  let slots = 0;
  const start = () => {
    // One task alone is idle now and then, and gives up the waits of its process.
    const size = random.one(3) ? { tasks: 1, workers: 0 } : { tasks: 2, workers: 1 };
    const plan = { folder, sessions: 1, ...size, restMs: 60, wanted: false, slot: slots, seed: Number(options.seed) * 10_000 + slots };
    slots += 2;
    return startActor(plan, { ...process.env, NODE_OPTIONS: `--require ${JSON.stringify(notes)}`, STORM_NOTES: `${folder}/0.jsonl.lock` });
  };
  const actors = Array.from({ length: PROCESSES }, start);
  const end = performance.now() + Number(options.seconds) * 1_000;
  while (performance.now() < end) {
    await delay(200 + random.below(600));
    const index = random.below(PROCESSES);
    actors[index].kill("SIGKILL");
    await actors[index].ended;
    actors[index] = start();
  }
  actors.forEach((actor) => actor.send("stop"));
  await Promise.all(actors.map(({ ended }) => ended));
}

function explain(folder) {
  const trace = `${folder}/trace`;
  mkdirSync(`${folder}/session/no-lock.lock`, { recursive: true }); // for notes.cjs
  writeFileSync(`${folder}/session/tally`, "");
  createWitness(`${folder}/session/0.witness`);
  const strace = ["-f", "-q", "-v", "-s", "600", "-ttt", "-e", "trace=file,desc,kill,exit_group,clone,clone3,fork,vfork", "-o", trace];
  const { status, error } = spawnSync(
    "strace",
    [...strace, process.execPath, self, "--folder", `${folder}/session`, "--seconds", options.seconds, "--seed", options.seed],
    { stdio: ["ignore", "inherit", "inherit"] },
  );
  if (error?.code === "ENOENT" || status !== 0) {
    throw new Error(error ? "strace is not installed" : `the storm ended with ${status}`);
  }
  const calls = options.write ? path.resolve(options.write) : `${folder}/calls`;
  writeFileSync(calls, readCalls(trace, `${folder}/session/0.jsonl`, PROCESSES));
  const args = ["test", "--quiet", "--profile", "simulation", "--test", "simulation", "--", "traces::", "paths::", "--ignored", "--nocapture"];
  return spawnSync("cargo", args, { cwd: root, stdio: "inherit", env: { ...process.env, SIMULATION_TRACE: calls } }).status;
}

if (options.folder) {
  await storm(options.folder);
} else if (spawnSync("strace", ["-o", "/dev/null", "true"]).status !== 0) {
  console.log("SKIPPED for lack of strace, or of the right to use it");
} else {
  setUp();
  const folder = mkdtempSync(path.join(tmpdir(), "session-write-lock-traces-"));
  try {
    process.exitCode = explain(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
