/**
 * `npm run mutants`: leaves out one rule of the protocol after the other, and expects the simulation to
 * find a schedule that breaks a promise. A rule whose loss goes unnoticed is either not needed, or the
 * simulation is too weak.
 *
 * `npm run mutants -- <pattern>`: only those whose name matches.
 */

import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { root } from "./setup.mjs";
import { MUTANTS } from "./mutants.list.mjs";

const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const crate = join(target, "mutants", "crate");
const env = { ...process.env, CARGO_TARGET_DIR: join(target, "mutants"), SIMULATION_MUTANT: "1" };

/** The simulation as a crate of its own, without the addon: it compiles in a few seconds. */
function prepare() {
  rmSync(crate, { recursive: true, force: true });
  mkdirSync(crate, { recursive: true });
  const manifest = readFileSync(join(root, "Cargo.toml"), "utf8")
    .replace(/\[lib\][^[]*/, "")
    .replace(/\[build-dependencies\][^[]*/, "")
    .replace(/^napi.*\n/gm, "")
    .replace("autotests = false", "autotests = false\nautolib = false\n\n[workspace]");
  writeFileSync(join(crate, "Cargo.toml"), manifest);
  cpSync(join(root, "Cargo.lock"), join(crate, "Cargo.lock"));
  copy();
}

function copy() {
  for (const folder of ["src", "tests"]) {
    cpSync(join(root, folder), join(crate, folder), { recursive: true });
  }
}

/** Applies the replacements. Each text must occur just once. */
function mutate({ name, edits }) {
  copy();
  for (const [file, from, to] of edits) {
    const path = join(crate, file);
    const text = readFileSync(path, "utf8");
    if (text.split(from).length !== 2) {
      throw new Error(`${name}: in ${file} not just once: ${from}`);
    }
    writeFileSync(path, text.replace(from, () => to));
  }
}

/** The test binary. */
function compile() {
  const args = ["test", "--profile", "simulation", "--test", "simulation", "--no-run", "--message-format=json"];
  const output = execFileSync("cargo", args, {
    cwd: crate,
    env,
    stdio: ["ignore", "pipe", "pipe"],
    maxBuffer: 1 << 28,
  });
  const messages = output.toString().trim().split("\n").map((line) => JSON.parse(line));
  return messages.findLast((message) => message.executable).executable;
}

/** Which promise is broken, and in which cast. Chance finds most, and fast. */
function caughtBy(binary) {
  for (const filter of [["by_chance"], ["--skip", "::"]]) {
    const args = [...filter, "--nocapture", "--test-threads=2"];
    const run = spawnSync(binary, args, { env, maxBuffer: 1 << 28 });
    if (run.status !== 0) {
      const said = `${run.stdout}${run.stderr}`;
      return /panicked at .*\n(.*)/.exec(said)?.[1] ?? "killed";
    }
  }
}

prepare();
const wanted = new RegExp(process.argv[2] ?? "");
let survivors = 0;
for (const mutant of MUTANTS.filter(({ name }) => wanted.test(name))) {
  mutate(mutant);
  const begun = Date.now();
  let caught;
  try {
    caught = caughtBy(compile());
  } catch (error) {
    caught = `does not compile: ${error.stderr ?? error}`;
  }
  const seconds = ((Date.now() - begun) / 1000).toFixed(0);
  const expected = mutant.harmless ? !caught : caught && !caught.startsWith("does not");
  survivors += expected ? 0 : 1;
  const told = caught ?? (mutant.harmless ? `survives: ${mutant.harmless}` : "SURVIVES");
  console.log(`${expected ? "ok " : "BAD"} ${mutant.name}: ${told} [${seconds} s]`);
}
console.log(survivors === 0 ? "every rule is guarded" : `${survivors} not as expected`);
process.exitCode = survivors === 0 ? 0 : 1;
