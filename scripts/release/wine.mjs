/**
 * Wine, which runs Node for Windows on Linux: Debian's, unpacked into the cache and started in a container of its own
 * (bubblewrap), because it needs newer libraries than this machine may have. Only this repository is visible there.
 */

import { spawnSync } from "node:child_process";
import { readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";

import { unpackDebian } from "./debian.mjs";
import { cache, exists, makeFolder, output, root } from "./targets.mjs";

const WINE = "/usr/lib/wine/wine64";
const SERVER = "/usr/lib/wine/wineserver64";

/** Wine's own folder. Not in the cache: a link in it leads to the root of the file system, and some tools follow links. */
const prefix = `${homedir()}/.cache/session-write-lock/wine`;

/** The words to put before the name of a program and its arguments. */
export function provideWine() {
  if (process.arch !== "x64") {
    throw new Error("Wine is fetched for x64 only");
  }
  if (spawnSync("bwrap", ["--version"]).status !== 0) {
    output("apt-get", ["install", "-qq", "-y", "--no-install-recommends", "bubblewrap"]);
  }
  const command = inContainer(provideFiles());
  if (!exists(`${prefix}/complete`)) {
    rmSync(prefix, { recursive: true, force: true });
    makeFolder(prefix);
    console.log("setting Wine up");
    output(command[0], [...command.slice(1), "wineboot", "--init"], { stdio: "ignore" });
    wineServer(command, "-w"); // until it has written its registry
    writeFileSync(`${prefix}/complete`, "");
  }
  return command;
}

/** Ends all that runs in Wine. */
export function endWine() {
  wineServer(provideWine(), "-k", "-w");
}

function wineServer(command, ...args) {
  // It fails if no server runs.
  spawnSync(command[0], [...command.slice(1, -1), SERVER, ...args], { stdio: "ignore" });
}

/** How Wine names a file of this machine. */
export const windowsPath = (file) => `Z:${file.replaceAll("/", "\\")}`;

function provideFiles() {
  const folder = `${cache}/wine`;
  if (exists(folder)) {
    return folder;
  }
  console.log("fetching Debian trixie's Wine, 250 MB");
  unpackDebian(folder, { suite: "trixie", architecture: "amd64", packages: ["wine64", "libc-bin"] }); // libc-bin: names are UTF-8
  for (const [name, target] of [["bin", "usr/bin"], ["sbin", "usr/sbin"], ["lib", "usr/lib"], ["lib64", "usr/lib64"]]) {
    if (!exists(`${folder}/${name}`)) {
      symlinkSync(target, `${folder}/${name}`);
    }
  }
  // What the package's own set-up would do: Wine loads as its own only what says so at a fixed place.
  const library = readFileSync(`${folder}/usr/x86_64-w64-mingw32/lib/zlib1.dll`);
  library.write("Wine builtin DLL".padEnd(32, "\0"), 64, "latin1");
  writeFileSync(`${folder}/usr/lib/x86_64-linux-gnu/wine/x86_64-windows/zlib1.dll`, library);
  return folder;
}

function inContainer(folder) {
  const see = [`--bind ${folder} /`, "--proc /proc", "--dev /dev", "--ro-bind /sys /sys", "--ro-bind /etc/hosts /etc/hosts", `--bind ${makeFolder(`${cache}/wine-tmp`)} /tmp`];
  const variables = { HOME: "/tmp", LC_ALL: "C.UTF-8", PATH: "/usr/bin", WINEDEBUG: "-all", WINEPREFIX: prefix, WINESERVER: SERVER };
  const set = Object.entries(variables).flatMap(([name, value]) => ["--setenv", name, value]);
  return ["bwrap", ...see.flatMap((mount) => mount.split(" ")), "--bind", root, root, "--bind", makeFolder(prefix), prefix, ...set, WINE];
}
