/**
 * What the addon has to reach. A target compares two numbers of one run, so that it means the same
 * on any machine; the promises (nothing lost, nobody twice) are absolute.
 *
 * `why` is printed when a target is missed: what it is that takes the time, and what was tried.
 */

const times = (value) => `${value.toFixed(2)} ×`;
const count = (value) => value.toLocaleString("en");
const ms = (value) => `${value.toFixed(value < 10 ? 2 : 0)} ms`;

const ratio = (one, other) => one / other;

const TARGETS = [
  {
    what: "uncontended pair, p50, against the TypeScript protocol",
    needs: ["uncontended"],
    value: ({ uncontended: u }) => ratio(u.typescript.p50, u.addon.p50),
    atLeast: 3.5,
    show: times,
  },
  {
    what: "uncontended pair, p50, against raw calls and two empty calls answered by the calling thread",
    why: "Such a call costs next to nothing, so this is raw system calls alone. On top of those come the bookkeeping, the record as JSON, a timer for the watchdog, and the objects that JavaScript gets.",
    needs: ["uncontended"],
    value: ({ uncontended: u }) => ratio(u.addon.p50, u.raw.p50 + 2 * u["empty-release"].p50),
    atMost: 1.5,
    show: times,
  },
  {
    what: "the same with two empty calls answered by the thread that does the work",
    needs: ["uncontended"],
    value: ({ uncontended: u }) => ratio(u.addon.p50, u.raw.p50 + 2 * u["empty-acquire"].p50),
    atMost: 1.5,
    show: times,
  },
  {
    what: "synchronous pair, p50, against raw calls",
    why: "As above. Remembering the real path of the folder would save some calls, and would not notice a symbolic link that was changed.",
    needs: ["synchronous"],
    value: ({ synchronous: s }) => ratio(s.addon.p50, s.raw.p50),
    atMost: 1.25,
    show: times,
  },
  ...["short", "long"].flatMap((holds) =>
    ["p50", "p99"].map((share) => ({
      what: `hand-off between two processes after ${holds} holds, ${share}, against fs-ext flock`,
      why: "Two changes of threads lie on the way: from the holder to the thread that blocks, and from that to the next holder's JavaScript. Between them lie the calls that make a lock file and give it its name; fs-ext makes none. [The timeline](#where-the-time-of-a-hand-over-goes) has each of them.",
      needs: [`hand-off-${holds}`],
      value: (results) => {
        const measured = results[`hand-off-${holds}`];
        return ratio(measured.addon[share], measured["fs-ext"][share]);
      },
      atMost: share === "p50" ? 1.3 : 1.5,
      show: times,
    })),
  ),
  {
    what: "hand-off inside a process, p50, against an empty call answered by the thread that does the work",
    why: "It goes by way of the disk like any other, so that waiters of other processes have their chance.",
    needs: ["uncontended", "hand-off-inside"],
    value: ({ uncontended, "hand-off-inside": inside }) =>
      ratio(inside.addon.p50, uncontended["empty-acquire"].p50),
    atMost: 3,
    show: times,
  },
  {
    what: "`lock.wanted`: from a waiter's call to the holder's event, p99",
    needs: ["wanted"],
    value: ({ wanted }) => wanted.addon.p99,
    atMost: 5,
    show: ms,
  },
  {
    what: "takeover after SIGKILL, p50, against fs-ext flock",
    why: "The dead lock file is exchanged for a new one, and settles if another process has it open just then.",
    needs: ["takeover"],
    value: ({ takeover: t }) => ratio(t.addon.p50, t["fs-ext"].p50),
    atMost: 1.3,
    show: times,
  },
  {
    what: "kill storm: from a kill to the next acquisition, p50",
    why: "A takeover settles for 50 ms if another contender has the dead file open at that moment; contenders that are just starting do.",
    needs: ["kill-storm"],
    value: (results) => results["kill-storm"].addon.takeOverP50,
    atMost: 10,
    show: ms,
  },
  {
    what: "kill storm: double holds",
    needs: ["kill-storm"],
    value: (results) => results["kill-storm"].addon.doubleHolds,
    atMost: 0,
    show: count,
    isPromise: true,
  },
  {
    what: "eight processes: throughput, against fs-ext flock",
    why: "The order is strict, so every hand-over costs two changes of threads and a new lock file. fs-ext lets a process that comes back at once pass those that are still waking up.",
    needs: ["contention"],
    value: ({ contention: c }) => ratio(c.addon.perSecond, c["fs-ext"].perSecond),
    atLeast: 0.8,
    show: times,
  },
  {
    what: "eight processes: Jain index of fairness",
    needs: ["contention"],
    value: ({ contention }) => contention.addon.jain,
    atLeast: 0.99,
    show: (value) => value.toFixed(3),
  },
  {
    what: "eight processes: longest wait",
    why: "A wait is as long as seven hand-overs, and one of them can be held up by the scheduler.",
    needs: ["contention"],
    value: ({ contention }) => contention.addon.longestWaitMs,
    atMost: 20,
    show: ms,
  },
  {
    what: "eight processes: double holds and lost updates",
    needs: ["contention"],
    value: ({ contention: { addon } }) => addon.doubleHolds + addon.lostUpdates,
    atMost: 0,
    show: count,
    isPromise: true,
  },
  {
    what: "a five-second wait: CPU time of the waiting process",
    why: "An idle Node takes its share as well: the row of it is in the table.",
    needs: ["long-wait"],
    value: (results) => results["long-wait"].addon.cpuMs,
    atMost: 2,
    show: ms,
  },
  {
    what: "a five-second wait: system calls",
    why: "Half of them start the two threads that wait, which go when there is nothing to wait for; keeping them would cost every idle process two threads.",
    needs: ["long-wait"],
    // Absent without strace: then this can't be said.
    value: (results) => results["long-wait"].addon.systemCalls,
    atMost: 50,
    show: count,
  },
  {
    what: "1,000 waiters: memory for each",
    why: "A third of it is V8's: two promises, three closures, an entry in a map; of the rest, most is what the allocator keeps for later.",
    needs: ["waiters"],
    value: ({ waiters }) => waiters["addon-waiters"].bytesPerWaiter,
    atMost: 2_000,
    show: (value) => `${count(Math.round(value))} bytes`,
  },
  {
    what: "1,000 waiters: served out of order",
    needs: ["waiters"],
    value: ({ waiters }) => (waiters["addon-waiters"].inOrder ? 0 : 1),
    atMost: 0,
    show: (value) => (value === 0 ? "none" : "some"),
    isPromise: true,
  },
  ...["threads", "descriptors"].map((resource) => ({
    what: `1,000 waiters on one session: more ${resource}`,
    needs: ["waiters"],
    value: ({ waiters }) => waiters["addon-waiters"][resource],
    atMost: 8,
    show: count,
  })),
  ...["threads", "descriptors"].map((resource) => ({
    what: `200 contended sessions: more ${resource} for each session`,
    needs: ["waiters"],
    value: ({ waiters }) => waiters["addon-sessions"][resource] / 200,
    atMost: 5,
    show: (value) => value.toFixed(2),
  })),
  {
    what: "require(), p50, against an empty addon",
    why:
      "The JavaScript side is 18 small files, one for each topic, and Node takes some 0.3 ms to find and compile each. " +
      "A single line of JavaScript that " +
      "requires the empty addon takes 1.56 × already.",
    needs: ["load"],
    value: ({ load }) => ratio(load.package.p50, load.empty.p50),
    atMost: 1.3,
    show: times,
  },
  {
    what: "size of the binary",
    why: "A fifth of it prints backtraces, which the standard library brings along on stable Rust.",
    needs: ["load"],
    value: ({ load }) => load.binaryBytes,
    atMost: 1_000_000,
    show: (value) => `${count(value)} bytes`,
  },
];

/** How the results stand to those targets that they allow to judge. */
export function judge(results) {
  return TARGETS.filter(({ needs }) => needs.every((id) => results[id])).map((target) => {
    const value = target.value(results);
    if (value === undefined) {
      return { what: target.what, measured: "not measured", target: limitOf(target), met: undefined };
    }
    const limit = target.atMost ?? target.atLeast;
    const met = target.atMost === undefined ? value >= limit : value <= limit;
    return {
      what: target.what,
      measured: target.show(value),
      target: limitOf(target),
      met,
      verdict: met ? "met" : `missed by ${distance(target, value, limit)}`,
      why: met ? undefined : target.why,
      isPromise: target.isPromise,
    };
  });
}

function limitOf({ atMost, atLeast, show }) {
  return atMost === undefined ? `at least ${show(atLeast)}` : `at most ${show(atMost)}`;
}

function distance({ atMost, show }, value, limit) {
  if (limit === 0) {
    return show(value);
  }
  const share = atMost === undefined ? 1 - value / limit : value / limit - 1;
  return `${(share * 100).toFixed(0)} %`;
}
