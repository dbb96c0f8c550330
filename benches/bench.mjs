/** Runs the scenarios, tells how they came out, and writes the page. */

import { copyFileSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { killAll } from "./crew.mjs";
import { drawChart } from "./chart.mjs";
import { describeMachine } from "./machine.mjs";
import { renderPage, renderScenario, renderTargets } from "./report.mjs";
import { scenarios } from "./scenarios/index.mjs";
import { judge } from "./targets.mjs";

const root = fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, "");

/** Several times what the slowest scenario takes. */
const LIMIT_MS = 300_000;

function findBinary() {
  const name = readdirSync(root).find((name) => /^session-write-lock\..*\.node$/.test(name));
  return path.join(root, name);
}

/** Node loads addons by the ending of their names. */
function installEmptyAddon(folder) {
  const built = `${root}/target/release/libempty.so`;
  const installed = path.join(folder, "empty.node");
  copyFileSync(existsSync(built) ? built : built.replace(/\.so$/, ".dylib"), installed);
  return installed;
}

function makeContext(folder, quick) {
  return {
    root,
    folder,
    quick,
    binary: findBinary(),
    emptyAddon: installEmptyAddon(folder),
    floor: `${root}/target/release/floor`,
  };
}

function choose(only) {
  const ids = only?.split(",");
  const unknown = ids?.filter((id) => !scenarios.some((scenario) => scenario.id === id));
  if (unknown?.length > 0) {
    const known = scenarios.map(({ id }) => id).join(", ");
    throw new Error(`no such scenario: ${unknown.join(", ")}; there are ${known}`);
  }
  return scenarios.filter(({ id }) => ids?.includes(id) ?? true);
}

async function measure(chosen, context) {
  const results = {};
  for (const scenario of chosen) {
    const started = performance.now();
    // A session of its own for each scenario and lock: what one leaves behind is no other's business.
    const sessionFile = (name) => path.join(context.folder, `${scenario.id}-${name}.jsonl`);
    results[scenario.id] = await inTime(scenario, scenario.run({ ...context, sessionFile }));
    const seconds = ((performance.now() - started) / 1_000).toFixed(1);
    console.log(`\n## ${scenario.title} (${seconds} s)\n\n${renderScenario(scenario, results)}`);
  }
  return results;
}

/** A lock that hangs must not hang the benchmark. */
async function inTime({ id }, running) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${id} took too long: something hangs`)), LIMIT_MS);
  });
  try {
    return await Promise.race([running, late]);
  } finally {
    clearTimeout(timer);
    // Killing the actors below ends what still runs, by errors that nobody waits for any more.
    running.catch(() => {});
  }
}

function write(report) {
  writeFileSync(`${root}/benches/results.json`, `${JSON.stringify(report, null, 2)}\n`);
  writeFileSync(`${root}/docs/benchmarks.md`, renderPage(report));
  writeFileSync(`${root}/docs/benchmarks.svg`, drawChart(report));
  console.log("\nwritten: docs/benchmarks.md, docs/benchmarks.svg, benches/results.json");
}

/** Whether nothing came out wrong; a missed target of speed is no failure. */
export async function bench({ quick, only, folder: parent = tmpdir(), write: writes }) {
  const folder = mkdtempSync(path.join(parent, "session-write-lock-bench-"));
  const started = performance.now();
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, () => void cleanUp(folder).finally(() => process.exit(1)));
  }
  try {
    const results = await measure(choose(only), makeContext(folder, quick));
    const report = {
      date: new Date().toISOString().slice(0, 10),
      quick,
      machine: describeMachine(folder),
      results: rounded(results),
    };
    const judged = judge(report.results);
    console.log(`\n## Targets\n\n${renderTargets(judged)}`);
    console.log(`\n${((performance.now() - started) / 1_000).toFixed(0)} s in all`);
    if (writes || (!quick && !only)) {
      write(report);
    }
    return judged.every(({ met, isPromise }) => met !== false || !isPromise);
  } finally {
    await cleanUp(folder);
  }
}

async function cleanUp(folder) {
  await killAll();
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
}

/** Four digits: more is noise. */
function rounded(results) {
  return JSON.parse(
    JSON.stringify(results, (_, value) =>
      typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value,
    ),
  );
}
