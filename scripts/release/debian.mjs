/**
 * Files out of Debian's packages, unpacked into a folder of the cache: a compiler, the libraries
 * of another processor. Nothing is installed on the machine itself, and no rights are needed.
 * apt-get checks the signatures as it always does.
 */

import { readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";

import { exists, makeFolder, output } from "./targets.mjs";

const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** The mirror of Debian that this machine uses. */
function findMirror() {
  const query = ["indextargets", "--no-release-info", "--format", "$(REPO_URI)", "Created-By: Packages"];
  const mirror = exists(KEYRING) && output("apt-get", query).split("\n").find((uri) => /\/debian\/?$/.test(uri));
  if (!mirror) {
    throw new Error("no Debian: its packages can't be fetched and checked here");
  }
  return mirror;
}

/**
 * Unpacks `packages`, and what they depend on, into `folder`. Packages whose names match `without`
 * are left out. A folder that is there already is complete: it got its name when it was.
 */
export function unpackDebian(folder, { suite, architecture, packages, without }) {
  if (exists(folder)) {
    return folder;
  }
  const mirror = findMirror();
  const work = `${folder}.work`;
  rmSync(work, { recursive: true, force: true });
  for (const part of ["state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d"]) {
    makeFolder(`${work}/${part}`);
  }
  writeFileSync(`${work}/state/status`, "");
  writeFileSync(`${work}/etc/sources.list`, `deb [signed-by=${KEYRING}] ${mirror} ${suite} main\n`);
  writeFileSync(
    `${work}/apt.conf`,
    `Dir "${work}"; Dir::State "state"; Dir::State::status "${work}/state/status"; Dir::Cache "cache"; Dir::Etc "etc";
APT::Architecture "${architecture}"; APT::Architectures { "${architecture}"; };
APT::Install-Recommends "false"; APT::Sandbox::User "root"; Acquire::Retries "3"; Debug::NoLocking "true";\n`,
  );
  const env = { ...process.env, APT_CONFIG: `${work}/apt.conf` };
  output("apt-get", ["update", "-qq"], { env });
  output("apt-get", ["install", "-qq", "-y", "--download-only", ...packages], { env });
  const archives = `${work}/cache/archives`;
  for (const archive of readdirSync(archives).filter((name) => name.endsWith(".deb"))) {
    if (!without?.test(archive)) {
      output("dpkg-deb", ["-x", `${archives}/${archive}`, makeFolder(`${work}/root`)]);
    }
  }
  renameSync(`${work}/root`, folder);
  rmSync(work, { recursive: true, force: true });
  return folder;
}
