/**
 * What a verdict rests on, in a few words that a person understands. The verdict itself is Rust's.
 */

import { isOfAnotherBoot, isOfAnotherNamespace } from "./processes.mjs";
import { duration, messageOf } from "./words.mjs";

/** How the verdict is known: `holds the flock`, `no such process`. */
export function howKnown(inspection, lock) {
  return [GROUNDS[inspection.verdict](inspection, lock), remark(inspection)].filter(Boolean).join(", ");
}

const GROUNDS = {
  held: whyHeld,
  dead: whyDead,
  unknown: whyUnknown,
};

function whyHeld(inspection, lock) {
  const sight = WITNESSES[inspection.witnessed] ?? "its process is running";
  return isWriterGone(inspection, lock) ? `another process ${sight}` : sight;
}

const WITNESSES = { flock: "holds the flock", "open-for-writing": "has the file open for writing" };

/**
 * Whether a held lock is held by another process than the one that took it: a child, which has
 * inherited its descriptor.
 */
export function isWriterGone({ witnessed, pid, holder }, lock) {
  const isOutOfSight = isOfAnotherBoot(holder) || isOfAnotherNamespace(holder);
  return witnessed !== null && pid !== null && !isOutOfSight && !lock.isAlive(pid);
}

function whyDead({ holder, pid, staleReasons }, lock) {
  if (staleReasons.includes("recycled-pid") || staleReasons.includes("orphan-self-pid")) {
    return "its pid is another process's now";
  }
  if (isOfAnotherBoot(holder)) {
    return "from before a restart of the machine";
  }
  if (staleReasons.includes("dead-pid") && !isOfAnotherNamespace(holder) && !lock.isAlive(pid)) {
    return "no such process";
  }
  return holder?.witness === "flock" ? "nobody holds its flock" : "nobody has it open for writing";
}

function whyUnknown({ holder, pid, cause }) {
  if (isNoFile({ cause })) {
    return "is no regular file";
  }
  if (cause) {
    return `can't be looked at: ${cause.code ?? messageOf(cause)}`;
  }
  if (pid === null) {
    return "names no process, may be new";
  }
  if (isOfAnotherBoot(holder) || isOfAnotherNamespace(holder)) {
    return "its process is out of sight";
  }
  return "its process may be running";
}

/** Whether something else stands where the lock file belongs: an acquire is refused. */
export function isNoFile({ cause }) {
  return cause?.code === "OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE";
}

/** What one may want to know although it decides nothing. */
function remark({ verdict, staleReasons, holder }) {
  const isOver = verdict !== "dead" && staleReasons.includes("hold-exceeded");
  return isOver ? `past its limit of ${duration(holder.maxHoldMs)}` : "";
}
