/**
 * Packs the main package and each platform's that has a binary, as they are published, into
 * `.cache/release/tarballs`. What is packed is a copy: the main manifest gets the platform packages as
 * `optionalDependencies` of its own version and loses what only a checkout needs, and links to files that
 * are not in the package lead to the repository. In the repository, `npm install` then asks for no package
 * that isn't published yet.
 */

import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";

import { isInstalled, run } from "../setup.mjs";
import { binaryOf, cache, exists, folderOf, makeFolder, output, readJson, root, TARGETS } from "./targets.mjs";

export const tarballs = `${cache}/tarballs`;

/** `{ main, platforms }`: the tarballs; `platforms` by the target's name, only of targets that are built. */
export function pack() {
  rmSync(tarballs, { recursive: true, force: true });
  makeFolder(tarballs);
  const platforms = {};
  for (const target of TARGETS.filter((one) => exists(binaryOf(one)))) {
    platforms[target.name] = packPlatform(target);
  }
  return { main: packMain(), platforms };
}

function packPlatform(target) {
  const stage = newStage(target.name);
  for (const file of [target.binary, "README.md"]) {
    cpSync(`${folderOf(target)}/${file}`, `${stage}/${file}`);
  }
  for (const file of ["LICENSE", "THIRD-PARTY-NOTICES"]) {
    cpSync(`${root}/${file}`, `${stage}/${file}`);
  }
  const { scripts, ...manifest } = readJson(`${folderOf(target)}/package.json`);
  return packStage(stage, manifest);
}

function packMain() {
  const stage = newStage("main");
  if (!isInstalled(root)) {
    run("npm", "install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error");
  }
  output("npm", ["run", "--silent", "bundle"], { cwd: root });
  const files = listFiles();
  const { scripts, devDependencies, napi, bundledIntoCommandLine, ...manifest } = readJson(`${root}/package.json`);
  for (const file of files) {
    makeFolder(path.dirname(`${stage}/${file}`));
    if (file.endsWith(".md")) {
      writeFileSync(`${stage}/${file}`, withLinksThatLead(file, files, manifest));
    } else {
      cpSync(`${root}/${file}`, `${stage}/${file}`);
    }
  }
  const optionalDependencies = Object.fromEntries(TARGETS.map(({ packageName }) => [packageName, manifest.version]));
  return packStage(stage, { ...manifest, optionalDependencies });
}

/** What npm would pack. */
function listFiles() {
  const [{ files }] = Object.values(JSON.parse(output("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], { cwd: root })));
  return files.map((file) => file.path);
}

function newStage(name) {
  const stage = `${cache}/stage/${name}`;
  rmSync(stage, { recursive: true, force: true });
  return makeFolder(stage);
}

function packStage(stage, manifest) {
  writeFileSync(`${stage}/package.json`, `${JSON.stringify(manifest, null, 2)}\n`);
  output("npm", ["pack", "--ignore-scripts", "--pack-destination", tarballs], { cwd: stage });
  return `${tarballs}/${manifest.name.replace(/^@/, "").replace("/", "-")}-${manifest.version}.tgz`;
}

/** A Markdown file whose relative links lead to a file of the package, or else to the repository. */
function withLinksThatLead(file, files, { repository, version }) {
  const home = repository.url.replace(/^git\+/, "").replace(/\.git$/, "");
  return readFileSync(`${root}/${file}`, "utf8").replace(/(!?)(\[[^\]]*\])\(([^)\s]+)\)/g, (link, image, label, target) => {
    const [name, fragment] = target.split("#");
    if (/^[a-z]+:/.test(target) || name === "") {
      return link;
    }
    const aim = path.posix.join(path.posix.dirname(file), name);
    if (!exists(`${root}/${aim}`)) {
      throw new Error(`${file}: the link ${target} leads nowhere`);
    }
    if (files.includes(aim)) {
      return link;
    }
    const kind = image ? "raw" : "blob";
    return `${image}${label}(${home}/${kind}/v${version}/${aim}${fragment ? `#${fragment}` : ""})`;
  });
}
