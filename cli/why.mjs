/**
 * `why`: one lock in sentences. What the file says, what the kernel says, what an acquire would do,
 * why, and what a person can do.
 */

import { isNoFile, isWriterGone } from "./grounds.mjs";
import { paint, print, wrap } from "./output.mjs";
import { commandLine, isOfAnotherBoot, isOfAnotherNamespace, openersOf } from "./processes.mjs";
import { asJson, ERROR, NOTHING_DEAD, sessionName, SOMETHING_DEAD } from "./sweep.mjs";
import { duration, json, messageOf, printable } from "./words.mjs";

const DEFAULT_STALE_MS = 30 * 60_000;

export async function why(session, { json: asData, staleMs = DEFAULT_STALE_MS }, lock) {
  const inspection = await lock.inspectSessionLock(session, { staleMs });
  if (asData) {
    print(json(inspection && asJson(inspection), 2));
  } else if (inspection === null) {
    print(...storyOfNothing(session));
  } else {
    print(...(isNoFile(inspection) ? storyOfNoFile(inspection) : story(inspection, staleMs, lock)));
  }
  return exitCode(inspection);
}

function exitCode(inspection) {
  if (inspection && isNoFile(inspection)) {
    return ERROR;
  }
  return inspection?.verdict === "dead" ? SOMETHING_DEAD : NOTHING_DEAD;
}

/** A heading, and paragraphs under their titles. */
function tell(heading, paragraphs) {
  const parts = paragraphs.filter(([, text]) => text !== "");
  return [...wrap(heading), ...parts.flatMap(([title, text]) => ["", paint.bold(title), ...wrap(text, "  ")])];
}

function story(inspection, staleMs, lock) {
  const { verdict } = inspection;
  const isGone = isWriterGone(inspection, lock);
  return tell(HEADINGS[verdict](inspection, isGone), [
    ["What the file says", sentences(fileSays(inspection))],
    ["What the kernel says", sentences(kernelSays(inspection, lock))],
    ["What an acquire would do", ACTIONS[verdict](inspection, staleMs)],
    ["Why", sentences(REASONS[verdict](inspection), remark(inspection))],
    ["What you can do", ADVICE[verdict](inspection, isGone)],
  ]);
}

const HEADINGS = {
  held: (inspection, isGone) =>
    `${sessionName(inspection)} is held${isGone ? "" : by(inspection)}${since(inspection)}.`,
  dead: (inspection) => `${sessionName(inspection)} has a dead lock${since(inspection)}: nobody holds it.`,
  unknown: (inspection) =>
    `${sessionName(inspection)} counts as held${since(inspection)}: it is unknown whether its holder lives.`,
};

function by({ pid, comm }) {
  const name = comm === null ? "" : ` (${printable(comm)})`;
  return pid === null ? "" : ` by process ${pid}${name}`;
}

function since({ ageMs }) {
  return ageMs === null ? "" : `, for ${duration(ageMs)}`;
}

function sentences(...parts) {
  return parts.flat().filter(Boolean).join(" ");
}

function storyOfNothing(session) {
  return tell(`${printable(session)} is not locked.`, [
    ["What the file says", "There is no lock file."],
    ["What an acquire would do", "Take the lock at once."],
    ["Why", "That the lock file exists is what locks a session."],
  ]);
}

function storyOfNoFile(inspection) {
  const { cause } = inspection;
  return tell(`${sessionName(inspection)} can't be locked: its lock file is no regular file.`, [
    ["What the kernel says", `${messageOf(cause)}.`],
    ["What an acquire would do", `Fail at once, with the code ${cause.code}, and leave it as it is.`],
    [
      "Why",
      "A lock file is a regular file. Anything else may lead elsewhere, or do things when it is opened, so " +
        "it is neither followed nor touched.",
    ],
    ["What you can do", "Find out who put it there, and move it away."],
  ]);
}

// --- What the file says -------------------------------------------------------------------------

function fileSays({ lockPath, holder, cause, createdAt, ageMs }) {
  const name = printable(lockPath);
  if (holder === null) {
    return cause
      ? `There is a lock file, ${name}. It can't be read.`
      : `There is a lock file, ${name}, but no record in it: it is empty, torn or something else.`;
  }
  const when = createdAt === null ? "" : ` on ${utc(createdAt)}${ago(ageMs)}`;
  return [`${name} was written${when} by ${writer(holder)}.`, promises(holder)];
}

function utc(createdAt) {
  const text = new Date(createdAt).toISOString();
  return `${text.slice(0, 10)} at ${text.slice(11, 19)} UTC`;
}

function ago(ageMs) {
  return ageMs === null ? "" : `, ${duration(ageMs)} ago,`;
}

function writer({ pid, comm }) {
  const name = comm === undefined ? "" : `, called ${printable(comm)}`;
  return pid === undefined ? "a process that it doesn't name" : `process ${pid}${name}`;
}

function promises({ maxHoldMs, witness }) {
  const said = [
    maxHoldMs !== undefined && `means to hold the lock for at most ${duration(maxHoldMs)}`,
    witness === "flock" && "keeps a flock on the file until it lets go",
  ].filter(Boolean);
  return said.length === 0 ? "" : `It ${said.join(", and ")}.`;
}

// --- What the kernel says -----------------------------------------------------------------------

function kernelSays(inspection, lock) {
  return [aboutFile(inspection), aboutOpeners(inspection), aboutProcess(inspection, lock)];
}

function aboutFile({ witnessed, cause, verdict }) {
  if (cause && verdict !== "dead") {
    return `It doesn't let us look: ${messageOf(cause)}.`;
  }
  return SIGHTS[witnessed] ?? "Nobody is seen to hold a flock on the file, or to have it open for writing.";
}

const SIGHTS = {
  flock: "Somebody holds the flock on the file.",
  "open-for-writing": "Nobody holds a flock on the file, but somebody has it open for writing.",
};

function aboutOpeners({ lockPath }) {
  const openers = openersOf(lockPath).map((pid) => {
    const line = commandLine(pid);
    return line === null ? `${pid}` : `${pid} (${line})`;
  });
  return openers.length === 0 ? "" : `It is open in process ${openers.join(", ")}.`;
}

function aboutProcess({ pid, holder }, lock) {
  if (pid === null) {
    return "";
  }
  if (isOfAnotherBoot(holder)) {
    return `The number ${pid} is from another boot, or another machine, and means nothing here.`;
  }
  if (isOfAnotherNamespace(holder)) {
    return `The number ${pid} is one of another container, and can't be looked up from here.`;
  }
  if (!lock.isAlive(pid)) {
    return `There is no process ${pid}.`;
  }
  return identity(pid, holder, lock);
}

function identity(pid, { starttime, comm }, lock) {
  const name = printable(lock.getProcessCommForPid(pid) ?? "unknown");
  const started = lock.getProcessStartTime(pid);
  if (starttime !== undefined && started !== null) {
    return starttime === started
      ? `Process ${pid} is running, and has been since before it wrote the file: it is the writer.`
      : `Process ${pid}, ${name}, is another one: it wasn't started when the writer was.`;
  }
  if (comm !== undefined && !lock.isAlive(pid, comm)) {
    return `Process ${pid} is another one: it is called ${name}.`;
  }
  return `There is a process ${pid}, called ${name}, which may be the writer or not.`;
}

// --- What follows from it -----------------------------------------------------------------------

const ACTIONS = {
  held: () =>
    "Wait until the lock is released or the holder has ended, and give up after its own timeoutMs, with " +
    "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT. It would not take this lock, however old it is.",
  dead: () => "Take the lock over at once: within 50 ms.",
  unknown: ({ cause }, staleMs) =>
    "Wait, and give up after its own timeoutMs, with OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT." +
    (cause
      ? ""
      : " If nothing changes it would take the lock over in the end: 30 s after the file was last written if " +
        "it is sure that nobody has it open for writing (5 s if its own timeoutMs is less than 30 s), else " +
        `after its staleMs, ${duration(staleMs)}.`),
};

const REASONS = {
  held: ({ witnessed }) => PROOFS[witnessed] ?? PROOFS.process,
  dead: whyDead,
  unknown: () =>
    "Nothing proves that the holder lives, and nothing that it is gone. Doubt counts as alive: to wait for " +
    "the dead costs time, two holders at once cost the session.",
};

const PROOFS = {
  flock:
    "The kernel frees a flock when its holder ends, however it ends. As long as somebody has it the holder " +
    "lives, whatever it is called by now.",
  "open-for-writing":
    "A holder without a flock keeps the file open for writing until it lets go, and the kernel closes it when " +
    "the holder ends. So the holder lives.",
  process: "A number and a start time together belong to one process only: the very writer is running.",
};

function whyDead({ holder, staleReasons }) {
  if (holder?.witness === "flock") {
    return "The writer promised a flock for as long as it holds the lock, and there is none: it has ended.";
  }
  if (isOfAnotherBoot(holder)) {
    return "The machine has been started since, so the writer has ended.";
  }
  return DEATHS[staleReasons.find((reason) => reason in DEATHS)] ?? DEATHS.none;
}

const DEATHS = {
  "dead-pid": "The only process that could have released the lock has ended.",
  "recycled-pid": "The number was given to another process, so the writer has ended.",
  "orphan-self-pid": "The number was given to this very process, so the writer has ended.",
  none: "A holder without a flock would have the file open for writing, and it was written long ago.",
};

function remark({ verdict, staleReasons, holder }) {
  return verdict !== "dead" && staleReasons.includes("hold-exceeded")
    ? `It is held for longer than its own limit of ${duration(holder.maxHoldMs)}; that is for the holder to end.`
    : "";
}

const ADVICE = {
  held: ({ pid }, isGone) => {
    const who = pid === null || isGone ? "the process that has it open" : `process ${pid}`;
    return (
      `Let ${who} finish, or end it: then the lock ends too. Don't remove the file: a second process would ` +
      "write beside the first."
    );
  },
  dead: () => "Nothing: it blocks nobody. `session-write-lock clean` removes it, by the rules of a takeover.",
  unknown: ({ cause }) =>
    cause
      ? "Ask as a user who may read the file: its owner, or root."
      : "Find out whether the writer still runs. If you are sure that it doesn't, remove the file.",
};
