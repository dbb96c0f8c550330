"use strict";

/** All of the package, once per JavaScript world. `index.js` says what users get of it. */

const inspection = require("./inspection.js");

module.exports = {
  ...require("./lock.js"),
  ...require("./session.js"),
  ...inspection,
  heldSessionWriteLocks: inspection.heldLocks,
  ...require("./errors.js"),
  ...require("./processes.js"),
  ...require("./testing.js"),
  native: require("./client.js").native,
};
