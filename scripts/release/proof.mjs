/**
 * `node scripts/release/proof.mjs`: writes what a release shows of itself beside the packed tarballs: their
 * checksums, a list of all that others wrote in them (CycloneDX), and notes.
 */

import { readdirSync, readFileSync, writeFileSync } from "node:fs";

import { crates, npmPackages } from "./components.mjs";
import { tarballs } from "./pack.mjs";
import { cache, exists, output, readJson, root, sha256, TARGETS } from "./targets.mjs";

const { version, license } = readJson(`${root}/package.json`);
const packages = readdirSync(tarballs).filter((name) => name.endsWith(".tgz"));
const sums = packages.map((name) => `${sha256(`${tarballs}/${name}`)}  ${name}`).join("\n");

const component = (kind) => ({ name, version, license, home }) => ({
  type: "library",
  "bom-ref": `pkg:${kind}/${name}@${version}`,
  name,
  version,
  licenses: [{ expression: license }],
  purl: `pkg:${kind}/${name}@${version}`,
  ...(home ? { externalReferences: [{ type: "website", url: home }] } : {}),
});
const parts = [...crates().map(component("cargo")), ...npmPackages().map(component("npm"))];
const own = { type: "library", "bom-ref": `pkg:npm/session-write-lock@${version}`, name: "session-write-lock", version, licenses: [{ expression: license }] };
const bom = {
  bomFormat: "CycloneDX",
  specVersion: "1.5",
  version: 1,
  metadata: { component: own },
  components: parts,
  dependencies: [{ ref: own["bom-ref"], dependsOn: parts.map((part) => part["bom-ref"]) }],
};

// The packed changelog: its links lead somewhere from a release's page too.
const changelog = readFileSync(`${cache}/stage/main/CHANGELOG.md`, "utf8");
const [, changes = ""] = changelog.split(`\n## ${version}`);
const built = TARGETS.map(({ name }) => `${cache}/records/${name}.json`).filter(exists).map(readJson);
const commit = output("git", ["rev-parse", "HEAD"], { cwd: root }).trim();
const notes = `${changes.slice(changes.indexOf("\n")).split("\n## ")[0].trim()}

## Proof

Built from ${commit}. The packages have the checksums of SHA256SUMS. \`npm audit signatures\` shows where npm's
copies were built. \`npm run build:targets\` with the same compiler makes these binaries again:

| binary | built by | sha256 |
|---|---|---|
${built.map((record) => `| ${record.name} | ${record.built} | \`${record.sha256}\` |`).join("\n")}
`;

writeFileSync(`${tarballs}/SHA256SUMS`, `${sums}\n`);
writeFileSync(`${tarballs}/session-write-lock-${version}.cdx.json`, `${JSON.stringify(bom, null, 2)}\n`);
writeFileSync(`${tarballs}/NOTES.md`, notes);
console.log(`${tarballs}: ${readdirSync(tarballs).join(", ")}`);
