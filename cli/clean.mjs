/**
 * `clean`: removes dead lock files and says why for each. What lives, or may live, is kept.
 */

import { howKnown } from "./grounds.mjs";
import { complain, paint, print } from "./output.mjs";
import { describeHolder } from "./processes.mjs";
import { asJson, ERROR, failureLines, NOTHING_DEAD, sessionName, SOMETHING_DEAD, sweep } from "./sweep.mjs";
import { count, duration, json, messageOf, printable } from "./words.mjs";

export async function clean(folders, { dryRun = false, json: asData, staleMs }, lock) {
  const seen = await sweep(folders, { staleMs, removeStale: !dryRun }, lock);
  const dead = seen.locks.filter(({ verdict }) => verdict === "dead");
  if (asData) {
    print(json(seen.locks.map(asJson), 2));
  } else {
    print(...report(seen.locks, dead, { folders, dryRun, lock }));
  }
  complain(...failureLines(seen.failures));
  if (seen.failures.length > 0 || (!dryRun && dead.some(isStuck))) {
    return ERROR;
  }
  return dead.every(({ removed }) => removed) ? NOTHING_DEAD : SOMETHING_DEAD;
}

/** Dead, and could not be removed. Without a cause somebody else was faster. */
function isStuck({ removed, cause }) {
  return !removed && cause !== undefined;
}

function report(locks, dead, { folders, dryRun, lock }) {
  if (locks.length === 0) {
    return [`No lock files in ${folders.map(printable).join(", ")}`];
  }
  const lines = dead.map((each) => `${fate(each, dryRun)} ${sessionName(each)}: ${reason(each, lock)}`);
  return [...lines, ...kept(locks.filter(({ verdict }) => verdict !== "dead"), lock), total(dead, dryRun)];
}

function fate(inspection, dryRun) {
  if (dryRun) {
    return paint.yellow("would remove");
  }
  return inspection.removed ? paint.green("removed") : paint.red("not removed");
}

/** Why it is dead; and why it is still there, if so. */
function reason(inspection, lock) {
  const { ageMs, cause } = inspection;
  const age = ageMs === null ? "" : `, ${duration(ageMs)} old`;
  const refusal = cause === undefined ? "" : ` (${messageOf(cause)})`;
  return `${howKnown(inspection, lock)}${age}; holder ${describeHolder(inspection, lock)}${refusal}`;
}

/** One line for all of them: how many for which reason. */
function kept(locks, lock) {
  if (locks.length === 0) {
    return [];
  }
  const numbers = new Map();
  for (const each of locks) {
    const why = `${each.verdict}, ${howKnown(each, lock)}`;
    numbers.set(why, (numbers.get(why) ?? 0) + 1);
  }
  const groups = [...numbers.keys()].sort().map((why) => `${numbers.get(why)} ${why}`);
  return [`kept ${locks.length}: ${groups.join("; ")}`];
}

function total(dead, dryRun) {
  const number = dryRun ? dead.length : dead.filter(({ removed }) => removed).length;
  return `${count(number, "dead lock file")} ${dryRun ? "to remove" : "removed"}`;
}
