/**
 * `npm run test:publish`: publishes every package to a registry of its own on this machine, and uses them as
 * users do: installed by npm, pnpm, yarn and bun into empty projects, bundled, type-checked, and without their
 * binary. The registry knows no other packages and asks no other registry.
 *
 * The tools come from npm into `.cache/release`, once. Without `npm run build:targets` before, the binary of this
 * machine alone is built.
 */

import { spawn, spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";

import { pack } from "./pack.mjs";
import { binaryOf, cache, exists, folderOf, makeFolder, output, readJson, root, sha256, TARGETS } from "./targets.mjs";

const TOOLS = {
  "@arethetypeswrong/cli": "0.18.5",
  "@oven/bun-linux-x64-baseline": "1.4.5",
  "@rollup/plugin-commonjs": "29.0.3",
  "@rollup/plugin-node-resolve": "16.0.3",
  "@vercel/ncc": "0.45.0",
  "@vercel/nft": "1.11.5",
  "@yarnpkg/cli-dist": "4.18.1",
  esbuild: "0.28.2",
  pnpm: "10.34.9",
  publint: "0.3.25",
  rollup: "4.68.8",
  "typescript-5.0": "npm:typescript@5.0.4",
  "typescript-newest": "npm:typescript@7.0.2",
  verdaccio: "6.8.0",
  webpack: "5.113.0",
  yarn: "1.22.22",
};

/** verdaccio asks for a version of this that is not to be had everywhere. */
const OVERRIDES = { "node-fetch": "2.7.0" };

const NAME = "session-write-lock";
const own = TARGETS.filter(({ os, cpu }) => os === process.platform && cpu === process.arch);

// --- The parts ------------------------------------------------------------------------------------

function installers() {
  const { pnpm, yarn, yarn4, bun } = tools;
  const run = (command) => (folder) => runIn(folder, ...command);
  const node = run([process.execPath]);
  for (const { name, install, start = node, commandLine = ["npx", "--no-install", NAME] } of [
    { name: "npm", install: ["npm", "install", "--ignore-scripts", NAME] },
    { name: "pnpm", install: [...pnpm, "add", NAME], commandLine: [...pnpm, "exec", NAME] },
    { name: "yarn 1", install: [...yarn, "add", NAME], commandLine: [...yarn, "--silent", "run", NAME] },
    { name: "yarn 4, Plug'n'Play", install: [...yarn4, "add", NAME], start: run([...yarn4, "node"]), commandLine: [...yarn4, "run", NAME] },
    { name: "bun", install: bun && [...bun, "add", NAME] },
  ]) {
    if (!install) {
      skip(`${name} installs it`, "not to be had here");
      continue;
    }
    const folder = newProject();
    if (!check(`${name} installs it`, () => runIn(folder, ...install)())) {
      continue;
    }
    const using = start(folder);
    check(`${name}: the README's example runs`, () => {
      const example = readmeExample();
      writeFileSync(`${folder}/example.mjs`, example);
      const announced = [...example.matchAll(/\/\/ prints: (.*)$/gm)].map(([, line]) => `${line}\n`);
      expectEqual(using("example.mjs"), announced.join(""));
    });
    check(`${name}: CommonJS, in a worker thread`, () => {
      writeFileSync(`${folder}/worker.cjs`, WORKER_EXAMPLE);
      expectEqual(using("worker.cjs").trim(), "held in a thread: true");
    });
    check(`${name}: the command line runs`, () => {
      writeFileSync(`${folder}/dead.jsonl.lock`, JSON.stringify({ pid: 2 ** 22 + 1, createdAt: new Date().toISOString() }));
      const { stdout, status } = spawnIn(folder, ...commandLine, "status", "--json");
      expectEqual(status, 1);
      expectEqual(JSON.parse(stdout)[0].verdict, "dead");
    });
    if (name === "npm") {
      check("npm installs the binary of this system alone", () => {
        const installed = readdirSync(`${folder}/node_modules/@session-write-lock`);
        expectEqual(installed.length, 1);
        expectEqual(own.some((target) => target.name === installed[0]), true);
      });
    }
  }
}

function withoutBinary() {
  const folder = newProject();
  const omitted = check("npm installs it without optional dependencies", () => runIn(folder, "npm", "install", "--omit=optional", NAME)());
  if (!omitted) {
    return;
  }
  check("without its binary, one error says what to do", () => {
    const program = `try { require("${NAME}") } catch (error) { console.log(JSON.stringify([error.code, error.message, error.cause.errors.length])) }`;
    const [code, message, causes] = JSON.parse(runIn(folder, process.execPath)("-e", program));
    expectEqual(code, "OPENCLAW_SESSION_WRITE_LOCK_NO_BINARY");
    expectMatch(message, /--omit=optional/);
    expectMatch(message, new RegExp(own[0].packageName));
    expectEqual(message.includes("npm run build"), false);
    expectEqual(causes, own.length);
  });
  check("without its binary, the command line says the same and has its version", () => {
    const { status, stderr } = spawnIn(folder, "npx", "--no-install", NAME, "status");
    expectEqual(status, 2);
    expectMatch(stderr, /--omit=optional/);
    expectMatch(runIn(folder, "npx", "--no-install", NAME)("--version"), /\d+\.\d+\.\d+/);
  });
}

function bundlers() {
  const folder = newProject();
  runIn(folder, "npm", "install", "--ignore-scripts")(NAME);
  writeFileSync(`${folder}/app.mjs`, `import { tryAcquireSessionWriteLock } from "${NAME}";\n${APP}`);
  writeFileSync(`${folder}/app.cjs`, `const { tryAcquireSessionWriteLock } = require("${NAME}");\n${APP}`);
  const binary = path.join(folder, "node_modules", own[0].packageName, own[0].binary);

  /** Runs a bundle where there is no node_modules. */
  const runAlone = (name, env = {}, command = [process.execPath]) => {
    const elsewhere = newProject();
    for (const file of readdirSync(`${folder}/${name}`)) {
      copyFileSync(`${folder}/${name}/${file}`, `${elsewhere}/${file}`);
    }
    const [file] = readdirSync(elsewhere).filter((one) => /^(app|index)/.test(one));
    const { stdout, stderr } = spawnIn(elsewhere, ...(command.length > 0 ? [...command, file] : [`./${file}`]), { env });
    expectEqual(stdout.trim(), "taken and released", stderr);
  };

  const esbuild = [`${tools.folder}/node_modules/.bin/esbuild`, "--bundle", "--platform=node", "--log-level=error"];
  check("esbuild copies the binary beside the bundle", () => {
    runIn(folder, ...esbuild)("app.mjs", "--loader:.node=copy", "--format=cjs", "--outfile=copied/app.cjs");
    runAlone("copied");
  });
  check("esbuild leaves the package external", () => {
    runIn(folder, ...esbuild)("app.mjs", `--external:${NAME}`, "--format=esm", "--outfile=external.mjs");
    expectEqual(runIn(folder, process.execPath)("external.mjs").trim(), "taken and released");
  });
  check("esbuild bundles the JavaScript alone, and a variable names the binary", () => {
    runIn(folder, ...esbuild)("app.mjs", "--external:@session-write-lock/*", "--format=cjs", "--outfile=named/app.cjs");
    runAlone("named", { SESSION_WRITE_LOCK_NATIVE_LIBRARY_PATH: binary });
  });

  const rollup = (options) => {
    writeFileSync(`${folder}/rollup.config.mjs`, `${ROLLUP_IMPORTS(tools.folder)}\nexport default ${options};\n`);
    runIn(folder, `${tools.folder}/node_modules/.bin/rollup`, "--silent", "--config")();
  };
  check("rollup leaves the package external", () => {
    rollup(`{ input: "app.mjs", external: ["${NAME}", /^node:/], output: { file: "rollup-external.mjs" } }`);
    expectEqual(runIn(folder, process.execPath)("rollup-external.mjs").trim(), "taken and released");
  });
  check("rollup bundles the JavaScript alone, and a variable names the binary", () => {
    rollup(
      `{ input: "app.mjs", external: [/^node:/, /^@session-write-lock\\//], plugins: [nodeResolve(), commonjs()], output: { file: "rolled/app.cjs", format: "cjs" } }`,
    );
    runAlone("rolled", { SESSION_WRITE_LOCK_NATIVE_LIBRARY_PATH: binary });
  });
  check("webpack leaves the package external", () => {
    const config = {
      mode: "production",
      target: "node",
      entry: "./app.mjs",
      externals: { [NAME]: `commonjs ${NAME}` },
      output: { path: `${folder}/webpacked`, filename: "app.cjs" },
    };
    const program = `require("${tools.folder}/node_modules/webpack")(${JSON.stringify(config)}, (error, stats) => {
      if (error || stats.hasErrors()) throw error ?? new Error(stats.toString());
    })`;
    runIn(folder, process.execPath)("-e", program);
    expectEqual(runIn(folder, process.execPath)("webpacked/app.cjs").trim(), "taken and released");
  });
  check("ncc copies the binary beside the bundle", () => {
    runIn(folder, process.execPath, `${tools.folder}/node_modules/@vercel/ncc/dist/ncc/cli.js`)("build", "app.cjs", "--out", "ncc");
    runAlone("ncc");
  });
  check("a file tracer finds the binary", () => {
    const program = `require("${tools.folder}/node_modules/@vercel/nft").nodeFileTrace(["app.cjs"]).then(({ fileList }) => console.log([...fileList].join("\\n")))`;
    expectMatch(runIn(folder, process.execPath)("-e", program), new RegExp(`${own[0].packageName}/${own[0].binary}`));
  });
  if (tools.bun) {
    check("bun compiles it into one executable", () => {
      runIn(folder, ...tools.bun, "build", "--compile")("app.mjs", "--outfile", "compiled/app");
      runAlone("compiled", {}, []);
    });
  } else {
    skip("bun compiles it into one executable", "no bun for this system");
  }
}

function types() {
  const folder = newProject();
  runIn(folder, "npm", "install", "--ignore-scripts")(NAME);
  for (const file of ["module.mts", "common.cts", "plain.ts"]) {
    writeFileSync(`${folder}/${file}`, TYPED);
  }
  for (const version of ["5.0", "newest"]) {
    for (const [module, resolution, files] of [
      ["node16", "node16", ["module.mts", "common.cts"]],
      ["esnext", "bundler", ["plain.ts"]],
    ]) {
      check(`TypeScript ${version} accepts its types with ${resolution}, without @types/node`, () => {
        const compilerOptions = {
          module,
          moduleResolution: resolution,
          target: "es2022",
          // DOM has AbortSignal. Who has neither DOM nor @types/node has no AbortSignal.
          lib: ["es2022", "dom"],
          types: [],
          strict: true,
          exactOptionalPropertyTypes: true,
          noUncheckedIndexedAccess: true,
          skipLibCheck: false,
          noEmit: true,
        };
        writeFileSync(`${folder}/tsconfig.json`, JSON.stringify({ compilerOptions, files }));
        const compiler = readJson(`${tools.folder}/node_modules/typescript-${version}/package.json`).bin.tsc;
        runIn(folder, process.execPath, `${tools.folder}/node_modules/typescript-${version}/${compiler}`)("--project", ".");
      });
    }
  }
}

function linters() {
  check("publint has nothing to say", () => runIn(base, `${tools.folder}/node_modules/.bin/publint`)(main, "--strict"));
  check("the types are right for every resolution", () => runIn(base, `${tools.folder}/node_modules/.bin/attw`)(main, "--format", "ascii"));
  for (const target of own.filter(({ name }) => platforms[name])) {
    check(`publint has nothing to say about ${target.packageName}`, () =>
      runIn(base, `${tools.folder}/node_modules/.bin/publint`)(platforms[target.name], "--strict"),
    );
  }
}

// --- What users write -----------------------------------------------------------------------------

/** The first JavaScript of the packed README. */
function readmeExample() {
  return /```js\n([\s\S]*?)```/.exec(readFileSync(`${cache}/stage/main/README.md`, "utf8"))[1];
}

const WORKER_EXAMPLE = `
const { isMainThread, Worker, parentPort } = require("node:worker_threads");
const { acquireSessionWriteLock } = require("${NAME}");
if (isMainThread) {
  new Worker(__filename).once("message", (held) => console.log("held in a thread:", held));
} else {
  acquireSessionWriteLock({ sessionFile: "thread.jsonl" }).then(async (lock) => {
    parentPort.postMessage(lock.held);
    await lock.release();
  });
}
`;

const APP = `
const lock = tryAcquireSessionWriteLock({ sessionFile: "app.jsonl" });
lock.release().then(() => console.log("taken and released"));
`;

const ROLLUP_IMPORTS = (folder) => `
import commonjs from "${folder}/node_modules/@rollup/plugin-commonjs/dist/es/index.js";
import { nodeResolve } from "${folder}/node_modules/@rollup/plugin-node-resolve/dist/es/index.js";`;

const TYPED = `
import { acquireSessionWriteLock, cleanStaleLockFiles, SessionWriteLockTimeoutError, withLock } from "${NAME}";

export async function write(timeoutMs: number | undefined, signal: AbortSignal | undefined): Promise<string> {
  const lock = await acquireSessionWriteLock({ sessionFile: "chat.jsonl", timeoutMs, signal, maxHoldMs: undefined });
  await lock.release();
  const { cleaned } = await cleanStaleLockFiles({ sessionsDir: ".", removeStale: undefined });
  return withLock("cleaned.txt", (lock) => [lock.lockPath, ...cleaned.map(({ lockPath }) => lockPath)].join());
}

export const isTimeout = (error: unknown): error is SessionWriteLockTimeoutError => error instanceof SessionWriteLockTimeoutError;
`;

// --- Tools, the registry, projects ----------------------------------------------------------------

function provideTools() {
  const folder = `${cache}/publish-tools`;
  const manifest = JSON.stringify({ private: true, dependencies: TOOLS, overrides: OVERRIDES }, null, 2);
  if (!exists(`${folder}/done`) || readFileSync(`${folder}/done`, "utf8") !== manifest) {
    console.log("fetching the package managers, bundlers and the registry");
    rmSync(folder, { recursive: true, force: true });
    writeFileSync(`${makeFolder(folder)}/package.json`, manifest);
    output("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--force"], { cwd: folder });
    writeFileSync(`${folder}/done`, manifest);
  }
  const script = (file) => [process.execPath, `${folder}/node_modules/${file}`];
  const bun = `${folder}/node_modules/@oven/bun-linux-x64-baseline/bin/bun`;
  return {
    folder,
    verdaccio: script("verdaccio/bin/verdaccio"),
    pnpm: script("pnpm/bin/pnpm.cjs"),
    yarn: script("yarn/bin/yarn.js"),
    yarn4: script("@yarnpkg/cli-dist/bin/yarn.js"),
    bun: spawnSync(bun, ["--version"]).status === 0 ? [bun] : undefined,
  };
}

function buildIfNeeded() {
  if (!own.some((target) => exists(binaryOf(target)))) {
    console.log(output(process.execPath, [`${root}/scripts/release/build.mjs`, own[0].name]));
  }
}

/** A registry without any other behind it. Anybody may publish: it listens on this machine only. */
async function startRegistry() {
  const port = await freePort();
  const config = `${base}/verdaccio.yaml`;
  writeFileSync(
    config,
    JSON.stringify({
      storage: `${base}/storage`,
      packages: { "**": { access: "$all", publish: "$all" } },
      log: { type: "file", path: `${base}/verdaccio.log`, level: "warn" },
    }),
  );
  const [command, ...args] = tools.verdaccio;
  const registry = spawn(command, [...args, "--config", config, "--listen", `127.0.0.1:${port}`], { stdio: "ignore" });
  const ended = new Promise((resolve) => registry.once("exit", resolve));
  const url = `http://127.0.0.1:${port}/`;
  const deadline = Date.now() + 60_000;
  while (!(await fetch(`${url}-/ping`).then((answer) => answer.ok, () => false))) {
    if (registry.exitCode !== null || Date.now() > deadline) {
      throw new Error("verdaccio didn't start");
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const stop = () => {
    registry.kill("SIGKILL");
    return ended;
  };
  return { url, stop };
}

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** As a release does it, but for the proof of origin, which only a build service can give. */
function publishAll() {
  const folder = newProject();
  for (const tarball of [...Object.values(platforms), ...standIns(), main]) {
    check(`published: ${path.basename(tarball)}`, () => runIn(folder, "npm", "publish", "--provenance=false")(tarball));
  }
}

/** What verify.sh asks of the real registry after a release. */
function servedBytes() {
  const folder = newProject();
  check("the registry serves the bytes that were packed", () => {
    runIn(folder, "npm", "pack", "--silent")(NAME);
    expectEqual(sha256(`${folder}/${path.basename(main)}`), sha256(main));
  });
}

/** yarn wants every platform's package to exist. For those that aren't built here, a manifest will do. */
function standIns() {
  return TARGETS.filter(({ name }) => !platforms[name]).map((target) => {
    const folder = newProject();
    const { scripts, ...manifest } = readJson(`${folderOf(target)}/package.json`);
    writeFileSync(`${folder}/package.json`, JSON.stringify(manifest));
    return `${folder}/${output("npm", ["pack", "--silent"], { cwd: folder }).trim()}`;
  });
}

/** An empty project whose package managers know this registry only, and no cache but their own. */
function newProject() {
  const folder = makeFolder(`${base}/project-${readdirSync(base).length}`);
  const registry = `registry=${url}\n//${url.replace("http://", "")}:_authToken=nobody\n`;
  writeFileSync(`${folder}/package.json`, JSON.stringify({ name: "a-project", version: "1.0.0", private: true }));
  writeFileSync(`${folder}/.npmrc`, `${registry}cache=${base}/npm-cache\nstore-dir=${base}/pnpm-store\nupdate-notifier=false\n`);
  writeFileSync(`${folder}/.yarnrc`, `registry "${url}"\ncache-folder "${base}/yarn-cache"\ndisable-self-update-check true\n`);
  writeFileSync(
    `${folder}/.yarnrc.yml`,
    `npmRegistryServer: "${url}"\nunsafeHttpWhitelist: ["127.0.0.1"]\nenableTelemetry: false\nenableGlobalCache: false\nnpmMinimalAgeGate: 0\npnpEnableEsmLoader: true\n`,
  );
  writeFileSync(`${folder}/bunfig.toml`, `[install]\nregistry = "${url}"\ncache = "${base}/bun-cache"\n`);
  return folder;
}

function spawnIn(folder, ...commandAndOptions) {
  const options = typeof commandAndOptions.at(-1) === "object" ? commandAndOptions.pop() : {};
  const [command, ...args] = commandAndOptions;
  // npm hands its own settings to what it starts; a user's shell has none of these.
  const inherited = Object.entries(process.env).filter(([name]) => !/^(npm_|SESSION_WRITE_LOCK_|NODE_OPTIONS$|INIT_CWD$)/i.test(name));
  const env = { ...Object.fromEntries(inherited), HOME: base, CI: "true", NO_COLOR: "1", ...options.env };
  return spawnSync(command, args, { cwd: folder, env, encoding: "utf8", timeout: 180_000 });
}

/** A function that runs a command, which must succeed, with further arguments. */
function runIn(folder, ...command) {
  return (...args) => {
    const { status, stdout, stderr, signal, error } = spawnIn(folder, ...command, ...args);
    if (status !== 0) {
      throw new Error(`${[...command, ...args].join(" ")} (${error?.message ?? signal ?? status})\n${stdout}${stderr}`);
    }
    return stdout;
  };
}

function check(name, body) {
  try {
    body();
    counts.passed += 1;
    console.log(`ok       ${name}`);
    return true;
  } catch (error) {
    counts.failed += 1;
    console.log(`FAILED   ${name}\n${error.message}`);
    return false;
  }
}

function skip(name, reason) {
  counts.skipped += 1;
  console.log(`skipped  ${name}: ${reason}`);
}

function expectEqual(actual, wanted, about = "") {
  if (actual !== wanted) {
    throw new Error(`${JSON.stringify(actual)} is not ${JSON.stringify(wanted)} ${about}`);
  }
}

function expectMatch(actual, pattern) {
  if (!pattern.test(actual)) {
    throw new Error(`${JSON.stringify(actual)} doesn't match ${pattern}`);
  }
}

// --- All of it ------------------------------------------------------------------------------------

const counts = { passed: 0, failed: 0, skipped: 0 };
const base = realpathSync(mkdtempSync(path.join(tmpdir(), "publish-test-")));
const tools = provideTools();
buildIfNeeded();
const { main, platforms } = pack();
const { url, stop } = await startRegistry();
try {
  publishAll();
  servedBytes();
  installers();
  withoutBinary();
  bundlers();
  types();
  linters();
} finally {
  await stop();
  rmSync(base, { recursive: true, force: true });
}
console.log(`\n${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exitCode = counts.failed > 0 ? 1 : 0;
