/**
 * `node scripts/release/notices.mjs`: writes THIRD-PARTY-NOTICES: the licences of the crates that are linked
 * into the binaries, and of the npm packages that are bundled into the command line. With `--check` it only
 * compares.
 */

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";

import { exists, output, readJson, root, TARGETS } from "./targets.mjs";

const FILE = `${root}/THIRD-PARTY-NOTICES`;

/** Where a crate offers a choice, the licence that this package has as well. */
const PREFERRED = "MIT";

const text = `The binaries of session-write-lock contain the Rust standard library (MIT OR Apache-2.0,
https://github.com/rust-lang/rust), for musl also LLVM's libunwind (Apache-2.0 WITH LLVM-exception), and the
crates listed here; its command line contains the npm packages listed here. Where a choice of licences is offered, the text of the MIT licence follows if there is one.
${[...crates(), ...npmPackages()].map(notice).join("")}`;

if (!process.argv.includes("--check")) {
  writeFileSync(FILE, text);
} else if (!exists(FILE) || readFileSync(FILE, "utf8") !== text) {
  console.log("THIRD-PARTY-NOTICES is out of date: node scripts/release/notices.mjs writes it");
  process.exitCode = 1;
}

function notice({ name, version, license, home, folder }) {
  const rule = "-".repeat(80);
  return `\n${rule}\n${name} ${version}, ${license}${home ? `\n${home}` : ""}\n\n${licenceIn(folder) ?? "(its package has no licence file)"}\n`;
}

function licenceIn(folder) {
  const names = readdirSync(folder).filter((name) => /^(licen[cs]e|copying|unlicense)/i.test(name)).sort();
  const name = names.find((candidate) => candidate.toUpperCase().includes(PREFERRED)) ?? names[0];
  return name && readFileSync(path.join(folder, name), "utf8").replaceAll("\r\n", "\n").trim();
}

/** The crates that are linked on any of the targets: no build scripts, no macros. */
function crates() {
  const linked = new Map();
  for (const { triple } of TARGETS) {
    const args = ["metadata", "--format-version=1", "--locked", `--filter-platform=${triple}`];
    const { packages, resolve } = JSON.parse(output("cargo", args, { cwd: root }));
    const byId = new Map(packages.map((one) => [one.id, one]));
    const nodes = new Map(resolve.nodes.map((node) => [node.id, node]));
    const visit = (id) => {
      const { name, version, license, repository, manifest_path: manifest, targets } = byId.get(id);
      if (linked.has(id) || targets.some(({ kind }) => kind.includes("proc-macro"))) {
        return;
      }
      linked.set(id, { name, version, license, home: repository, folder: path.dirname(manifest) });
      nodes.get(id).deps.filter(({ dep_kinds: kinds }) => kinds.some(({ kind }) => kind === null)).forEach(({ pkg }) => visit(pkg));
    };
    visit(resolve.root);
    linked.delete(resolve.root);
  }
  return [...linked.values()].sort((a, b) => (`${a.name} ${a.version}` < `${b.name} ${b.version}` ? -1 : 1));
}

/** What the command line imports. */
function npmPackages() {
  const { dependencies = {}, bundledIntoCommandLine = [] } = readJson(`${root}/package.json`);
  return [...Object.keys(dependencies), ...bundledIntoCommandLine].sort().map((name) => {
    const folder = `${root}/node_modules/${name}`;
    const { version, license, homepage } = readJson(`${folder}/package.json`);
    return { name, version, license, home: homepage, folder };
  });
}
