/**
 * `npm run sanitize`: the Rust tests under AddressSanitizer and under ThreadSanitizer, and the addon under Node with
 * AddressSanitizer.
 *
 * ThreadSanitizer must see the standard library's locks, so the library is built with it, by Debian's compiler. What a machine
 * can't do is skipped, and said. Leaks are not looked for: Node itself leaves memory behind at its end.
 */

import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync } from "node:fs";

import { describe, provideDebianCompiler } from "./release/compiler.mjs";
import { attempt, root, setUp } from "./setup.mjs";

const TRIPLE = "x86_64-unknown-linux-gnu";
const failures = [];

function run(name, env, command, ...args) {
  console.log(`\n${name}`);
  if (!attempt(env, command, ...args)) {
    failures.push(name);
  }
}

function cargo(name, flags, kind, env, ...args) {
  const folder = `${root}/target/${kind}`;
  const settings = { RUSTC_BOOTSTRAP: "1", RUSTFLAGS: flags.join(" "), CARGO_TARGET_DIR: folder, ...env };
  run(name, settings, "cargo", ...args, "--quiet", "--lib", "--target", TRIPLE);
  return `${folder}/${TRIPLE}/debug`;
}

if (process.platform !== "linux" || process.arch !== "x64") {
  console.log("SKIPPED: this is done on Linux x64 only");
  process.exit();
}
setUp();
const library = `${describe({}).sysroot}/lib/rustlib/${TRIPLE}`;

const address = ["-Zsanitizer=address"];
cargo("AddressSanitizer: the Rust tests", address, "asan", {}, "test");

const { stdout } = spawnSync("gcc", ["-print-file-name=libasan.so"], { encoding: "utf8" });
const runtime = stdout?.trim();
if (runtime && existsSync(runtime)) {
  const built = cargo("AddressSanitizer: the addon", address, "asan", {}, "build");
  const binary = `${root}/target/asan/session-write-lock.node`;
  copyFileSync(`${built}/libsession_write_lock.so`, binary);
  const env = {
    LD_PRELOAD: runtime,
    ASAN_OPTIONS: "detect_leaks=0:exitcode=99",
    SESSION_WRITE_LOCK_NATIVE_LIBRARY_PATH: binary,
  };
  const vitest = ["node_modules/vitest/vitest.mjs", "run", "--no-file-parallelism"];
  run("AddressSanitizer: Node", env, process.execPath, ...vitest, "acquire", "abort", "workers", "lifecycle", "try-acquire", "sweep");
} else {
  console.log("SKIPPED for lack of gcc's libasan: the addon under Node");
}

const threads = `${library}/lib/librustc-stable_rt.tsan.a`;
let compiler;
try {
  compiler = existsSync(threads) ? provideDebianCompiler() : undefined;
} catch (error) {
  console.log(error.message);
}
if (compiler) {
  const link = [`-B${library}/bin/gcc-ld`, "-fuse-ld=lld", "-Wl,--whole-archive", threads, "-Wl,--no-whole-archive", "-lc", "-lm"];
  const flags = ["-Zsanitizer=thread", "-Zexternal-clangrt", ...link.map((argument) => `-Clink-arg=${argument}`)];
  cargo("ThreadSanitizer: the Rust tests", flags, "tsan", compiler.env, "test", "-Zbuild-std=std,panic_unwind,proc_macro,test");
} else {
  console.log("SKIPPED for lack of a compiler with its library's sources: ThreadSanitizer");
}
console.log(failures.length > 0 ? `\nfailed: ${failures.join("; ")}` : "\nno report");
process.exitCode = failures.length > 0 ? 1 : 0;
