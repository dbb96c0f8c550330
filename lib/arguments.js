"use strict";

/**
 * Checks arguments. What is wrong throws a `TypeError` or a `RangeError` with a code, as Node's own functions do.
 * The session face is lenient, as the older module was: a number that makes no sense means the default. The
 * general face is strict.
 */

const path = require("node:path");
const { fileURLToPath } = require("node:url");

const { argumentError } = require("./errors.js");

function readObject(name, value) {
  if (value === null || typeof value !== "object") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `${name} must be an object, not ${show(value)}`);
  }
  return value;
}

/** The absolute path of something that can't be the root. */
function readFilePath(name, value) {
  const resolved = readPath(name, value);
  if (path.basename(resolved) === "") {
    throw argumentError("ERR_INVALID_ARG_VALUE", `${name} must name a file, not the root`);
  }
  // Windows: `chat.jsonl::$DATA` is another name of `chat.jsonl`, whose lock would have another name, too.
  if (process.platform === "win32" && path.basename(resolved).includes(":")) {
    throw argumentError("ERR_INVALID_ARG_VALUE", `${name} must name a file, not a stream of one`);
  }
  // The caller's own string, where it is the same: each waiter keeps one.
  return resolved === value ? value : resolved;
}

function readPath(name, value) {
  if (typeof value !== "string") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `${name} must be a string, not ${show(value)}`);
  }
  if (value === "") {
    throw argumentError("ERR_INVALID_ARG_VALUE", `${name} must not be empty`);
  }
  if (value.includes("\0")) {
    const message = `${name} must not contain NUL bytes: ${JSON.stringify(value)}`;
    throw argumentError("ERR_INVALID_ARG_VALUE", message);
  }
  return path.resolve(value);
}

/** Milliseconds above zero; any other number means the default. */
function readMs(name, value, fallback) {
  if (value === undefined || value === null) {
    return fallback;
  }
  if (typeof value !== "number") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `${name} must be a number, not ${show(value)}`);
  }
  return Number.isFinite(value) && value > 0 ? value : fallback;
}

function readBoolean(name, value, fallback) {
  if (value === undefined || value === null) {
    return fallback;
  }
  if (typeof value !== "boolean") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `${name} must be a boolean, not ${show(value)}`);
  }
  return value;
}

/** Loggers are objects or functions; `warn` is the one method that is called. */
function readLog(log) {
  if (log === undefined || log === null) {
    return;
  }
  if (!["object", "function"].includes(typeof log) || !["undefined", "function"].includes(typeof log.warn)) {
    throw argumentError("ERR_INVALID_ARG_TYPE", `log must have a function \`warn\`, or none`);
  }
}

function readSignal(signal) {
  if (signal === undefined || signal === null) {
    return undefined;
  }
  const methods = ["throwIfAborted", "addEventListener", "removeEventListener"];
  if (methods.some((method) => typeof signal[method] !== "function")) {
    throw argumentError("ERR_INVALID_ARG_TYPE", `signal must be an AbortSignal, not ${show(signal)}`);
  }
  return signal;
}

function readFunction(name, value) {
  if (value !== undefined && typeof value !== "function") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `${name} must be a function, not ${show(value)}`);
  }
  return value;
}

/** More of a label than this helps nobody, and a record must stay short. */
const LONGEST_LABEL_BYTES = 200;

function readLabel(label) {
  if (label === undefined) {
    return undefined;
  }
  if (typeof label !== "string") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `label must be a string, not ${show(label)}`);
  }
  const bytes = Buffer.byteLength(label);
  if (bytes > LONGEST_LABEL_BYTES) {
    const message = `label must have at most ${LONGEST_LABEL_BYTES} bytes, not ${bytes}`;
    throw argumentError("ERR_OUT_OF_RANGE", message);
  }
  return label;
}

// --- The general face ---------------------------------------------------------------------------

/** A path, or a `file:` URL. */
function readFile(name, value) {
  if (value instanceof URL) {
    return readFilePath(name, fileURLToPath(value));
  }
  if (typeof value !== "string") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `${name} must be a string or a file: URL, not ${show(value)}`);
  }
  return readFilePath(name, value);
}

const READERS = {
  timeoutMs: (value) => readStrictMs("timeoutMs", value, 0),
  maxHoldMs: (value) => readStrictMs("maxHoldMs", value, 1),
  staleMs: (value) => readStrictMs("staleMs", value, 1),
  nowMs: (value) => readStrictMs("nowMs", value, 0),
  signal: readSignal,
  label: readLabel,
  onWarning: (value) => readFunction("onWarning", value),
  processes: (value) => readBoolean("processes", value, false),
};

/** The options of one attempt, and those of a call that waits. */
const TRY_LOCK_OPTIONS = ["maxHoldMs", "label", "staleMs", "onWarning"];
const LOCK_OPTIONS = ["timeoutMs", "signal", ...TRY_LOCK_OPTIONS];

/** The options that are given, checked. Only those in `names` exist. */
function readStrictOptions(options, names) {
  const read = {};
  for (const [name, value] of Object.entries(readKnownObject(options ?? {}, names))) {
    if (value !== undefined) {
      read[name] = READERS[name](value);
    }
  }
  return read;
}

/** Options, of which only those in `names` exist. */
function readKnownObject(options, names) {
  const given = readObject("options", options);
  const unknown = Object.keys(given).find((name) => !names.includes(name));
  if (unknown !== undefined) {
    throw argumentError("ERR_INVALID_ARG_VALUE", unknownOption(unknown, names));
  }
  return given;
}

function readStrictMs(name, value, least) {
  if (typeof value !== "number") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `${name} must be a number, not ${show(value)}`);
  }
  if (!(value >= least)) {
    throw argumentError("ERR_OUT_OF_RANGE", `${name} must be at least ${least}, or Infinity, not ${value}`);
  }
  return value;
}

function unknownOption(name, names) {
  const begins = (one, other) => one.toLowerCase().startsWith(other.toLowerCase());
  const meant = names.find((known) => begins(known, name) || begins(name, known));
  const advice = meant ? `did you mean ${meant}?` : `there are ${names.join(", ")}`;
  return `unknown option ${JSON.stringify(name)}: ${advice}`;
}

function show(value) {
  return value === null ? "null" : typeof value;
}

module.exports = {
  LOCK_OPTIONS,
  TRY_LOCK_OPTIONS,
  readBoolean,
  readFile,
  readFilePath,
  readFunction,
  readKnownObject,
  readLabel,
  readLog,
  readMs,
  readObject,
  readPath,
  readSignal,
  readStrictOptions,
};
