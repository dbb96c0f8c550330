/**
 * Makes a fresh clone ready: installs the development dependencies and builds the addon, where
 * that has not been done yet. Prints a line for what it does, so that nobody wonders.
 */

import { spawnSync } from "node:child_process";
import { statSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url));

/** Runs a command in the project's folder and ends this process if it fails. */
export function run(command, ...args) {
  const { status, error, signal } = spawnSync(command, args, { cwd: root, stdio: "inherit" });
  if (error?.code === "ENOENT") {
    console.error(`${command} is not installed, and needed here.`);
  }
  if (status !== 0) {
    console.error(`failed (${status ?? signal ?? error?.code}): ${[command, ...args].join(" ")}`);
    process.exit(1);
  }
}

/** Whether what a folder's package.json and its lock file ask for is installed there. */
export function isInstalled(folder) {
  const modifiedMs = (name) => statSync(`${folder}/${name}`, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const wanted = Math.max(modifiedMs("package.json"), modifiedMs("package-lock.json"));
  return modifiedMs("node_modules/.package-lock.json") > wanted;
}

export function setUp() {
  if (!isInstalled(root)) {
    console.log("set-up: installing the dependencies");
    // Not `npm ci`: it refuses a lock file without the optional packages of all other systems, and
    // not every registry has those. What is in the lock file is installed as it says.
    run("npm", "install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error");
  }
  console.log("set-up: building the addon (a minute the first time)");
  run("npm", "run", "--silent", "build");
}
