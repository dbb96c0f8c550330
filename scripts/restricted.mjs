/**
 * `npm run test:restricted`: the whole suite on a binary that has only what macOS has. It is built here from the sources of
 * macOS's part of `src/os`, with a stand-in for the calls that can be made on macOS alone. So what can't be tested on Linux
 * is one folder, `src/os/macos/calls`.
 *
 * Tests of what macOS lacks are skipped by name (`__test__/restricted.list.mjs`), and counted. `-- <file>…`: only these.
 */

import { copyFileSync } from "node:fs";

import { SKIPPED } from "../__test__/restricted.list.mjs";
import { nodeTests, skipBy } from "./node-tests.mjs";
import { attempt, root, setUp } from "./setup.mjs";

const folder = `${root}/target/restricted`;
const binary = `${folder}/session-write-lock.node`;
const files = process.argv.slice(2);

function testInNode() {
  copyFileSync(`${folder}/release/libsession_write_lock.so`, binary);
  const list = skipBy("restricted", SKIPPED);
  const env = { SESSION_WRITE_LOCK_NATIVE_LIBRARY_PATH: binary, ...list.env };
  const { ok, passed, failed, skipped } = nodeTests(env, files);
  console.log(`\nNode tests: ${passed} passed, ${failed} failed, ${list.count()} skipped for what macOS lacks, ${skipped - list.count()} for other reasons`);
  const unused = list.unused();
  if (files.length > 0 || unused.length === 0) {
    return ok;
  }
  console.log(`patterns of __test__/restricted.list.mjs that match no test:\n${unused.join("\n")}`);
  return false;
}

setUp();
const cfg = { RUSTFLAGS: "--cfg restricted_os", CARGO_TARGET_DIR: folder };
const rust = attempt(cfg, "cargo", "test", "--quiet", "--lib");
const node = attempt(cfg, "cargo", "build", "--quiet", "--release", "--lib") && testInNode();
process.exitCode = rust && node ? 0 : 1;
