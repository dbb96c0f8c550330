"use strict";

/**
 * The permission model of Node (`node --permission`). It guards `fs`, not what an addon does, so we ask it
 * ourselves.
 */

const { accessError } = require("./errors.js");

const NAMES = { "fs.read": "FileSystemRead", "fs.write": "FileSystemWrite" };

/** `scope`: `fs.read` or `fs.write`. */
function requirePermission(scope, file) {
  if (process.permission && !process.permission.has(scope, file)) {
    throw accessError(NAMES[scope], file);
  }
}

module.exports = { requirePermission };
