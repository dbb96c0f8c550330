/** `npm run gateway`: sets up, compiles the example gateway and runs it. */

import path from "node:path";

import { root, run, setUp } from "./setup.mjs";

// npm runs us in the project's folder; a path means the folder in which npm was called.
const from = process.env.INIT_CWD ?? process.cwd();
const [folder = `${root}/.cache/sessions`, ...config] = process.argv.slice(2);

setUp();
run("npx", "tsc", "--project", "examples/gateway");
run("node", ".cache/gateway/gateway.js", ...[folder, ...config].map((name) => path.resolve(from, name)));
