/**
 * `npm run check:packages`: packs every package and looks into the tarballs. A platform that isn't built has
 * no package; with `--all`, as in a release, that is a failure.
 */

import { readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import path from "node:path";

import { compareVersions, floorOf, inspectBinary } from "./binary.mjs";
import { pack } from "./pack.mjs";
import { cache, exists, GLIBC_FLOOR, MACOS_FLOOR, makeFolder, output, readJson, root, TARGETS } from "./targets.mjs";

/** All that users download besides one binary. */
const MAIN_LIMIT = 75_000; // 60,000 without what locks over PostgreSQL need

/** A binary with nothing in it is smaller, one with symbols is larger. */
const BINARY_SIZES = [400_000, 2_000_000];

const LIBRARIES = {
  glibc: /^(libc\.so\.6|libm\.so\.6|libpthread\.so\.0|libdl\.so\.2|librt\.so\.1|libutil\.so\.1|ld-linux.*|libgcc_s\.so\.1)$/,
  musl: /^libc\.so$/,
  darwin: /^\/usr\/lib\/libSystem\.B\.dylib$/,
  win32: /^(kernel32|ntdll|advapi32|bcryptprimitives|api-ms-win-(core|crt)-[-a-z0-9]+)\.dll$/,
};

const isRelease = process.argv.includes("--all");
const version = readJson(`${root}/package.json`).version;
let failures = 0;

const { main, platforms } = pack();
for (const target of TARGETS) {
  const tarball = platforms[target.name];
  if (!tarball) {
    report(target.packageName, isRelease ? ["it is not built"] : [], "not built, not packed");
    continue;
  }
  const { folder, files } = unpack(tarball);
  const { faults, says } = checkPlatform(target, folder, files);
  report(target.packageName, faults, `${kilobytes(statSync(tarball).size)} packed, ${says}`);
}
const { folder, files } = unpack(main);
report("session-write-lock", checkMain(main, folder, files), `${kilobytes(statSync(main).size)} packed, ${files.length} files`);
process.exitCode = failures > 0 ? 1 : 0;

function report(name, faults, says) {
  console.log(`${name}: ${faults.length > 0 ? `WRONG\n${faults.map((fault) => `  ${fault}`).join("\n")}` : says}`);
  failures += faults.length;
}

function checkPlatform(target, folder, files) {
  const faults = checkManifest(folder);
  const expect = (holds, fault) => holds || faults.push(fault);
  const wanted = ["LICENSE", "README.md", "THIRD-PARTY-NOTICES", "package.json", target.binary].sort();
  expect(String(files) === String(wanted), `its files are ${files.join(", ")}; they should be ${wanted.join(", ")}`);
  const binary = `${folder}/${target.binary}`;
  if (!exists(binary)) {
    return { faults: [...faults, "it has no binary"], says: "" };
  }
  let inspected;
  try {
    inspected = inspectBinary(binary);
  } catch (error) {
    return { faults: [...faults, `its binary can't be read: ${error.message}`], says: "" };
  }
  const { size, machine, needed, glibc, macos, isSigned } = inspected;
  expect(size >= BINARY_SIZES[0] && size <= BINARY_SIZES[1], `its binary has ${size} bytes`);
  expect(machine === target.machine, `its binary is for processor ${machine}; ${target.machine} is wanted`);
  const foreign = needed.filter((library) => !LIBRARIES[target.libc ?? target.os].test(library));
  expect(foreign.length === 0, `its binary needs ${foreign.join(", ")}`);
  expect(readFileSync(binary).includes(version), `its binary is not of version ${version}`);
  if (target.os === "darwin") {
    expect(macos && compareVersions(macos, MACOS_FLOOR) <= 0, `its binary needs macOS ${macos}; ${MACOS_FLOOR} is promised`);
    expect(isSigned || target.cpu !== "arm64", "its binary has no signature, which macOS wants on this processor");
  } else if (target.libc === "glibc") {
    expect(glibc && compareVersions(glibc, GLIBC_FLOOR) <= 0, `its binary needs glibc ${glibc}; ${GLIBC_FLOOR} is promised`);
  } else if (target.libc === "musl") {
    expect(glibc === undefined, `its binary needs glibc ${glibc}, and is for musl`);
  }
  return { faults, says: `${kilobytes(size)} binary, ${floorOf(inspected)}` };
}

function checkMain(tarball, folder, files) {
  const faults = checkManifest(folder);
  const expect = (holds, fault) => holds || faults.push(fault);
  const manifest = readJson(`${folder}/package.json`);
  const size = statSync(tarball).size;
  expect(size < MAIN_LIMIT, `it has ${size} bytes packed; the limit is ${MAIN_LIMIT}`);
  const wanted = Object.fromEntries(TARGETS.map(({ packageName }) => [packageName, version]));
  expect(JSON.stringify(manifest.optionalDependencies) === JSON.stringify(wanted), "its optionalDependencies are not the platform packages of its version");
  const dependencies = Object.keys(manifest.dependencies ?? {});
  expect(dependencies.length === 0, `it has dependencies: ${dependencies.join(", ")}`);
  for (const file of files.filter((name) => name.endsWith(".md"))) {
    faults.push(...deadLinks(folder, file));
  }
  return faults;
}

/** What every manifest must say for npm to publish it with provenance, and for no script to run on installing. */
function checkManifest(folder) {
  const manifest = readJson(`${folder}/package.json`);
  const main = readJson(`${root}/package.json`);
  const same = ["version", "license", "repository", "engines", "publishConfig"];
  return [
    ...same
      .filter((field) => JSON.stringify(manifest[field] ?? null) !== JSON.stringify(main[field]))
      .map((field) => `its ${field} is not that of package.json`),
    ...(manifest.scripts ? ["it has scripts"] : []),
  ];
}

/** Links of a packed Markdown file to files that aren't packed, and to headings that don't exist. */
function deadLinks(folder, file) {
  const faults = [];
  for (const [, target] of readFileSync(`${folder}/${file}`, "utf8").matchAll(/\[[^\]]*\]\(([^)\s]+)\)/g)) {
    if (/^[a-z]+:/.test(target)) {
      continue;
    }
    const [name, fragment] = target.split("#");
    const aim = name === "" ? `${folder}/${file}` : path.join(folder, path.dirname(file), name);
    if (!exists(aim)) {
      faults.push(`${file}: the link ${target} leads to nothing in the package`);
    } else if (fragment && !headingsOf(aim).includes(fragment)) {
      faults.push(`${file}: the link ${target} leads to no heading`);
    }
  }
  return faults;
}

/** As the anchors of headings are made: lower case, no punctuation, hyphens for spaces. */
function headingsOf(file) {
  return [...readFileSync(file, "utf8").matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading.toLowerCase().replaceAll(/[^\p{L}\p{N}\s_-]/gu, "").replaceAll(" ", "-"),
  );
}

function unpack(tarball) {
  const folder = makeFolder(`${cache}/unpacked/${path.basename(tarball, ".tgz")}`);
  rmSync(folder, { recursive: true, force: true });
  makeFolder(folder);
  output("tar", ["-xzf", tarball, "-C", folder]);
  const inside = `${folder}/package`;
  const files = readdirSync(inside, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(inside, path.join(entry.parentPath ?? entry.path, entry.name)))
    .sort();
  return { folder: inside, files };
}

function kilobytes(bytes) {
  return `${(bytes / 1000).toFixed(bytes < 100_000 ? 1 : 0)} kB`;
}
