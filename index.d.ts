/**
 * Locks between processes for Node: a dead lock never blocks, a live lock is never taken.
 *
 * {@link lock}, {@link tryLock} and {@link withLock} lock any file. The functions with `Session` in their names are
 * the same engine with the names and defaults of an older module, which they replace.
 *
 * All times are in milliseconds. All functions may be used in the main thread and in worker
 * threads. Each thread has two environments: one for the general functions, one for the session functions.
 */

// --- Locks for any file -------------------------------------------------------------------------

/** Options of {@link tryLock}. An unknown option is refused. */
export interface TryLockOptions {
  /**
   * How long the lock may be held, at least 1. Then a watchdog releases it, also while the event loop is blocked.
   *
   * @default Infinity
   */
  maxHoldMs?: number | undefined;
  /** What the lock is for: at most 200 bytes. Others see it in errors and in `status` and `why`. */
  label?: string | undefined;
  /**
   * How old a lock must be before it is taken over although its holder can be neither proved alive nor proved dead:
   * one on a network file system, for example. A lock whose holder is proved alive is never taken.
   *
   * @default 1_800_000
   */
  staleMs?: number | undefined;
  /**
   * Called with a `LockWarning` when the watchdog has released this lock, instead of `process.emitWarning`. If this
   * thread is too busy to hear of it within a second, a line is printed to stderr instead.
   */
  onWarning?: ((warning: Error) => void) | undefined;
}

/** Options of {@link lock} and {@link withLock}. An unknown option is refused. */
export interface LockOptions extends TryLockOptions {
  /**
   * How long to wait. `0`: one attempt.
   *
   * @default Infinity
   */
  timeoutMs?: number | undefined;
  /** Ends the wait: the promise rejects with the reason of the signal. It has no effect on a lock that is held. */
  signal?: AbortSignal | undefined;
}

/** A lock that this process holds. It does not keep the process alive, and ends with it. */
export interface Lock {
  /** The lock file: `<real path of the folder>/<name of the file>.lock`. */
  readonly lockPath: string;
  /**
   * Releases the lock. A second call returns the same promise. It may be called without its object.
   *
   * Rejects with {@link LockLostError} if the lock was lost before; with a system error if the lock file could not be
   * removed. In each case the lock is free; on some file systems only when a later attempt has removed the file
   * (docs/limits.md).
   */
  readonly release: () => Promise<void>;
  /** Whether the lock is still held. Asks the file system whether the lock file is still ours. */
  readonly held: boolean;
  /**
   * Aborts with a {@link LockLostError} when the lock is lost. A release is no loss. The lock is watched from the
   * first use of this property on.
   */
  readonly signal: AbortSignal;
  /**
   * Aborts when another acquire begins to wait for this lock: in this process, or in another process or container
   * of the same user that uses this package on a local file system. A call that makes one attempt does not wait.
   * It costs nothing until the first use of this property.
   */
  readonly wanted: AbortSignal;
  /** The same as `release`, for `await using`. Absent where the runtime has no such symbol. */
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

/**
 * Waits for the lock of a file, and takes it.
 *
 * The lock excludes everybody, the caller included: it is not re-entrant. It is a file beside the locked one, named
 * `<file>.lock`; the locked file need not exist. Symbolic links in the folder's path are followed, the file itself is
 * not: two names of one file have two locks. Waiting takes no thread of libuv and does not poll. A waiting call keeps
 * the process alive, a held lock does not. No signal handler is installed.
 *
 * Rejects with
 * - {@link LockTimeoutError} if the lock is still held after `timeoutMs`;
 * - the reason of `signal`;
 * - `TypeError` or `RangeError` (`ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`, `ERR_OUT_OF_RANGE`) for wrong
 *   arguments;
 * - `Error` with `code`, `syscall` and `path` where the system refuses (`EACCES`, `ENOSPC`, `EROFS`, …);
 * - `Error` with a code of {@link LOCK_ERROR_CODES}, or `ERR_ACCESS_DENIED` (`node --permission`).
 */
export function lock(file: string | URL, options?: LockOptions): Promise<Lock>;

/**
 * Takes the lock of a file if it is free or its holder is gone. Returns `null` if it is held, also by this process.
 * Synchronous. The takeover of a dead lock can block for 50 ms.
 *
 * Throws what {@link lock} rejects with, but no time-out.
 */
export function tryLock(file: string | URL, options?: TryLockOptions): Lock | null;

/**
 * Runs a function under the lock of a file, releases the lock in every case, and resolves to what the function
 * returned.
 *
 * Pass `lock.signal` to the work. If the lock was lost meanwhile, this rejects with {@link LockLostError}, because the
 * work was not protected to its end; its `cause` is what the function threw, if it threw. Otherwise, if the function
 * throws, this rejects with its error.
 *
 * A call for the same file inside the function rejects at once with `ERR_LOCK_SELF_DEADLOCK`.
 */
export function withLock<Result>(
  file: string | URL,
  fn: (lock: Lock) => Result | PromiseLike<Result>,
): Promise<Result>;
export function withLock<Result>(
  file: string | URL,
  options: LockOptions | undefined,
  fn: (lock: Lock) => Result | PromiseLike<Result>,
): Promise<Result>;

/** The same as {@link inspectSessionLock}, for any file. `file` is the locked file, also if its name ends in `.lock`. */
export function inspectLock(file: string | URL, options?: InspectOptions): Promise<LockInspection | null>;

/** The same as {@link heldSessionWriteLocks}: the locks that this process holds, of both faces. */
export function heldLocks(): HeldLock[];

export type LockRecord = SessionLockRecord;
export type LockInspection = SessionLockInspection;
export type LockStaleReason = SessionLockStaleReason;
export type LockVerdict = SessionLockVerdict;
export type LockGround = SessionLockGround;
export type LockWriter = SessionLockWriter;
export type LockProcess = SessionLockProcess;
export type HeldLock = HeldSessionWriteLock;

/** The lock was still held at the deadline. */
export class LockTimeoutError extends Error {
  constructor(details: {
    timeoutMs: number;
    lockPath: string;
    owner: string;
    holder?: LockRecord | null | undefined;
    staleReasons?: LockStaleReason[] | undefined;
    cause?: unknown;
  });
  readonly code: "ERR_LOCK_TIMEOUT" | "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT";
  /** How long the call waited. */
  readonly timeoutMs: number;
  /** The lock file. */
  readonly lockPath: string;
  /**
   * Who held it: `pid=7 alive=true ageMs=1200`, or `owner=unknown`. With `label="…"` if it has one; with
   * `(this process)` at the end if this very process held it.
   */
  readonly owner: string;
  /** The record in the lock file; `null` if it could not be read. */
  readonly holder: LockRecord | null;
  /** What spoke against the holder, which still counted as alive. */
  readonly staleReasons: LockStaleReason[];
  /** Why the lock file could not be read. Absent if it could. */
  readonly cause?: unknown;
}

/** A lock ended before its holder released it. */
export class LockLostError extends Error {
  constructor(details: {
    lockPath: string;
    how: LockLostError["how"];
    label?: string | undefined;
    cause?: unknown;
  });
  readonly code: "ERR_LOCK_LOST" | "OPENCLAW_SESSION_WRITE_LOCK_LOST";
  /** The lock file. */
  readonly lockPath: string;
  /**
   * `hold-exceeded`: the watchdog released it after `maxHoldMs`. `removed`: somebody removed or
   * replaced the lock file. `released`: `releaseAllSessionWriteLocks` was called. Only of a lock on a server:
   * `connection-lost`, its connection ended; `superseded`, the server has granted it to another holder.
   */
  readonly how: "hold-exceeded" | "removed" | "released" | "connection-lost" | "superseded";
  /** What the lock was for, if its acquire said so. */
  readonly label: string | undefined;
}

/** The codes of errors that do not come from the system. The session functions have their own codes for them. */
export const LOCK_ERROR_CODES: {
  readonly TIMEOUT: "ERR_LOCK_TIMEOUT";
  readonly LOST: "ERR_LOCK_LOST";
  /** `withLock` was called for the same lock inside its own function. */
  readonly SELF_DEADLOCK: "ERR_LOCK_SELF_DEADLOCK";
  /** A folder, a symbolic link, a named pipe, a socket or a device stands at the path of the lock file. */
  readonly NOT_A_FILE: "ERR_LOCK_NOT_A_FILE";
  /**
   * A file at the path of the lock file is not a lock file, such as `yarn.lock` for `lock("yarn")`. It was left alone.
   * The session functions take any such file for a dead lock, as the older module did.
   */
  readonly FOREIGN_FILE: "ERR_LOCK_FOREIGN_FILE";
  /** An older process is removing the lock file, and its guard folder (`<lock file>.reclaim`) stays. */
  readonly GUARDED: "ERR_LOCK_GUARDED";
  /** A bug in this package. The lock was given up. */
  readonly BUG: "ERR_LOCK_BUG";
  /** Of `session-write-lock/postgres`: the server can't be reached, or refuses. */
  readonly DATABASE: "ERR_LOCK_DATABASE";
  /** Of `session-write-lock/postgres`: a connection pooler stands before the server. */
  readonly POOLER: "ERR_LOCK_POOLER";
  /** Of `session-write-lock/postgres`: `close()` was called. */
  readonly CLOSED: "ERR_LOCK_CLOSED";
};

/** Also for errors of the session functions, and of another copy of this package. */
export function isLockTimeoutError(error: unknown): error is LockTimeoutError;

/** Also for errors of the session functions, and of another copy of this package. */
export function isLockLostError(error: unknown): error is LockLostError;

// --- The session functions ----------------------------------------------------------------------

/** What to lock, and how long to wait for it. */
export interface AcquireOptions {
  /**
   * The file to protect. It need not exist; its folder is created if it is missing. A relative
   * path is taken from the current working directory.
   */
  sessionFile: string;
  /**
   * How long to wait for a lock that somebody holds. At least one attempt is always made.
   * `Infinity`: for ever. `NaN`, zero and negative numbers: the default.
   *
   * @default 10_000
   */
  timeoutMs?: number | undefined;
  /**
   * How old a lock must be before it is taken over although its holder can be neither proved alive nor proved dead:
   * one on a network file system, for example, or another user's. A lock whose holder is proved alive is never taken.
   * `NaN`, `Infinity`, zero and negative numbers: the default.
   *
   * @default 1_800_000
   */
  staleMs?: number | undefined;
  /**
   * How long the lock may be held, counted from the acquire that took it. Then a watchdog
   * releases it, also while the event loop is blocked, and warns: see `onWarning`. `Infinity`: never.
   * `NaN`, zero and negative numbers: the default.
   *
   * @default 300_000
   */
  maxHoldMs?: number | undefined;
  /**
   * Whether a lock that this environment already holds is shared: then this acquire resolves at
   * once, and the lock ends with the last `release`. With `false` it waits like any other.
   *
   * @default true
   */
  allowReentrant?: boolean | undefined;
  /**
   * Ends the wait: the acquire rejects at once with the signal's reason, and leaves nothing behind.
   * Ignored once the lock is acquired. An acquire that does not have to wait can have its lock before
   * it returns its promise.
   */
  signal?: AbortSignal | undefined;
  /**
   * What SIGINT, SIGTERM, SIGQUIT and SIGABRT do in the main thread.
   *
   * - `true`: all session locks are released at once, before other listeners run, as the older module did. If nobody
   *   else listens for the signal, it then ends the process as it would have done.
   * - `"if-alone"`: the same if nobody else listens for the signal. Otherwise the locks are kept: the other listener
   *   decides, and may finish its work under them. They are released at `exit`.
   * - `false`: this acquire adds no listeners.
   *
   * After one acquire with `true`, `true` counts for all session locks of the process. Listeners of the package `signal-exit` don't
   * count as others: that package ends the process if nobody else listens, as this one does.
   *
   * @default true
   */
  handleSignals?: boolean | "if-alone" | undefined;
  /** What the lock is for: at most 200 bytes. Others see it in errors and in `status` and `why`. */
  label?: string | undefined;
  /**
   * Called with a `LockWarning` when the watchdog has released this lock, instead of `process.emitWarning`. If this
   * thread is too busy to hear of it within a second, a line is printed to stderr instead.
   */
  onWarning?: ((warning: Error) => void) | undefined;
}

/** Options of {@link tryAcquireSessionWriteLock}, which never waits. */
export type TryAcquireOptions = Omit<AcquireOptions, "timeoutMs" | "signal">;

/** A session lock that this process holds. It differs from {@link Lock} in its `release`. */
export interface SessionWriteLock extends Lock {
  /**
   * Releases this acquisition. The last release removes the lock file. A second call returns the same promise. It may
   * be called without its object.
   *
   * Rejects with a system error if the lock file could not be removed. The lock is free all the same: the next
   * contender replaces the dead file. On some file systems it is free only when a later attempt has removed the file
   * (docs/limits.md). Resolves if the lock was lost before; then the lock file is left alone.
   */
  readonly release: () => Promise<void>;
}

/** The JSON in a lock file. Which fields it has depends on who wrote it. */
export interface SessionLockRecord {
  /** The holder's process number, in its own pid namespace. */
  pid?: number;
  /** When the lock was acquired: ISO 8601, UTC. */
  createdAt?: string;
  /** The holder's start time. On Linux in clock ticks since boot (field 22 of `/proc/<pid>/stat`), elsewhere in microseconds since 1970. */
  starttime?: number;
  /** The name of the holder's executable, at most 15 bytes. */
  comm?: string;
  /** How long the holder means to hold the lock at most. */
  maxHoldMs?: number;
  /** The boot in which `pid` and `starttime` mean something. */
  bootId?: string;
  /** The pid namespace in which `pid` means something (an inode number). */
  pidNamespace?: number;
  /** The holder keeps an exclusive flock on the lock file for as long as it lives; `server-flock`: at an NFS 4 server. */
  witness?: "flock" | "server-flock";
  /** What the lock is for, in the holder's words. */
  label?: string;
  /** Random, one per acquisition. */
  token?: string;
}

/**
 * What speaks against a holder. `missing-pid`: the record names no process. `dead-pid`: no such
 * process exists; or nothing says that it does, and the flock that its record promises is gone.
 * `recycled-pid`: the number belongs to another process. `orphan-self-pid`: it
 * names this process, which doesn't hold the lock. `invalid-createdAt`: the record doesn't say
 * when it was written. `too-old`: older than `staleMs`. `hold-exceeded`: older than its own
 * `maxHoldMs`.
 */
export type SessionLockStaleReason =
  | "missing-pid"
  | "dead-pid"
  | "recycled-pid"
  | "orphan-self-pid"
  | "invalid-createdAt"
  | "too-old"
  | "hold-exceeded";

/** A {@link LockTimeoutError} of the session functions, with the older module's name, code and message. */
export class SessionWriteLockTimeoutError extends LockTimeoutError {
  name: "SessionWriteLockTimeoutError";
  readonly code: "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT";
}

/** A {@link LockLostError} of the session functions. */
export class SessionWriteLockLostError extends LockLostError {
  name: "SessionWriteLockLostError";
  readonly code: "OPENCLAW_SESSION_WRITE_LOCK_LOST";
}

/**
 * Waits for the lock of a session, and takes it.
 *
 * A lock whose holder is gone is taken over: within milliseconds if the holder ends while this call waits, and within
 * 50 ms if this call finds a dead lock that an older lock module may have read. A waiting call sleeps until the lock
 * is released, its holder ends or the deadline comes. It uses neither the event loop nor libuv's thread pool. Waiting
 * calls are served in the order in which they began to wait. A waiting call keeps the process alive.
 *
 * Rejects with
 * - {@link SessionWriteLockTimeoutError} if the lock is still held at the deadline;
 * - the reason of `signal`, as soon as it aborts;
 * - `TypeError` (`ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`) for wrong arguments, `RangeError` (`ERR_OUT_OF_RANGE`) for a label of
 *   over 200 bytes;
 * - `Error` with `code`, `syscall` and `path` where the system refuses (`EACCES`, `ENOSPC`,
 *   `EROFS`, `EMFILE`, `ENAMETOOLONG`, …): no lock file and no temporary file is left behind;
 * - `Error` with `code: "OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE"` and `path` if a folder, a
 *   symbolic link, a named pipe, a socket or a device stands at the path of the lock file. It is
 *   neither followed nor touched.
 */
export function acquireSessionWriteLock(options: AcquireOptions): Promise<SessionWriteLock>;

/**
 * Takes the lock of a session if it is free or its holder is gone. Returns `null` if the lock is held. Synchronous: it
 * does its work on the calling thread and does not wait, so it passes waiting calls. The takeover of a dead lock
 * that an older lock module may have read blocks the thread for 50 ms.
 *
 * Throws what {@link acquireSessionWriteLock} rejects with, but no time-out.
 */
export function tryAcquireSessionWriteLock(options: TryAcquireOptions): SessionWriteLock | null;

/**
 * Releases every session lock that this environment holds, however often it was re-entered, before this call returns.
 * For restarts inside the process and for exits. Returns how many locks there were. Acquires that wait go on waiting.
 * Locks of the general face are left alone.
 */
export function releaseAllSessionWriteLocks(): number;

/**
 * What a lock file comes to. `held`: a witness, or proof that the very process lives, stands for
 * its holder. `dead`: a contender would take it over now. `unknown`: neither can be known, which
 * counts as alive.
 */
export type SessionLockVerdict = "held" | "dead" | "unknown";

/**
 * Why the verdict is what it is.
 *
 * | ground | verdict | meaning |
 * |---|---|---|
 * | `flock` | held | a process holds the flock on the lock file |
 * | `open-for-writing` | held | a process has the lock file open for writing, as the older module does |
 * | `same-process` | held | the process in the record runs: its number and its start time are the same |
 * | `this-process` | held | this very process holds the lock |
 * | `flock-gone` | dead | the writer promised to keep a flock, and no process holds it |
 * | `no-such-process` | dead | no process has the number in the record |
 * | `other-process` | dead | another process has that number now |
 * | `other-boot` | dead | the machine was restarted since the record was written |
 * | `orphan-of-this-process` | dead | the record names this process, which does not hold the lock |
 * | `open-nowhere` | dead | no process has the file open, and it is old enough for that to count |
 * | `too-old` | dead | nothing proves or refutes the holder, and the lock is older than `staleMs` |
 * | `too-young` | unknown | no process has the file open, but its writer may be about to write it |
 * | `no-proof` | unknown | nothing proves or refutes the holder |
 */
export type SessionLockGround =
  | "flock"
  | "open-for-writing"
  | "same-process"
  | "this-process"
  | "flock-gone"
  | "no-such-process"
  | "other-process"
  | "other-boot"
  | "orphan-of-this-process"
  | "open-nowhere"
  | "too-old"
  | "too-young"
  | "no-proof";

/**
 * What is known of the process in the record, whether or not it holds the lock.
 *
 * | writer | meaning |
 * |---|---|
 * | `unnamed` | the record names no process |
 * | `running` | it runs: the record's `pid` is its number here |
 * | `ended` | no process has its number |
 * | `other-process` | another process has its number |
 * | `started-later` | the process with its number started after `createdAt`: another one, unless a clock was set |
 * | `unproved` | a process has its number; nothing proves or refutes that it is the writer |
 * | `other-boot` | it belongs to another boot of this machine, or to another machine |
 * | `other-namespace` | it belongs to another container (pid namespace): its number means nothing here |
 */
export type SessionLockWriter =
  | "unnamed"
  | "running"
  | "ended"
  | "other-process"
  | "started-later"
  | "unproved"
  | "other-boot"
  | "other-namespace";

/** A process that holds a lock or waits for it. */
export interface SessionLockProcess {
  /** Its number as this process counts, also if it runs in a container below. */
  readonly pid: number;
  /** The name of its executable; `null` if that can't be read. */
  readonly comm: string | null;
  /** Its command line, the words joined by spaces; `null` if that can't be read. */
  readonly command: string | null;
  /**
   * Why it counts as a holder: it holds the flock, or only has the lock file open for writing. `null` for a
   * waiter.
   */
  readonly witness: "flock" | "open-for-writing" | null;
  /** Whether it is the process in the record. A child can inherit a lock from that process. */
  readonly isWriter: boolean;
  /** Whether it is stopped, by a signal such as SIGSTOP or by a debugger. SIGCONT continues it after a signal. */
  readonly isStopped: boolean;
}

/** What was found out about a lock file. */
export interface SessionLockInspection {
  /** The lock file: `<real path of the folder>/<name of the session file>.lock`. */
  readonly lockPath: string;
  /**
   * The process in the record; `null` if it names none. The number is the writer's own: in another container
   * or after a restart it means another process. `holders` has the numbers that are valid here.
   */
  readonly pid: number | null;
  /**
   * Whether the process that wrote the record may live, as far as is known. It need not hold the
   * lock any more: `verdict` says.
   */
  readonly pidAlive: boolean;
  /** When the lock was acquired, as the record has it; `null` if that is no time. */
  readonly createdAt: string | null;
  /** Milliseconds since `createdAt`, 0 if that lies ahead; `null` if the record doesn't say. */
  readonly ageMs: number | null;
  /** Whether anything speaks against the holder: `staleReasons` is not empty. */
  readonly stale: boolean;
  /** What speaks against the holder. A live one can be too old, and is kept all the same. */
  readonly staleReasons: SessionLockStaleReason[];
  /** Whether a contender would take it over now: `verdict` is `dead`. */
  readonly removable: boolean;
  /** Whether this very call removed it; always `false` from {@link inspectSessionLock}. */
  readonly removed: boolean;
  /** What the lock is for, from the record. */
  readonly label: string | null;
  /** The name of the holder's executable, from the record. */
  readonly comm: string | null;
  /** The record; `null` where there is none to be read. */
  readonly holder: SessionLockRecord | null;
  /**
   * What the kernel proved the holder by: it has the file flocked, or open for writing (as the
   * older module has).
   */
  readonly witnessed: "flock" | "open-for-writing" | null;
  readonly verdict: SessionLockVerdict;
  /** Why; `null` if the file could not be looked at. */
  readonly ground: SessionLockGround | null;
  /**
   * Who else uses the folder, as this live lock shows, on a file system that proves less than a local disk: another
   * machine, or a process of this one through another mount. `null`: nobody is seen to. `docs/limits.md` says what
   * that costs.
   */
  readonly sharedWith: "other-machine" | "other-mount" | null;
  /**
   * With `processes`: the processes that hold the flock on the lock file, then those that only have it open
   * for writing. Best effort: the kernel shows the open files of other users' processes only to root, and
   * nothing of processes in other containers or on other machines.
   */
  readonly holders?: SessionLockProcess[];
  /**
   * With `processes`: the processes that wait for the lock, in the order in which they will be served. Best
   * effort, as `holders`. A process with the older module polls, and is not seen to wait.
   */
  readonly waiters?: SessionLockProcess[];
  /** With `processes`: what is known of the process in the record. */
  readonly writer?: SessionLockWriter;
  /**
   * Why the file could not be looked at, and is `unknown` therefore; or why a dead one could not
   * be removed. An `Error` with `code` and `path`.
   */
  readonly cause?: unknown;
}

/** How {@link inspectSessionLock} judges. */
export interface InspectOptions {
  /**
   * When to give up a lock whose holder can be neither proved alive nor proved dead.
   *
   * @default 1_800_000
   */
  staleMs?: number | undefined;
  /**
   * The instant from which ages are reckoned, in milliseconds since the epoch. It moves what only
   * age decides; no proof yields to it.
   *
   * @default Date.now()
   */
  nowMs?: number | undefined;
  /**
   * Whether to find the processes that hold each lock or wait for it: `holders`, `waiters`, `writer`. Costs
   * one scan of `/proc` for each call, off the event loop.
   *
   * @default false
   */
  processes?: boolean | undefined;
}

/**
 * Looks at the lock of a session as a contender does, and says what it has found. Takes the session
 * file or its lock file: a name that ends in `.lock` is a lock file's. Changes nothing, and creates
 * no folder. Resolves to `null` if there is no lock file.
 *
 * The work is done off the event loop. To look takes the file's flock for a moment, if it is free.
 *
 * Rejects with
 * - `TypeError` (`ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`) for wrong arguments;
 * - `Error` with `code`, `syscall` and `path` where the system doesn't say whether there is a lock
 *   file. One that is there and can't be read is `unknown`, with a `cause`.
 */
export function inspectSessionLock(
  path: string,
  options?: InspectOptions,
): Promise<SessionLockInspection | null>;

/** What {@link cleanStaleLockFiles} sweeps, and how. */
export interface CleanStaleLockFilesOptions extends InspectOptions {
  /** The folder whose lock files are meant: those whose names end in `.jsonl.lock`, see `anyName`. */
  sessionsDir: string;
  /**
   * Whether to remove the dead ones. With `false` nothing is changed.
   *
   * @default true
   */
  removeStale?: boolean | undefined;
  /**
   * Whether to sweep the folders in it too. Symbolic links to folders are not followed.
   *
   * @default false
   */
  recursive?: boolean | undefined;
  /**
   * Whether to look at all files whose names end in `.lock`. A file whose name does not end in `.jsonl.lock`
   * counts only if it holds a record with a `pid` and a `createdAt`: other programs have lock files, too.
   *
   * @default false
   */
  anyName?: boolean | undefined;
  /** Called about ten times a second while the sweep runs: how many of the files found are done. */
  onProgress?: ((progress: { done: number; total: number }) => void) | undefined;
  /**
   * `warn` is called for each lock that was removed, when the sweep is over:
   * `removed stale session lock: <lock file> (<reasons>)`; without reasons, `no longer held`. What
   * it throws is ignored. `info` is not used.
   */
  log?: { warn?(message: string): void; info?(message: string): void } | undefined;
}

/** What a sweep found and did. */
export interface CleanStaleLockFilesResult {
  /** All lock files, sorted by path, also those that are removed by now. */
  locks: SessionLockInspection[];
  /** Those of them that this call removed: the sessions that were cut off. */
  cleaned: SessionLockInspection[];
  /**
   * Why folders in it could not be read: errors with `code`, `syscall` and `path`. Absent if all could be
   * read.
   */
  skipped?: Error[];
}

/**
 * Looks at every lock file of a folder, and removes the dead ones. For the start of a gateway, and
 * for doctors.
 *
 * What is dead is what an acquire with time to wait would take over, and it is removed by the rules
 * of a takeover: nobody's new lock can be hit. Live locks are kept whatever their age, and so is
 * what can't be judged. Whatever is no regular file is reported, `unknown`, and not touched. What
 * crashed takeovers left behind (`<name>.jsonl.lock.new`) goes as well, without a report. A missing
 * folder gives empty lists.
 *
 * The work is done off the event loop, bit by bit. A dead lock takes 50 ms, up to 64 of them at
 * the same time.
 *
 * Rejects with
 * - `TypeError` (`ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`) for wrong arguments;
 * - `Error` with `code`, `syscall` and `path` if `sessionsDir` itself can't be read. A folder in it that can't
 *   be read is in `skipped`, and the sweep goes on.
 */
export function cleanStaleLockFiles(
  options: CleanStaleLockFilesOptions,
): Promise<CleanStaleLockFilesResult>;

/** A lock that this process holds. */
export interface HeldSessionWriteLock {
  /** The lock file. */
  readonly lockPath: string;
  /** When it was granted: ISO 8601, UTC. */
  readonly acquiredAt: string;
  /** How long ago that was, on the monotonic clock. */
  readonly heldForMs: number;
  /** When the watchdog releases it, counted from `acquiredAt`; `Infinity`: never. */
  readonly maxHoldMs: number;
  /** What it is for; absent if the acquire had no label. */
  readonly label?: string;
  /** How many acquisitions share it: one more than it was re-entered. */
  readonly acquisitions: number;
  /** How many acquires of this process wait for it. */
  readonly waiters: number;
}

/**
 * The locks that this process holds, in every environment of it, sorted by path. Asks nobody: a lock
 * whose file somebody has removed is among them until that is noticed.
 */
export function heldSessionWriteLocks(): HeldSessionWriteLock[];

/**
 * Whether a process exists and may be the one that was called `comm`.
 *
 * `false` only if the kernel proves it: no such process, a zombie, the number of a thread, or
 * (with `comm`) another name. `comm` matches the name of the executable and the current task
 * name, so a `process.title` does not make a process look dead. Where the name can't be read,
 * the number alone decides. Never throws.
 */
export function isAlive(pid: number, comm?: string): boolean;

/**
 * The name of this process's executable, 1 to 15 bytes: `node` on every version of Node, in every
 * thread, whatever `process.title` is.
 */
export function getProcessComm(): string;

/**
 * The name of another process's executable; where that can't be read, its task name. `null` where
 * there is no such process or the kernel doesn't say.
 */
export function getProcessCommForPid(pid: number): string | null;

/**
 * When a process started: on Linux in clock ticks since boot (field 22 of `/proc/<pid>/stat`), on macOS
 * and Windows in microseconds since the epoch. `null` where there is no such process or the kernel doesn't say.
 */
export function getProcessStartTime(pid: number): number | null;

/** For tests of the gateway, as the older module had it. Not for production code. */
export const __testing: {
  readonly cleanupSignals: ("SIGINT" | "SIGTERM" | "SIGQUIT" | "SIGABRT")[];
  handleTerminationSignal(signal: string): void;
  releaseAllLocksSync(): void;
  /**
   * Has the watchdog look as if it were `nowMs`, and returns how many locks it has released since
   * this was last called, by itself or now. Their files are gone when the promise resolves.
   */
  runLockWatchdogCheck(nowMs?: number): Promise<number>;
  /** Resolves when no disk work of this process is under way. */
  idle(): Promise<void>;
  /** Releases every lock and takes every listener away; the next acquire adds them again. */
  reset(): void;
  getProcessComm: typeof getProcessComm;
  getProcessCommForPid: typeof getProcessCommForPid;
  isAlive: typeof isAlive;
};

// What TypeScript's `ESNext.Disposable` declares, for compilations without it.
declare global {
  interface SymbolConstructor {
    readonly asyncDispose: unique symbol;
  }
}
