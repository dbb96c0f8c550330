/**
 * The README does what it says: its examples run, the tests that it names exist, every error code is
 * explained, and no link of the documentation leads nowhere.
 */

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

import { root, temporaryFolder } from "./support.js";

const read = (file: string) => readFileSync(path.join(root, file), "utf8");

const readme = read("README.md");
const documents = [
  "README.md",
  "CHANGELOG.md",
  ...readdirSync(path.join(root, "docs"))
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`),
];

/** What stands under a heading, up to the next one of its level. */
function section(heading: string): string {
  const text = readme.split(/^## /m).find((part) => part.startsWith(`${heading}\n`));
  expect(text, heading).toBeDefined();
  return text!;
}

const examples = [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map((match) => match[1]!);

test("the README has examples", () => {
  expect(examples.length).toBeGreaterThan(1);
});

test.each(examples.map((source, index) => ({ number: index + 1, source })))(
  "example $number of the README runs, prints what it says and leaves no lock",
  ({ source }) => {
    const folder = temporaryFolder();
    mkdirSync(path.join(folder, "node_modules"));
    symlinkSync(root, path.join(folder, "node_modules/session-write-lock"));
    const file = path.join(folder, source.includes("require(") ? "example.cjs" : "example.mjs");
    writeFileSync(file, source);
    const { status, stdout, stderr } = spawnSync(process.execPath, [file], { cwd: folder, encoding: "utf8" });
    expect(stderr).toBe("");
    expect(status).toBe(0);
    const announced = [...source.matchAll(/\/\/ prints: (.*)$/gm)].map((match) => `${match[1]}\n`);
    expect(stdout).toBe(announced.join(""));
    const left = readdirSync(folder, { recursive: true }).map(String);
    expect(left.filter((name) => !name.startsWith("node_modules") && name.includes(".lock"))).toEqual([]);
  },
);

/** Titles of tests as a source file has them; what a template fills in becomes a wildcard. */
function testTitles(file: string): RegExp[] {
  const source = read(file);
  const titles = file.endsWith(".rs")
    ? [...source.matchAll(/#\[test\]\s+(?:#\[[^#]*\]\s+)?fn (\w+)\(/g)].map((match) => match[1]!)
    : // The first argument of a call whose second is a function.
      [...source.matchAll(/\(\s*(["`])((?:(?!\1)[^\\\n]|\\.)+)\1,\s*(?:async\b|\()/g)].map((match) => match[2]!);
  return titles.map((title) => {
    const literals = title.replace(/\\(.)/g, "$1").split(/\$\{[^}]*\}|%s/);
    return new RegExp(`^${literals.map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join(".+")}$`);
  });
}

test("every guarantee names tests, and each of them exists", () => {
  const [, , ...rows] = section("Guarantees")
    .split("\n")
    .filter((line) => line.startsWith("|"));
  expect(rows.length).toBeGreaterThan(5);
  for (const row of rows) {
    const shownBy = row.split("|")[2]!;
    let file: string | undefined;
    let named = 0;
    for (const [, link, title] of shownBy.matchAll(/\]\(([^)]+)\)|"([^"]+)"/g)) {
      if (link) {
        file = link;
        continue;
      }
      const isThere = testTitles(file!).some((pattern) => pattern.test(title!));
      expect(isThere, `${file} has no test "${title}"`).toBe(true);
      named += 1;
    }
    expect(named, row).toBeGreaterThan(0);
  }
});

test("every error code is explained", () => {
  const sources = readdirSync(path.join(root, "lib")).map((name) => read(`lib/${name}`)).join("");
  const codes = new Set(sources.match(/\b(?:OPENCLAW|ERR)_[A-Z_]+\b/g));
  expect(codes.size).toBeGreaterThan(3);
  for (const code of codes) {
    expect(section("Errors")).toContain(`\`${code}\``);
  }
});

test("every export and every option is explained", () => {
  const declared = read("index.d.ts");
  const exported = [...declared.matchAll(/^export (?:function|class|const) (\w+)/gm)].map((match) => match[1]!);
  const options = declared.match(/interface AcquireOptions \{(.*?)^\}/ms)![1]!;
  const optionNames = [...options.matchAll(/^  (\w+)\??:/gm)].map((match) => match[1]!);
  expect(optionNames).toContain("sessionFile");
  for (const name of [...exported, ...optionNames]) {
    expect(section("API")).toMatch(new RegExp(`\`${name}\\b`));
  }
  const record = declared.match(/interface SessionLockRecord \{(.*?)^\}/ms)![1]!;
  for (const [, field] of record.matchAll(/^  (\w+)\??:/gm)) {
    expect(section("The record")).toContain(`| \`${field}\` |`);
  }
});

/** The anchor of a heading, as GitHub makes it. */
function anchor(heading: string): string {
  return heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, "")
    .replace(/\s/g, "-");
}

test.each(documents)("every link in %s leads somewhere", (document) => {
  const prose = read(document).replace(/^```.*?^```$/gms, "");
  for (const [, target] of prose.matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^https?:/.test(target!)) {
      continue;
    }
    const [file, fragment] = target!.split("#");
    const absolute = file ? path.resolve(root, path.dirname(document), file) : path.join(root, document);
    expect(existsSync(absolute), `${document}: ${target}`).toBe(true);
    if (fragment) {
      const headings = readFileSync(absolute, "utf8").matchAll(/^#+ (.+)$/gm);
      const anchors = [...headings].map((match) => anchor(match[1]!));
      expect(anchors, `${document}: ${target}`).toContain(fragment);
    }
  }
});
