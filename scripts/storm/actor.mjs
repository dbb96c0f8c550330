/**
 * One process of the storm, or one worker thread in it: takes locks in every way, until it is told to stop or killed.
 *
 * Inside of each lock it proves that it is alone, and counts. What it has done is in its slot of the tally, a file,
 * because it can be killed at any moment.
 */

import { subscribe } from "node:diagnostics_channel";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { isMainThread, Worker, workerData } from "node:worker_threads";

import { acquireSessionWriteLock, lock, tryLock, withLock } from "../../index.js";
import { chance } from "./chance.mjs";
import { NameWitness } from "./name-witness.mjs";
import { Tally } from "./tally.mjs";
import { Witness } from "../../benches/witness.mjs";

/**
 * `{ folder, sessions, slot, seed, tasks, workers, names, restMs, wanted }`; `names`: whether the kernel is a witness,
 * too; `restMs`: how long a rest takes at most; `wanted`: `false`: nobody asks for `lock.wanted`.
 */
const plan = workerData ?? JSON.parse(process.argv[2]);
const { folder, sessions, slot, seed } = plan;

const tally = new Tally(path.join(folder, "tally"), slot);

const files = Array.from({ length: sessions }, (_, session) => path.join(folder, `${session}.jsonl`));

let isOver = false;

subscribe("session-write-lock:takeover", () => tally.add("takeovers", 1));
subscribe("session-write-lock:wait", ({ waitedMs }) => tally.raise("longestWaitMs", Math.round(waitedMs)));

/** Each task has its own witnesses for each session: tasks of one thread exclude each other, too. */
function witnesses(task) {
  const number = (slot % 1_000) * 1_000 + task;
  return files.map((_, session) => ({
    file: new Witness(path.join(folder, `${session}.witness`), number),
    // Not the whole path: an address has room for 107 bytes.
    name: plan.names ? new NameWitness(`${path.basename(folder)}/${session}`) : undefined,
  }));
}

async function beAlone(random, { file, name }) {
  const overlaps = () => file.overlaps + (name?.overlaps ?? 0);
  const before = overlaps();
  file.enter();
  await name?.enter();
  if (random.one(20)) {
    await delay(random.below(3));
  }
  await name?.leave();
  file.leave();
  tally.add("doubleHolds", overlaps() - before);
  tally.add("acquisitions", 1);
}

const WAYS = [
  async (random, witness, file) => {
    const held = await lock(file);
    await beAlone(random, witness);
    await held.release();
  },
  async (random, witness, file) => {
    const held = await acquireSessionWriteLock({ sessionFile: file, timeoutMs: 60_000, allowReentrant: false });
    await beAlone(random, witness);
    await held.release();
  },
  async (random, witness, file) => {
    const held = tryLock(file);
    if (held) {
      await beAlone(random, witness);
      await held.release();
    }
  },
  (random, witness, file) => withLock(file, () => beAlone(random, witness)),
  async (random, witness, file) => {
    const held = await lock(file, { signal: AbortSignal.timeout(random.below(30)) });
    await beAlone(random, witness);
    await held.release();
  },
  async (random, witness, file) => {
    const held = await lock(file, { timeoutMs: random.below(30) });
    await beAlone(random, witness);
    await held.release();
  },
  async (random, witness, file) => {
    const held = await lock(file, { label: "a while" });
    const { wanted } = held;
    await beAlone(random, witness);
    if (!wanted.aborted) {
      await Promise.race([delay(2), new Promise((resolve) => wanted.addEventListener("abort", resolve))]);
    }
    await held.release();
  },
];

const ways = plan.wanted === false ? WAYS.slice(0, -1) : WAYS;

async function run(task) {
  const random = chance(seed * 1_000 + task);
  const its = witnesses(task);
  while (!isOver) {
    const session = random.below(sessions);
    const way = random.one(2) ? WAYS[0] : random.of(ways);
    try {
      await way(random, its[session], files[session]);
    } catch (error) {
      const isExpected = ["ERR_LOCK_TIMEOUT", "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT"].includes(error.code);
      if (!isExpected && error.name !== "TimeoutError") {
        tally.add("errors", 1);
        console.error(error);
      }
    }
    if (random.one(50)) {
      await delay(random.below(plan.restMs ?? 10));
    }
  }
}

const workers = Array.from({ length: plan.workers ?? 0 }, (_, index) => {
  const its = { ...plan, slot: slot + 1 + index, seed: seed + 1 + index, workers: 0 };
  const worker = new Worker(new URL(import.meta.url), { workerData: its });
  return { worker, ended: new Promise((resolve) => worker.once("exit", resolve)) };
});

function stop() {
  isOver = true;
  workers.forEach(({ worker }) => worker.postMessage("stop"));
}

if (isMainThread) {
  process.on("message", stop);
  process.on("disconnect", () => process.exit());
} else {
  const { parentPort } = await import("node:worker_threads");
  parentPort.on("message", stop);
}

await Promise.all(Array.from({ length: plan.tasks }, (_, task) => run(task)));
await Promise.all(workers.map(({ ended }) => ended));
if (isMainThread) {
  process.disconnect();
} else {
  process.exit();
}
