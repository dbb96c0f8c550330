/** Compilers: the installed one, and one with the sources of its standard library, which can be built for any target. */

import { rmSync, writeFileSync } from "node:fs";

import { unpackDebian } from "./debian.mjs";
import { cache, exists, output } from "./targets.mjs";

/** A compiler with the sources of its standard library, for targets that the installed one lacks; and its lints. */
const DEBIAN_RUST = {
  suite: "trixie",
  architecture: "amd64",
  packages: ["rustc-web", "rust-web-src", "rust-web-clippy"],
  without: /^(gcc|cpp|binutils|linux-libc|libgcc-14|lib.*san|libgprofng|libisl)/,
};

export const debianRust = `${cache}/rust-${DEBIAN_RUST.suite}`;

export function provideDebianCompiler() {
  if (process.arch !== "x64") {
    throw new Error("fetched for x64 only");
  }
  if (!exists(debianRust)) {
    console.log(`fetching Debian ${DEBIAN_RUST.suite}'s compiler with its library's sources, 300 MB`);
  }
  return describeDebianCompiler(unpackDebian(debianRust, DEBIAN_RUST));
}

/** It was made for a newer libc than this machine may have, which is unpacked beside it. */
export function describeDebianCompiler(folder) {
  const libraries = `${folder}/usr/lib/x86_64-linux-gnu`;
  const loader = `"${libraries}/ld-linux-x86-64.so.2" --library-path "${libraries}"`;
  const [wrapper, lints] = ["rustc", "clippy-driver"].map((program) => {
    rmSync(`${folder}/${program}`, { force: true });
    writeFileSync(`${folder}/${program}`, `#!/bin/sh\nexec ${loader} "${folder}/usr/bin/${program}" "$@"\n`, { mode: 0o755 });
    return `${folder}/${program}`;
  });
  // The bootstrap switch: building the library is not a stable feature, though it is the very library of
  // this compiler.
  const env = { RUSTC: wrapper, RUSTC_BOOTSTRAP: "1" };
  const compiler = describe(env);
  return { ...compiler, env, lints, buildsStd: true, says: `rustc ${compiler.version} and its library from source` };
}

export function describe(env) {
  const rustc = env.RUSTC ?? "rustc";
  const options = { env: { ...process.env, ...env } };
  const [, version] = /^rustc (\S+)/.exec(output(rustc, ["--version"], options));
  return { version, sysroot: output(rustc, ["--print", "sysroot"], options).trim() };
}
