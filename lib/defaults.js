"use strict";

/** The defaults of the session functions, in milliseconds: those of the older module. */

const DEFAULT_TIMEOUT_MS = 10_000;
const DEFAULT_STALE_MS = 30 * 60_000;
const DEFAULT_MAX_HOLD_MS = 5 * 60_000;

module.exports = {
  DEFAULT_MAX_HOLD_MS,
  DEFAULT_STALE_MS,
  DEFAULT_TIMEOUT_MS,
};
