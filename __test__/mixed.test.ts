/** Processes with this package beside processes with each release of the older module. */

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

import { Agent, temporaryFolder, type Tools } from "./support.js";

/** The releases that differ: see the fixture. */
const ERAS = ["february", "march", "latest"] as const;

type Module = "addon" | (typeof ERAS)[number];

/**
 * Adds 1 to a counter in a file, `rounds` times, each under the lock. A second process inside could not
 * create the witness, and would lose an update. Says how long each acquire took.
 */
async function count(
  { lock, require }: Tools,
  sessionFile: string,
  module: Module,
  rounds: number,
): Promise<number[]> {
  const fs = require("node:fs");
  const timers = require("node:timers/promises");
  const older = require("./typescript-lock.cjs").acquire;
  const waits = [];
  for (let round = 0; round < rounds; round += 1) {
    const calledAt = performance.now();
    const held = await (module === "addon"
      ? lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 60_000 })
      : older({ sessionFile, timeoutMs: 60_000, era: module }));
    waits.push(performance.now() - calledAt);
    fs.closeSync(fs.openSync(`${sessionFile}.inside`, "wx"));
    const counter = Number(fs.readFileSync(sessionFile, "utf8"));
    await timers.setImmediate();
    fs.writeFileSync(sessionFile, String(counter + 1));
    fs.unlinkSync(`${sessionFile}.inside`);
    await held.release();
  }
  return waits;
}

for (const era of ERAS) {
  // Until February two older processes rob each other, whatever else there is: the one finds the other's
  // file between its creation and its record, and takes it for a dead lock's. So there is one.
  const [ours, theirs, older] = era === "february" ? ["seven", "one", 1] : ["four", "four", 4];
  test(`${ours} processes and ${theirs} with the older module of ${era} exclude each other, and all are served`, async () => {
    const sessionFile = path.join(temporaryFolder(), "chat.jsonl");
    writeFileSync(sessionFile, "0");
    const modules = Array.from({ length: 8 }, (_, index): Module => (index < Number(older) ? era : "addon"));
    const agents = await Promise.all(modules.map(() => Agent.start()));
    // The older module polls, so it comes far less often.
    const rounds = (module: Module) => (module === "addon" ? 100 : 6);
    await Promise.all(
      agents.map((agent, index) =>
        agent.run(count, sessionFile, modules[index]!, rounds(modules[index]!)),
      ),
    );
    const expected = modules.reduce((sum, module) => sum + rounds(module), 0);
    expect(readFileSync(sessionFile, "utf8")).toBe(String(expected));
    expect(existsSync(`${sessionFile}.lock`)).toBe(false);
    expect(existsSync(`${sessionFile}.lock.reclaim`)).toBe(false);
  }, 120_000);
}
