/**
 * `npm run --silent gateway -- <folder> [config.json]`: sets up, compiles the example gateway and becomes it. There is
 * no process in between: a signal reaches the gateway, and stdout has nothing but its lines of JSON.
 */

import path from "node:path";

import { prepare, root, setUp } from "./setup.mjs";

// npm runs this script in the project's folder; a path means the folder in which npm was called.
const from = process.env.INIT_CWD ?? process.cwd();
const [folder = `${root}/.cache/sessions`, ...config] = process.argv.slice(2);

setUp();
prepare("npx", "tsc", "--project", "examples/gateway");
const gateway = `${root}/.cache/gateway/gateway.js`;
process.argv = [process.argv[0], gateway, ...[folder, ...config].map((name) => path.resolve(from, name))];
await import(gateway);
