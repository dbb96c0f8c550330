// A process with the addon, in a virtual machine.
"use strict";

const { readFileSync, writeFileSync } = require("node:fs");
const { subscribe } = require("node:diagnostics_channel");
const { lock, tryLock, inspectLock } = require("/package/index.js");

/** The lock files that were taken from a dead holder. */
const takenOver = [];
subscribe("session-write-lock:takeover", ({ lockPath }) => takenOver.push(lockPath));
const takeovers = (file) => takenOver.filter((lockPath) => lockPath === `${file}.lock`).length;

/** By file: the lock, and when its signal fired. */
const held = new Map();

const OPERATIONS = {
  async lock(file, options) {
    const isTakenOver = await OPERATIONS.lockUnheard(file, options);
    const it = held.get(file);
    it.got.signal.addEventListener("abort", () => Object.assign(it, { lostAt: Date.now(), how: it.got.signal.reason.how }));
    return isTakenOver;
  },
  /** The same without a listener, so that nothing is checked meanwhile. */
  async lockUnheard(file, options) {
    held.set(file, { got: await lock(file, options), lostAt: undefined, how: undefined });
    return takeovers(file) > 0;
  },
  /** Gets the lock several times, and keeps it the last time. */
  async lockAgain(file, times, options) {
    for (let n = 1; n < times; n += 1) {
      await (await lock(file, options)).release();
    }
    return OPERATIONS.lock(file, options);
  },
  async tryLock(file) {
    const got = tryLock(file);
    await got?.release();
    return got !== null && got !== undefined;
  },
  pid: () => process.pid,
  release: (file) => held.get(file).got.release(),
  held: (file) => held.get(file).got.held,
  /** How its signal fired, and how long ago; `null` if it did not. */
  lost(file) {
    const { lostAt, how } = held.get(file);
    return lostAt === undefined ? null : { how, agoMs: Date.now() - lostAt };
  },
  inspect: (file) => inspectLock(file),
  /** Adds one to the number in a file. */
  add(file) {
    const number = Number(readFileSync(file, "utf8"));
    writeFileSync(file, String(number + 1));
  },
  /** Adds one to the number in a file, each time under its lock. How often that was taken from a dead holder. */
  async count(file, times, counter) {
    for (let n = 0; n < times; n += 1) {
      const got = await lock(file, { timeoutMs: 120_000 });
      OPERATIONS.add(counter);
      await got.release();
    }
    return takeovers(file);
  },
};

process.on("message", async ({ id, op, args }) => {
  try {
    process.send({ id, value: (await OPERATIONS[op](...args)) ?? null });
  } catch (error) {
    const { message, code, syscall, how, owner } = error;
    process.send({ id, error: { message, code, syscall, how, owner } });
  }
});
