// A worker that takes jobs from a list in a file. Start as many as you like: each job is done once.
// node examples/queue-worker.mjs jobs.json

import { readFile, rename, writeFile } from "node:fs/promises";
import { withLock } from "session-write-lock";

const file = process.argv[2];

/** Takes the first job off the list; `undefined` if there is none left. */
function take() {
  return withLock(file, async () => {
    const [job, ...rest] = JSON.parse(await readFile(file, "utf8"));
    if (job !== undefined) {
      await write(rest);
    }
    return job;
  });
}

/** If this process is killed in between, the next one finds the whole list as it was. */
async function write(jobs) {
  await writeFile(`${file}.new`, JSON.stringify(jobs));
  await rename(`${file}.new`, file);
}

/** The work itself is done outside the lock, so the workers do it at the same time. */
async function work(job) {
  console.log(job);
}

for (let job = await take(); job !== undefined; job = await take()) {
  await work(job);
}
