/**
 * The Nodes that tests run agents on: the one that runs the tests, and newer ones, which name their
 * processes otherwise. `scripts/fetch-nodes.mjs` fetches those; without them their tests are skipped.
 */

import path from "node:path";
import { test } from "vitest";

import { root, succeeds } from "./support.js";

const NEWER = [24, 26];

/** A Node to run agents with; `path` is absent where it has not been fetched. */
export interface Node {
  name: string;
  path: string | undefined;
}

function newerNode(major: number): Node {
  const binary = path.join(root, ".cache/nodes", String(major), "bin/node");
  return { name: `Node ${major}`, path: succeeds(binary, "--version") ? binary : undefined };
}

const runningNode: Node = {
  name: `Node ${process.versions.node.split(".")[0]}`,
  path: process.execPath,
};

/** All of them, the one that runs the tests first. */
export const nodes: readonly Node[] = [runningNode, ...NEWER.map(newerNode)];

/** One test for each Node, given the path of its binary. */
export function testOnEachNode(
  name: string,
  body: (node: string) => Promise<void>,
  on: readonly Node[] = nodes,
): void {
  for (const node of on) {
    const { path } = node;
    if (path) {
      test(`${name} (${node.name})`, () => body(path));
    } else {
      process.stderr.write(
        `SKIPPED for lack of ${node.name} (node scripts/fetch-nodes.mjs fetches it):\n  ${name}\n`,
      );
      test.skip(`${name} (needs ${node.name})`, () => {});
    }
  }
}
