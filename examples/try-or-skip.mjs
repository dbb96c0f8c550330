// A job for cron: it counts the lines of its input, unless the last run is still at it. Then it is skipped.
// zcat access.log.gz | node examples/try-or-skip.mjs count.json

import { writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { tryLock } from "session-write-lock";

const file = process.argv[2];

const lock = tryLock(file, { label: "count" });
if (!lock) {
  console.log("skipped: the last run is still at it");
  process.exit(); // with 0: nothing is wrong
}
console.log("started");
let lines = 0;
for await (const _ of createInterface({ input: process.stdin })) {
  lines += 1;
}
await writeFile(file, JSON.stringify({ lines }));
await lock.release();
console.log("done");
