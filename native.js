"use strict";

/** What the binary exports, for tests and benchmarks: users get `index.js` alone, which loads it. */
module.exports = require("./index.js")[Symbol.for("session-write-lock.native")];
