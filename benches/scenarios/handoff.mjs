/** From a holder's release to the next one's having the lock. */

import { setTimeout as delay } from "node:timers/promises";

import { withActors } from "../crew.mjs";
import { COMPARED, LOCKS } from "../locks.mjs";
import { randomBetween, summary } from "../numbers.mjs";

/** One of two processes, which holds, hands over to the other; in the next turn back. */
export async function handOver(actors, turn, sessionFile, ms) {
  const [holder, waiter] = turn % 2 === 0 ? actors : [...actors].reverse();
  const acquired = waiter.run("acquire", { sessionFile });
  await holder.run("releaseAfter", { ms });
  return { holder, waiter, acquired: await acquired, began: await holder.run("releaseBegan") };
}

/**
 * Two processes take turns: one holds, the other waits. `holdMs` gives the length of each hold,
 * counted from when the other was told to wait.
 */
async function betweenTwo(name, sessionFile, count, holdMs) {
  return withActors(name, 2, async (actors) => {
    const samples = [];
    await actors[0].run("acquire", { sessionFile });
    for (let turn = 0; turn < count; turn += 1) {
      const { began, acquired } = await handOver(actors, turn, sessionFile, holdMs());
      samples.push(acquired - began);
    }
    return samples;
  });
}

/** The locks take turns: the machine is not equally fast at all times. */
async function short(context) {
  const ROUNDS = 5;
  const samples = Object.fromEntries(COMPARED.map((name) => [name, []]));
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const name of COMPARED) {
      const between = randomBetween(1 + round);
      const count = (context.quick ? 40 : 400) / ROUNDS / (LOCKS[name].polls ? 4 : 1);
      // Long enough for the other to be asleep, short for a session.
      const holdMs = () => between(8, 20);
      samples[name].push(...(await betweenTwo(name, `${context.sessionFile(name)}-${round}`, count, holdMs)));
    }
  }
  return Object.fromEntries(COMPARED.map((name) => [name, summary(samples[name])]));
}

/** All locks at once, since nearly all of it is waiting; each a little later than the one before. */
async function long(context) {
  const runs = COMPARED.map(async (name, index) => {
    await delay(index * 90);
    const between = randomBetween(2 + index);
    const count = context.quick ? 3 : 16;
    const holdMs = () => between(2_000, 3_000);
    const samples = await betweenTwo(name, context.sessionFile(name), count, holdMs);
    return [name, summary(samples)];
  });
  return Object.fromEntries(await Promise.all(runs));
}

async function inside(context) {
  const results = {};
  for (const name of COMPARED) {
    const count = (context.quick ? 100 : 1_000) / (LOCKS[name].polls ? 10 : 1);
    results[name] = await withActors(name, 1, async ([actor]) => {
      const sessionFile = context.sessionFile(name);
      return summary(await actor.run("handOffInside", { sessionFile, count }));
    });
  }
  return results;
}

export const handOffShort = {
  id: "hand-off-short",
  title: "Hand-off between two processes, after short holds",
  unit: "ms",
  method:
    "One process holds, the other waits for 8 to 20 ms, then they change places. The locks take turns, in five rounds. Measured from " +
    "before the holder calls `release` to when the waiter has the lock, on the clock both share.",
  run: short,
};

export const handOffLong = {
  id: "hand-off-long",
  title: "Hand-off between two processes, after holds of 2 to 3 s",
  unit: "ms",
  method:
    "The same with long holds, in which whatever sleeps is fast asleep. All locks at the same time, " +
    "each on a session of its own, out of step; p99 of so few is the slowest.",
  run: long,
};

export const handOffInside = {
  id: "hand-off-inside",
  title: "Hand-off inside a process",
  unit: "ms",
  method:
    "Two acquires of one process; the second waits for 3 ms before the first is released. From the " +
    "call of `release` to when the second has resolved. The file is removed and made anew: another " +
    "process may be in between.",
  run: inside,
};
