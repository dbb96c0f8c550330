/**
 * `status --watch`: looks again when something changes, until a signal ends it. The system reports files that
 * appear and disappear. It does not report the death of a holder, so there is a slow timer as well.
 */

import { watch as watchFolder } from "node:fs";
import path from "node:path";

import { complain, isScreen, print } from "./output.mjs";
import { dieBy } from "./signals.mjs";
import { failureLines } from "./sweep.mjs";

/** Where nothing is told, this is how late one hears of it. */
const SLOW_MS = 1_000;

/** Under much traffic one looks no more often than this. */
const FAST_MS = 100;

/** A look at ten thousand files takes a while: most of the time should be spent asleep. */
const REST_PER_LOOK = 10;

/** Returns what the last look has seen. */
export async function watch({ folders, look, report, json }) {
  const bell = new Bell();
  const folderWatch = new FolderWatch(() => bell.ring());
  let started = performance.now();
  let seen = await look();
  if (seen.failures.some(({ folder }) => folders.includes(folder))) {
    complain(...failureLines(seen.failures));
    return seen;
  }
  const view = isScreen && !json ? new Screen(() => bell.ring()) : new Log();
  const end = endOfWatch(bell, view);
  try {
    while (!end.signal) {
      const took = performance.now() - started;
      view.show(report(seen), seen);
      folderWatch.update([...folders, ...seen.locks.map(({ lockPath }) => path.dirname(lockPath))]);
      await bell.wait(Math.max(SLOW_MS, REST_PER_LOOK * took));
      await bell.rest(FAST_MS);
      if (!end.signal) {
        started = performance.now();
        seen = await look();
      }
    }
  } finally {
    folderWatch.update([]);
    view.close();
    end.forget();
  }
  if (end.signal !== "SIGINT") {
    dieBy(end.signal);
  }
  return seen;
}

/** Which signal ends it. Ctrl-C is how a watch is meant to end. */
function endOfWatch(bell, view) {
  const end = { signal: undefined, forget };
  const onEnd = (signal) => {
    end.signal ??= signal;
    bell.ring({ now: true });
  };
  const signals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"];
  signals.forEach((signal) => process.on(signal, onEnd));
  function forget() {
    signals.forEach((signal) => process.off(signal, onEnd));
  }
  return end;
}

/** What wakes the watch. It remembers a ring that comes while nobody waits. */
class Bell {
  #hasRung = false;
  #isUrgent = false;
  #wake = () => {};

  ring({ now = false } = {}) {
    this.#hasRung = true;
    this.#isUrgent ||= now;
    this.#wake();
  }

  /** Until it rings, at most for so long. */
  async wait(ms) {
    await this.#sleep(ms, () => this.#hasRung);
    this.#hasRung = false;
  }

  /** For so long, unless it is urgent. */
  rest(ms) {
    return this.#sleep(ms, () => this.#isUrgent);
  }

  #sleep(ms, isOver) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        if (isOver()) {
          clearTimeout(timer);
          resolve();
        }
      };
      this.#wake();
    });
  }
}

/** Hears of files that come and go in some folders, where the system tells. */
class FolderWatch {
  #watchers = new Map();
  #onChange;

  constructor(onChange) {
    this.#onChange = onChange;
  }

  /** Watches these folders, and no others. */
  update(folders) {
    const wanted = new Set(folders.map((folder) => path.resolve(folder)));
    for (const [folder, watcher] of this.#watchers) {
      if (!wanted.has(folder)) {
        this.#watchers.delete(folder);
        watcher.close();
      }
    }
    for (const folder of wanted) {
      if (!this.#watchers.has(folder)) {
        this.#add(folder);
      }
    }
  }

  /** A folder that can't be watched is left to the timer: too many watches, or it has gone. */
  #add(folder) {
    try {
      const watcher = watchFolder(folder, this.#onChange);
      watcher.on("error", () => {
        this.#watchers.delete(folder);
        watcher.close();
      });
      this.#watchers.set(folder, watcher);
    } catch {
      // See above.
    }
  }
}

const ALTERNATE_SCREEN = "\x1b[?1049h\x1b[?25l\x1b[?7l"; // and no cursor, and no wrapping
const NORMAL_SCREEN = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const HOME = "\x1b[H";
const CLEAR_LINE = "\x1b[K";
const CLEAR_BELOW = "\x1b[J";

/** So many complaints are kept on the screen where there is no room for all. */
const MOST_COMPLAINTS = 2;

/** How many lines sum the table up: those after the empty line. */
function summaryLength(lines) {
  return lines.length - 1 - lines.lastIndexOf("");
}

/** A terminal: the table stays where it is, and is written over. */
class Screen {
  #lines = [];
  #footLength = 1;
  #onResize;

  constructor(onResize) {
    this.#onResize = onResize;
    this.#enter();
    process.stdout.on("resize", this.#onResize);
    process.on("SIGTSTP", this.#pause);
    process.on("SIGCONT", this.#enter);
    process.on("exit", this.#leave);
  }

  show(lines, { failures }) {
    const complaints = failureLines(failures);
    this.#lines = [...lines, ...complaints];
    this.#footLength = Math.min(complaints.length, MOST_COMPLAINTS);
    this.#footLength += summaryLength(lines);
    this.#draw();
  }

  /** Leaves the terminal as it was, with the last table on it. */
  close() {
    process.stdout.off("resize", this.#onResize);
    process.off("SIGTSTP", this.#pause);
    process.off("SIGCONT", this.#enter);
    process.off("exit", this.#leave);
    this.#leave();
    print(...this.#lines);
  }

  /** In one write, over what is there: nothing flickers. The last lines, with the counts, are always shown. */
  #draw() {
    const room = (process.stdout.rows || 24) - 1;
    const rest = this.#lines.length - room;
    const foot = this.#lines.slice(-this.#footLength);
    const head = this.#lines.slice(0, Math.max(0, room - foot.length - 1));
    const lines = rest > 0 ? [...head, `… ${rest + 1} more`, ...foot] : this.#lines;
    process.stdout.write(`${HOME}${lines.map((line) => `${line}${CLEAR_LINE}\n`).join("")}${CLEAR_BELOW}`);
  }

  #enter = () => {
    process.stdout.write(ALTERNATE_SCREEN);
    this.#draw();
  };

  #leave = () => {
    process.stdout.write(NORMAL_SCREEN);
  };

  /** Ctrl-Z: the shell gets its own screen back. */
  #pause = () => {
    this.#leave();
    process.kill(process.pid, "SIGSTOP");
  };
}

/** Anything else: a new table after each change, and an empty line between two of them. */
class Log {
  #last;

  show(lines, seen) {
    // That time goes by is no change.
    const state = JSON.stringify([seen.locks.map(stateOf), failureLines(seen.failures)]);
    if (state !== this.#last) {
      print(...(this.#last === undefined ? lines : this.#between(lines)));
      complain(...failureLines(seen.failures));
    }
    this.#last = state;
  }

  #between(lines) {
    return lines.length > 1 ? ["", ...lines] : lines;
  }

  close() {}
}

function stateOf({ lockPath, verdict, ground, holder, staleReasons, holders, waiters }) {
  const pids = (processes) => processes.map(({ pid }) => pid);
  return { lockPath, verdict, ground, holder, staleReasons, holders: pids(holders), waiters: pids(waiters) };
}
