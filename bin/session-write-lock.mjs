#!/usr/bin/env node
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

await (await loadMain())(process.argv.slice(2), require);

/** A package has the bundle, which starts faster. A checkout that was not built has the sources. */
async function loadMain() {
  let bundle;
  try {
    bundle = require.resolve("../dist/cli.cjs");
  } catch {
    return (await import("../cli/main.mjs")).main;
  }
  return require(bundle).main;
}
