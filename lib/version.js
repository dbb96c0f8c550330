"use strict";

/**
 * The version of this package. A bundle has no package.json to read it from. `npm version` keeps it in step.
 */

module.exports = "0.1.0";
