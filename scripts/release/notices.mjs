/**
 * `node scripts/release/notices.mjs`: writes THIRD-PARTY-NOTICES: the licences of the crates that are linked
 * into the binaries, and of the npm packages that are bundled into the command line. With `--check` it only
 * compares.
 */

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";

import { crates, npmPackages } from "./components.mjs";
import { exists, root } from "./targets.mjs";

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
