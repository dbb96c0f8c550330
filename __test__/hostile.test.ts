/** What others can put at the paths of a lock, while it is used: nothing of theirs is written into, removed or shown. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { linkSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";

import { inspectSessionLock, tryLock } from "../index.js";
import { Agent, newSession, temporaryFolder } from "./support.js";

// --- Names that change while they are looked at -------------------------------------------------

/** A neighbour: puts one thing after the other at a path, by rename, as fast as it can. */
const NEIGHBOUR = `
  const fs = require("node:fs");
  const [target, victim, folder] = process.argv.slice(1);
  const make = [
    (at) => fs.symlinkSync(victim, at),
    (at) => fs.linkSync(victim, at),
    (at) => fs.writeFileSync(at, '{"pid":1073741824,"witness":"flock"}', { mode: 0o666 }),
    (at) => require("node:child_process").execFileSync("mkfifo", [at]),
    (at) => fs.symlinkSync("/dev/zero", at),
    (at) => fs.writeFileSync(at, ""),
  ];
  process.send?.("ready");
  for (let round = 0; round % 100 > 0 || !fs.existsSync(folder + "/stop"); round += 1) {
    const at = folder + "/" + round;
    // Starting mkfifo takes a thousand times as long as the rest.
    make[round % 200 === 3 ? 3 : round % 6 === 3 ? 0 : round % 6](at);
    try {
      fs.renameSync(at, target);
      if (round % 3 === 0) fs.unlinkSync(target);
    } catch (error) {
      if (!["ENOENT", "EISDIR"].includes(error.code)) throw error;
    }
  }`;

for (const [name, suffix] of [
  ["the lock file", ".lock"],
  ["the queue file", ".lock.queue"],
  ["the temporary", ".lock.new"],
] as const) {
  test(`a neighbour that swaps links, pipes and devices in and out of the place of ${name} gets nothing written or removed`, async () => {
    const { sessionFile, folder } = newSession();
    const outside = temporaryFolder();
    const victim = path.join(outside, "precious");
    writeFileSync(victim, "precious", { mode: 0o666 });
    utimesSync(victim, 1, 1);
    const before = lstatSync(victim);
    const swaps = path.join(folder, "swaps");
    mkdirSync(swaps);
    // One file system: rename and link have to work.
    const inside = path.join(folder, "precious");
    linkSync(victim, inside);
    const neighbour = spawn(process.execPath, ["-e", NEIGHBOUR, sessionFile + suffix, inside, swaps], {
      stdio: ["ignore", "ignore", "inherit", "ipc"],
    });
    onTestFinished(() => void neighbour.kill("SIGKILL"));
    await new Promise((resolve) => neighbour.once("message", resolve));
    const agents = await Promise.all([Agent.start(), Agent.start()]);
    const outcomes = await Promise.all(
      agents.map((agent) =>
        agent.run(async ({ lock, require }, sessionFile) => {
          const { dirname } = require("node:path") as typeof import("node:path");
          const codes: Record<string, number> = {};
          const end = Date.now() + 2_500;
          while (Date.now() < end) {
            try {
              const held = await lock.acquireSessionWriteLock({ sessionFile, timeoutMs: 20 });
              await held.release();
              codes["acquired"] = (codes["acquired"] ?? 0) + 1;
            } catch (error) {
              const { code } = error as { code: string };
              codes[code] = (codes[code] ?? 0) + 1;
            }
            await lock.inspectSessionLock(sessionFile).catch(() => {});
            await lock.cleanStaleLockFiles({ sessionsDir: dirname(sessionFile) }).catch(() => {});
          }
          return codes;
        }, sessionFile),
      ),
    );
    // Not killed: its mkfifo would live on for a moment, and make a pipe in a folder that is being removed.
    writeFileSync(path.join(swaps, "stop"), "");
    await once(neighbour, "exit");
    const after = lstatSync(victim);
    expect(readFileSync(victim, "utf8")).toBe("precious");
    expect([after.mode, after.mtimeMs, after.size, after.uid]).toEqual([before.mode, before.mtimeMs, before.size, before.uid]);
    expect(lstatSync(inside).ino).toBe(before.ino);
    // Something did happen, and each failure is one that has a name.
    const codes = Object.keys(Object.assign({}, ...outcomes));
    expect(codes.length).toBeGreaterThan(0);
    for (const code of codes) {
      expect(code).toMatch(/^(acquired|OPENCLAW_SESSION_WRITE_LOCK_\w+|E[A-Z]+)$/);
    }
  });
}

// --- Records -------------------------------------------------------------------------------------

/** The same numbers in every run (mulberry32). */
function chance(seed: number): <T>(list: readonly T[]) => T {
  let state = seed;
  return (list) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return list[Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * list.length)]!;
  };
}

const FIELDS = ["pid", "createdAt", "starttime", "comm", "maxHoldMs", "bootId", "pidNamespace", "witness", "label", "token", "other"];

/** JSON texts of values, right and wrong ones. */
const VALUES = [
  "1", "0", "-0", "-1", "1.0", "1e0", "1.5", "2147483647", "2147483648", "9007199254740991", "9007199254740992", "1e308", "4294967296",
  "null", "true", "[]", "{}", '[{"pid":1}]', '""', '"flock"', '"node"', '"2026-01-01T00:00:00.000Z"', '"\\u0000\\ud83d\\ude00"', '"\\u001b[31m"', '"1"',
  `"${"x".repeat(300)}"`,
];

/** What a record says, read with JSON.parse: the plain reference. */
function expectedRecord(text: string): Record<string, unknown> | undefined {
  let fields: Record<string, unknown>;
  try {
    fields = JSON.parse(text) as Record<string, unknown>;
  } catch {
    return undefined;
  }
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) {
    return undefined;
  }
  const whole = (value: unknown, from: number, to = Number.MAX_SAFE_INTEGER) =>
    typeof value === "number" && Number.isInteger(value) && value >= from && value <= to ? value + 0 : undefined;
  const string = (value: unknown) => (typeof value === "string" ? value : undefined);
  const read = {
    pid: whole(fields["pid"], 1, 2 ** 31 - 1),
    createdAt: string(fields["createdAt"]),
    starttime: whole(fields["starttime"], 0),
    comm: string(fields["comm"]),
    maxHoldMs: whole(fields["maxHoldMs"], 1),
    bootId: string(fields["bootId"]),
    pidNamespace: whole(fields["pidNamespace"], 0),
    witness: fields["witness"] === "flock" ? "flock" : undefined,
    label: string(fields["label"]),
    token: string(fields["token"]),
  };
  return Object.fromEntries(Object.entries(read).filter(([, value]) => value !== undefined));
}

test("a record is read as JSON.parse reads it, every field right or wrong in every way", async () => {
  const { sessionFile, lockPath } = newSession();
  const pick = chance(1);
  const seen = { records: 0, fields: 0 };
  for (let round = 0; round < 2_000; round += 1) {
    const count = pick([1, 2, 3, 5, 8, 12]);
    // A name can stand there twice: the last counts.
    const pairs = Array.from({ length: count }, () => `${JSON.stringify(pick(FIELDS))}:${pick(VALUES)}`);
    const [open, close] = pick([["{", "}"], ["{", "}"], ["{", "}"], [" {\n", "}\t"], ["[{", "}]"], ["{", ""], ["", ""], ["{", ",}"], ["\ufeff{", "}"]] as const);
    const text = `${open}${pairs.join(",")}${close}`;
    writeFileSync(lockPath, text);
    const inspection = await inspectSessionLock(sessionFile);
    const expected = expectedRecord(text);
    const holder = inspection!.holder ?? undefined;
    const isEmpty = expected === undefined || Object.keys(expected).length === 0;
    expect(holder && Object.keys(holder).length > 0 ? { ...holder } : undefined, text).toEqual(isEmpty ? undefined : expected);
    seen.records += isEmpty ? 0 : 1;
    seen.fields += isEmpty ? 0 : Object.keys(expected).length;
  }
  expect(seen.records).toBeGreaterThan(300);
  expect(seen.fields).toBeGreaterThan(500);
});

test("half of a surrogate pair makes a record unreadable, as RFC 8259 allows; JSON.parse takes it", async () => {
  const { sessionFile, lockPath } = newSession();
  writeFileSync(lockPath, '{"pid":1,"comm":"\\ud800"}');
  expect((await inspectSessionLock(sessionFile))!.holder ?? undefined).toBeUndefined();
});

test("names and labels that are escapes reach no terminal", async () => {
  const folder = mkdtempSync(path.join(temporaryFolder(), "x-"));
  const sessionFile = path.join(folder, "a\u001b[31m\n\u0007b\u202e.jsonl");
  const held = tryLock(sessionFile, { label: "\u001b]0;title\u0007\r\n" })!;
  const run = async (...args: string[]) => {
    const child = spawn(process.execPath, [path.join(import.meta.dirname, "../bin/session-write-lock.mjs"), ...args], { stdio: ["ignore", "pipe", "pipe"] });
    let printed = "";
    child.stdout.on("data", (data) => (printed += data));
    child.stderr.on("data", (data) => (printed += data));
    await new Promise((resolve) => child.once("close", resolve));
    return printed;
  };
  for (const args of [["status", folder], ["status", "--all", "--json", folder], ["why", sessionFile], ["run", "--timeout", "1ms", sessionFile, "true"]]) {
    const printed = await run(...args);
    expect(printed.length, args[0]).toBeGreaterThan(0);
    // eslint-disable-next-line no-control-regex
    expect(printed, args[0]).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/);
  }
  await held.release();
});
