// A process with the addon, in a virtual machine.
"use strict";

const { readFileSync, writeFileSync } = require("node:fs");
const { lock, tryLock, inspectLock } = require("/package/index.js");

/** By file: the lock, and when its signal fired. */
const held = new Map();

const OPERATIONS = {
  async lock(file, options) {
    const got = await lock(file, options);
    const it = { got, lostAt: undefined, how: undefined };
    got.signal.addEventListener("abort", () => Object.assign(it, { lostAt: Date.now(), how: got.signal.reason.how }));
    held.set(file, it);
    return { isTakenOver: got.takenOver };
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
    let takeovers = 0;
    for (let n = 0; n < times; n += 1) {
      const got = await lock(file, { timeoutMs: 120_000 });
      takeovers += got.takenOver ? 1 : 0;
      OPERATIONS.add(counter);
      await got.release();
    }
    return takeovers;
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
