/** `clean`: removes dead lock files and says why for each. Held and unknown locks are kept. */

import { howKnown } from "./grounds.mjs";
import { complain, paint, print } from "./output.mjs";
import { describeHolder } from "./processes.mjs";
import { asJson, failureLines, noLocks, sessionName, sweep } from "./sweep.mjs";
import { count, duration, ERROR, json, NOTHING_DEAD, reasonOf, SOMETHING_DEAD } from "./words.mjs";

/** A shorter sweep shows no progress. */
const PATIENCE_MS = 500;

export async function clean(folders, { dryRun = false, json: asData, staleMs, all }, lock) {
  const progress = new Progress();
  const request = { staleMs, anyName: all, removeStale: !dryRun, onProgress: progress.show };
  const seen = await sweep(folders, request, lock).finally(() => progress.clear());
  const dead = seen.locks.filter(({ verdict }) => verdict === "dead");
  if (asData) {
    print(json(seen.locks.map(asJson), 2));
  } else {
    print(...report(seen, dead, { folders, dryRun, all }));
  }
  complain(...failureLines(seen.failures));
  if (seen.failures.length > 0 || (!dryRun && dead.some(isStuck))) {
    return ERROR;
  }
  return dead.every(({ removed }) => removed) ? NOTHING_DEAD : SOMETHING_DEAD;
}

/** How far the sweep is: one line on a terminal, which is written over. */
class Progress {
  #started = performance.now();
  #isShown = false;

  show = ({ done, total }) => {
    if (process.stderr.isTTY && performance.now() - this.#started > PATIENCE_MS) {
      this.#isShown = true;
      process.stderr.write(`\rsession-write-lock: ${done} of ${total} files done\x1b[K`);
    }
  };

  clear() {
    if (this.#isShown) {
      process.stderr.write("\r\x1b[K");
    }
  }
}

/** Dead, and could not be removed. Without a cause another process was faster. */
function isStuck({ removed, cause }) {
  return !removed && cause !== undefined;
}

function report(seen, dead, { folders, dryRun, all }) {
  if (seen.locks.length === 0) {
    return noLocks(folders, seen, { all, verb: "cleans" });
  }
  const lines = dead.map((each) => `${fate(each, dryRun)} ${sessionName(each)}: ${reason(each)}`);
  return [...lines, ...kept(seen.locks.filter(({ verdict }) => verdict !== "dead")), total(dead, dryRun)];
}

function fate(inspection, dryRun) {
  if (dryRun) {
    return paint.yellow("would remove");
  }
  return inspection.removed ? paint.green("removed") : paint.red("not removed");
}

/** Why it is dead; and why it is still there, if so. */
function reason(inspection) {
  const { ageMs, cause } = inspection;
  const age = ageMs === null ? "" : `, ${duration(ageMs)} old`;
  const refusal = cause === undefined ? "" : ` (${reasonOf(cause)})`;
  return `${howKnown(inspection)}${age}; holder ${describeHolder(inspection)}${refusal}`;
}

/** One line for all of them: how many for which reason. */
function kept(locks) {
  if (locks.length === 0) {
    return [];
  }
  const numbers = new Map();
  for (const each of locks) {
    const why = `${each.verdict}, ${howKnown(each)}`;
    numbers.set(why, (numbers.get(why) ?? 0) + 1);
  }
  const groups = [...numbers.keys()].sort().map((why) => `${numbers.get(why)} ${why}`);
  return [`kept ${locks.length}: ${groups.join("; ")}`];
}

function total(dead, dryRun) {
  const number = dryRun ? dead.length : dead.filter(({ removed }) => removed).length;
  return `${count(number, "dead lock file")} ${dryRun ? "to remove" : "removed"}`;
}
