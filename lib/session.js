"use strict";

/** The session face: a drop-in for the older module, with its names and defaults. */

const { acquire, tryAcquire } = require("./acquire.js");
const {
  readBoolean,
  readFilePath,
  readFunction,
  readLabel,
  readMs,
  readObject,
  readSignal,
} = require("./arguments.js");
const { clientOf, forgetReleased } = require("./client.js");
const { DEFAULT_MAX_HOLD_MS, DEFAULT_STALE_MS, DEFAULT_TIMEOUT_MS } = require("./defaults.js");
const { SESSION, argumentError } = require("./errors.js");

function acquireSessionWriteLock(options) {
  try {
    return acquire(readRequest(options));
  } catch (error) {
    return Promise.reject(error);
  }
}

function tryAcquireSessionWriteLock(options) {
  return tryAcquire(readRequest(options));
}

function releaseAllSessionWriteLocks() {
  const count = clientOf(SESSION).releaseAll();
  forgetReleased();
  return count;
}

function readRequest(options) {
  readObject("options", options);
  const { sessionFile, timeoutMs, staleMs, maxHoldMs, allowReentrant, signal } = options;
  return {
    file: readFilePath("sessionFile", sessionFile),
    timeoutMs: readLimit("timeoutMs", timeoutMs, DEFAULT_TIMEOUT_MS),
    staleMs: readMs("staleMs", staleMs, DEFAULT_STALE_MS),
    maxHoldMs: readLimit("maxHoldMs", maxHoldMs, DEFAULT_MAX_HOLD_MS),
    allowReentrant: readBoolean("allowReentrant", allowReentrant, true),
    signal: readSignal(signal),
    label: readLabel(options.label),
    onWarning: readFunction("onWarning", options.onWarning),
    handleSignals: readHandleSignals(options.handleSignals),
    face: SESSION,
  };
}

/** As `readMs`, but `Infinity` means no limit. */
function readLimit(name, value, fallback) {
  return value === Infinity ? value : readMs(name, value, fallback);
}

function readHandleSignals(value) {
  if (typeof value === "string") {
    if (value !== "if-alone") {
      const message = `handleSignals must be true, false or "if-alone", not ${JSON.stringify(value)}`;
      throw argumentError("ERR_INVALID_ARG_VALUE", message);
    }
    return value;
  }
  return readBoolean("handleSignals", value, true);
}

module.exports = { acquireSessionWriteLock, releaseAllSessionWriteLocks, tryAcquireSessionWriteLock };
