/**
 * `npm run lint:targets`: clippy on the sources of the systems that this machine is not. Windows counts with the usual
 * compiler's ABI, for which nothing is linked here.
 */

import { provideDebianCompiler } from "./compiler.mjs";
import { provideLibnode } from "./libnode.mjs";
import { cache, output } from "./targets.mjs";

const TRIPLES = ["x86_64-apple-darwin", "aarch64-apple-darwin", "x86_64-pc-windows-msvc", "aarch64-pc-windows-msvc"];

const { env, lints } = provideDebianCompiler();
for (const triple of TRIPLES) {
  output("cargo", ["check", "--quiet", "--locked", "-Zbuild-std=std,panic_unwind", "--target", triple], {
    env: {
      ...process.env,
      ...env,
      RUSTC_WORKSPACE_WRAPPER: lints,
      CLIPPY_ARGS: "-Dwarnings",
      RUSTFLAGS: "-Dwarnings",
      CARGO_TARGET_DIR: `${cache}/lint-target`,
      LIBNODE_PATH: provideLibnode(),
    },
  });
  console.log(`${triple}: no warnings`);
}
