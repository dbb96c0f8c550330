/**
 * A gateway for the demo. It does what its parent says over the IPC channel.
 *
 * `add n`: reads the transcript, adds a message, writes the transcript back, n times under the lock. `add-unlocked n`:
 * the same without the lock. `hold`: takes the lock and keeps it. `title x`: renames the process.
 */

import { readFile, rename, writeFile } from "node:fs/promises";

import { acquireSessionWriteLock, withLock } from "../../index.js";

const transcript = process.argv[2];

/** Neither a reader nor a crash ever sees half a transcript. Against lost messages that is no help. */
async function addMessage(message) {
  const messages = JSON.parse(await readFile(transcript, "utf8"));
  messages.push(message);
  await writeFile(`${transcript}.${process.pid}`, JSON.stringify(messages));
  await rename(`${transcript}.${process.pid}`, transcript);
}

const commands = {
  async add(count) {
    for (let number = 0; number < count; number += 1) {
      await withLock(transcript, () => addMessage({ gateway: process.pid, number }));
    }
  },
  async "add-unlocked"(count) {
    for (let number = 0; number < count; number += 1) {
      await addMessage({ gateway: process.pid, number });
    }
  },
  async hold() {
    await acquireSessionWriteLock({ sessionFile: transcript });
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
