/** `prepack` or `prepublishOnly` of each folder with a manifest: only tarballs of `pack.mjs` are published. */

console.error(
  "This folder is not what is published. `npm run check:packages` packs and checks the tarballs; docs/releasing.md says how they are published.",
);
process.exitCode = 1;
