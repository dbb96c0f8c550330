/**
 * The loader, in packages as they are installed: what it takes, and what it says when it takes nothing. Further
 * tests of the packed packages are `npm run test:publish` and `npm run test:targets`.
 */

import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { afterEach, beforeEach, describe, expect, test } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));
const { version } = JSON.parse(readFileSync(`${root}/package.json`, "utf8")) as { version: string };

/** The binary that `npm run build` made. */
const built = path.join(root, readdirSync(root).find((name) => /^session-write-lock\..*\.node$/.test(name)) ?? "");
const system = `${process.platform}-${process.arch}`;
const [gnu, musl] = process.arch === "arm" ? ["gnueabihf", "musleabihf"] : ["gnu", "musl"];

let project: string;

beforeEach(() => {
  project = mkdtempSync(path.join(tmpdir(), "packaging-"));
  mkdirSync(`${project}/node_modules/session-write-lock`, { recursive: true });
  for (const part of ["index.js", "lib", "package.json"]) {
    cpSync(path.join(root, part), `${project}/node_modules/session-write-lock/${part}`, { recursive: true });
  }
});

afterEach(() => rmSync(project, { recursive: true, force: true }));

/** Installs a platform's package whose entry is `file`, with `content` or a copy of the real binary. */
function installPlatform(flavour: string, file: string, content?: string) {
  const folder = `${project}/node_modules/@session-write-lock/${system}-${flavour}`;
  mkdirSync(folder, { recursive: true });
  writeFileSync(`${folder}/package.json`, JSON.stringify({ main: file }));
  if (content === undefined) {
    cpSync(built, `${folder}/${file}`);
  } else {
    writeFileSync(`${folder}/${file}`, content);
  }
}

interface Outcome {
  loaded: boolean;
  code: string;
  message: string;
  causes: string[];
}

/** Requires the package in a process of its own. */
function load({ flags = [], env = {}, before = "" }: { flags?: string[]; env?: NodeJS.ProcessEnv; before?: string } = {}) {
  const program = `${before};
    try { console.log(JSON.stringify({ loaded: require("session-write-lock").isAlive(process.pid) })); }
    catch (error) {
      const { code, message, cause } = error;
      console.log(JSON.stringify({ loaded: false, code, message, causes: cause?.errors.map((one) => one.message) }));
    }`;
  const { stdout, stderr } = spawnSync(process.execPath, [...flags, "-e", program], {
    cwd: project,
    env: { ...process.env, SESSION_WRITE_LOCK_NATIVE_LIBRARY_PATH: "", ...env },
    encoding: "utf8",
  });
  expect(stdout, stderr).not.toBe("");
  return JSON.parse(stdout) as Outcome;
}

function loadError(options: Parameters<typeof load>[0] = {}) {
  const outcome = load(options);
  expect(outcome).toMatchObject({ loaded: false, code: "OPENCLAW_SESSION_WRITE_LOCK_NO_BINARY" });
  expect(outcome.message).not.toContain("\n");
  expect(outcome.message).not.toContain("npm run build");
  return outcome;
}

describe.runIf(process.platform === "linux")("the loader takes", () => {
  test("the package of this platform", () => {
    installPlatform(gnu, "binary.node");
    expect(load().loaded).toBe(true);
  });

  test("the other libc's package if the first can't be loaded", () => {
    installPlatform(gnu, "broken.node", "no binary");
    installPlatform(musl, "binary.node");
    expect(load().loaded).toBe(true);
  });

  test("the file that the variable names, before anything else", () => {
    installPlatform(gnu, "broken.node", "no binary");
    expect(load({ env: { SESSION_WRITE_LOCK_NATIVE_LIBRARY_PATH: built } }).loaded).toBe(true);
    const relative = path.relative(project, built);
    expect(load({ env: { SESSION_WRITE_LOCK_NATIVE_LIBRARY_PATH: relative } }).loaded).toBe(true);
  });

  test("nothing from the variable that all addons share", () => {
    installPlatform(gnu, "binary.node");
    expect(load({ env: { NAPI_RS_NATIVE_LIBRARY_PATH: "/another/addon.node" } }).loaded).toBe(true);
  });

  test("a build beside the sources before an installed package", () => {
    installPlatform(gnu, "broken.node", "no binary");
    cpSync(built, `${project}/node_modules/session-write-lock/${path.basename(built)}`);
    expect(load().loaded).toBe(true);
  });
});

describe.runIf(process.platform === "linux")("the error without a binary", () => {
  test("says how to install one, if no package is installed", () => {
    const { message, causes } = loadError();
    expect(message).toContain(`@session-write-lock/${system}-${gnu}`);
    expect(message).toContain(`@session-write-lock/${system}-${musl}`);
    expect(message).toContain("--omit=optional");
    expect(causes).toHaveLength(2);
  });

  test("says how to install one, if the package has lost its binary", () => {
    installPlatform(gnu, "binary.node");
    rmSync(`${project}/node_modules/@session-write-lock/${system}-${gnu}/binary.node`);
    expect(loadError().message).toContain("--omit=optional");
  });

  test("has the dynamic loader's reason, if the binary can't be loaded", () => {
    installPlatform(gnu, "broken.node", "no binary");
    const { message } = loadError();
    expect(message).toContain(`can't load its binary for ${system}`);
    expect(message).toMatch(/broken\.node: (file too short|invalid ELF header)/);
    expect(message).not.toContain("--omit");
  });

  test("names the libc, if only the other one's package is installed", () => {
    const glibc = (process.report?.getReport() as { header?: { glibcVersionRuntime?: string } }).header?.glibcVersionRuntime;
    const [own, other] = glibc ? ["glibc", musl] : ["musl", gnu];
    installPlatform(String(other), "broken.node", "no binary");
    expect(loadError().message).toContain(`npm install --libc=${own}`);
  });

  test("names the systems that have one, on another system", () => {
    const { message } = loadError({ before: `Object.defineProperty(process, "arch", { value: "mips" })` });
    expect(message).toContain("has no binary for linux-mips");
    expect(message).toContain("linux-x64, linux-arm64, linux-arm");
  });

  test("names Node's flags, if these forbid addons", () => {
    installPlatform(gnu, "binary.node");
    expect(loadError({ flags: ["--no-addons"] }).message).toContain("--no-addons");
    const [major = 0] = process.versions.node.split(".").map(Number);
    if (major >= 20) {
      const permission = major >= 24 ? "--permission" : "--experimental-permission";
      expect(loadError({ flags: [permission, "--allow-fs-read=*"] }).message).toContain("--allow-addons");
    }
  });

  test("compares the versions", () => {
    installPlatform(gnu, "index.js", `exports.VERSION = "9.9.9"`);
    const { message } = loadError();
    expect(message).toContain("9.9.9");
    expect(message).toContain(`session-write-lock is ${version}`);
    installPlatform(gnu, "index.js", "");
    expect(loadError().message).toContain("its version is unknown");
  });

  test("names the variable, if its file can't be loaded", () => {
    installPlatform(gnu, "binary.node");
    const { message } = loadError({ env: { SESSION_WRITE_LOCK_NATIVE_LIBRARY_PATH: "nowhere.node" } });
    expect(message).toContain("SESSION_WRITE_LOCK_NATIVE_LIBRARY_PATH");
    expect(message).toContain(path.join(project, "nowhere.node"));
  });

  test("tells of `npm run build` in a checkout", () => {
    writeFileSync(`${project}/node_modules/session-write-lock/Cargo.toml`, "");
    expect(load().message).toContain("npm run build");
  });

  test("in a bundle does not speak of a checkout, whatever is in the folder above", async () => {
    const { build } = await import("esbuild");
    const above = `${project}/node_modules/session-write-lock`;
    const outfile = `${above}/bundle/index.js`;
    await build({ entryPoints: [`${above}/index.js`], bundle: true, platform: "node", external: ["@session-write-lock/*"], outfile });
    writeFileSync(`${above}/package.json`, JSON.stringify({ main: "bundle/index.js" }));
    writeFileSync(`${above}/Cargo.toml`, "");
    cpSync(built, `${above}/${path.basename(built)}`);
    expect(loadError().message).toContain("docs/bundling.md");
  });
});

describe("the packages", () => {
  test("are named alike by the loader and by the scripts that build them", async () => {
    const { TARGETS } = (await import(`${root}/scripts/release/targets.mjs`)) as { TARGETS: { packageName: string }[] };
    const loader = readFileSync(`${root}/lib/binary.js`, "utf8");
    const named = [...loader.matchAll(/require\("(@session-write-lock\/[^"]+)"\)/g)].map(([, name]) => name);
    expect(named).toEqual(TARGETS.map(({ packageName }) => packageName));
  });

  test("are told apart by the processor and the libc that their binary needs", async () => {
    const { inspectBinary } = (await import(`${root}/scripts/release/binary.mjs`)) as {
      inspectBinary(file: string): { machine: number; needed: string[]; glibc?: string };
    };
    const { machine, needed, glibc } = inspectBinary(built);
    expect(machine).toBe({ x64: 62, arm64: 183, arm: 40 }[process.arch as string]);
    expect(needed.some((library) => library.startsWith("libc."))).toBe(true);
    expect(glibc === undefined).toBe(built.includes("musl"));
  });

  test("are neither published nor, for a platform, packed from a folder", () => {
    expect(spawnSync("npm", ["run", "prepublishOnly"], { cwd: root }).status).toBe(1);
    expect(spawnSync("npm", ["pack", "--dry-run"], { cwd: `${root}/npm/linux-x64-gnu` }).status).toBe(1);
  });
});
