"use strict";

/**
 * The loader of the binary. It takes, in this order: the file that the environment variable names, a build
 * beside the sources, the package of this platform.
 *
 * Each package is named in a literal `require`: bundlers and file tracers follow only those. On Linux, both
 * the glibc and the musl package are tried. npm installs by the libc of the distribution, and a Node may have
 * the other one.
 */

const { existsSync } = require("node:fs");
const path = require("node:path");

const version = require("./version.js");

const NO_BINARY_CODE = "OPENCLAW_SESSION_WRITE_LOCK_NO_BINARY";
const OVERRIDE = "SESSION_WRITE_LOCK_NATIVE_LIBRARY_PATH";
const BUNDLING = "https://github.com/openclaw/session-write-lock/blob/main/docs/bundling.md";

/** The folder of the package; of a bundle, anybody's folder. */
const root = path.dirname(__dirname);
const isBundled = path.basename(__dirname) !== "lib";

const system = `${process.platform}-${process.arch}`;

/** The binaries of a system, by the names of their packages. */
const BINARIES = {
  "linux-x64": ["linux-x64-gnu", "linux-x64-musl"],
  "linux-arm64": ["linux-arm64-gnu", "linux-arm64-musl"],
  "linux-arm": ["linux-arm-gnueabihf", "linux-arm-musleabihf"],
  "darwin-x64": ["darwin-x64"],
  "darwin-arm64": ["darwin-arm64"],
  "win32-x64": ["win32-x64-msvc"],
  "win32-arm64": ["win32-arm64-msvc"],
};

/** Why each candidate was not taken: `{ name, error }`. */
const failures = [];

function loadBinary() {
  const override = process.env[OVERRIDE];
  const binary = override ? loadFile(path.resolve(override)) : (loadLocalBuild() ?? loadPackage());
  if (!binary) {
    const cause = new AggregateError(failures.map(({ error }) => error), "every candidate for the binary failed");
    const message = `session-write-lock ${explain(override)}`;
    throw Object.assign(new Error(message, { cause }), { code: NO_BINARY_CODE });
  }
  return binary;
}

/** A build in a checkout; an installed package has none. */
function loadLocalBuild() {
  if (isBundled) {
    return undefined;
  }
  for (const name of BINARIES[system] ?? [system]) {
    const file = `${root}/session-write-lock.${name}.node`;
    // `dlopen` of a missing file takes ten times as long.
    const binary = existsSync(file) ? loadFile(file) : undefined;
    if (binary) {
      return binary;
    }
  }
  return undefined;
}

function loadFile(file) {
  return attempt(file, () => {
    const loaded = { exports: {} };
    process.dlopen(loaded, file);
    return loaded.exports;
  });
}

/** One `try` around each `require`: bundlers then take a package that is not installed for optional. */
function loadPackage() {
  switch (system) {
    case "linux-x64":
      try {
        return checked(require("@session-write-lock/linux-x64-gnu"));
      } catch (error) {
        note("@session-write-lock/linux-x64-gnu", error);
      }
      try {
        return checked(require("@session-write-lock/linux-x64-musl"));
      } catch (error) {
        note("@session-write-lock/linux-x64-musl", error);
      }
      break;
    case "linux-arm64":
      try {
        return checked(require("@session-write-lock/linux-arm64-gnu"));
      } catch (error) {
        note("@session-write-lock/linux-arm64-gnu", error);
      }
      try {
        return checked(require("@session-write-lock/linux-arm64-musl"));
      } catch (error) {
        note("@session-write-lock/linux-arm64-musl", error);
      }
      break;
    case "linux-arm":
      try {
        return checked(require("@session-write-lock/linux-arm-gnueabihf"));
      } catch (error) {
        note("@session-write-lock/linux-arm-gnueabihf", error);
      }
      try {
        return checked(require("@session-write-lock/linux-arm-musleabihf"));
      } catch (error) {
        note("@session-write-lock/linux-arm-musleabihf", error);
      }
      break;
    case "darwin-x64":
      try {
        return checked(require("@session-write-lock/darwin-x64"));
      } catch (error) {
        note("@session-write-lock/darwin-x64", error);
      }
      break;
    case "darwin-arm64":
      try {
        return checked(require("@session-write-lock/darwin-arm64"));
      } catch (error) {
        note("@session-write-lock/darwin-arm64", error);
      }
      break;
    case "win32-x64":
      try {
        return checked(require("@session-write-lock/win32-x64-msvc"));
      } catch (error) {
        note("@session-write-lock/win32-x64-msvc", error);
      }
      break;
    case "win32-arm64":
      try {
        return checked(require("@session-write-lock/win32-arm64-msvc"));
      } catch (error) {
        note("@session-write-lock/win32-arm64-msvc", error);
      }
      break;
  }
  return undefined;
}

function attempt(name, load) {
  try {
    return checked(load());
  } catch (error) {
    note(name, error);
    return undefined;
  }
}

function note(name, error) {
  failures.push({ name, error });
}

/** An exported function may have changed its arguments between versions. */
function checked(binary) {
  if (binary.VERSION !== version) {
    const message = `its version is ${binary.VERSION ?? "unknown"}, and session-write-lock is ${version}`;
    throw Object.assign(new Error(message), { code: "VERSION_MISMATCH" });
  }
  return binary;
}

// --- What went wrong ----------------------------------------------------------------------------

/** In one line: the command line shows errors so. */
function explain(override) {
  if (override) {
    return `can't load the file that ${OVERRIDE} names: ${listed(failures)}`;
  }
  const mismatched = failures.filter(({ error }) => error.code === "VERSION_MISMATCH");
  if (mismatched.length > 0) {
    return `found a binary of another version: ${listed(mismatched)}. ${remedy("Install it again, so that all its packages have one version.")}`;
  }
  if (failures.some(({ error }) => isForbidden(error))) {
    return (
      "may not load its binary: the flags of this process forbid native addons. " +
      "Node: leave out --no-addons; with --permission, add --allow-addons. Deno: add --allow-ffi, --allow-read, --allow-env."
    );
  }
  const unloadable = failures.filter(({ error }) => !isMissing(error));
  if (unloadable.length > 0) {
    return `can't load its binary for ${system}: ${listed(unloadable)}${hint(unloadable)}`;
  }
  if (!BINARIES[system]) {
    return `has no binary for ${system}. It has binaries for ${Object.keys(BINARIES).join(", ")}.`;
  }
  const advice = "Install again with optional dependencies: without --omit=optional or --no-optional. " +
    "If node_modules or the lock file came from another system, delete both first. " +
    `If this code is bundled: ${BUNDLING}`;
  return `does not find the package of its binary for ${system}: ${failures.map(({ name }) => name).join(" or ")}. ${remedy(advice)}`;
}

/** An installed package has no sources to build. */
function remedy(advice) {
  return !isBundled && existsSync(`${root}/Cargo.toml`) ? "In this checkout, `npm run build` makes one (Rust is needed)." : advice;
}

function listed(some) {
  return some.map(({ name, error }) => `${name}: ${String(error.message).split("\n")[0]}`).join("; ");
}

/** A package of the other libc can't be loaded, and the reason that the loader gives names a file that nobody knows. */
function hint(unloadable) {
  const header = process.report?.getReport?.()?.header;
  const [own, other] = header?.glibcVersionRuntime ? ["glibc", "musl"] : ["musl", "glibc"];
  const isOther = ({ name }) => name.includes("musl") === (other === "musl");
  return process.platform === "linux" && header && unloadable.every(isOther)
    ? `. This process runs on ${own}, and only the binary for ${other} is installed. With npm: npm install --libc=${own}`
    : "";
}

/** CommonJS and ES modules have codes of their own for it. */
function isMissing(error) {
  return String(error.code).endsWith("MODULE_NOT_FOUND");
}

/** Node's codes for its flags, and Deno's names. */
function isForbidden(error) {
  return /_(DLOPEN_DISABLED|ACCESS_DENIED)$/.test(error.code) || ["NotCapable", "PermissionDenied"].includes(error.name);
}

module.exports = loadBinary();
