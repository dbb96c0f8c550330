/**
 * `npm run test:restricted`: the whole suite on a binary that has only what macOS has. It is built here from the sources of
 * macOS's part of `src/os`, with a stand-in for the calls that can be made on macOS alone. So what can't be tested on Linux
 * is one folder, `src/os/macos/calls`.
 *
 * Tests of what macOS lacks are skipped by name (`__test__/restricted.ts`), and counted. `-- <file>…`: only these.
 */

import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";

import { root, setUp } from "./setup.mjs";

const folder = `${root}/target/restricted`;
const binary = `${folder}/session-write-lock.node`;
const log = `${root}/.cache/restricted.log`;
const report = `${root}/.cache/restricted.json`;

function run(env, command, ...args) {
  console.log(`\n> ${[command, ...args].join(" ")}`);
  return spawnSync(command, args, { cwd: root, stdio: "inherit", env: { ...process.env, ...env } }).status === 0;
}

setUp();
const files = process.argv.slice(2);
const cfg = { RUSTFLAGS: "--cfg restricted_os", CARGO_TARGET_DIR: folder };
const rust = run(cfg, "cargo", "test", "--quiet", "--lib");
const built = run(cfg, "cargo", "build", "--quiet", "--release", "--lib");
let node = false;
if (built) {
  copyFileSync(`${folder}/release/libsession_write_lock.so`, binary);
  mkdirSync(`${root}/.cache`, { recursive: true });
  writeFileSync(log, "");
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${report}`];
  const env = { SESSION_WRITE_LOCK_NATIVE_LIBRARY_PATH: binary, RESTRICTED_LOG: log };
  node = run(env, "npx", "vitest", "run", ...reporters, ...files);
  const { numPassedTests: passed, numFailedTests: failed, numPendingTests: skipped } = JSON.parse(readFileSync(report, "utf8"));
  const lacking = readFileSync(log, "utf8").split("\n").filter(Boolean);
  console.log(`\nNode tests: ${passed} passed, ${failed} failed, ${lacking.length} skipped for what macOS lacks, ${skipped - lacking.length} for other reasons`);
  const count = (readFileSync(`${root}/__test__/restricted.ts`, "utf8").match(/^  \[\//gm) ?? []).length;
  const unused = Array.from({ length: count }, (_, index) => index).filter((index) => !lacking.includes(String(index)));
  if (files.length === 0 && unused.length > 0) {
    console.log(`patterns of __test__/restricted.ts that match no test: ${unused.map((index) => index + 1).join(", ")}`);
    node = false;
  }
}
process.exitCode = rust && built && node ? 0 : 1;
