import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["__test__/**/*.test.ts"],
    // Processes, so that a test may listen for signals and change its title.
    pool: "forks",
    // Two files at a time: most of their time they wait. One where a list of tests is skipped (scripts/restricted.mjs,
    // scripts/windows.mjs): that is slower.
    minWorkers: 1,
    maxWorkers: process.env.SKIP_LIST ? 1 : 2,
    testTimeout: 60_000,
    setupFiles: process.env.SKIP_LIST ? ["./__test__/skip.mjs"] : [],
  },
});
