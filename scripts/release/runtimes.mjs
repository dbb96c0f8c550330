/** Runtimes from npm, in the cache. */

import { chmodSync, renameSync, rmSync } from "node:fs";

import { cache, exists, makeFolder, output } from "./targets.mjs";

/** `{ name, version, options, provide }`: `provide` fetches it, and says where its executable is. */
export function fromNpm(name, packageName, version, file, options = []) {
  return {
    name,
    version,
    options,
    provide: () => {
      const binary = `${npmPackage(packageName, version)}/${file}`;
      chmodSync(binary, 0o755);
      return binary;
    },
  };
}

function npmPackage(name, version) {
  const folder = `${cache}/runtimes/${name.replace(/^@/, "").replace("/", "-")}-${version}`;
  if (!exists(folder)) {
    const work = `${folder}.work`;
    rmSync(work, { recursive: true, force: true });
    makeFolder(work);
    const [{ filename }] = Object.values(JSON.parse(output("npm", ["pack", "--json", `${name}@${version}`], { cwd: work })));
    output("tar", ["-xzf", `${work}/${filename.replace(/^@/, "").replace("/", "-")}`, "-C", work]);
    renameSync(`${work}/package`, folder);
    rmSync(work, { recursive: true, force: true });
  }
  return folder;
}
