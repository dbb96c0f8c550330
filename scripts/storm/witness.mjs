/**
 * Proof that a lock excludes, made inside of it: a counter that must come out exact, and the name of who is inside.
 * `benches/witness.mjs` shows why no overlap escapes it. Here a process can be killed inside. Then its name stays, and
 * proves nothing: so a name counts only while its process lives.
 */

import { openSync, readFileSync, readSync, writeFileSync, writeSync } from "node:fs";

const COUNTER = 0;
const NAME = 8;
const BYTES = 16;

export function createWitness(file) {
  writeFileSync(file, Buffer.alloc(BYTES));
}

export function countIn(file) {
  return Number(readFileSync(file).readBigUInt64LE(COUNTER));
}

export class Witness {
  #fd;
  #mine = Buffer.alloc(BYTES);
  #found = Buffer.alloc(BYTES);

  /** `name`: the pid times a million, and what tells apart those in one process. */
  constructor(file, name) {
    this.#fd = openSync(file, "r+");
    this.#mine.writeBigUInt64LE(name, NAME);
  }

  /** Right after the lock was acquired. Returns how many overlaps it saw. */
  enter() {
    readSync(this.#fd, this.#found, 0, BYTES, 0);
    const name = this.#found.readBigUInt64LE(NAME);
    this.#found.copy(this.#mine, COUNTER, COUNTER, NAME);
    writeSync(this.#fd, this.#mine, NAME, BYTES - NAME, NAME);
    return name !== 0n && isRunning(name / 1_000_000n) ? 1 : 0;
  }

  /** Right before it is released. Returns how many overlaps it saw. */
  leave() {
    readSync(this.#fd, this.#found, 0, BYTES, 0);
    const overlaps = this.#found.equals(this.#mine) ? 0 : 1;
    const next = Buffer.alloc(BYTES);
    next.writeBigUInt64LE(this.#mine.readBigUInt64LE(COUNTER) + 1n, COUNTER);
    writeSync(this.#fd, next, 0, BYTES, 0);
    return overlaps;
  }
}

/** Whether a process exists and is not about to end: the kernel frees its locks before it is gone. */
function isRunning(pid) {
  const PF_EXITING = 0x4; // include/linux/sched.h
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const [state, , , , , , flags] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return !"ZX".includes(state) && (Number(flags) & PF_EXITING) === 0;
  } catch {
    return false;
  }
}
