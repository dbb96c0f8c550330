/** `npm run demo`: sets up, then runs the demo. */

import { run, setUp } from "./setup.mjs";

setUp();
console.log();
run("node", "examples/demo/demo.mjs");
