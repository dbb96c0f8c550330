/**
 * `npm run build:targets [-- <name>…]`: builds the binary of every platform that this machine can
 * build for, into `npm/<name>/`. It fetches what it needs into `.cache/release`: zig as the linker, and
 * the compiler's standard library for other targets. A target that can't be built is named with the
 * reason, and the others are built all the same.
 *
 * `--triples` only prints what Rust calls the targets, for `rustup target add`.
 *
 * With `--twice` it builds each again, from a copy of the sources in another folder with another cargo
 * home, and compares the bytes.
 */

import { cpSync, copyFileSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { debianRust, describe, describeDebianCompiler, provideDebianCompiler } from "./compiler.mjs";
import { floorOf, inspectBinary } from "./binary.mjs";
import { provideLibnode } from "./libnode.mjs";
import {
  binaryOf,
  cache,
  chooseTargets,
  exists,
  folderOf,
  GLIBC_FLOOR,
  MACOS_FLOOR,
  makeFolder,
  output,
  pip,
  readJson,
  reasonOf,
  root,
  sha256,
} from "./targets.mjs";

/** The linker has a say in the bytes. */
const PYTHON_PACKAGES = ["ziglang==0.17.1", "cargo-zigbuild==0.24.0"];

const args = process.argv.slice(2);
const twice = args.includes("--twice");
const targets = chooseTargets(args.filter((arg) => !arg.startsWith("--")));
if (args.includes("--triples")) {
  console.log(targets.map(({ triple }) => triple).join(" "));
  process.exit();
}
const failures = [];
for (const target of targets) {
  try {
    build(target);
  } catch (error) {
    rmSync(binaryOf(target), { force: true });
    console.log(`${target.name}: NOT BUILT, ${error.message}`);
    failures.push(target.name);
  }
}
if (failures.length > 0) {
  console.log(`not built: ${failures.join(", ")}`);
  process.exitCode = 1;
}

function build(target) {
  const started = Date.now();
  const zig = provideZig();
  const compiler = provideCompiler(target);
  console.log(`${target.name}: building for ${target.triple} with ${compiler.says}`);
  const built = compile(target, compiler, zig, root, `${cache}/cargo-target`, process.env.CARGO_HOME);
  const binary = binaryOf(target);
  makeFolder(path.dirname(binary));
  copyFileSync(built, binary);
  const seconds = Math.round((Date.now() - started) / 1000);
  const inspected = inspectBinary(binary);
  const { size } = inspected;
  const record = {
    ...recordOf(target),
    built: `${compiler.says}, linked by zig ${zig.version}`,
    size,
    floor: floorOf(inspected),
    sha256: sha256(binary),
  };
  if (record.reproducedSha256 !== record.sha256) {
    delete record.reproducedSha256;
  }
  console.log(`${target.name}: ${Math.round(size / 1000)} kB, ${record.floor}, ${seconds} s, sha256 ${record.sha256}`);
  if (twice) {
    buildElsewhere(target, compiler, zig, record);
  }
  writeFileSync(recordFile(target), `${JSON.stringify(record, null, 2)}\n`);
}

function buildElsewhere(target, compiler, zig, record) {
  const elsewhere = `${tmpdir()}/session-write-lock-again-${process.pid}`;
  try {
    // What git knows and what is new, but not what was built.
    const files = output("git", ["ls-files", "-co", "--exclude-standard", "-z"], { cwd: root });
    for (const file of files.split("\0").filter((name) => name && exists(`${root}/${name}`))) {
      cpSync(`${root}/${file}`, `${elsewhere}/sources/${file}`);
    }
    // Another path, the same downloads: what counts is the name under which they are compiled.
    const home = process.env.CARGO_HOME ?? `${process.env.HOME}/.cargo`;
    makeFolder(`${elsewhere}/home`);
    for (const part of ["registry/cache", "registry/index"].filter((name) => exists(`${home}/${name}`))) {
      makeFolder(`${elsewhere}/home/registry`);
      symlinkSync(`${home}/${part}`, `${elsewhere}/home/${part}`);
    }
    const ownCompiler = compiler.buildsStd ? copyCompiler(`${elsewhere}/sources`) : compiler;
    const again = compile(target, ownCompiler, zig, `${elsewhere}/sources`, `${elsewhere}/sources/target`, `${elsewhere}/home`);
    if (sha256(again) !== record.sha256) {
      cpSync(again, `${cache}/${target.name}.again.so`);
      throw new Error("a second build from another folder has other bytes");
    }
    record.reproducedSha256 = record.sha256;
    console.log(`${target.name}: the same bytes from another folder with another cargo home`);
  } finally {
    rmSync(elsewhere, { recursive: true, force: true });
  }
}

/** In another clone the compiler is at the same place in it. cargo hashes that place for the library's crates. */
function copyCompiler(folder) {
  const copy = `${folder}${debianRust.slice(root.length)}`;
  makeFolder(path.dirname(copy));
  try {
    output("cp", ["-al", debianRust, copy]);
  } catch {
    output("cp", ["-a", debianRust, copy]);
  }
  return describeDebianCompiler(copy);
}

/** Runs cargo; returns the shared library. */
function compile(target, compiler, zig, folder, targetFolder, cargoHome) {
  const home = cargoHome ?? `${process.env.HOME}/.cargo`;
  const flags = [
    // Panics and debug information name source files. The names must not be those of this machine. The last
    // prefix that fits wins: the compiler may lie in this folder.
    `--remap-path-prefix=${folder}=/session-write-lock`,
    `--remap-path-prefix=${home}=/cargo`,
    `--remap-path-prefix=${compiler.sysroot}=/rust`,
    ...(target.libc === "musl" ? ["-Ctarget-feature=-crt-static"] : []),
    ...(target.os === "darwin" ? ["-Clink-arg=-Wl,-dead_strip_dylibs"] : []),
  ];
  // Stripping a binary of macOS takes a tool that the compiler doesn't bring.
  const darwin = { MACOSX_DEPLOYMENT_TARGET: MACOS_FLOOR, CARGO_PROFILE_RELEASE_STRIP: "none" };
  // The linker writes a time into the file: this one.
  const windows = { LIBNODE_PATH: provideLibnode(), SOURCE_DATE_EPOCH: "0" };
  const triple = target.libc === "glibc" ? `${target.triple}.${GLIBC_FLOOR}` : target.triple;
  const std = compiler.buildsStd ? ["-Zbuild-std=std,panic_unwind"] : [];
  output("cargo", ["zigbuild", "--release", "--locked", ...std, "--target", triple], {
    cwd: folder,
    env: {
      ...process.env,
      ...compiler.env,
      PATH: `${zig.path}:${process.env.PATH}`,
      CARGO_HOME: home,
      CARGO_TARGET_DIR: targetFolder,
      CARGO_ENCODED_RUSTFLAGS: flags.join("\x1f"),
      ...(target.os === "darwin" ? darwin : {}),
      ...(target.os === "win32" ? windows : {}),
    },
  });
  const file = { darwin: "libsession_write_lock.dylib", win32: "session_write_lock.dll" }[target.os] ?? "libsession_write_lock.so";
  return `${targetFolder}/${target.triple}/release/${file}`;
}

/** zig and cargo-zigbuild, from Python's registry. */
function provideZig() {
  const folder = `${cache}/zig`;
  const wanted = PYTHON_PACKAGES.join(" ");
  if (!exists(`${folder}/wanted`) || readFileSync(`${folder}/wanted`, "utf8") !== wanted) {
    rmSync(folder, { recursive: true, force: true });
    console.log(`fetching ${wanted}`);
    pip("install", "--quiet", "--target", folder, ...PYTHON_PACKAGES);
    writeFileSync(`${folder}/wanted`, wanted);
  }
  const version = output(`${folder}/ziglang/zig`, ["version"]).trim();
  return { path: `${folder}/bin:${folder}/ziglang`, version };
}

/**
 * The compiler for a target: the installed one if it has that target's standard library, else Debian's,
 * which builds the library from its sources. The installed toolchain is left as it is.
 */
function provideCompiler({ triple }) {
  const installed = describe({});
  if (hasLibrary(installed, triple)) {
    return { ...installed, env: {}, buildsStd: false, says: `rustc ${installed.version}` };
  }
  try {
    return provideDebianCompiler();
  } catch (error) {
    throw new Error(
      `rustc ${installed.version} has no standard library for it (\`rustup target add ${triple}\` installs one), ` +
        `and Debian's compiler with the library's sources can't be had (${reasonOf(error)})`,
    );
  }
}

function hasLibrary({ sysroot }, triple) {
  return exists(`${sysroot}/lib/rustlib/${triple}/lib`);
}

function recordFile(target) {
  return `${makeFolder(`${cache}/records`)}/${target.name}.json`;
}

function recordOf(target) {
  return exists(recordFile(target)) ? readJson(recordFile(target)) : { name: target.name, folder: path.basename(folderOf(target)) };
}
