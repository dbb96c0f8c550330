/**
 * `npm run fuzz [-- --seconds 60]`: lets libFuzzer look for bytes in a lock file of which `tests/fuzz/property.rs` does not hold.
 * It begins with `tests/fuzz/corpus`, which `cargo test --lib` replays, and puts there what reaches lines that nothing there
 * reaches: that is for the next commit.
 */

import { cpSync, mkdirSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { parseArgs } from "node:util";

import { attempt, root } from "./setup.mjs";

const { values } = parseArgs({ options: { seconds: { type: "string", default: "60" } } });
if (spawnSync("cargo", ["fuzz", "--version"]).status !== 0 && !attempt({}, "cargo", "install", "cargo-fuzz", "--locked")) {
  process.exit(1);
}
const [kept, found] = ["tests/fuzz/corpus", `${root}/target/fuzz/corpus`];
mkdirSync(found, { recursive: true });
cpSync(`${root}/${kept}`, found, { recursive: true });
// The bootstrap switch: sanitizers are not a stable feature.
const env = { RUSTC_BOOTSTRAP: "1", CARGO_TARGET_DIR: `${root}/target/fuzz` };
const fuzz = (folders, ...options) => attempt(env, "cargo", "fuzz", "run", "--fuzz-dir", "tests/fuzz", "record", ...folders, "--", ...options);
const isHeld = fuzz([found], `-max_total_time=${values.seconds}`, "-max_len=17000", "-print_final_stats=1");
// By lines alone, not by how often they are reached: else there are thousands.
const isKept = isHeld && fuzz([kept, found], "-use_counters=0", "-set_cover_merge=1");
process.exitCode = isHeld && isKept ? 0 : 1;
