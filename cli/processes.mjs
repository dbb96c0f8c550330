/**
 * Who a record's process is, for people: its command line, if the number still means that process.
 * Nothing is decided here; that is done in Rust.
 */

import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";

import { printable } from "./words.mjs";

/** More of a command line than this helps nobody, in characters. */
const LONGEST = 200;

/** The command line of the process that wrote a record; `null` if it can't be told. */
export function commandLineOf({ pid, pidAlive, holder }, { getProcessStartTime }) {
  if (pid === null || !pidAlive || isElsewhere(holder)) {
    return null;
  }
  const startTime = getProcessStartTime(pid);
  if (holder?.starttime !== undefined && startTime !== null && holder.starttime !== startTime) {
    return null; // the number is another's by now
  }
  return commandLine(pid);
}

/** Whether the record's number means something else here than it meant to its writer. */
function isElsewhere(holder) {
  return isOfAnotherNamespace(holder) || isOfAnotherBoot(holder);
}

/** Whether it was written in another container. */
export function isOfAnotherNamespace(holder) {
  ownNamespace ??= tryTo(() => Number(/\d+/.exec(readlinkSync("/proc/self/ns/pid"))[0]));
  return differ(holder?.pidNamespace, ownNamespace);
}

/** Whether it was written before this machine was started, or on another one. */
export function isOfAnotherBoot(holder) {
  ownBoot ??= tryTo(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim());
  return differ(holder?.bootId, ownBoot);
}

let ownNamespace;
let ownBoot;

/** Both known, and not the same. */
function differ(theirs, ours) {
  return theirs !== undefined && ours !== null && theirs !== ours;
}

/** What a process was started with. `null` if it has ended, or the kernel doesn't say. */
export function commandLine(pid) {
  const raw = tryTo(() => readFileSync(`/proc/${pid}/cmdline`, "utf8"));
  const line = raw?.split("\0").filter(Boolean).join(" ");
  return line ? printable(line.length > LONGEST ? `${line.slice(0, LONGEST - 1)}…` : line) : null;
}

/** Who has a file open, as far as we may see: their numbers. */
export function openersOf(file) {
  const target = tryTo(() => statSync(file, { bigint: true }));
  const pids = tryTo(() => readdirSync("/proc").filter((name) => /^\d+$/.test(name)));
  const isOpenIn = (pid) =>
    tryTo(() => readdirSync(`/proc/${pid}/fd`))?.some((fd) => {
      const found = tryTo(() => statSync(`/proc/${pid}/fd/${fd}`, { bigint: true }));
      return found?.ino === target.ino && found.dev === target.dev;
    });
  return target === null ? [] : (pids ?? []).map(Number).filter(isOpenIn);
}

/** The process group of a process, and the one in the foreground of its terminal; `null` if unknown. */
export function jobOf(pid) {
  const stat = tryTo(() => readFileSync(`/proc/${pid}/stat`, "utf8"));
  if (stat === null) {
    return null;
  }
  // The name, in brackets, may contain anything: count from the last bracket.
  const [, , group, , , foreground] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return { group: Number(group), foreground: Number(foreground) };
}

/** The holder in one line: `4242 (node) node gateway.js`. */
export function describeHolder(inspection, lock) {
  const { pid, comm } = inspection;
  if (pid === null) {
    return "unknown";
  }
  const name = comm === null ? "" : ` (${printable(comm)})`;
  const line = commandLineOf(inspection, lock);
  return `${pid}${name}${line === null ? "" : ` ${line}`}`;
}

function tryTo(read) {
  try {
    return read();
  } catch {
    return null;
  }
}
