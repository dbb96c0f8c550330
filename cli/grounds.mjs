/** What a verdict rests on, in a few words. The verdict and its ground are decided in `src/verdict.rs`. */

import { isInherited } from "./processes.mjs";
import { duration } from "./words.mjs";

/** How the verdict is known: `holds the flock`, `no such process`. */
export function howKnown(inspection) {
  const { ground, cause } = inspection;
  const words = ground === null ? whyNot(cause) : GROUNDS[ground](inspection);
  return [isInherited(inspection) ? `another process ${words}` : words, remark(inspection)].filter(Boolean).join(", ");
}

const GROUNDS = {
  flock: () => "holds the flock",
  "open-for-writing": () => "has the file open for writing",
  "same-process": () => "its process is running",
  "this-process": () => "this process holds it",
  "flock-gone": () => "nobody holds its flock",
  "no-such-process": () => "no such process",
  "other-process": () => "another process has its pid",
  "other-boot": () => "from before a restart of the machine",
  "orphan-of-this-process": () => "another process has its pid",
  "open-nowhere": () => "nobody has it open for writing",
  "too-old": () => "no proof, and too old",
  "too-young": ({ pid }) => (pid === null ? "names no process, may be new" : "nobody has it open, may be new"),
  "no-proof": ({ writer }) => NO_PROOF[writer] ?? "no proof of life or death",
};

/** What is known of the process that wrote the lock file, where that proves nothing. */
const NO_PROOF = {
  unnamed: "names no process",
  unproved: "its process may be running",
  "started-later": "its process started later",
  "other-namespace": "its process is out of sight",
  "other-boot": "its process is out of sight",
};

function whyNot(cause) {
  if (isNoFile({ cause })) {
    return "is no regular file";
  }
  if (isForeign({ cause })) {
    return "is no lock file";
  }
  return cause ? `can't be looked at: ${cause.code ?? "an error"}` : "changes too fast to be judged";
}

/** Whether something else stands where the lock file belongs: an acquire is refused. */
export function isNoFile({ cause }) {
  return ["ERR_LOCK_NOT_A_FILE", "OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE"].includes(cause?.code);
}

/** Whether it is another program's file, such as `yarn.lock`: an acquire is refused. */
export function isForeign({ cause }) {
  return cause?.code === "ERR_LOCK_FOREIGN_FILE";
}

/** What decides nothing, but is worth knowing. */
function remark({ verdict, staleReasons, holder }) {
  const isOver = verdict !== "dead" && staleReasons.includes("hold-exceeded");
  return isOver ? `past its limit of ${duration(holder.maxHoldMs)}` : "";
}
