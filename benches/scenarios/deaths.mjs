/** Holders that are killed. */

import { setTimeout as delay } from "node:timers/promises";

import { Actor, withActors } from "../crew.mjs";
import { COMPARED, LOCKS } from "../locks.mjs";
import { now, percentile, randomBetween, summary } from "../numbers.mjs";

const CONTENDERS = 8;

async function takeOver(name, sessionFile, count) {
  const between = randomBetween(3);
  return withActors(name, 1, async ([waiter]) => {
    const samples = [];
    for (let turn = 0; turn < count; turn += 1) {
      const holder = await Actor.start(name);
      await holder.run("acquire", { sessionFile });
      const acquired = waiter.run("acquire", { sessionFile });
      // A waiter of the addon that has watched the file for 58 ms need not let its takeover settle.
      // Those that wait for less are in the kill storm.
      await delay(between(80, 120));
      const killedAt = now();
      const ended = holder.kill();
      samples.push((await acquired) - killedAt);
      await ended;
      await waiter.run("releaseAfter", { ms: 0 });
      await waiter.run("releaseBegan");
    }
    return samples;
  });
}

function takeOvers(name, quick) {
  if (LOCKS[name].slowTakeover) {
    return quick ? 1 : 4;
  }
  return (quick ? 10 : 80) / (LOCKS[name].polls ? 5 : 1);
}

/**
 * Contenders that hold until they are killed. Whoever gets the lock says when; it is killed some
 * milliseconds later, and another takes its place.
 *
 * The parent alone kills, and notes the time before it does. A holder that entered before another
 * one was killed had the lock at the same time as that one, which was alive: a double hold. What a
 * dead holder leaves behind plays no part in it.
 */
class Storm {
  #holds = [];
  #between = randomBetween(4);
  #isOver = false;

  constructor(name, sessionFile, kills) {
    Object.assign(this, { name, sessionFile, kills, contenders: new Set() });
  }

  async run(limitMs) {
    const over = new Promise((resolve, reject) => {
      this.finish = resolve;
      this.fail = reject;
    });
    const timer = setTimeout(this.finish, limitMs);
    for (let number = 0; number < CONTENDERS; number += 1) {
      this.add().catch(this.fail);
    }
    try {
      await over;
    } finally {
      this.#isOver = true;
      clearTimeout(timer);
      await Promise.all([...this.contenders].map((contender) => contender.kill()));
    }
    return this.summary();
  }

  async add() {
    const onNote = ({ enteredAt }) => void this.end(contender, enteredAt).catch(this.fail);
    const contender = await Actor.start(this.name, { onNote });
    this.contenders.add(contender);
    if (this.#isOver) {
      return contender.kill();
    }
    // It never replies: it ends by being killed.
    contender.run("holdForever", { sessionFile: this.sessionFile }).catch(() => {});
  }

  async end(contender, enteredAt) {
    const hold = { enteredAt, killedAt: Infinity };
    this.#holds.push(hold);
    // Its successor first: there are always eight that wait, and none that is just starting.
    await this.add();
    // Long enough for somebody who thinks the lock dead to act on it.
    await delay(this.#between(3, 15));
    if (this.#isOver) {
      return;
    }
    hold.killedAt = now();
    await contender.kill();
    this.contenders.delete(contender);
    if (this.#holds.filter(({ killedAt }) => killedAt < Infinity).length >= this.kills) {
      this.finish();
    }
  }

  summary() {
    const holds = this.#holds.sort((a, b) => a.enteredAt - b.enteredAt);
    let doubleHolds = 0;
    const takeOvers = [];
    let lastKill = -Infinity;
    for (const { enteredAt, killedAt } of holds) {
      if (enteredAt < lastKill) {
        doubleHolds += 1;
      } else if (lastKill > 0) {
        takeOvers.push(enteredAt - lastKill);
      }
      lastKill = Math.max(lastKill, killedAt);
    }
    const kills = holds.filter(({ killedAt }) => killedAt < Infinity).length;
    return { kills, doubleHolds, takeOverP50: percentile(takeOvers, 0.5) };
  }
}

export const takeover = {
  id: "takeover",
  title: "Takeover after SIGKILL of a holder",
  unit: "ms",
  method:
    "A fresh process holds, another waits; the holder is killed. From before the kill to when the " +
    "waiter has the lock, which includes the time that the kernel takes to end a Node process. " +
    "proper-lockfile goes by age, here with the smallest stale time that it takes, 2 s.",
  async run(context) {
    const results = {};
    for (const name of COMPARED) {
      const count = takeOvers(name, context.quick);
      results[name] = summary(await takeOver(name, context.sessionFile(name), count));
    }
    return results;
  },
};

export const storm = {
  id: "kill-storm",
  title: "Kill storm",
  method:
    "Eight contenders; whoever gets the lock is killed 3 to 15 ms later and replaced by a new " +
    "process, again and again. Each says when it got the lock, the parent notes when it kills: " +
    "who got it before the one before was killed held it twice. The dead leave nothing that could " +
    "be taken for a double hold.",
  async run(context) {
    const results = {};
    const names = ["addon", "typescript", "fs-safe", "fs-ext"];
    for (const name of names.slice(0, context.quick ? 2 : undefined)) {
      const one = new Storm(name, context.sessionFile(name), context.quick ? 25 : 300);
      results[name] = await one.run(context.quick ? 4_000 : 30_000);
    }
    return results;
  },
};
