/**
 * The platforms that the package is built for, and what the scripts of a release share. The loader
 * (`lib/binary.js`) names the same packages; a test compares the two.
 */

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../../", import.meta.url)).replace(/\/$/, "");
export const cache = `${root}/.cache/release`;

/** The oldest glibc that a gnu binary may need: that of the oldest system a Node 18 runs on. */
export const GLIBC_FLOOR = "2.17";

/** The oldest macOS: the first one on arm64, and the oldest that Node 20 supports. */
export const MACOS_FLOOR = "11.0";

/** The binaries' names are those that napi gives them. `machine` is the ELF header's `e_machine`. */
const linux = (cpu, abi, triple, machine) => ({
  name: `linux-${cpu}-${abi}`,
  packageName: `@session-write-lock/linux-${cpu}-${abi}`,
  binary: `session-write-lock.linux-${cpu}-${abi}.node`,
  triple,
  os: "linux",
  cpu,
  libc: abi.startsWith("musl") ? "musl" : "glibc",
  machine,
});

/** `machine` is the Mach-O header's `cputype`. */
const darwin = (cpu, triple, machine) => ({
  name: `darwin-${cpu}`,
  packageName: `@session-write-lock/darwin-${cpu}`,
  binary: `session-write-lock.darwin-${cpu}.node`,
  triple,
  os: "darwin",
  cpu,
  machine,
});

/**
 * `machine` is the `Machine` of the COFF header. napi names a binary after the usual compiler of the system; what is
 * built here calls Node by the same C interface.
 */
const windows = (cpu, triple, machine) => ({
  name: `win32-${cpu}-msvc`,
  packageName: `@session-write-lock/win32-${cpu}-msvc`,
  binary: `session-write-lock.win32-${cpu}-msvc.node`,
  triple,
  os: "win32",
  cpu,
  machine,
});

const X86_64 = 62;
const AARCH64 = 183;
const ARM = 40;

export const TARGETS = [
  linux("x64", "gnu", "x86_64-unknown-linux-gnu", X86_64),
  linux("x64", "musl", "x86_64-unknown-linux-musl", X86_64),
  linux("arm64", "gnu", "aarch64-unknown-linux-gnu", AARCH64),
  linux("arm64", "musl", "aarch64-unknown-linux-musl", AARCH64),
  linux("arm", "gnueabihf", "armv7-unknown-linux-gnueabihf", ARM),
  linux("arm", "musleabihf", "armv7-unknown-linux-musleabihf", ARM),
  darwin("x64", "x86_64-apple-darwin", 0x0100_0007),
  darwin("arm64", "aarch64-apple-darwin", 0x0100_000c),
  windows("x64", "x86_64-pc-windows-gnullvm", 0x8664),
  windows("arm64", "aarch64-pc-windows-gnullvm", 0xaa64),
];

/** The targets with these names; all of them without any. */
export function chooseTargets(names) {
  const unknown = names.filter((name) => !TARGETS.some((target) => target.name === name));
  if (unknown.length > 0) {
    console.error(`no such target: ${unknown.join(", ")}. There are: ${TARGETS.map(({ name }) => name).join(", ")}`);
    process.exit(2);
  }
  return names.length === 0 ? TARGETS : TARGETS.filter(({ name }) => names.includes(name));
}

export const folderOf = (target) => `${root}/npm/${target.name}`;
export const binaryOf = (target) => `${folderOf(target)}/${target.binary}`;

export const readJson = (file) => JSON.parse(readFileSync(file, "utf8"));
export const exists = (file) => statSync(file, { throwIfNoEntry: false }) !== undefined;
export const sha256 = (file) => createHash("sha256").update(readFileSync(file)).digest("hex");

export function makeFolder(folder) {
  mkdirSync(folder, { recursive: true });
  return folder;
}

/** What a command printed. A failure is an error with the end of what it complained about. */
export function output(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: "utf8", maxBuffer: 2 ** 28, ...options });
  if (result.status !== 0) {
    const complaint = result.error?.message ?? `${result.stderr ?? ""}\n${result.stdout ?? ""}`;
    const lines = complaint.trim().split("\n").slice(-12).join("\n");
    const how = result.signal ?? result.status ?? "not started";
    throw new Error(`${path.basename(command)} ${args.slice(0, 3).join(" ")} … (${how}): ${lines}`);
  }
  return result.stdout;
}

/** Fetches from Python's registry. Debian has pip in a package of its own. */
export function pip(...args) {
  if (spawnSync("python3", ["-m", "pip", "--version"]).status !== 0) {
    output("apt-get", ["install", "-qq", "-y", "--no-install-recommends", "python3-pip"]);
  }
  return output("python3", ["-m", "pip", ...args]);
}

/** The first line of an error, for a line of a report. */
export const reasonOf = (error) => String(error.message).trim().split("\n")[0];
