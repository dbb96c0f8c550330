/** What the addon costs before it does anything. */

import { execFileSync } from "node:child_process";
import { statSync } from "node:fs";

import { summary } from "../numbers.mjs";

const TIMED = `
  const started = process.hrtime.bigint();
  require(process.argv[1]);
  console.log(Number(process.hrtime.bigint() - started) / 1e6);
`;

function loadOnce(path) {
  return Number(execFileSync(process.execPath, ["-e", TIMED, path], { encoding: "utf8" }));
}

export const load = {
  id: "load",
  title: "require() of the addon, and its size",
  unit: "ms",
  method:
    "`require()` in fresh processes, in turns: of the package (`index.js`, the loader and the binary), " +
    "of the binary alone, and of an addon with nothing in it (`benches/native/src/lib.rs`).",
  async run({ binary, emptyAddon, root, quick }) {
    const paths = { package: `${root}/index.js`, binary, empty: emptyAddon };
    const samples = Object.fromEntries(Object.keys(paths).map((name) => [name, []]));
    for (let round = 0; round < (quick ? 10 : 60); round += 1) {
      for (const [name, path] of Object.entries(paths)) {
        samples[name].push(loadOnce(path));
      }
    }
    const results = Object.entries(samples).map(([name, samples]) => [name, summary(samples)]);
    return { ...Object.fromEntries(results), binaryBytes: statSync(binary).size };
  },
};
