/**
 * `status`: which sessions are locked, by which process, for how long, how that is known, and who waits. Removes
 * nothing.
 */

import { howKnown } from "./grounds.mjs";
import { complain, paint, paintVerdict, print, width } from "./output.mjs";
import { describeHolder, labelled } from "./processes.mjs";
import { asJson, cleanCommand, failureLines, isSession, noLocks, sessionName, sweep } from "./sweep.mjs";
import { fit, table } from "./table.mjs";
import { count, duration, ERROR, json, NOTHING_DEAD, SOMETHING_DEAD } from "./words.mjs";

const COLUMNS = [
  { title: "SESSION", shrink: 2, keep: "end", text: sessionName },
  { title: "HOLDER", shrink: 1, most: 80, text: describeHolder, leastOf: widthOfLabelled },
  { title: "WAITING", isNeeded: (locks) => locks.some(hasWaiters), text: ({ waiters }) => `${waiters.length}` },
  { title: "AGE", text: ({ ageMs }) => (ageMs === null ? "?" : duration(ageMs)) },
  { title: "VERDICT", text: ({ verdict }) => verdict, paint: (text) => paintVerdict[text](text) },
  { title: "HOW IT IS KNOWN", shrink: 3, text: howKnown },
];

/** What needs a person comes first. */
const ORDER = ["dead", "held", "unknown"];

/** A label says more than a command line: it is cut last, unless it is longer than this. */
const LONGEST_LABELLED = 30;

function widthOfLabelled(locks) {
  const widest = Math.max(...locks.map((each) => labelled(each).length));
  const rest = " …".length; // of the command line
  return widest === 0 ? undefined : Math.min(widest + rest, LONGEST_LABELLED);
}

function hasWaiters({ waiters }) {
  return waiters.length > 0;
}

export async function status(folders, options, lock) {
  const request = { staleMs: options.staleMs, anyName: options.all, removeStale: false };
  const look = () => sweep(folders, request, lock);
  const report = (seen) => (options.json ? [jsonOf(seen, options)] : screen(seen, folders, options));
  if (options.watch) {
    const { watch } = await import("./watch.mjs");
    return exitCode(await watch({ folders, look, report, ...options }));
  }
  const seen = await look();
  print(...report(seen));
  complain(...failureLines(seen.failures));
  return exitCode(seen);
}

function exitCode({ locks, failures }) {
  if (failures.length > 0) {
    return ERROR;
  }
  return locks.some(({ verdict }) => verdict === "dead") ? SOMETHING_DEAD : NOTHING_DEAD;
}

/** With `watch` one line for each look, else for people too. */
function jsonOf({ locks }, { watch: goesOn }) {
  return json(locks.map(asJson), goesOn ? undefined : 2);
}

/** The table, and after an empty line what sums it up. */
function screen(seen, folders, { all }) {
  const locks = ORDER.flatMap((wanted) => seen.locks.filter(({ verdict }) => verdict === wanted));
  if (locks.length === 0) {
    return noLocks(folders, seen, { all, verb: "shows" });
  }
  const columns = COLUMNS.filter(({ isNeeded }) => isNeeded?.(locks) ?? true);
  const rows = locks.map((each) => columns.map(({ text }) => text(each)));
  const sized = columns.map((column) => ({ ...column, least: column.leastOf?.(locks) }));
  const [header, ...lines] = table(sized, rows, width());
  return [paint.bold(header), ...lines, "", ...summary(locks).map((line) => fit(line, width()))];
}

function summary(locks) {
  const having = (wanted) => locks.filter(({ verdict }) => verdict === wanted).length;
  const counts = ORDER.filter((verdict) => having(verdict) > 0).map((verdict) => `${having(verdict)} ${verdict}`);
  const isDead = ({ verdict }) => verdict === "dead";
  const command = cleanCommand(locks.find((each) => isDead(each) && !isSession(each.lockPath)) ?? locks[0]);
  const hint = locks.some(isDead) ? [`\`${command}\` removes what is dead`] : [];
  const shared = locks.find(({ sharedWith }) => sharedWith !== null);
  const why = shared && `session-write-lock why ${sessionName(shared)}`;
  const warning = shared ? [`the folder is shared: \`${why}\` says what that costs`] : [];
  return [`${count(locks.length, "lock file")}: ${counts.join(", ")}`, ...hint, ...warning];
}
