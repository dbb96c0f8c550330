/**
 * `npm run mutants`: leaves out one rule of the protocol after the other. The test that the list names for
 * the rule has to find a schedule that breaks a promise. A rule whose loss goes unnoticed is not needed, or
 * the simulation is too weak.
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
const env = { ...process.env, CARGO_TARGET_DIR: join(target, "mutants") };

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

/** The promises that a schedule can break. Anything else that fails shows nothing about a rule. */
const BROKEN = new RegExp(
  [
    "two holders",
    "removes a live lock",
    "served out of turn",
    "something is left behind",
    "nobody gets the lock any more",
    "a queue in use is removed",
    "a file of the user's is opened for writing",
    "an unfinished file becomes the lock file",
    "somebody makes a call that was to be spared",
  ].join("|"),
);

/** Which promise the test finds broken, and in which cast. `undefined`: none. */
function caughtBy(binary, test) {
  const { status, stdout, stderr } = spawnSync(binary, ["--exact", test, "--nocapture"], { env, maxBuffer: 1 << 28 });
  const said = `${stdout}${stderr}`;
  if (!said.includes("running 1 test\n")) throw new Error(`no such test: ${test}`);
  if (status === 0) return undefined;
  const told = /panicked at .*\n(.*)/.exec(said)?.[1] ?? said;
  if (!BROKEN.test(told)) throw new Error(told);
  return told;
}

prepare();
const begun = Date.now();
const seconds = (since) => `${((Date.now() - since) / 1000).toFixed(0)} s`;
const wanted = new RegExp(process.argv[2] ?? "");
const mutants = MUTANTS.filter(({ name }) => wanted.test(name));
let survivors = 0;
for (const mutant of mutants) {
  const since = Date.now();
  let told;
  try {
    mutate(mutant);
    const caught = caughtBy(compile(), mutant.by);
    survivors += caught ? 0 : 1;
    told = caught ? `killed by ${caught}` : "SURVIVES";
  } catch (error) {
    survivors += 1;
    told = `SHOWS NOTHING: ${error.stderr ?? error}`;
  }
  console.log(`${mutant.name}: ${told} [${seconds(since)}]`);
}
console.log(`${mutants.length - survivors} of ${mutants.length} killed [${seconds(begun)}]`);
process.exitCode = survivors === 0 ? 0 : 1;
