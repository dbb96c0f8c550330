/** Keeps the disk of a folder busy: `hammer.mjs <folder>` writes a megabyte and syncs it, for ever. */

import { fsyncSync, openSync, writeSync } from "node:fs";
import path from "node:path";

const file = openSync(path.join(process.argv[2], "hammer"), "w");
const megabyte = Buffer.alloc(1 << 20, "x");

process.on("disconnect", () => process.exit());
process.send("ready");

function hammer() {
  writeSync(file, megabyte, 0, megabyte.length, 0);
  fsyncSync(file);
  setImmediate(hammer);
}

hammer();
