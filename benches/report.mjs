/** The page, from the results of a run. */

import { LOCKS } from "./locks.mjs";
import { scenarios } from "./scenarios/index.mjs";
import { judge } from "./targets.mjs";

const TITLES = {
  ...Object.fromEntries(Object.entries(LOCKS).map(([name, { title }]) => [name, title])),
  raw: "*raw calls*",
  "empty-release": "*an empty call: release*",
  "empty-acquire": "*an empty call: acquire*",
  idle: "*nothing at all*",
  package: "session-write-lock",
  binary: "its binary alone",
  empty: "an empty addon",
  "addon-waiters": "session-write-lock, 1,000 waiters",
  "addon-sessions": "session-write-lock, 200 sessions",
  "typescript-sessions": "TypeScript protocol, 200 sessions",
  "addon-alone": "session-write-lock, alone",
  "postgres-alone": "PostgreSQL, alone",
  "addon-hand-off": "session-write-lock, hand-off",
  "postgres-hand-off": "PostgreSQL, hand-off",
  "addon-quiet": "acquire and release, quiet",
  "addon-busy": "acquire and release, busy",
  "addon-try-quiet": "tryAcquire and releaseAll, quiet",
  "addon-try-busy": "tryAcquire and releaseAll, busy",
  "typescript-quiet": "TypeScript protocol, quiet",
  "typescript-busy": "TypeScript protocol, busy",
};

/** What a table's columns show, where they are not p50, p90, p99. */
const COLUMNS = {
  "hand-off-timeline": {
    "session-write-lock, µs": ({ addon }) => microseconds(addon),
    "fs-ext flock, µs": (row) => microseconds(row["fs-ext"]),
  },
  "kill-storm": {
    kills: ({ kills }) => kills,
    "double holds": ({ doubleHolds }) => doubleHolds,
    "takeover p50, ms": ({ takeOverP50 }) => number(takeOverP50),
  },
  contention: {
    "per second": ({ perSecond }) => Math.round(perSecond).toLocaleString("en"),
    "Jain index": ({ jain }) => jain.toFixed(3),
    "longest wait, ms": ({ longestWaitMs }) => number(longestWaitMs),
    "double holds": ({ doubleHolds }) => doubleHolds,
    "lost updates": ({ lostUpdates }) => lostUpdates,
  },
  "long-wait": {
    "CPU, ms": ({ cpuMs }) => number(cpuMs),
    "system calls": ({ systemCalls }) => systemCalls ?? "not measured",
  },
  waiters: {
    threads: ({ threads }) => threads,
    descriptors: ({ descriptors }) => descriptors,
    "bytes for each": ({ bytesPerWaiter }) => Math.round(bytesPerWaiter).toLocaleString("en"),
    "of that in V8's heap": ({ heapBytesPerWaiter }) =>
      Math.round(heapBytesPerWaiter).toLocaleString("en"),
    "in order": ({ inOrder = "–" }) => ({ true: "yes", false: "no" })[inOrder] ?? inOrder,
    "all served after, ms": ({ servedInMs }) => number(servedInMs),
    "threads, descriptors left": ({ threadsLeft, descriptorsLeft }) =>
      `${threadsLeft}, ${descriptorsLeft}`,
  },
  "main-thread": {
    "pair p50, ms": ({ pair }) => number(pair.p50),
    "pair p99, ms": ({ pair }) => number(pair.p99),
    "main thread's CPU for each, µs": ({ mainThreadUs }) => number(mainThreadUs),
    "loop delay p99, ms": ({ loopDelayMs }) => number(loopDelayMs.p99),
    "loop delay max, ms": ({ loopDelayMs }) => number(loopDelayMs.max),
  },
};

const PERCENTILES = {
  "p50, ms": ({ p50 }) => number(p50),
  "p90, ms": ({ p90 }) => number(p90),
  "p99, ms": ({ p99 }) => number(p99),
  samples: ({ count }) => count.toLocaleString("en"),
};

function number(value) {
  if (value === null || value === undefined) {
    return "–";
  }
  return value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(2) : value.toFixed(4);
}

function microseconds(value) {
  return value === null ? "–" : value.toFixed(value < 10 ? 1 : 0);
}

function table(head, rows) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const rule = head.map((_, index) => (index === 0 ? "---" : "---:"));
  return [line(head), line(rule), ...rows.map(line)].join("\n");
}

export function renderScenario({ id }, results) {
  const columns = COLUMNS[id] ?? PERCENTILES;
  const rows = Object.entries(results[id]).filter(([, row]) => typeof row === "object");
  if (rows.length === 0) {
    return "Not measured: this machine lacks the means.";
  }
  return table(
    ["", ...Object.keys(columns)],
    rows.map(([name, row]) => [TITLES[name] ?? name, ...Object.values(columns).map((show) => show(row))]),
  );
}

export function renderTargets(judged) {
  return table(
    ["what", "measured", "target", "verdict"],
    judged.map(({ what, measured, target, verdict }) => [what, measured, target, verdict ?? "–"]),
  );
}

function renderMisses(judged) {
  const explained = judged.filter(({ why }) => why);
  if (explained.length === 0) {
    return "";
  }
  const items = explained.map(({ what, verdict, why }) => `- *${what}* (${verdict}): ${why}`);
  return `### What is missed, and why\n\n${items.join("\n")}\n\n`;
}

function renderMachine(machine) {
  return Object.entries(machine)
    .map(([what, value]) => `- ${what}: ${value}`)
    .join("\n");
}

function renderSections(results) {
  return scenarios
    .filter(({ id }) => results[id])
    .map((scenario) => {
      const { title, method } = scenario;
      return `## ${title}\n\n${renderScenario(scenario, results)}\n\n${method}\n`;
    })
    .join("\n");
}

export function renderPage({ date, quick, machine, results }) {
  const judged = judge(results);
  return `# Benchmarks

<!-- Written by \`npm run bench\`: change benches/, not this page. -->

One run of \`npm run bench${quick ? " -- --quick" : ""}\` on ${date}. All locks are measured in the same run, on the same
folder, so ratios mean more than the numbers themselves, which belong to this machine:

${renderMachine(machine)}

![The addon beside other locks](benchmarks.svg)

## Targets

${renderTargets(judged)}

${renderMisses(judged)}The locks: the addon; a stand-in for the older module's protocol in TypeScript (create the file, keep
it open, poll); \`proper-lockfile\` and \`@openclaw/fs-safe\`, which poll as well, here in the same rhythm
of 50 ms to 1 s; and \`fs-ext\` and \`fs-native-extensions\`, which wait in the kernel, on one of the four
threads of libuv's pool, and keep no record.

${renderSections(results)}`;
}
