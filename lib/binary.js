"use strict";

const path = require("node:path");

const NO_BINARY_CODE = "OPENCLAW_SESSION_WRITE_LOCK_NO_BINARY";

/** The folder of the package. */
const root = path.dirname(__dirname);

/**
 * The binary for this system: one that was built here, else that of the platform's package. Written
 * by hand: the loader that napi generates asks for a whole process report to tell glibc from musl.
 */
function loadNative() {
  const system = `${process.platform}-${process.arch}`;
  const flavours = process.platform === "linux" ? [`${system}-gnu`, `${system}-musl`] : [system];
  const candidates = process.env.NAPI_RS_NATIVE_LIBRARY_PATH
    ? [process.env.NAPI_RS_NATIVE_LIBRARY_PATH]
    : [
        ...flavours.map((flavour) => `${root}/session-write-lock.${flavour}.node`),
        ...flavours.map((flavour) => `session-write-lock-${flavour}`),
      ];
  const failures = [];
  for (const candidate of candidates) {
    try {
      return loadBinary(candidate);
    } catch (error) {
      failures.push(error);
    }
  }
  const tried = `none of these could be loaded: ${candidates.join(", ")}`;
  throw Object.assign(
    new Error(
      `session-write-lock has no native binary for ${system}: install it again without omitting ` +
        "optional dependencies, or run `npm run build` in a checkout of its sources (Rust needed)",
      { cause: new AggregateError(failures, tried) },
    ),
    { code: NO_BINARY_CODE },
  );
}

/** What is beside us needs no looking for; `require` would ask for every folder on the way. */
function loadBinary(name) {
  if (!name.startsWith(root)) {
    return require(name);
  }
  const loaded = { exports: {} };
  process.dlopen(loaded, name);
  return loaded.exports;
}

module.exports = loadNative();
