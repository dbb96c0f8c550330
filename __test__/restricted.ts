/**
 * The tests that a system without some of Linux's means can't pass, and what it lacks. Used by `npm run test:restricted`,
 * where the binary is built for macOS's means. A pattern is matched against the file and the whole title.
 */

import { appendFileSync } from "node:fs";
import { beforeEach } from "vitest";

/** Leases, or the open files of others in /proc. Until it is as old as `staleMs`, such a file counts as a live lock. */
const WRITER = "nobody says which process has a file open for writing";
const USERS = "nobody says which processes hold a lock or wait for it";
const EVENTS = "the stand-in for kqueue tells nothing";
const OVERRIDE = "the binary that is tried comes by the variable that this test is about";

export const SKIPPED: [RegExp, string][] = [
  [/^cli .*(shows who holds what|ends with 0 where|prints JSON with|with --all shows|how many processes wait|removes what is dead, says|held by a flock|each other kind what|holder and a waiter that are stopped|whose first holder has been killed|never advises to end|who holds the lock when its time)/, USERS],
  [/^cli .*prints a new table after each change/, USERS],
  [/^(readme|cli) .*what (README|docs\/command-line)\.md shows/, USERS],
  [/^screens /, USERS],
  [/^inspection .*the processes of a lock/, USERS],
  [/^(cli|packaging) .*(no binary for this system|override)/, OVERRIDE],
  [/.*(keeps live locks of other|takes staleMs for|abandoned temporaries|agree on a table|beside others|with the pid of another program)/, WRITER],
  [/^inspection .*(with the older module is held|without any witness is held|missing-pid|orphan-self-pid|is given the grace|isn't taken for a holder)/, WRITER],
  [/^contention .*one torn lock/, WRITER],
  [/.*(with the older module isn't robbed|a lock file that nobody holds is waited for|an empty file from the future)/, WRITER],
  [/^waiting .*(with the older module (releases|is killed)|by its process is woken|too old to be someone's)/, EVENTS],
  [/.*(wait for one with the older module, and it for them|that name, behind the older module)/, EVENTS],
];

const log = process.env.RESTRICTED_LOG;

beforeEach(({ task, skip }) => {
  const names: string[] = [];
  for (let at: { name: string; suite?: unknown } | undefined = task; at; at = at.suite as typeof at) {
    names.unshift(at.name);
  }
  const file = /([^/]+)\.test\.ts$/.exec(task.file.name)![1];
  const title = `${file} ${names.filter((name) => !name.endsWith(".ts")).join(" > ")}`;
  const index = SKIPPED.findIndex(([pattern]) => pattern.test(title));
  if (index >= 0) {
    appendFileSync(log!, `${index}\n`);
    process.stderr.write(`SKIPPED here, ${SKIPPED[index]![1]}: ${title}\n`);
    skip(SKIPPED[index]![1]);
  }
});
