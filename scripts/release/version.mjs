/**
 * `node scripts/release/version.mjs`: carries what package.json says to every file that repeats it: the
 * crate's version, `lib/version.js`, and the manifests of the platform packages, which are written whole.
 * `npm version` calls it. With `--check` it changes nothing and names what differs; the changelog must
 * have a section for the version, too. `--tag v1.2.3` also compares with the tag of a release.
 */

import { readFileSync, writeFileSync } from "node:fs";

import { exists, folderOf, makeFolder, readJson, root, TARGETS } from "./targets.mjs";

const checks = process.argv.includes("--check");
const main = readJson(`${root}/package.json`);
const differing = [];

/** Writes a file, or compares it. */
function keep(file, wanted) {
  const path = `${root}/${file}`;
  if (exists(path) && readFileSync(path, "utf8") === wanted) {
    return;
  }
  differing.push(file);
  if (!checks) {
    writeFileSync(path, wanted);
  }
}

/** Replaces the first match of `pattern` by what stands in front of the version and the version. */
function keepVersion(file, pattern) {
  const text = readFileSync(`${root}/${file}`, "utf8");
  if (!pattern.test(text)) {
    throw new Error(`${file} names no version`);
  }
  keep(file, text.replace(pattern, `$1"${main.version}"`));
}

keepVersion("Cargo.toml", /^(version = )".*"/m);
keepVersion("Cargo.lock", /^(name = "session-write-lock"\nversion = )".*"/m);
keepVersion("lib/version.js", /^(module\.exports = )".*"/m);

for (const target of TARGETS) {
  const folder = folderOf(target).slice(root.length + 1);
  if (!checks) {
    makeFolder(folderOf(target));
  }
  keep(`${folder}/package.json`, `${JSON.stringify(manifestOf(target), null, 2)}\n`);
  keep(`${folder}/README.md`, readmeOf(target));
}

function manifestOf({ packageName, name, binary, os, cpu, libc }) {
  const { version, license, repository, homepage, bugs, engines, publishConfig } = main;
  return {
    name: packageName,
    version,
    description: `The binary of session-write-lock for ${name}`,
    license,
    repository,
    homepage,
    bugs,
    engines,
    os: [os],
    cpu: [cpu],
    ...(libc ? { libc: [libc] } : {}),
    main: binary,
    files: [binary, "THIRD-PARTY-NOTICES"],
    publishConfig,
    scripts: {
      prepack: "node ../../scripts/release/refuse.mjs",
    },
  };
}

function readmeOf({ packageName, triple }) {
  return `# \`${packageName}\`

The binary of [session-write-lock](${main.homepage}) for \`${triple}\`. It is installed with that package, as an optional
dependency. It is of no use by itself.
`;
}

const changelog = readFileSync(`${root}/CHANGELOG.md`, "utf8");
if (checks && !changelog.includes(`\n## ${main.version}`)) {
  differing.push(`CHANGELOG.md (no section "## ${main.version}")`);
}
const tag = process.argv.includes("--tag") ? process.argv[process.argv.indexOf("--tag") + 1] : undefined;
if (tag !== undefined && tag !== `v${main.version}`) {
  differing.push(`the tag ${tag}`);
}
if (tag !== undefined && changelog.includes(`\n## ${main.version} (unreleased)`)) {
  differing.push("CHANGELOG.md (the version is called unreleased)");
}
for (const name of differing) {
  console.log(checks ? `differs from package.json: ${name}` : `written: ${name}`);
}
if (checks && differing.length > 0) {
  console.log("`node scripts/release/version.mjs` writes what can be written");
  process.exitCode = 1;
} else if (checks) {
  console.log(`version ${main.version} everywhere`);
}
