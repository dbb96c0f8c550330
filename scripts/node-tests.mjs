/** The Node tests, and how many there were. */

import { mkdirSync, readFileSync, rmSync } from "node:fs";

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
