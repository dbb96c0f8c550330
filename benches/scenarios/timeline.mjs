/** Where the time of a hand-over goes, as the kernel's own tracer (tracefs) sees it. */

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmdirSync, writeFileSync } from "node:fs";

import { withActors } from "../crew.mjs";
import { percentile, randomBetween } from "../numbers.mjs";
import { handOver } from "./handoff.mjs";

const TRACEFS = "/sys/kernel/tracing";
const LOCKS = ["addon", "fs-ext"];
const EVENTS = ["syscalls", "sched/sched_waking"];

/** In their order. Each begins where the one before ends. */
const STEPS = {
  woken: "the holder's calls, until the waiter's thread is woken",
  running: "until that thread runs",
  wakes: "its calls, until it wakes its JavaScript thread",
  called: "until the JavaScript thread runs",
  acquired: "until `await` returns",
};

/** An instance of the tracer of our own: somebody else's settings stay as they are. */
class Tracer {
  #folder = `${TRACEFS}/instances/session-write-lock-${process.pid}`;

  constructor() {
    mkdirSync(this.#folder);
    this.#set("trace_clock", "mono"); // the clock of `process.hrtime`
    this.#set("buffer_size_kb", "8192");
  }

  start(threads) {
    this.#set("set_event_pid", threads.join(" "));
    EVENTS.forEach((event) => this.#set(`events/${event}/enable`, "1"));
  }

  /** What happened: when in milliseconds, in which thread, what. */
  stop() {
    EVENTS.forEach((event) => this.#set(`events/${event}/enable`, "0"));
    const lines = readFileSync(`${this.#folder}/trace`, "utf8").split("\n");
    const parsed = lines.map((line) => /-(\d+) +\[\d+\] \S+ +([\d.]+): (.*)$/.exec(line));
    return parsed.filter(Boolean).map(([, thread, at, what]) => ({ thread, at: Number(at) * 1_000, what }));
  }

  close() {
    rmdirSync(this.#folder);
  }

  #set(name, value) {
    writeFileSync(`${this.#folder}/${name}`, value);
  }
}

function hasTracer() {
  if (!existsSync(`${TRACEFS}/instances`)) {
    spawnSync("mount", ["-t", "tracefs", "tracefs", TRACEFS], { stdio: "ignore" });
  }
  return existsSync(`${TRACEFS}/instances`) && process.getuid() === 0;
}

const threadsOf = ({ pid }) => readdirSync(`/proc/${pid}/task`);

/** Two processes take turns, as in `hand-off-short`. */
async function trace(context, name) {
  const sessionFile = context.sessionFile(name);
  const between = randomBetween(1);
  return withActors(name, 2, async (actors) => {
    await actors[0].run("acquire", { sessionFile });
    const next = (turn) => handOver(actors, turn, sessionFile, between(8, 20));
    for (let turn = 0; turn < 20; turn += 1) {
      await next(turn); // all threads there are have started
    }
    const tracer = new Tracer();
    try {
      tracer.start(actors.flatMap(threadsOf));
      const handOvers = [];
      for (let turn = 0; turn < (context.quick ? 40 : 200); turn += 1) {
        handOvers.push(await next(turn));
      }
      const events = tracer.stop();
      return handOvers.map((handOver) => timeline(handOver, events));
    } finally {
      tracer.close();
    }
  });
}

/** One hand-over: how long each step and each system call took, in microseconds. */
function timeline({ holder, waiter, began, acquired }, events) {
  const holders = new Set(threadsOf(holder));
  const waiters = new Set(threadsOf(waiter));
  const main = String(waiter.pid);
  const at = {};
  const calls = [];
  const open = new Map();
  let blocked;
  for (const { thread, at: now, what } of events) {
    if (now < began || now > acquired) {
      continue;
    }
    const woken = /^sched_waking: .*\bpid=(\d+)/.exec(what)?.[1];
    const [, entered] = /^sys_(\w+)\(/.exec(what) ?? [];
    const [, left] = /^sys_(\w+) -> /.exec(what) ?? [];
    if (woken && holders.has(thread) && waiters.has(woken) && at.woken === undefined) {
      at.woken = now;
      blocked = woken;
    } else if (left && thread === blocked && at.running === undefined) {
      at.running = now;
    } else if (woken === main && thread === blocked && at.wakes === undefined) {
      at.wakes = now;
    } else if (left && thread === main && at.wakes !== undefined && at.called === undefined) {
      at.called = now;
    }
    if (entered) {
      open.set(thread, now);
    } else if (left && open.has(thread) && !/^(futex|epoll)/.test(left)) {
      const whose = holders.has(thread) ? "holder" : thread === blocked ? "waiter" : undefined;
      if (whose) {
        calls.push({ call: `${whose}: \`${left}\``, us: (now - open.get(thread)) * 1_000 });
      }
      open.delete(thread);
    }
  }
  at.acquired = acquired;
  let before = began;
  const steps = {};
  for (const step of Object.keys(STEPS)) {
    steps[step] = (at[step] - before) * 1_000;
    before = at[step];
  }
  return { steps, calls, total: (acquired - began) * 1_000 };
}

const median = (values) => (values.length > 0 ? percentile(values, 0.5) : null);

function rows(traced) {
  const names = new Set(LOCKS.flatMap((lock) => traced[lock].flatMap(({ calls }) => calls.map(({ call }) => call))));
  const row = (valuesOf) => Object.fromEntries(LOCKS.map((lock) => [lock, median(valuesOf(traced[lock]))]));
  const result = {};
  for (const [step, title] of Object.entries(STEPS)) {
    // A hand-over in which a step could not be seen counts in no step.
    const seen = (all) => all.map(({ steps }) => steps[step]).filter((us) => us >= 0);
    result[title] = row(seen);
  }
  result["**all of it**"] = row((all) => all.map(({ total }) => total));
  for (const name of names) {
    const often = (all) => all.flatMap(({ calls }) => calls.filter(({ call }) => call === name)).map(({ us }) => us);
    // What happens in every second hand-over or less is not part of one.
    if (LOCKS.some((lock) => often(traced[lock]).length > traced[lock].length / 2)) {
      result[name] = row(often);
    }
  }
  return result;
}

export const handOffTimeline = {
  id: "hand-off-timeline",
  title: "Where the time of a hand-over goes",
  method:
    "Hand-overs as after short holds, traced by the kernel (tracefs: system calls and wake-ups), which slows them a " +
    "little. Microseconds, the median of each line; below the sum, what a system call takes. The woken " +
    "thread usually runs on the holder's processor, after the holder has gone to sleep. Needs root.",
  async run(context) {
    if (!hasTracer()) {
      return {};
    }
    const traced = {};
    for (const name of LOCKS) {
      traced[name] = await trace(context, name);
    }
    return rows(traced);
  },
};
