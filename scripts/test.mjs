/**
 * `npm test`: sets up, then runs the Rust tests, the type checks, the Node tests, those that wait
 * once more without events, half a minute of the storm, ten seconds of the one over
 * PostgreSQL, and the traces of a short one. Everything runs even if something fails; the last
 * line counts it all.
 */

import { spawn } from "node:child_process";

import { nodeTests } from "./node-tests.mjs";
import { root, run, setUp } from "./setup.mjs";

const total = { passed: 0, failed: 0, skipped: 0 };

/** Runs a command, shows its output and returns it. A failure counts as one failed test. */
async function check(env, command, ...args) {
  const settings = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  console.log(`\n> ${[...settings, command, ...args].join(" ")}`);
  const child = spawn(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
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

async function rustTests(env, ...args) {
  const { output, ok } = await check(env, "cargo", "test", "--quiet", ...args);
  const sum = (word) =>
    [...output.matchAll(new RegExp(`(\\d+) ${word}`, "g"))].reduce((n, m) => n + Number(m[1]), 0);
  count(sum("passed"), sum("failed"), sum("ignored"), ok);
}

/** Something that is one test, and says by its status how it went. */
async function single(command, ...args) {
  const { ok } = await check({}, command, ...args);
  count(ok ? 1 : 0, 0, 0, ok);
}

function countNodeTests(env, files) {
  const { ok, passed, failed, skipped } = nodeTests(env, files);
  count(passed, failed, skipped, ok);
}

setUp();
run("sh", "scripts/install-test-tools.sh");
run("node", "scripts/fetch-nodes.mjs");
await rustTests({}, "--lib");
// Two at a time: each takes a core and a few hundred megabytes.
const simulation = ["--profile", "simulation", "--test", "simulation", "--"];
await rustTests({}, ...simulation, "--skip", "::tests::", "--skip", "traces::", "--skip", "paths::", "--nocapture", "--test-threads=2");
await single("npx", "tsc", "--noEmit");
// The gateway's file is compiled with the gateway's settings, so its callers are checked with stricter ones.
await single("npx", "tsc", "--project", "__test__/fixtures/callers");
countNodeTests({}, []);
// Once more where nothing tells of changes: everything that waits, but for the tests that set this
// themselves.
const FALLBACK = { SESSION_WRITE_LOCK_WAIT: "timers" };
await rustTests(FALLBACK, "--lib");
countNodeTests(FALLBACK, ["acquire", "contention", "lifecycle", "abort", "try-acquire", "workers"]);
await single("node", "scripts/storm.mjs", "--seconds", "30");
await single("node", "scripts/storm-postgres.mjs", "--seconds", "10");
await single("node", "scripts/traces.mjs");
console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed > 0 ? 1 : 0;
