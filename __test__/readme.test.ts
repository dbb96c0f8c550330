/**
 * The README and docs/ do what they say: their examples run under each Node, the tests that they name exist, every
 * export, option, field, error code and channel is explained, and no link leads nowhere.
 */

import { execFile } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";

import { testOnEachNode } from "./nodes.js";
import { root, temporaryFolder } from "./support.js";

const read = (file: string) => readFileSync(path.join(root, file), "utf8");

const documents = [
  "README.md",
  "CHANGELOG.md",
  ...readdirSync(path.join(root, "docs"))
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`),
];

/** What stands under a heading, up to the next one of its level. */
function section(document: string, heading: string): string {
  const text = read(document).split(/^## /m).find((part) => part.startsWith(`${heading}\n`));
  expect(text, `${document}: ${heading}`).toBeDefined();
  return text!;
}

const lines = (text: string, pattern: RegExp) => text.split("\n").filter((line) => pattern.test(line));

describe("the README", () => {
  test("is no longer than 8 KB", () => {
    expect(statSync(path.join(root, "README.md")).size).toBeLessThanOrEqual(8192);
  });

  test("has five things to know, ten guarantees of a line each, and six limits", () => {
    expect(lines(section("README.md", "Five things to know before you use it"), /^\d\. /)).toHaveLength(5);
    const guarantees = section("README.md", "Guarantees");
    expect(lines(guarantees, /^\d+\. /)).toHaveLength(10);
    expect(guarantees.trimEnd().endsWith(lines(guarantees, /^10\. /)[0]!)).toBe(true);
    expect(lines(section("README.md", "Limits"), /^- /)).toHaveLength(6);
  });
});

const examplesOf = (document: string) =>
  [...read(document).matchAll(/^```js\n(.*?)^```$/gms)].map((match) => match[1]!);

/** Those of docs/postgres.md need a server: postgres.test.ts runs them. */
const withExamples = documents.filter((document) => examplesOf(document).length > 0 && document !== "docs/postgres.md");

test("there are examples in the pages for users", () => {
  expect(withExamples).toEqual(["README.md", "docs/api.md", "docs/recipes.md", "docs/signals.md"]);
});

describe.each(withExamples)("the examples of %s", (document) => {
  const examples = examplesOf(document);

  for (const [index, source] of examples.entries()) {
    testOnEachNode(`number ${index + 1} runs, prints what it says and leaves no lock`, async (node) => {
      const project = temporaryFolder();
      mkdirSync(path.join(project, "node_modules"));
      symlinkSync(root, path.join(project, "node_modules/session-write-lock"));
      const folder = path.join(project, "files"); // without what is installed: the listing would follow the link
      mkdirSync(folder);
      const file = path.join(folder, source.includes("require(") ? "example.cjs" : "example.mjs");
      writeFileSync(file, source);
      const { stdout, stderr } = await promisify(execFile)(node, [file], { cwd: folder }); // rejects if it fails
      expect(stderr).toBe("");
      const announced = [...source.matchAll(/\/\/ prints: (.*)$/gm)].map((match) => `${match[1]}\n`);
      expect(stdout).toBe(announced.join(""));
      const left = readdirSync(folder, { recursive: true }).map(String);
      expect(left.filter((name) => name.includes(".lock"))).toEqual([]);
    });
  }
});

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
  const rows = lines(read("docs/guarantees.md"), /^\| (?!guarantee )/);
  expect(rows.length).toBeGreaterThan(30);
  for (const row of rows) {
    const shownBy = row.split("|")[2]!;
    let file: string | undefined;
    let named = 0;
    for (const [, link, title] of shownBy.matchAll(/\]\(([^)]+)\)|"([^"]+)"/g)) {
      if (link) {
        file = path.join("docs", link);
        continue;
      }
      const isThere = testTitles(file!).some((pattern) => pattern.test(title!));
      expect(isThere, `${file} has no test "${title}"`).toBe(true);
      named += 1;
    }
    expect(named, row).toBeGreaterThan(0);
  }
});

/** All names in code that the first cells of a page's tables have. */
function explained(document: string): string[] {
  const cells = lines(read(document), /^\| /).map((line) => line.split(/(?<!\\)\|/)[1]!);
  return cells.flatMap((cell) => [...cell.matchAll(/`([^`]+)`/g)].map((match) => match[1]!.replace(/\(.*/, "")));
}

describe("docs/api.md", () => {
  const declared = read("index.d.ts");

  test("has every export", () => {
    const exported = [...declared.matchAll(/^export (?:function|class|const) (\w+)/gm)].map((match) => match[1]!);
    expect(exported).toContain("withLock");
    for (const name of exported) {
      expect(read("docs/api.md")).toMatch(new RegExp(`\`${name}\\b`));
    }
  });

  const interfaces = [...declared.matchAll(/^export interface (\w+).*?\{\n(.*?)^\}/gms)];

  test.each(interfaces.map(([, name, body]) => ({ name, body: body! })))("has every member of $name", ({ body }) => {
    const members = [...body.matchAll(/^  (?:readonly )?(\w+|\[[\w.]+\])\??[:(]/gm)].map((match) => match[1]!);
    expect(members).not.toEqual([]);
    expect(members.filter((name) => !explained("docs/api.md").includes(name))).toEqual([]);
  });

  const unions = [...declared.matchAll(/^export type (\w+) =((?:\s+\| "[\w-]+")+);/gm)];

  test.each(unions.map(([, name, words]) => ({ name, words: words! })))("has every word of $name", ({ words }) => {
    const all = [...words.matchAll(/"([\w-]+)"/g)].map((match) => match[1]!);
    expect(all.length).toBeGreaterThan(3);
    expect(all.filter((word) => !read("docs/api.md").includes(`\`${word}\``))).toEqual([]);
  });

  const files = readdirSync(path.join(root, "lib"), { recursive: true, encoding: "utf8" });
  const sources = files.filter((name) => name.endsWith(".js")).map((name) => read(`lib/${name}`)).join("");

  test("has every error code, and what to do", () => {
    const codes = new Set(sources.match(/\b(?:OPENCLAW|ERR)_[A-Z_]*[A-Z]\b/g));
    expect(codes.size).toBeGreaterThan(3);
    const errors = section("docs/api.md", "Errors");
    expect([...codes].filter((code) => !errors.includes(`\`${code}\``))).toEqual([]);
    expect(lines(errors, /\| *\|$/)).toEqual([]);
  });

  test("has every diagnostics channel", () => {
    const channels = new Set(sources.match(/session-write-lock:\w+/g));
    expect(channels.size).toBe(5);
    expect([...channels].filter((name) => !explained("docs/api.md").includes(name))).toEqual([]);
  });
});

test("docs/postgres.md has every member of postgres.d.ts", () => {
  const types = ["PostgresLocksOptions", "PostgresLock", "PostgresLockInspection", "HeldPostgresLock", "PostgresLocks"];
  const interfaces = [...read("postgres.d.ts").matchAll(/^export interface (\w+).*?\{\n(.*?)^\}/gms)];
  const members = interfaces
    .filter(([, name]) => types.includes(name!))
    .flatMap(([, , body]) => [...body!.matchAll(/^  (?:readonly )?(\w+)\??[:(<]/gm)].map((match) => match[1]!));
  expect(members.length).toBeGreaterThan(30);
  expect(members.filter((name) => !explained("docs/postgres.md").includes(name))).toEqual([]);
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
