/**
 * `npm test`: sets up, then runs the Rust tests, the type check and the Node tests. Everything
 * runs even if something fails; the last line counts it all.
 */

import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, rmSync } from "node:fs";

import { root, run, setUp } from "./setup.mjs";

const REPORT = `${root}/.cache/vitest.json`;

const total = { passed: 0, failed: 0, skipped: 0 };

/** Runs a command, shows its output and returns it. A failure counts as one failed test. */
async function check(command, ...args) {
  console.log(`\n> ${[command, ...args].join(" ")}`);
  const child = spawn(command, args, { cwd: root, stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  for await (const chunk of child.stdout) {
    output += chunk;
    process.stdout.write(chunk);
  }
  const status = child.exitCode ?? (await new Promise((resolve) => child.once("exit", resolve)));
  return { output, ok: status === 0 };
}

function count(passed, failed, skipped, ok) {
  total.passed += passed;
  total.failed += failed > 0 || ok ? failed : 1;
  total.skipped += skipped;
}

async function rustTests() {
  const { output, ok } = await check("cargo", "test", "--quiet");
  const sum = (word) =>
    [...output.matchAll(new RegExp(`(\\d+) ${word}`, "g"))].reduce((n, m) => n + Number(m[1]), 0);
  count(sum("passed"), sum("failed"), sum("ignored"), ok);
}

async function typeCheck() {
  const { ok } = await check("npx", "tsc", "--noEmit");
  count(ok ? 1 : 0, 0, 0, ok);
}

async function nodeTests() {
  mkdirSync(`${root}/.cache`, { recursive: true });
  rmSync(REPORT, { force: true });
  const { ok } = await check(
    "npx",
    "vitest",
    "run",
    "--reporter=default",
    "--reporter=json",
    `--outputFile.json=${REPORT}`,
  );
  const report = JSON.parse(readFileSync(REPORT, "utf8"));
  count(report.numPassedTests, report.numFailedTests, report.numPendingTests, ok);
}

setUp();
run("sh", "scripts/install-test-tools.sh");
run("node", "scripts/fetch-nodes.mjs");
await rustTests();
await typeCheck();
await nodeTests();
console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed > 0 ? 1 : 0;
