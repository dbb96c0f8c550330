/** What the published packages contain that others wrote: crates in the binaries, npm packages in the command line. */

import path from "node:path";

import { output, readJson, root, TARGETS } from "./targets.mjs";

/** The crates that are linked on any of the targets: no build scripts, no macros. */
export function crates() {
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
export function npmPackages() {
  return readJson(`${root}/package.json`).bundledIntoCommandLine.map((name) => {
    const folder = `${root}/node_modules/${name}`;
    const { version, license, homepage } = readJson(`${folder}/package.json`);
    return { name, version, license, home: homepage, folder };
  });
}
