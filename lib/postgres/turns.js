"use strict";

/**
 * The turns of this process. A name has one turn at a time: whoever has it may ask the server for the lock, so a
 * process needs one connection for each name, however many of its calls wait. Turns are given in the order of the calls.
 */
class Turns {
  /** For each name whose turn is taken: the calls that wait for it, as functions that wake them. */
  #waiting = new Map();

  isTaken(name) {
    return this.#waiting.has(name);
  }

  waiters(name) {
    return this.#waiting.get(name)?.length ?? 0;
  }

  /** Waits for the turn, within the limit. */
  async take(name, limit) {
    const queue = this.#waiting.get(name);
    if (!queue) {
      this.#waiting.set(name, []);
      return;
    }
    let wake;
    const turn = new Promise((resolve) => (wake = resolve));
    queue.push(wake);
    try {
      await limit.within(turn, () => this.give(name));
    } catch (error) {
      const place = queue.indexOf(wake);
      if (place >= 0) {
        queue.splice(place, 1);
      }
      throw error;
    }
  }

  /** Gives the turn to the next call, if one waits. */
  give(name) {
    const next = this.#waiting.get(name).shift();
    if (next) {
      next();
    } else {
      this.#waiting.delete(name);
    }
  }
}

module.exports = { Turns };
