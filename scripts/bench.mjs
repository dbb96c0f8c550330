/**
 * `npm run bench`: sets up, then measures the addon against other locks and against its own floor,
 * and writes docs/benchmarks.md, docs/benchmarks.svg and benches/results.json.
 *
 * `--quick`: some two minutes, fewer samples; writes nothing unless `--write` is given.
 * `--only a,b`: some scenarios; writes nothing.
 * `--folder /mnt/x`: where the locks are (by default the folder for temporary files).
 */

import { spawnSync } from "node:child_process";
import { parseArgs } from "node:util";

import { isInstalled, root, run, setUp } from "./setup.mjs";

const { values: options } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
    only: { type: "string" },
    folder: { type: "string" },
  },
});

/**
 * Not `npm ci`: that wants an entry in the lock file for every optional package of every platform,
 * also where a registry has only some of them. With `--no-save` the lock file is followed and left
 * as it is.
 */
function installCompared() {
  if (isInstalled(`${root}/benches`)) {
    return;
  }
  console.log("set-up: installing what the addon is compared with");
  const args = ["install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error"];
  const { status } = spawnSync("npm", args, { cwd: `${root}/benches`, stdio: "inherit" });
  if (status !== 0) {
    console.error(`failed: npm ${args.join(" ")}, in benches/`);
    process.exit(1);
  }
}

function buildFloor() {
  const manifest = ["--manifest-path", "benches/native/Cargo.toml", "--target-dir", "target"];
  run("cargo", "build", "--quiet", "--release", "--locked", ...manifest);
}

setUp();
installCompared();
buildFloor();
const { bench } = await import(`${root}/benches/bench.mjs`);
process.exitCode = (await bench(options)) ? 0 : 1;
