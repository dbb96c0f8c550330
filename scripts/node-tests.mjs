/** The Node tests, and how many there were. */

import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";

import { attempt, root } from "./setup.mjs";

const REPORT = `${root}/.cache/vitest.json`;

/** Runs those in `files`, or all of them. */
export function nodeTests(env, files) {
  mkdirSync(`${root}/.cache`, { recursive: true });
  rmSync(REPORT, { force: true });
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${REPORT}`];
  const ok = attempt(env, "npx", "vitest", "run", ...reporters, ...files);
  const { numPassedTests: passed, numFailedTests: failed, numPendingTests: skipped } = JSON.parse(readFileSync(REPORT, "utf8"));
  return { ok, passed, failed, skipped };
}

/**
 * The variables with which tests are skipped by a list (`__test__/<name>.list.mjs`); and what came of that: how many were
 * skipped by it, and which of its patterns match no test.
 */
export function skipBy(name, list, log = `${root}/.cache/${name}.log`) {
  mkdirSync(`${root}/.cache`, { recursive: true });
  writeFileSync(log, "");
  const used = () => readFileSync(log, "utf8").split("\n").filter(Boolean);
  return {
    env: { SKIP_LIST: name, SKIP_LOG: log },
    count: () => used().length,
    unused: () => list.filter((_, index) => !used().includes(String(index))).map(([pattern]) => String(pattern)),
  };
}
