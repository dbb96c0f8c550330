/**
 * `npm run fuzz [-- --target NAME] [--seconds 60]`: lets libFuzzer look for bytes of which the property of a target in `tests/fuzz`
 * does not hold; without a name, for each target in turn. A search begins with the target's folder in `tests/fuzz/corpus`, which
 * `cargo test --lib` replays, and puts there what reaches lines that nothing there reaches: that is for the next commit.
 */

import { cpSync, mkdirSync, readdirSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { parseArgs } from "node:util";

import { attempt, root } from "./setup.mjs";

const all = readdirSync(`${root}/tests/fuzz/corpus`);
const { values } = parseArgs({ options: { target: { type: "string" }, seconds: { type: "string", default: "60" } } });
if (values.target && !all.includes(values.target)) {
  console.error(`--target: one of ${all.join(", ")}`);
  process.exit(2);
}
if (spawnSync("cargo", ["fuzz", "--version"]).status !== 0 && !attempt({}, "cargo", "install", "cargo-fuzz", "--locked")) {
  process.exit(1);
}
// The bootstrap switch: sanitizers are not a stable feature.
const env = { RUSTC_BOOTSTRAP: "1", CARGO_TARGET_DIR: `${root}/target/fuzz` };

function holds(target) {
  const [kept, found] = [`tests/fuzz/corpus/${target}`, `${root}/target/fuzz/corpus/${target}`];
  mkdirSync(found, { recursive: true });
  cpSync(`${root}/${kept}`, found, { recursive: true });
  const fuzz = (folders, ...options) => attempt(env, "cargo", "fuzz", "run", "--fuzz-dir", "tests/fuzz", target, ...folders, "--", ...options);
  const isHeld = fuzz([found], `-max_total_time=${values.seconds}`, "-max_len=17000", "-print_final_stats=1");
  // By lines alone, not by how often they are reached: else there are thousands.
  return isHeld && fuzz([kept, found], "-use_counters=0", "-set_cover_merge=1");
}

process.exitCode = (values.target ? [values.target] : all).every(holds) ? 0 : 1;
