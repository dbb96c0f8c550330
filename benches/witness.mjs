/**
 * Proof that a lock excludes, made inside the critical section: a counter that must come out exact,
 * and the name of who is inside.
 *
 * Four system calls on one small file: read, write my name, …, read again, write the counter plus
 * one and no name. It is quick, so that it doesn't drown the lock it watches, and no overlap of two
 * sections A and B escapes it, whatever the order of their calls. If one of them reads the other's
 * name at the start, it is seen. Otherwise both names are written after both reads; let B's be the
 * later. If A's second read comes after that, it finds B's name, or what B left. If it came before,
 * look at A's last write: if B's second read comes after it, B finds another counter or no name;
 * if not, both write the same number, and the counter ends one short.
 *
 * A process can be killed inside. Then its name stays, and proves nothing: so a name counts only while
 * its process lives.
 */

import { openSync, readFileSync, readSync, writeFileSync, writeSync } from "node:fs";

const COUNTER = 0;
const OWNER = 8;
const BYTES = 16;
const NUMBERS = 1_000_000n;

export function createWitness(path) {
  writeFileSync(path, Buffer.alloc(BYTES));
}

export function countIn(path) {
  return Number(readFileSync(path).readBigUInt64LE(COUNTER));
}

export class Witness {
  #fd;
  #before = Buffer.alloc(BYTES);
  #after = Buffer.alloc(BYTES);
  #mine = Buffer.alloc(BYTES - OWNER);
  overlaps = 0;

  /** `number` tells apart those in one process; below a million. */
  constructor(path, number = 0) {
    this.#fd = openSync(path, "r+");
    this.#mine.writeBigUInt64LE(BigInt(process.pid) * NUMBERS + BigInt(number));
  }

  /** Right after the lock was acquired. */
  enter() {
    readSync(this.#fd, this.#before, 0, BYTES, 0);
    const owner = this.#before.readBigUInt64LE(OWNER);
    if (owner !== 0n && isRunning(owner / NUMBERS)) {
      this.overlaps += 1;
    }
    writeSync(this.#fd, this.#mine, 0, this.#mine.length, OWNER);
    this.#mine.copy(this.#before, OWNER);
  }

  /** Right before it is released. */
  leave() {
    readSync(this.#fd, this.#after, 0, BYTES, 0);
    if (!this.#after.equals(this.#before)) {
      this.overlaps += 1;
    }
    const next = Buffer.alloc(BYTES);
    next.writeBigUInt64LE(this.#before.readBigUInt64LE(COUNTER) + 1n, COUNTER);
    writeSync(this.#fd, next, 0, BYTES, 0);
  }
}

/** Whether a process exists and is not about to end: the kernel frees its locks before it is gone. */
function isRunning(pid) {
  const PF_EXITING = 0x4; // include/linux/sched.h
  try {
    if (process.platform === "win32") {
      return process.kill(Number(pid), 0); // under Wine there is a /proc, and its numbers are the host's
    }
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const [state, , , , , , flags] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return !"ZX".includes(state) && (Number(flags) & PF_EXITING) === 0;
  } catch {
    return false;
  }
}
