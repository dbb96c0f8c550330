/**
 * `why`: one lock in sentences. What a person can do, which processes have it, what the file says, what the kernel
 * says, what an acquire would do, and why. It puts the facts of an inspection into words.
 */

import { lstatSync, readFileSync, readdirSync } from "node:fs";
import path from "node:path";

import { DEFAULT_STALE_MS } from "../lib/defaults.js";
import { aboutSharing } from "../lib/shared-folder.js";
import { isForeign, isNoFile } from "./grounds.mjs";
import { complain, paint, print, wrap } from "./output.mjs";
import { commandLine, ELSEWHERE, holdersOf, labelOf, named } from "./processes.mjs";
import { asJson, cleanCommand, isSession, sessionName } from "./sweep.mjs";
import {
  duration,
  ERROR,
  json,
  messageOf,
  nearest,
  NOTHING_DEAD,
  printable,
  SOMETHING_DEAD,
} from "./words.mjs";

export async function why(file, { json: asData, staleMs = DEFAULT_STALE_MS }, lock) {
  const inspection = await inspect(file, { staleMs, processes: true }, lock);
  const complaint = inspection === null && complaintAbout(file);
  if (asData) {
    print(json(inspection && asJson(inspection), 2));
  } else if (inspection !== null) {
    print(...storyOf(inspection, staleMs));
  } else if (!complaint) {
    print(...storyOfNothing(file));
  }
  if (complaint) {
    complain(complaint);
    return ERROR;
  }
  return exitCode(inspection);
}

/** By the rules of the face that locks such files. The two differ in what they take for a lock file. */
function inspect(file, options, lock) {
  return isSession(file) ? lock.inspectSessionLock(file, options) : lock.inspectLock(withoutLock(file), options);
}

/** Of the file or of its lock file: the file. */
function withoutLock(file) {
  return file.replace(/\.lock$/, "");
}

function exitCode(inspection) {
  if (inspection && (isNoFile(inspection) || isForeign(inspection))) {
    return ERROR;
  }
  return inspection?.verdict === "dead" ? SOMETHING_DEAD : NOTHING_DEAD;
}

// --- A file that isn't there ----------------------------------------------------------------------

/** What is wrong with the name of a file without a lock file. A lock file is gone after its release. */
function complaintAbout(file) {
  const status = statusOf(withoutLock(file));
  if (status?.isDirectory()) {
    return `${printable(file)} is a folder; use \`session-write-lock status\``;
  }
  const isReleased = file.endsWith(".lock") && statusOf(path.dirname(file));
  return status || isReleased ? undefined : `no such session: ${printable(file)}${hint(file)}`;
}

function statusOf(file) {
  return lstatSync(file, { throwIfNoEntry: false });
}

/** The session that was perhaps meant. */
function hint(session) {
  const folder = path.dirname(session);
  if (!statusOf(folder)) {
    return " (there is no such folder)";
  }
  const near = nearest(path.basename(session), sessionsIn(folder));
  return near === undefined ? "" : ` (did you mean ${printable(path.join(folder, near))}?)`;
}

function sessionsIn(folder) {
  try {
    const names = readdirSync(folder).filter((name) => !/\.lock\.(queue|new|reclaim)$/.test(name));
    return [...new Set(names.map((name) => name.replace(/\.lock$/, "")))];
  } catch {
    return []; // it may not be read: then there is no hint
  }
}

// --- The story ------------------------------------------------------------------------------------

/** A heading, and paragraphs under their titles. */
function tell(heading, paragraphs) {
  const parts = paragraphs.filter(([, text]) => text !== "");
  return [...wrap(heading), ...parts.flatMap(([title, text]) => ["", paint.bold(title), ...wrap(text, "  ")])];
}

function storyOf(inspection, staleMs) {
  if (isNoFile(inspection)) {
    return storyOfNoFile(inspection);
  }
  return isForeign(inspection) ? storyOfForeignFile(inspection) : story(inspection, staleMs);
}

function story(inspection, staleMs) {
  const { verdict } = inspection;
  return tell(HEADINGS[verdict](inspection), [
    ["What you can do", sentences(ADVICE[verdict](inspection), aboutStopped(inspection.waiters))],
    ["Which processes have it", sentences(aboutHolders(inspection), aboutWaiters(inspection))],
    ["What the file says", sentences(fileSays(inspection))],
    ["What the kernel says", sentences(aboutFile(inspection), aboutWriter(inspection))],
    ["What an acquire would do", ACTIONS[verdict](inspection, staleMs)],
    ["Why", sentences(REASONS[inspection.ground] ?? DOUBT, remark(inspection))],
    ["About the folder", inspection.sharedWith === null ? "" : aboutSharing(inspection.sharedWith)],
  ]);
}

const HEADINGS = {
  held: (inspection) => `${sessionName(inspection)} is held${by(inspection)}${since(inspection)}.`,
  dead: (inspection) => `${sessionName(inspection)} has a dead lock${old(inspection)}: nobody holds it.`,
  unknown: (inspection) =>
    `${sessionName(inspection)} counts as held${since(inspection)}: it is unknown whether its holder is alive.`,
};

function by(inspection) {
  const [holder] = holdersOf(inspection);
  const label = labelOf(inspection);
  const who = holder === undefined ? "" : ` by process ${named(holder.pid, holder.comm)}`;
  return label === "" ? who : `${who} ${label}`;
}

function since({ ageMs }) {
  return ageMs === null ? "" : `, for ${duration(ageMs)}`;
}

function old({ ageMs }) {
  return ageMs === null ? "" : `, ${duration(ageMs)} old`;
}

function sentences(...parts) {
  return parts.flat().filter(Boolean).join(" ");
}

function storyOfNothing(file) {
  return tell(`${printable(file)} is not locked.`, [
    ["What the file says", "There is no lock file."],
    ["What an acquire would do", `Take the lock at once, ${IF_ALLOWED}.`],
    ["Why", "A file is locked while its lock file exists."],
  ]);
}

function storyOfNoFile(inspection) {
  const { cause } = inspection;
  return tell(`${sessionName(inspection)} can't be locked: its lock file is no regular file.`, [
    ["What you can do", "Find out who put it there, and move it away."],
    ["What the kernel says", `${messageOf(cause)}.`],
    ["What an acquire would do", `Fail at once, with the code ${cause.code}, and leave it as it is.`],
    [
      "Why",
      "A lock file is a regular file. Anything else may lead to another file, or have side effects when it is " +
        "opened, so it is neither followed nor touched.",
    ],
  ]);
}

function storyOfForeignFile(inspection) {
  const { lockPath, cause } = inspection;
  const [name, lockName] = [sessionName(inspection), printable(path.basename(lockPath))];
  return tell(`${name} can't be locked: ${lockName} is not a lock file of this package.`, [
    ["What you can do", `Lock a file of another name. If nobody needs ${lockName}, move it away.`],
    ["What the file says", `${printable(lockPath)} is not empty, and holds no record of a holder.`],
    ["What an acquire would do", `Fail at once, with the code ${cause.code}, and leave it as it is.`],
    [
      "Why",
      `The lock file of ${name} would be ${lockName}. It seems to belong to another program, so it is not touched.`,
    ],
  ]);
}

// --- What you can do ------------------------------------------------------------------------------

const KEEP_FILE = "Do not remove the file: a second process would write beside the first.";

/** Only Linux says which processes have a file open. */
const TELLS_USERS = process.platform === "linux";

function unseen({ writer, pid }) {
  if (!TELLS_USERS && writer === "running") {
    return `Ask process ${pid} to let go, or end it: it wrote the file and is running, so it most probably has the lock.`;
  }
  return TELLS_USERS
    ? "The holder can't be seen from here. To see it, ask as root, on the machine where it runs, outside of any container."
    : "This system doesn't say which process has the lock.";
}

const ADVICE = {
  held: (inspection) => {
    const holders = holdersOf(inspection);
    const pids = holders.map(({ pid }) => pid);
    if (pids.length === 0) {
      return `${unseen(inspection)} ${KEEP_FILE}`;
    }
    if (holders.some(({ isStopped }) => isStopped)) {
      return `${aboutStopped(holders)} ${KEEP_FILE}`;
    }
    const who = pids.length === 1 ? `process ${pids[0]}` : `the processes ${pids.join(", ")}`;
    const then = pids.length === 1 ? "then the lock ends too" : "the lock ends with the last of them";
    return `Let ${who} finish, or end ${pids.length === 1 ? "it" : "them"}: ${then}. ${KEEP_FILE}`;
  },
  dead: (inspection) =>
    `Nothing has to be done: it blocks no process of the same user. \`${cleanCommand(inspection)}\` removes it, by ` +
    "the rules of a takeover.",
  unknown: (inspection) => {
    const { cause, ground, pid, writer } = inspection;
    if (cause) {
      return adviceOfUnreadable(inspection);
    }
    if (ground === "too-young") {
      return `Wait ${pid === null ? "2 s" : "30 s"} and ask again: if nobody opens the file, the lock is dead then.`;
    }
    return UNPROVED_ADVICE[writer]?.(pid) ?? CHECK;
  },
};

/** Who may read the file: as far as that is known. */
function adviceOfUnreadable(inspection) {
  const uid = tryTo(() => statusOf(inspection.lockPath)?.uid);
  if (inspection.cause.code !== "EACCES" || uid === undefined || uid === process.geteuid()) {
    return "Ask as a user who may read the file: its owner, or root.";
  }
  const [who, judges] = uid === 0 ? ["root", "root"] : ["that user", `user ${userName(uid)} or root`];
  return `Only ${judges} can judge this lock. If it is dead, ${who} must run \`${cleanCommand(inspection)}\`.`;
}

/** The name of a user; the number where no name is known. */
function userName(uid) {
  const lines = tryTo(() => readFileSync("/etc/passwd", "utf8").split("\n")) ?? [];
  const line = lines.find((each) => each.split(":")[2] === `${uid}`);
  return line === undefined ? `${uid}` : printable(line.split(":")[0]);
}

function tryTo(read) {
  try {
    return read();
  } catch {
    return undefined; // the folder may not be searched, for instance
  }
}

function aboutStopped(processes) {
  const stopped = processes.filter(({ isStopped }) => isStopped);
  return sentences(
    stopped.map(({ pid }) => `Process ${pid} is stopped (SIGSTOP). Continue it with \`kill -CONT ${pid}\`, or end it.`),
  );
}

const CHECK = "Find out whether the process that wrote the file still runs. If it does not, remove the file.";

const UNPROVED_ADVICE = {
  unproved: (pid) => `Find out whether process ${pid} wrote the file and still uses it. If not, remove the file.`,
  "other-namespace": () => `Ask as root, outside of any container: there all processes can be seen. ${CHECK}`,
};

// --- Which processes have it ----------------------------------------------------------------------

function aboutHolders({ holders, verdict, pid }) {
  if (verdict === "dead") {
    return ""; // a process that has it open now only looks at it
  }
  if (holders.length === 0) {
    const none = TELLS_USERS ? "None that can be seen from here." : "This system doesn't say.";
    return verdict === "held" ? none : "";
  }
  const said = holders.map((holder) => `Process ${inBrackets(holder)} ${hold(holder, pid)}.`);
  return sentences(said);
}

/** `4242 (node gateway.js)`. */
function inBrackets({ pid, comm, command }) {
  const name = commandLine(command) ?? (comm && printable(comm));
  return name ? `${pid} (${name})` : `${pid}`;
}

function hold({ witness, isWriter }, pid) {
  const what = witness === "flock" ? "holds the flock" : "has the file open for writing";
  if (isWriter) {
    return `${what}; it wrote the file`;
  }
  return pid === null ? what : `${what}; it is not the process that wrote the file`;
}

function aboutWaiters({ waiters }) {
  if (waiters.length === 0) {
    return "";
  }
  const list = waiters.map(inBrackets).join("; ");
  return waiters.length === 1
    ? `1 process waits for the lock: ${list}.`
    : `${waiters.length} processes wait for the lock, in this order: ${list}.`;
}

// --- What the file says ---------------------------------------------------------------------------

function fileSays(inspection) {
  const { lockPath, holder, cause, createdAt, ageMs } = inspection;
  const name = printable(lockPath);
  if (holder === null) {
    return cause
      ? `There is a lock file, ${name}. It can't be read.`
      : `There is a lock file, ${name}, without a record: it is empty, torn or something else.`;
  }
  const when = createdAt === null ? "" : ` on ${utc(createdAt)}${ago(ageMs)}`;
  return [`${name} was written${when} by ${recorded(inspection)}.`, promises(inspection)];
}

function utc(createdAt) {
  const text = new Date(createdAt).toISOString();
  return `${text.slice(0, 10)} at ${text.slice(11, 19)} UTC`;
}

function ago(ageMs) {
  return ageMs === null ? "" : `, ${duration(ageMs)} ago,`;
}

function recorded({ pid, comm, writer, holders }) {
  if (pid === null) {
    return "a process that it doesn't name";
  }
  // The older module records no pid namespace.
  const hasOtherNumber = holders.some((holder) => holder.isWriter && holder.pid !== pid);
  const where = ELSEWHERE[hasOtherNumber ? "other-namespace" : writer] ?? "";
  return [`process ${pid}`, comm && `called ${printable(comm)}`, where.trim()].filter(Boolean).join(", ");
}

function promises({ verdict, holder: { maxHoldMs, witness } }) {
  const isHeld = verdict === "held";
  const said = [
    maxHoldMs !== undefined && `${isHeld ? "means" : "meant"} to hold the lock for at most ${duration(maxHoldMs)}`,
    witness && `${isHeld ? "keeps" : "promised to keep"} a flock on the file until it releases the lock`,
  ].filter(Boolean);
  return said.length === 0 ? "" : `It ${said.join(", and ")}.`;
}

// --- What the kernel says -------------------------------------------------------------------------

function aboutFile({ ground, cause, verdict }) {
  if (cause && verdict !== "dead") {
    return `It refuses: ${messageOf(cause)}.`;
  }
  return SIGHTS[ground] ?? "No process is seen to hold a flock on the file, or to have it open for writing.";
}

const SIGHTS = {
  flock: "A process holds the flock on the file.",
  "open-for-writing": "No process holds a flock on the file, but one has it open for writing.",
};

/** About the number in the record, where that is another question than who holds the lock. */
function aboutWriter(inspection) {
  const { pid, writer } = inspection;
  return holdersOf(inspection).some(({ isWriter }) => isWriter) ? "" : (WRITERS[writer]?.(pid) ?? "");
}

const WRITERS = {
  running: (pid) => `Process ${pid} is running, and has been since before it wrote the file: it is the writer.`,
  ended: (pid) => `There is no process ${pid}.`,
  "other-process": (pid) => `The process that is ${pid} now is another one: it is not the writer.`,
  "started-later": (pid) =>
    `The process that is ${pid} now started after the file was written: it is not the writer, unless a clock was set.`,
  unproved: (pid) => `There is a process ${pid}, which may be the writer or not.`,
  "other-boot": (pid) => `The number ${pid} is from another boot, or another machine, and means nothing here.`,
  "other-namespace": (pid) => `The number ${pid} is one of another container, and can't be looked up from here.`,
};

// --- What follows ---------------------------------------------------------------------------------

const IF_ALLOWED = "if this user may write in the folder";

/** The verdict on a session's lock file is that of the session functions. */
const IF_FOREIGN = "lock() and run refuse the file, unless it is empty or holds the beginning of a record.";

const WAIT =
  "Wait until the lock is free. It gives up after its own timeoutMs, if it has one, with ERR_LOCK_TIMEOUT " +
  "(OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT from the session functions).";

const ACTIONS = {
  held: () => `${WAIT} It would not take this lock, however old it is.`,
  dead: ({ lockPath, holder }) =>
    `Take the lock over within 50 ms, ${IF_ALLOWED}.` +
    (holder === null && isSession(lockPath) ? ` ${IF_FOREIGN}` : ""),
  unknown: ({ cause }, staleMs) =>
    WAIT +
    (cause
      ? ""
      : " If nothing changes it would take the lock over in the end: 30 s after the file was last written if " +
        "it is sure that no process has it open for writing (5 s if its own timeoutMs is less than 30 s; 2 s if " +
        `the file names no process), otherwise after its staleMs, ${duration(staleMs)}.`),
};

const DOUBT =
  "Nothing proves that the holder is alive, and nothing proves that it is gone. Doubt counts as alive: waiting for " +
  "the dead costs time, two holders at once cost the data.";

const REASONS = {
  flock:
    "The kernel frees a flock when its last holder ends, however it ends. While a process has it, the lock is held, " +
    "whatever the record says.",
  "open-for-writing":
    "A holder without a flock keeps the file open for writing until it releases the lock, and the kernel closes it " +
    "when the holder ends. So the holder is alive.",
  "same-process": "A number and a start time together belong to one process only: the very writer is running.",
  "flock-gone":
    "The writer promised a flock for as long as it holds the lock, and nobody has it: the writer has ended, or has " +
    "given the lock up.",
  "no-such-process": "The only process that could have released the lock has ended.",
  "other-process": "The number was given to another process, so the writer has ended.",
  "orphan-of-this-process": "The number was given to this very process, so the writer has ended.",
  "other-boot": "The machine was restarted since, so the writer has ended.",
  "open-nowhere": "A holder without a flock would have the file open for writing, and it was written long ago.",
  "too-old": "Nothing proves that the holder is alive, and the lock is older than --stale-ms.",
};

function remark({ verdict, staleReasons, holder }) {
  return verdict !== "dead" && staleReasons.includes("hold-exceeded")
    ? `It is held for longer than its own limit of ${duration(holder.maxHoldMs)}; only the holder can end that.`
    : "";
}
