"use strict";

/** Checks arguments. What is wrong throws a `TypeError` with a code, as Node's own functions do. */

const path = require("node:path");

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

function readCallback(name, value) {
  if (value === undefined || value === null) {
    return undefined;
  }
  if (typeof value !== "function") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `${name} must be a function, not ${show(value)}`);
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
  if (typeof signal.throwIfAborted !== "function") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `signal must be an AbortSignal, not ${show(signal)}`);
  }
  return signal;
}

function show(value) {
  return value === null ? "null" : typeof value;
}

module.exports = {
  readBoolean,
  readCallback,
  readFilePath,
  readLog,
  readMs,
  readObject,
  readPath,
  readSignal,
};
