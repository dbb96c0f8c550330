/**
 * Which process holds a lock, in words. The processes and what is known of them come from the inspection; nothing
 * is looked up here.
 */

import { printable } from "./words.mjs";

/** More of a command line than this helps nobody, in characters. */
const LONGEST = 200;

/** `4242 (node)`. */
export function named(pid, comm) {
  return comm === null || comm === undefined ? `${pid}` : `${pid} (${printable(comm)})`;
}

/** Cut, and printable; `null` if it is unknown. */
export function commandLine(command) {
  return command && printable(command.length > LONGEST ? `${command.slice(0, LONGEST - 1)}…` : command);
}

/**
 * The processes on which a held lock's verdict rests, the one in the record first. Empty where we may not see
 * them: another user's, or in another container.
 */
export function holdersOf({ verdict, ground, holders }) {
  if (verdict !== "held") {
    return [];
  }
  const isWitness = ["flock", "open-for-writing"].includes(ground);
  const proved = holders.filter(({ witness, isWriter }) => (isWitness ? witness === ground : isWriter));
  return proved.sort((one, other) => Number(other.isWriter) - Number(one.isWriter));
}

/** Whether the lock is held, but not by the process in the record: a child has inherited it. */
export function isInherited(inspection) {
  const holders = holdersOf(inspection);
  return inspection.pid !== null && holders.length > 0 && !holders.some(({ isWriter }) => isWriter);
}

/**
 * The holder in one line: `4242 (node) node gateway.js`, or `4242 (node) and 1 more: node gateway.js`. A number that
 * is not valid here never stands alone.
 */
export function describeHolder(inspection) {
  const [first, ...others] = holdersOf(inspection);
  if (first === undefined) {
    return [byRecord(inspection), labelOf(inspection)].filter(Boolean).join(" ");
  }
  const { pid, comm, command } = first;
  const more = others.length === 0 ? "" : `and ${others.length} more${command ? ":" : ""}`;
  return [named(pid, comm), labelOf(inspection), more, commandLine(command)].filter(Boolean).join(" ");
}

/** The beginning of that line, up to the label; empty without one. */
export function labelled(inspection) {
  const label = labelOf(inspection);
  const [first] = holdersOf(inspection);
  const who = first === undefined ? byRecord(inspection) : named(first.pid, first.comm);
  return label === "" ? "" : `${who} ${label}`;
}

/** What the holder has called its lock. */
export function labelOf({ holder }) {
  return typeof holder?.label === "string" && holder.label !== "" ? `[${printable(holder.label)}]` : "";
}

/** What the record alone says. */
function byRecord({ pid, comm, verdict, writer }) {
  const unseen = verdict === "held" ? "out of sight" : "unknown";
  if (pid === null) {
    return unseen;
  }
  const who = named(pid, comm);
  if (verdict === "dead") {
    return `was ${who}${writer === "other-namespace" ? ELSEWHERE[writer] : ""}`;
  }
  if (writer === "running" || writer === "unproved") {
    return `perhaps ${who}`;
  }
  return `${unseen}; its record says ${who}${ELSEWHERE[writer] ?? ""}`;
}

/** Where the number in the record belongs, if not here. */
export const ELSEWHERE = {
  "other-namespace": " in another container",
  "other-boot": " before a restart, or on another machine",
};
