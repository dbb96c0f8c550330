/**
 * `await using`, as people write it: compiled for runtimes that don't have it, and run as it is by
 * those that do.
 */

import { spawnSync } from "node:child_process";
import { readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import ts from "typescript";
import { expect, test } from "vitest";

import { nodes, testOnEachNode } from "./nodes.js";
import { root, temporaryFolder } from "./support.js";

const LIBRARY = JSON.stringify(path.join(root, "index.js"));

/** Says whether the lock is there inside the block, after it, and after an error in another one. */
const PROGRAM = `
import { existsSync } from "node:fs";
import { acquireSessionWriteLock, tryAcquireSessionWriteLock } from ${LIBRARY};

const sessionFile = process.argv[2]!;
const isLocked = () => existsSync(sessionFile + ".lock");
const seen: boolean[] = [];

async function main() {
  {
    await using lock = await acquireSessionWriteLock({ sessionFile });
    seen.push(lock.held, isLocked());
  }
  seen.push(isLocked());
  try {
    await using lock = tryAcquireSessionWriteLock({ sessionFile });
    seen.push(lock !== null && isLocked());
    // Re-entered: the inner block leaves the lock to the outer one.
    {
      await using again = await acquireSessionWriteLock({ sessionFile });
      seen.push(again.held);
    }
    seen.push(isLocked());
    throw new Error("on purpose");
  } catch {
    seen.push(isLocked());
  }
  console.log(seen.join());
}
void main();
`;

const SEEN = [true, true, false, true, true, true, false].join();

function compile(target: ts.ScriptTarget): string {
  const { outputText } = ts.transpileModule(PROGRAM, {
    compilerOptions: { target, module: ts.ModuleKind.CommonJS },
  });
  return outputText;
}

function run(node: string, program: string) {
  const folder = temporaryFolder();
  const file = path.join(folder, "program.cjs");
  writeFileSync(file, program);
  const args = [file, path.join(folder, "chat.jsonl")];
  const { status, stdout, stderr } = spawnSync(node, args, { encoding: "utf8" });
  expect(readdirSync(folder)).toEqual(["program.cjs"]);
  return { status, stdout: stdout.trim(), stderr };
}

testOnEachNode("await using releases the lock at the end of its block, compiled", async (node) => {
  const program = compile(ts.ScriptTarget.ES2022);
  expect(program).not.toContain("await using");
  expect(run(node, program)).toEqual({ status: 0, stdout: SEEN, stderr: "" });
});

testOnEachNode(
  "await using releases the lock at the end of its block, natively",
  async (node) => {
    const program = compile(ts.ScriptTarget.ESNext);
    expect(program).toContain("await using");
    expect(run(node, program)).toEqual({ status: 0, stdout: SEEN, stderr: "" });
  },
  nodes.slice(1), // older ones don't know the syntax
);

test("a lock has a type that await using takes, with and without TypeScript's own declarations", () => {
  const file = path.join(temporaryFolder(), "program.mts");
  writeFileSync(file, PROGRAM);
  for (const lib of [["lib.es2022.d.ts", "lib.esnext.disposable.d.ts"], ["lib.es2022.d.ts"]]) {
    const program = ts.createProgram([file], {
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.NodeNext,
      moduleResolution: ts.ModuleResolutionKind.NodeNext,
      lib,
      strict: true,
      noEmit: true,
      types: ["node"],
      typeRoots: [path.join(root, "node_modules/@types")],
    });
    const problems = ts.getPreEmitDiagnostics(program);
    const texts = problems.map(({ messageText }) =>
      ts.flattenDiagnosticMessageText(messageText, "\n"),
    );
    expect(texts, lib.join()).toEqual([]);
  }
});
