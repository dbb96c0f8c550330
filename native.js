"use strict";

/**
 * Finds the addon's binary for this system: one that was built here, else that of the platform's
 * package. Written by hand: the loader that napi generates asks for a whole process report to tell
 * glibc from musl, which takes longer than everything else in loading; trying takes none.
 */

const target = `${process.platform}-${process.arch}`;
const flavours = process.platform === "linux" ? [`${target}-gnu`, `${target}-musl`] : [target];
const candidates = process.env.NAPI_RS_NATIVE_LIBRARY_PATH
  ? [process.env.NAPI_RS_NATIVE_LIBRARY_PATH]
  : [
      ...flavours.map((flavour) => `./session-write-lock.${flavour}.node`),
      ...flavours.map((flavour) => `session-write-lock-${flavour}`),
    ];

module.exports = load();

function load() {
  const failures = [];
  for (const candidate of candidates) {
    try {
      return require(candidate);
    } catch (error) {
      failures.push(error);
    }
  }
  throw new AggregateError(failures, `none of these could be loaded: ${candidates.join(", ")}`);
}
