/**
 * Proof that a lock excludes, kept by the kernel: a name that one socket can have at a time (an abstract address,
 * unix(7)). The kernel frees it when its process dies.
 *
 * The kernel closes the files of a killed process one after the other, so its lock can be free before the name is. Who
 * finds the name taken therefore asks its owner: a process that lives answers, one that is dying cannot. An owner that
 * leaves at that moment doesn't answer either, so an overlap can escape; none is ever made up.
 */

import { once } from "node:events";
import { connect, createServer } from "node:net";

export class NameWitness {
  #path;
  #server;
  overlaps = 0;

  constructor(name) {
    this.#path = `\0${name}`;
  }

  /** Right after the lock was acquired. */
  async enter() {
    while (!(await this.#takesName())) {
      if (await isAnswered(this.#path)) {
        this.overlaps += 1;
        return;
      }
    }
  }

  /** Right before it is released. */
  async leave() {
    const server = this.#server;
    this.#server = undefined;
    if (server) {
      server.close();
      await once(server, "close");
    }
  }

  async #takesName() {
    const server = createServer((asker) => asker.on("error", () => {}).end("here"));
    try {
      await once(server.listen(this.#path), "listening");
    } catch (error) {
      if (error.code === "EADDRINUSE") {
        return false;
      }
      throw error;
    }
    this.#server = server;
    return true;
  }
}

async function isAnswered(path) {
  const socket = connect(path);
  try {
    for await (const answer of socket) {
      return answer.length > 0;
    }
    return false;
  } catch {
    return false; // its owner died, or has left
  }
}
