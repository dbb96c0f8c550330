/** What acquiring does to the thread that runs JavaScript. */

import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

import { withActors } from "../crew.mjs";
import { summary } from "../numbers.mjs";

const HAMMER = fileURLToPath(new URL("../hammer.mjs", import.meta.url));

const VARIANTS = {
  addon: { lock: "addon", sync: false },
  "addon-try": { lock: "addon", sync: true },
  typescript: { lock: "typescript", sync: false },
};

async function whileHammering(folder, measure) {
  const hammer = fork(HAMMER, [folder]);
  await once(hammer, "message");
  try {
    return await measure();
  } finally {
    hammer.kill("SIGKILL");
    await once(hammer, "exit");
  }
}

async function measure(context, variant) {
  const { lock, sync } = VARIANTS[variant];
  return withActors(lock, 1, async ([actor]) => {
    const task = { sessionFile: context.sessionFile(variant), ms: context.quick ? 800 : 5_000, sync };
    const { samples, ...rest } = await actor.run("loadMainThread", task);
    return { pair: summary(samples), ...rest };
  });
}

export const mainThread = {
  id: "main-thread",
  title: "The main thread, with a quiet disk and a busy one",
  method:
    "Pairs in a loop with one turn of the event loop between them. CPU time of the main thread for " +
    "each pair (with that turn), and the delay of the event loop (of a 1 ms timer, so 1 ms is none). " +
    "Once alone, and once while another process writes and syncs a megabyte to the same disk, " +
    "again and again. `tryAcquire` stands for an acquire that does its work on the calling thread.",
  async run(context) {
    const results = {};
    for (const variant of Object.keys(VARIANTS)) {
      results[`${variant}-quiet`] = await measure(context, variant);
      results[`${variant}-busy`] = await whileHammering(context.folder, () =>
        measure(context, variant),
      );
    }
    return results;
  },
};
