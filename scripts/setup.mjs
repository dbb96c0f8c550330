/**
 * Makes a fresh clone ready: installs the development dependencies and builds the addon, where
 * that has not been done yet. Prints a line for what it does, so that nobody wonders.
 */

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url));

/** Runs a command in the project's folder and ends this process if it fails. */
export function run(command, ...args) {
  spawn("inherit", command, ...args);
}

/** The same, with its output on stderr: stdout belongs to the program that is set up. */
export function prepare(command, ...args) {
  spawn(process.stderr, command, ...args);
}

function spawn(stdout, command, ...args) {
  const stdio = ["inherit", stdout, "inherit"];
  const { status, error, signal } = spawnSync(command, args, { cwd: root, stdio });
  if (error?.code === "ENOENT") {
    console.error(`${command} is not installed, and needed here.`);
  }
  if (status !== 0) {
    console.error(`failed (${status ?? signal ?? error?.code}): ${[command, ...args].join(" ")}`);
    process.exit(1);
  }
}

/** Runs a command with further settings in its environment, and says whether it succeeded. */
export function attempt(env, command, ...args) {
  const settings = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  console.log(`\n> ${[...settings, command, ...args].join(" ")}`);
  const { status } = spawnSync(command, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"], env: { ...process.env, ...env } });
  return status === 0;
}

/** When a file, or anything in a folder, was last changed; in milliseconds. 0: there is none. */
function lastChangeMs(file) {
  const status = statSync(file, { throwIfNoEntry: false });
  const within = status?.isDirectory() ? readdirSync(file).map((name) => lastChangeMs(`${file}/${name}`)) : [];
  return Math.max(status?.mtimeMs ?? 0, ...within);
}

/** Whether what a folder's package.json and its lock file ask for is installed there. */
export function isInstalled(folder) {
  const wanted = ["package.json", "package-lock.json"].map((name) => lastChangeMs(`${folder}/${name}`));
  return lastChangeMs(`${folder}/node_modules/.package-lock.json`) > Math.max(...wanted);
}

/** What goes into the build. */
const SOURCES = ["src", "build.rs", "Cargo.toml", "Cargo.lock", "package.json", "cli", "lib"];

/** Its date is when the last build began. */
const STAMP = `${root}/.cache/built`;

/**
 * Whether nothing has to be built. That is not left to cargo: each build replaces the addon, under tests that run beside, and
 * the second build of a clone compiles everything again (the CLI of napi-rs sets a variable only in the first).
 */
function isBuilt() {
  const addon = new RegExp(`^session-write-lock\\.${process.platform}-${process.arch}[-.]`);
  const isThere = readdirSync(root).some((name) => addon.test(name)) && existsSync(`${root}/dist/cli.cjs`);
  return isThere && lastChangeMs(STAMP) > Math.max(...SOURCES.map((name) => lastChangeMs(`${root}/${name}`)));
}

function build() {
  const startedAt = new Date();
  prepare("npm", "run", "--silent", "build");
  mkdirSync(`${root}/.cache`, { recursive: true });
  writeFileSync(STAMP, "");
  utimesSync(STAMP, startedAt, startedAt);
}

export function setUp() {
  if (!isInstalled(root)) {
    console.error("set-up: installing the dependencies");
    // Not `npm ci`: it refuses a lock file without the optional packages of all other systems, and
    // not every registry has those. What is in the lock file is installed as it says.
    prepare("npm", "install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error");
  }
  if (!isBuilt()) {
    console.error("set-up: building the addon (a minute the first time)");
    build();
  }
}
