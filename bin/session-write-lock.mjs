#!/usr/bin/env node
import { existsSync } from "node:fs";

// A package has the bundle, which starts faster. A checkout that was not built has the sources.
const bundle = new URL("../dist/cli.mjs", import.meta.url);
const { main } = await import(existsSync(bundle) ? bundle.href : "../cli/main.mjs");

await main(process.argv.slice(2));
