/** What a long wait costs the process that waits. */

import { readFileSync } from "node:fs";
import { spawnSync } from "node:child_process";

import { Actor, withActors } from "../crew.mjs";
import { COMPARED } from "../locks.mjs";

const WAIT_MS = 5_000;

function hasStrace() {
  return spawnSync("strace", ["-o", "/dev/null", "true"]).status === 0;
}

/** Completed or begun, but each once, between the two marks. */
function systemCallsBetween(trace, marks) {
  const lines = readFileSync(trace, "utf8").split("\n");
  const begin = lines.findIndex((line) => line.includes(marks.begin));
  const end = lines.findIndex((line) => line.includes(marks.end));
  const calls = lines.slice(begin + 1, end);
  return calls.filter((line) => /^\d+ +\w+\(/.test(line)).length;
}

async function waitFor(name, sessionFile, through, marks) {
  const waiter = await Actor.start(name, { through });
  try {
    if (name === "idle") {
      return await waiter.run("idleWatched", { ms: WAIT_MS, marks });
    }
    // What is set up on first use is no part of a wait.
    await waiter.run("pairs", { sessionFile: `${sessionFile}.before`, count: 1 });
    return await withActors(name, 1, async ([holder]) => {
      await holder.run("acquire", { sessionFile });
      const waited = waiter.run("waitWatched", { sessionFile, marks });
      await holder.run("releaseAfter", { ms: WAIT_MS });
      return await waited;
    });
  } finally {
    await waiter.leave();
  }
}

async function measure(context, name, withTrace) {
  const sessionFile = context.sessionFile(name);
  const marks = { begin: `${sessionFile}.wait-begins`, end: `${sessionFile}.wait-ends` };
  const cpuMs = await waitFor(name, sessionFile, [], marks);
  if (!withTrace) {
    return { cpuMs };
  }
  const trace = `${sessionFile}.strace`;
  const through = ["strace", "-f", "-qq", "-s", "256", "-o", trace];
  await waitFor(name, sessionFile, through, marks);
  return { cpuMs, systemCalls: systemCallsBetween(trace, marks) };
}

export const longWait = {
  id: "long-wait",
  title: "A five-second wait",
  method:
    "A process that has used the lock before waits for one that another holds for five seconds. CPU time of the whole process, " +
    "and, in a second run under strace, the system calls of all its threads, from calling acquire " +
    "to having the lock. *Nothing at all* is a Node that sleeps for five seconds.",
  async run(context) {
    const withTrace = hasStrace();
    const names = [...COMPARED, "idle"];
    const results = await Promise.all(names.map((name) => measure(context, name, withTrace)));
    return Object.fromEntries(names.map((name, index) => [name, results[index]]));
  },
};
