/**
 * A gateway for the demo: it appends to a transcript under the session's lock, and does what its
 * parent says over the IPC channel.
 *
 * `append n`: n lines, each under a lock of its own. `hold`: takes the lock and keeps it.
 * `title x`: renames the process.
 */

import { appendFileSync } from "node:fs";

import { acquireSessionWriteLock } from "../../index.js";

const sessionFile = process.argv[2];

const commands = {
  async append(count) {
    for (let line = 0; line < count; line += 1) {
      const lock = await acquireSessionWriteLock({ sessionFile });
      appendFileSync(sessionFile, `${JSON.stringify({ gateway: process.pid, line })}\n`);
      await lock.release();
    }
  },
  async hold() {
    await acquireSessionWriteLock({ sessionFile });
  },
  title(title) {
    process.title = title;
  },
};

process.on("message", async ([command, argument]) => {
  try {
    await commands[command](argument);
    process.send({ done: command });
  } catch (error) {
    process.send({ error: error.message, code: error.code });
  }
});

process.send({ done: "start" });
