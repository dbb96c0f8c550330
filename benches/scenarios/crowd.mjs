/** Many who want the same. */

import { withActors } from "../crew.mjs";
import { COMPARED } from "../locks.mjs";
import { jainIndex, now } from "../numbers.mjs";
import { countIn, createWitness } from "../witness.mjs";

const CONTENDERS = 8;
const WAITERS = 1_000;
const SESSIONS = 200;

async function contendFor(context, name, ms) {
  const sessionFile = context.sessionFile(name);
  const counter = `${sessionFile}.counter`;
  createWitness(counter);
  return withActors(name, CONTENDERS, async (actors) => {
    const startAt = now() + 200;
    const task = { sessionFile, counter, startAt, endAt: startAt + ms };
    const shares = await Promise.all(actors.map((actor) => actor.run("contend", task)));
    const counts = shares.map(({ done }) => done);
    const total = counts.reduce((sum, count) => sum + count, 0);
    return {
      perSecond: total / (ms / 1_000),
      jain: jainIndex(counts),
      longestWaitMs: Math.max(...shares.map((share) => share.longestWaitMs)),
      doubleHolds: shares.reduce((sum, share) => sum + share.overlaps, 0),
      lostUpdates: total - countIn(counter),
    };
  });
}

/** The median round by throughput, but the worst of every promise. */
function merge(rounds) {
  const byThroughput = [...rounds].sort((a, b) => a.perSecond - b.perSecond);
  const { perSecond } = byThroughput[Math.floor(rounds.length / 2)];
  const worst = (key, choose) => choose(...rounds.map((round) => round[key]));
  return {
    perSecond,
    jain: worst("jain", Math.min),
    longestWaitMs: worst("longestWaitMs", Math.max),
    doubleHolds: worst("doubleHolds", Math.max),
    lostUpdates: worst("lostUpdates", Math.max),
  };
}

/** Those whose ratio is a target, in turns; the others once. */
async function contention(context) {
  const ms = context.quick ? 1_500 : 5_000;
  const repeated = ["addon", "fs-ext", "fs-ext-sync"];
  const names = context.quick ? [...repeated, "typescript"] : [...COMPARED, "fs-ext-sync"];
  const rounds = Object.fromEntries(names.map((name) => [name, []]));
  for (let round = 0; round < (context.quick ? 1 : 3); round += 1) {
    for (const name of round === 0 ? Object.keys(rounds) : repeated) {
      rounds[name].push(await contendFor(context, name, ms));
    }
  }
  return Object.fromEntries(Object.entries(rounds).map(([name, rounds]) => [name, merge(rounds)]));
}

/** One process holds the locks of `sessions` sessions; another waits for them, `count` times in all. */
async function crowd(context, name, count, sessions) {
  const sessionFiles = Array.from({ length: sessions }, (_, number) =>
    context.sessionFile(`${name}-${number}`),
  );
  return withActors(name, 1, async ([holder]) => {
    await holder.run("holdMany", { sessionFiles });
    let releasedAt;
    const onNote = async () => {
      await holder.run("releaseAfter", { ms: 0 });
      releasedAt = await holder.run("releaseBegan");
    };
    const options = { nodeOptions: ["--expose-gc"], onNote };
    return withActors(
      name,
      1,
      async ([waiter]) => {
        const usage = await waiter.run("crowd", { sessionFiles, count });
        return cost(usage, count, releasedAt);
      },
      options,
    );
  });
}

function cost({ empty, before, during, after, inOrder, servedAt }, count, releasedAt) {
  // Less what the measuring itself keeps for each waiter.
  const heapBytes = during.heapBytes - before.heapBytes - (before.heapBytes - empty.heapBytes);
  const nativeBytes = during.nativeBytes - before.nativeBytes;
  return {
    threads: during.threads - before.threads,
    descriptors: during.descriptors - before.descriptors,
    bytesPerWaiter: (heapBytes + nativeBytes) / count,
    heapBytesPerWaiter: heapBytes / count,
    threadsLeft: Math.max(0, after.threads - before.threads),
    descriptorsLeft: Math.max(0, after.descriptors - before.descriptors),
    inOrder,
    servedInMs: servedAt - releasedAt,
  };
}

export const contenders = {
  id: "contention",
  title: "Eight processes, one lock, no pause",
  method:
    "Eight processes acquire and release for five seconds without a pause. Inside, a counter is " +
    "read and written back, and each leaves its name: both must come out exact " +
    "(`benches/witness.mjs`). The addon and fs-ext take turns in three rounds, of which the table " +
    "shows the median throughput and the worst of everything else. fs-ext keeps its file open and " +
    "locks and unlocks asynchronously, as the addon acquires and releases; with a synchronous " +
    "unlock it is shown as well.",
  run: contention,
};

export const waiters = {
  id: "waiters",
  title: "1,000 waiters in one process; 200 contended sessions at once",
  method:
    "Another process holds the lock, or the 200. What the waiting process has more of than before: " +
    "threads, open descriptors, and memory after a collection of garbage: live objects in V8's heap " +
    "(promises, closures, less those of the measuring), and whatever is resident outside of it, mapped files " +
    "excepted. Then all are released. The others can't be asked this: a kernel lock parks each waiter in one of the four threads of libuv's pool.",
  async run(context) {
    const results = {
      "addon-waiters": await crowd(context, "addon", WAITERS, 1),
      "addon-sessions": await crowd(context, "addon", SESSIONS, SESSIONS),
      "typescript-sessions": await crowd(context, "typescript", SESSIONS, SESSIONS),
    };
    // Among different sessions there is no order to keep.
    delete results["addon-sessions"].inOrder;
    delete results["typescript-sessions"].inOrder;
    return results;
  },
};
