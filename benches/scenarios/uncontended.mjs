/** A lock that nobody else wants: asynchronous and synchronous pairs, and what they can't beat. */

import { execFileSync } from "node:child_process";

import { Actor } from "../crew.mjs";
import { COMPARED } from "../locks.mjs";
import { summary } from "../numbers.mjs";

/** The contenders take turns, so that a slow moment of the machine meets all of them. */
const ROUNDS = 5;

const SYNCHRONOUS = COMPARED.filter((name) => name !== "typescript");

async function inTurns(names, count, run) {
  const samples = Object.fromEntries(names.map((name) => [name, []]));
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const name of names) {
      samples[name].push(...(await run(name, Math.ceil(count / ROUNDS))));
    }
  }
  return Object.fromEntries(names.map((name) => [name, summary(samples[name])]));
}

function floorPairs({ floor, sessionFile }, count) {
  const output = execFileSync(floor, [sessionFile("floor"), String(count)], {
    maxBuffer: 1 << 26,
    encoding: "utf8",
  });
  return JSON.parse(output);
}

async function measure(context, task, locks, extra, count) {
  const actors = new Map();
  for (const name of locks) {
    const actor = await Actor.start(name);
    actors.set(name, actor);
    await actor.run(task, { sessionFile: context.sessionFile(name), count: 300 });
  }
  try {
    return await inTurns([...locks, ...Object.keys(extra)], count, (name, count) =>
      actors.has(name)
        ? actors.get(name).run(task, { sessionFile: context.sessionFile(name), count })
        : extra[name](actors.get("addon"), count),
    );
  } finally {
    await Promise.all([...actors.values()].map((actor) => actor.kill()));
  }
}

export const uncontended = {
  id: "uncontended",
  title: "Uncontended acquire and release",
  unit: "ms",
  method:
    "One process acquires and releases in a loop; one pair is one sample. The locks take turns, " +
    "in five rounds. *Raw calls* is a Rust loop of the very system calls that the addon makes for " +
    "a pair (`benches/native/src/floor.rs`), without a thread or a promise. *Empty call* is an " +
    "asynchronous call of the addon with nothing to do: of a release, answered by the calling " +
    "thread, and of an acquire, answered by the thread that does its work.",
  run: (context) =>
    measure(
      context,
      "pairs",
      COMPARED,
      {
        raw: (_, count) => floorPairs(context, count),
        "empty-release": (addon, count) => addon.run("emptyCalls", { kind: "release", count }),
        "empty-acquire": (addon, count) => addon.run("emptyCalls", { kind: "acquire", count }),
      },
      context.quick ? 1_000 : 5_000,
    ),
};

export const synchronous = {
  id: "synchronous",
  title: "Synchronous pair: tryAcquire and releaseAll",
  unit: "ms",
  method:
    "The same without promises: `tryAcquireSessionWriteLock` and `releaseAllSessionWriteLocks`; of " +
    "the others what they have of that kind, opening the lock file each time. The TypeScript " +
    "protocol has none.",
  run: (context) =>
    measure(
      context,
      "syncPairs",
      SYNCHRONOUS,
      { raw: (_, count) => floorPairs(context, count) },
      context.quick ? 1_000 : 5_000,
    ),
};
