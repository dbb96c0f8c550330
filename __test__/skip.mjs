/**
 * Skips what can't pass on the system that `SKIP_LIST` names (`restricted`, `windows`), and notes in a file which patterns of
 * its list were used.
 */

import { appendFileSync } from "node:fs";
import { beforeEach } from "vitest";

const { SKIPPED } = await import(`./${process.env.SKIP_LIST}.list.mjs`);

beforeEach(({ task, skip }) => {
  const names = [];
  for (let at = task; at; at = at.suite) {
    names.unshift(at.name);
  }
  const [, file] = /([^/]+)\.test\.ts$/.exec(task.file.name);
  const title = `${file} ${names.filter((name) => !name.endsWith(".ts")).join(" > ")}`;
  const index = SKIPPED.findIndex(([pattern]) => pattern.test(title));
  if (index >= 0) {
    const [, lack] = SKIPPED[index];
    appendFileSync(process.env.SKIP_LOG, `${index}\n`);
    process.stderr.write(`SKIPPED here, ${lack}: ${title}\n`);
    skip(lack);
  }
});
