/**
 * A process of its own that uses one lock as its parent says: `actor.mjs <lock>`. It receives the
 * name of a task and its arguments over the IPC channel, and sends back what came of it.
 */

import { LOCKS } from "./locks.mjs";
import { tasks } from "./tasks.mjs";

const lock = LOCKS[process.argv[2]]?.load();

process.on("message", async ({ id, task, args }) => {
  try {
    process.send({ id, value: await tasks[task](lock, args) });
  } catch (error) {
    process.send({ id, error: error.stack ?? String(error) });
  }
});

// Its parent is gone, or about to be.
process.on("error", () => {});

// Not `process.exit`: that waits for libuv's pool, where some of these locks park their waiters.
process.on("disconnect", () => process.kill(process.pid, "SIGKILL"));

process.send({ note: "ready" });
