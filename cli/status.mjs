/**
 * `status`: which sessions are locked, by whom, since when, and how that is known. Removes nothing.
 */

import { howKnown } from "./grounds.mjs";
import { paint, paintVerdict, print, complain, width } from "./output.mjs";
import { describeHolder } from "./processes.mjs";
import { asJson, ERROR, failureLines, NOTHING_DEAD, sessionName, SOMETHING_DEAD, sweep } from "./sweep.mjs";
import { fit, table } from "./table.mjs";
import { watch } from "./watch.mjs";
import { count, duration, json, printable } from "./words.mjs";

const COLUMNS = [
  { title: "SESSION", shrink: 2, keep: "end" },
  { title: "HOLDER", shrink: 1, most: 80 },
  { title: "AGE" },
  { title: "VERDICT", paint: (text) => paintVerdict[text](text) },
  { title: "HOW IT IS KNOWN", shrink: 3 },
];

export async function status(folders, options, lock) {
  const look = () => sweep(folders, { staleMs: options.staleMs, removeStale: false }, lock);
  const report = (seen) => (options.json ? [jsonOf(seen, options)] : screen(seen, folders, lock));
  if (options.watch) {
    return exitCode(await watch({ folders, look, report, ...options }));
  }
  const seen = await look();
  print(...report(seen));
  complain(...failureLines(seen.failures));
  return exitCode(seen);
}

export function exitCode({ locks, failures }) {
  if (failures.length > 0) {
    return ERROR;
  }
  return locks.some(({ verdict }) => verdict === "dead") ? SOMETHING_DEAD : NOTHING_DEAD;
}

/** One value on one line for each look where it goes on, else for people too. */
function jsonOf({ locks }, { watch: goesOn }) {
  return json(locks.map(asJson), goesOn ? undefined : 2);
}

/** The table, and a line that sums it up. */
function screen({ locks }, folders, lock) {
  if (locks.length === 0) {
    return [`No lock files in ${folders.map(printable).join(", ")}`];
  }
  const rows = locks.map((each) => [
    sessionName(each),
    describeHolder(each, lock),
    each.ageMs === null ? "?" : duration(each.ageMs),
    each.verdict,
    howKnown(each, lock),
  ]);
  const [header, ...lines] = table(COLUMNS, rows, width());
  return [paint.bold(header), ...lines, "", fit(summary(locks), width())];
}

function summary(locks) {
  const having = (wanted) => locks.filter(({ verdict }) => verdict === wanted).length;
  const counts = ["held", "dead", "unknown"]
    .filter((verdict) => having(verdict) > 0)
    .map((verdict) => `${having(verdict)} ${verdict}`);
  const hint = having("dead") > 0 ? "; `session-write-lock clean` removes what is dead" : "";
  return `${count(locks.length, "lock file")}: ${counts.join(", ")}${hint}`;
}
