import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["__test__/**/*.test.ts"],
    // Processes, so that a test may listen for signals and change its title.
    pool: "forks",
    // Tests measure time and start many processes; two cores are soon taken.
    fileParallelism: false,
    testTimeout: 60_000,
    // Set by scripts/restricted.mjs and scripts/windows.mjs.
    setupFiles: process.env.SKIP_LIST ? ["./__test__/skip.mjs"] : [],
  },
});
