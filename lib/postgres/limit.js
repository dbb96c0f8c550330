"use strict";

/** How long a call may take: until its `timeoutMs` is over, or a signal aborts. */

/** The reason of a limit whose time is over. */
const TIMED_OUT = Symbol("timed out");

/** The longest timer of Node, almost 25 days. A longer limit is none, but keeps the process alive as well. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

class Limit {
  #controller = new AbortController();
  #stop = () => {};

  constructor(timeoutMs, ...signals) {
    const given = signals.filter(Boolean);
    const abort = () => this.#controller.abort(given.find(({ aborted }) => aborted).reason);
    if (given.some(({ aborted }) => aborted)) {
      abort();
      return;
    }
    const expire = () => this.#controller.abort(TIMED_OUT);
    const isFinite = timeoutMs <= LONGEST_TIMER_MS;
    const timer = isFinite ? setTimeout(expire, timeoutMs) : setInterval(() => {}, LONGEST_TIMER_MS);
    given.forEach((signal) => signal.addEventListener("abort", abort, { once: true }));
    this.#stop = () => {
      clearTimeout(timer);
      given.forEach((signal) => signal.removeEventListener("abort", abort));
    };
  }

  /**
   * Settles as the promise does, or rejects with the reason of the limit. `late` then gets what the promise resolves
   * to, to give it back.
   */
  within(promise, late = () => {}) {
    const { signal: reached } = this.#controller;
    return new Promise((resolve, reject) => {
      const giveUp = () => {
        reject(reached.reason);
        promise.then(late, () => {});
      };
      if (reached.aborted) {
        giveUp();
        return;
      }
      reached.addEventListener("abort", giveUp, { once: true });
      const settle = (how) => (value) => {
        reached.removeEventListener("abort", giveUp);
        how(value);
      };
      const keep = (how) => (value) => (reached.aborted ? undefined : settle(how)(value));
      promise.then(keep(resolve), keep(reject));
    });
  }

  /** Takes the timer and the listener away. */
  end() {
    this.#stop();
  }
}

module.exports = { Limit, TIMED_OUT };
