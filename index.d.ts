/**
 * A session write lock for Node: a dead lock never blocks, a live lock is never taken.
 *
 * All times are in milliseconds. All functions may be used in the main thread and in worker
 * threads; each of them is an environment of its own.
 */

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
  timeoutMs?: number;
  /**
   * When to give up a lock whose holder can be neither proved alive nor proved dead: one on a
   * network file system, say, or another user's. Never ends a lock whose holder is proved alive.
   * `NaN`, `Infinity`, zero and negative numbers: the default.
   *
   * @default 1_800_000
   */
  staleMs?: number;
  /**
   * How long the lock may be held, counted from the acquire that took it. Then a watchdog
   * releases it, also while the event loop is blocked, and says so on stderr. `NaN`, `Infinity`,
   * zero and negative numbers: the default.
   *
   * @default 300_000
   */
  maxHoldMs?: number;
  /**
   * Whether a lock that this environment already holds is shared: then this acquire resolves at
   * once, and the lock ends with the last `release`. With `false` it waits like any other.
   *
   * @default true
   */
  allowReentrant?: boolean;
  /**
   * Ends the wait: the acquire rejects at once with the signal's reason, and leaves nothing behind.
   * Once the lock is acquired, the signal has no meaning for it; an acquire that need not wait
   * may have it before it returns its promise.
   */
  signal?: AbortSignal;
}

/** What {@link tryAcquireSessionWriteLock} takes: it never waits. */
export type TryAcquireOptions = Omit<AcquireOptions, "timeoutMs" | "signal">;

/** A lock that is held. It does not keep the process alive, and ends with it. */
export interface SessionWriteLock {
  /** The lock file: `<real path of the folder>/<name of the session file>.lock`. */
  readonly lockPath: string;
  /**
   * Gives this acquisition back; the lock file goes with the last one. Calling it again does
   * nothing more. It may be called without its object.
   *
   * It rejects if the lock file could not be removed. The lock is free all the same: the next
   * contender finds a dead file and replaces it. If the file was meanwhile taken or removed by
   * somebody else, it is left alone, and that is no error.
   */
  readonly release: () => Promise<void>;
  /**
   * Whether the lock is still held: asks the file system whether the lock file at the path is still
   * ours. `false` after the release.
   */
  readonly held: boolean;
  /**
   * Aborts when the lock is lost, with a {@link SessionWriteLockLostError} as its reason: pass it
   * to the work that is done under the lock. A release is no loss. The lock is watched from the
   * first use of this property on.
   */
  readonly signal: AbortSignal;
  /** The same as `release`, for `await using`. Absent where the runtime has no such symbol. */
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

/** The JSON in a lock file. Which fields it has depends on who wrote it. */
export interface SessionLockRecord {
  /** The holder's process number, in its own pid namespace. */
  pid?: number;
  /** When the lock was acquired: ISO 8601, UTC. */
  createdAt?: string;
  /** The holder's start time in clock ticks since boot: field 22 of `/proc/<pid>/stat`. */
  starttime?: number;
  /** The name of the holder's executable, at most 15 bytes. */
  comm?: string;
  /** How long the holder means to hold the lock at most. */
  maxHoldMs?: number;
  /** The boot in which `pid` and `starttime` mean something. */
  bootId?: string;
  /** The pid namespace in which `pid` means something (an inode number). */
  pidNamespace?: number;
  /** The holder keeps an exclusive flock on the lock file for as long as it lives. */
  witness?: "flock";
  /** Random, one per acquisition. */
  token?: string;
}

/**
 * What speaks against a holder. `missing-pid`: the record names no process. `dead-pid`: no such
 * process exists. `recycled-pid`: the number belongs to another process. `orphan-self-pid`: it
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

/** The lock was still held by somebody else at the deadline. */
export class SessionWriteLockTimeoutError extends Error {
  constructor(details: {
    timeoutMs: number;
    lockPath: string;
    owner: string;
    holder?: SessionLockRecord | null;
    staleReasons?: SessionLockStaleReason[];
    cause?: unknown;
  });
  name: "SessionWriteLockTimeoutError";
  readonly code: "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT";
  /** How long was waited. */
  readonly timeoutMs: number;
  /** The lock file. */
  readonly lockPath: string;
  /** Who held it: `pid=7 alive=true ageMs=1200`, or `owner=unknown`. */
  readonly owner: string;
  /** What the lock file said, or `null` where nothing could be read. */
  readonly holder: SessionLockRecord | null;
  /** What spoke against the holder, which was alive all the same. */
  readonly staleReasons: SessionLockStaleReason[];
  /** Why the lock file could not be read, if it was that. */
  readonly cause?: unknown;
}

/** A lock ended before its holder released it: the reason with which `lock.signal` aborts. */
export class SessionWriteLockLostError extends Error {
  constructor(details: { lockPath: string; how: SessionWriteLockLostError["how"] });
  name: "SessionWriteLockLostError";
  readonly code: "OPENCLAW_SESSION_WRITE_LOCK_LOST";
  /** The lock file. */
  readonly lockPath: string;
  /**
   * `hold-exceeded`: the watchdog released it after `maxHoldMs`. `removed`: somebody removed or
   * replaced the lock file. `released`: `releaseAllSessionWriteLocks` was called.
   */
  readonly how: "hold-exceeded" | "removed" | "released";
}

/**
 * Waits for the lock of a session and takes it.
 *
 * A lock whose holder is gone is taken over: within milliseconds if it ends while one waits, in 50
 * if one comes upon a dead lock (so long an older lock module may take to act on what it has read
 * there). A waiter sleeps until the lock file changes,
 * its holder ends or its deadline comes; it occupies neither the event loop nor libuv's thread pool.
 * Within a process waiters are served first come, first served. A waiting acquire keeps the
 * process alive.
 *
 * Rejects with
 * - {@link SessionWriteLockTimeoutError} if it is still held at the deadline;
 * - the reason of `signal`, as soon as that aborts;
 * - `TypeError` (`ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`) for wrong arguments;
 * - `Error` with `code`, `syscall` and `path` where the system refuses (`EACCES`, `ENOSPC`,
 *   `EROFS`, `EMFILE`, `ENAMETOOLONG`, …): no lock file and no temporary is left behind;
 * - `Error` with `code: "OPENCLAW_SESSION_WRITE_LOCK_NOT_A_FILE"` and `path` if a folder, a
 *   symbolic link, a named pipe, a socket or a device stands where the lock file belongs: it is
 *   neither followed nor touched.
 */
export function acquireSessionWriteLock(options: AcquireOptions): Promise<SessionWriteLock>;

/**
 * Takes the lock of a session if it is free or its holder is gone, and returns `null` if it is
 * held. Synchronous: it does its work on the calling thread and waits for nobody, so it can be
 * ahead of those who wait. Taking over a dead lock blocks the thread for 50 ms, in which an older
 * lock module may act on what it has read there.
 *
 * Throws what {@link acquireSessionWriteLock} rejects with, but no time-out.
 */
export function tryAcquireSessionWriteLock(options: TryAcquireOptions): SessionWriteLock | null;

/**
 * Releases every lock that this environment holds, however often it was re-entered, before it
 * returns. For restarts inside the process and for exits. Returns how many there were. Acquires
 * that are still waiting go on waiting.
 */
export function releaseAllSessionWriteLocks(): number;

/**
 * Whether a process exists and may be the one that was called `comm`.
 *
 * `false` only if the kernel proves it: no such process, a zombie, the number of a thread, or
 * (with `comm`) another name. `comm` matches the name of the executable and the current task
 * name, so a `process.title` does not make a process look dead. Where the name can't be read,
 * the number alone decides; outside Linux it always does. Never throws.
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
 * When a process started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`). `null` where
 * there is no such process or the kernel doesn't say; always outside Linux.
 */
export function getProcessStartTime(pid: number): number | null;

/** For tests of the gateway, as the older module had it. Not for production code. */
export const __testing: {
  readonly cleanupSignals: NodeJS.Signals[];
  handleTerminationSignal(signal: NodeJS.Signals): void;
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
