/**
 * `npm run storm`: processes and worker threads take locks in every way, while they are killed, stopped and started
 * again, folders are swept, and the command line looks. In the end nothing may be lost.
 *
 * `--seconds 60`, `--processes 8`, `--sessions 4` (1 to 20), `--tasks 3` (for each thread), `--workers 1` (for each
 * process), `--seed 1`: the same seed makes the same plan; what the kernel does with it differs.
 *
 * Exits with 1 after a double hold, a lost update, a lock that nobody gets any more, an error, or litter.
 */

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";

import { countIn, createWitness } from "../benches/witness.mjs";
import { root, setUp } from "./setup.mjs";
import { chance } from "./storm/chance.mjs";
import { startActor } from "./storm/start.mjs";
import { readTally } from "./storm/tally.mjs";

const NUMBERS = { seconds: 60, processes: 8, sessions: 4, tasks: 3, workers: 1, seed: 1 };

/** How long a session may take to be had when the storm is over. */
const WEDGED_AFTER_MS = 10_000;

/** Shifts the wall clock of a process. Debian: `libfaketime`. */
const FAKE_CLOCK = [`/usr/lib/${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu/faketime/libfaketime.so.1`].find(existsSync);

const { values } = parseArgs({
  options: Object.fromEntries(Object.entries(NUMBERS).map(([name, number]) => [name, { type: "string", default: `${number}` }])),
});
const options = Object.fromEntries(Object.entries(values).map(([name, text]) => [name, Number(text)]));
const wrong = Object.keys(options).find((name) => !(Number.isSafeInteger(options[name]) && options[name] >= (name === "workers" ? 0 : 1)));
if (wrong || options.sessions > 20) {
  console.error(wrong ? `--${wrong} takes a whole number` : "--sessions takes at most 20");
  process.exit(2);
}

/** There are no stops, and no `/proc`, and the addon has been built before. */
const isWindows = process.platform === "win32";
/** Abstract addresses of sockets. */
const names = process.platform === "linux";
if (!isWindows) {
  setUp();
}
const { cleanStaleLockFiles, lock } = await import("../index.js");

const folder = mkdtempSync(path.join(tmpdir(), "session-write-lock-storm-"));
const random = chance(options.seed);
const threads = 1 + options.workers;
const counts = { kills: 0, stops: 0, sweeps: 0, commands: 0, "clock jumps": 0 };
let slots = 0;
let isOver = false;

function prepare() {
  writeFileSync(path.join(folder, "tally"), "");
  for (let session = 0; session < options.sessions; session += 1) {
    createWitness(path.join(folder, `${session}.witness`));
  }
}

function start() {
  const plan = { ...options, names, folder, slot: slots, seed: options.seed * 10_000 + slots };
  slots += threads;
  const jumps = FAKE_CLOCK !== undefined && random.one(8);
  if (jumps) {
    counts["clock jumps"] += 1;
  }
  const clock = { LD_PRELOAD: FAKE_CLOCK, FAKETIME: random.of(["-1h", "+1h", "+30d"]), FAKETIME_DONT_FAKE_MONOTONIC: "1" };
  return startActor(plan, { ...process.env, ...(jumps ? clock : {}) });
}

// --- What is done to them -----------------------------------------------------------------------

/** The first process is never killed: what it needs must not grow. */
async function kill(actors) {
  const index = 1 + random.below(actors.length - 1);
  actors[index].kill("SIGKILL");
  await actors[index].ended;
  counts.kills += 1;
  actors[index] = start();
}

async function stop(actors) {
  const actor = random.of(actors);
  actor.kill("SIGSTOP");
  await delay(random.below(300));
  actor.kill("SIGCONT");
  counts.stops += 1;
}

async function sweep() {
  await cleanStaleLockFiles({ sessionsDir: folder });
  counts.sweeps += 1;
}

async function command() {
  const child = spawn(process.execPath, [path.join(root, "bin/session-write-lock.mjs"), "status", "--json", folder], { stdio: "ignore" });
  await new Promise((resolve) => child.once("exit", resolve));
  counts.commands += 1;
}

async function disturb(actors) {
  while (!isOver) {
    await delay(random.below(150));
    const often = options.processes > 1 && !random.one(6) ? kill : random.of(isWindows ? [sweep] : [stop, sweep]);
    await (random.one(20) ? command() : often(actors));
  }
}

// --- What comes of it ---------------------------------------------------------------------------

function footprint(pid) {
  if (isWindows) {
    return {};
  }
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return {
    "memory, MiB": Math.round(Number(/VmRSS:\s+(\d+)/.exec(status)[1]) / 1024),
    threads: Number(/Threads:\s+(\d+)/.exec(status)[1]),
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
  };
}

/** Which sessions nobody gets any more, although nobody is left. */
async function wedged() {
  const found = [];
  for (let session = 0; session < options.sessions; session += 1) {
    try {
      await (await lock(path.join(folder, `${session}.jsonl`), { timeoutMs: WEDGED_AFTER_MS })).release();
    } catch (error) {
      found.push(`${session}: ${error.message}`);
    }
  }
  return found;
}

function counted() {
  let sum = 0;
  for (let session = 0; session < options.sessions; session += 1) {
    sum += countIn(path.join(folder, `${session}.witness`));
  }
  return sum;
}

async function storm() {
  prepare();
  const actors = Array.from({ length: options.processes }, start);
  const begun = performance.now();
  const seconds = () => (performance.now() - begun) / 1_000;
  const tell = () => {
    const { acquisitions, doubleHolds } = readTally(path.join(folder, "tally"));
    const rate = Math.round(acquisitions / seconds()).toLocaleString("en");
    console.log(
      `${seconds().toFixed(0).padStart(5)} s  ${acquisitions.toLocaleString("en")} acquisitions, ${rate}/s, ` +
        `${counts.kills} kills, ${counts.stops} stops, ${doubleHolds} double holds`,
    );
  };
  const timer = setInterval(tell, Math.max(5_000, options.seconds * 50));
  const disturbing = disturb(actors);
  await delay(options.seconds * 250);
  const early = footprint(actors[0].pid);
  await delay(options.seconds * 750);
  const late = footprint(actors[0].pid);
  isOver = true;
  await disturbing;
  clearInterval(timer);
  actors.forEach((actor) => actor.send("stop"));
  await Promise.race([Promise.all(actors.map(({ ended }) => ended)), delay(WEDGED_AFTER_MS)]);
  actors.forEach((actor) => actor.kill("SIGKILL"));
  await Promise.all(actors.map(({ ended }) => ended));
  tell();
  return { early, late };
}

try {
  const { early, late } = await storm();
  const wedges = await wedged();
  await cleanStaleLockFiles({ sessionsDir: folder });
  const litter = readdirSync(folder).filter((name) => !/^(tally|\d+\.witness)$/.test(name));
  const tally = readTally(path.join(folder, "tally"));
  // A process that was killed may have counted, and not told of it.
  const lost = Math.max(0, tally.acquisitions - counted());
  const unexplained = Math.max(0, counted() - tally.acquisitions - counts.kills * threads);
  const report = {
    ...tally,
    ...counts,
    "lost updates": lost + unexplained,
    wedges: wedges.length,
    litter: litter.length,
    ...Object.fromEntries(Object.keys(early).map((name) => [name, `${early[name]} -> ${late[name]}`])),
  };
  console.log();
  for (const [name, value] of Object.entries(report)) {
    console.log(`${name.padEnd(16)} ${value.toLocaleString("en")}`);
  }
  if (isWindows) {
    console.log("SKIPPED on Windows: stops, the growth of a process, and the witness that the kernel keeps");
  }
  if (!FAKE_CLOCK) {
    console.log("SKIPPED for lack of libfaketime: clock jumps");
  }
  [...wedges, ...litter].forEach((line) => console.log(line));
  const faults = ["doubleHolds", "lost updates", "wedges", "litter", "errors"].filter((name) => report[name] > 0);
  console.log(faults.length === 0 ? "\nno promise was broken" : `\nBROKEN: ${faults.join(", ")}; --seed ${options.seed}`);
  process.exitCode = faults.length === 0 ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
