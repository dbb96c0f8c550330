/** What each thread of the storm has done: a file with a slot for each, which outlives its process. */

import { openSync, readFileSync, writeSync } from "node:fs";

const FIELDS = ["acquisitions", "takeovers", "longestWaitMs", "doubleHolds", "errors"];
const SLOT_BYTES = 8 * FIELDS.length;

export class Tally {
  #fd;
  #start;
  #numbers = new Map(FIELDS.map((name) => [name, 0]));
  #bytes = Buffer.alloc(8);

  constructor(file, slot) {
    this.#fd = openSync(file, "r+");
    this.#start = slot * SLOT_BYTES;
  }

  add(name, number) {
    if (number > 0) {
      this.#set(name, this.#numbers.get(name) + number);
    }
  }

  raise(name, number) {
    if (number > this.#numbers.get(name)) {
      this.#set(name, number);
    }
  }

  #set(name, number) {
    this.#numbers.set(name, number);
    this.#bytes.writeDoubleLE(number);
    writeSync(this.#fd, this.#bytes, 0, 8, this.#start + 8 * FIELDS.indexOf(name));
  }
}

/** All slots together: sums, and the longest wait. */
export function readTally(file) {
  const bytes = readFileSync(file);
  const total = Object.fromEntries(FIELDS.map((name) => [name, 0]));
  for (let at = 0; at + SLOT_BYTES <= bytes.length; at += SLOT_BYTES) {
    FIELDS.forEach((name, index) => {
      const number = bytes.readDoubleLE(at + 8 * index);
      total[name] = name === "longestWaitMs" ? Math.max(total[name], number) : total[name] + number;
    });
  }
  return total;
}
