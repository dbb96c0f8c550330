/**
 * The gateway's session write lock: what is left of `session-write-lock.ts` once the lock itself
 * comes from the package `session-write-lock`.
 *
 * Here are the gateway's settings, its defaults and the one error that is its own, under the names
 * by which callers and tests import them. Who holds a lock, who gets it and what a lock file means
 * is the package's business.
 */

import {
  __testing as lockTesting,
  type AcquireOptions,
  acquireSessionWriteLock as acquire,
  cleanStaleLockFiles as sweep,
  type CleanStaleLockFilesOptions,
  heldSessionWriteLocks,
  type SessionLockInspection as PackageInspection,
  type SessionWriteLock as PackageLock,
  SessionWriteLockTimeoutError,
} from "session-write-lock";

export {
  heldSessionWriteLocks,
  inspectSessionLock,
  isAlive,
  releaseAllSessionWriteLocks,
  SessionWriteLockLostError,
  SessionWriteLockTimeoutError,
  tryAcquireSessionWriteLock,
} from "session-write-lock";

// --- Types --------------------------------------------------------------------------------------

// The gateway's callers and tests make locks and inspections of their own, with the members that the
// older module had. So only those members are required and may be assigned, and all others are
// optional. Each type is an alias: a logger takes it as `Record<string, unknown>`, and no interface.

/** What an acquire resolves to: the package's lock, or a stand-in that only has `release`. */
export type SessionWriteLock = { release: () => Promise<void> } & Partial<
  Omit<PackageLock, "release">
>;

/** What the older module said about a lock file. */
type OlderInspection = {
  lockPath: string;
  pid: number | null;
  pidAlive: boolean;
  createdAt: string | null;
  ageMs: number | null;
  stale: boolean;
  staleReasons: string[];
  removed: boolean;
};

/** What a sweep says about a lock file: the package's inspection, with the older module's reasons. */
export type SessionLockInspection = OlderInspection &
  Partial<Omit<PackageInspection, keyof OlderInspection>>;

// --- Settings -----------------------------------------------------------------------------------

/** The part of the gateway's configuration that is about this lock. */
export type SessionWriteLockAcquireTimeoutConfig = {
  session?: {
    writeLock?: { acquireTimeoutMs?: number; staleMs?: number; maxHoldMs?: number };
  };
};

type Setting = "acquireTimeoutMs" | "staleMs" | "maxHoldMs";

export const DEFAULT_SESSION_WRITE_LOCK_ACQUIRE_TIMEOUT_MS = 60_000;
export const DEFAULT_SESSION_WRITE_LOCK_STALE_MS = 30 * 60_000;
export const DEFAULT_SESSION_WRITE_LOCK_MAX_HOLD_MS = 5 * 60_000;

/** Longer than any run; a timer of Node takes up to 2^31 ms. */
const LONGEST_HOLD_MS = 2_147_000_000;

/** What a run needs to end after its own time-out. */
const GRACE_MS = 2 * 60_000;

const VARIABLES: Record<Setting, string> = {
  acquireTimeoutMs: "OPENCLAW_SESSION_WRITE_LOCK_ACQUIRE_TIMEOUT_MS",
  staleMs: "OPENCLAW_SESSION_WRITE_LOCK_STALE_MS",
  maxHoldMs: "OPENCLAW_SESSION_WRITE_LOCK_MAX_HOLD_MS",
};

/** The environment, for emergencies, comes before the configuration, and that before the default. */
function resolveMs(
  setting: Setting,
  config: SessionWriteLockAcquireTimeoutConfig | undefined,
  env: NodeJS.ProcessEnv | undefined,
  fallback: number,
): number {
  const fromEnv = readNumber((env ?? process.env)[VARIABLES[setting]]);
  const fromConfig = config?.session?.writeLock?.[setting];
  return [fromEnv, fromConfig].find((value) => isAllowed(setting, value)) ?? fallback;
}

/**
 * Digits only: `1e3`, `0x10` and `5s` are more likely mistakes than meant. No more of them than a
 * safe integer has: with enough, they would be `Infinity` unsaid.
 */
function readNumber(text = ""): number | undefined {
  return /^(\d{1,16}|Infinity)$/.test(text.trim()) ? Number(text) : undefined;
}

/** To wait for ever makes sense; to hold for ever, or to believe a dead lock for ever, doesn't. */
function isAllowed(setting: Setting, value: number | undefined): boolean {
  const isWholeMs = Number.isSafeInteger(value) && Number(value) > 0;
  return isWholeMs || (value === Infinity && setting === "acquireTimeoutMs");
}

export function resolveSessionWriteLockAcquireTimeoutMs(
  config?: SessionWriteLockAcquireTimeoutConfig,
  env?: NodeJS.ProcessEnv,
): number {
  const fallback = DEFAULT_SESSION_WRITE_LOCK_ACQUIRE_TIMEOUT_MS;
  return resolveMs("acquireTimeoutMs", config, env, fallback);
}

export function resolveSessionWriteLockStaleMs(
  config?: SessionWriteLockAcquireTimeoutConfig,
  env?: NodeJS.ProcessEnv,
): number {
  return resolveMs("staleMs", config, env, DEFAULT_SESSION_WRITE_LOCK_STALE_MS);
}

/** All three, as `acquireSessionWriteLock` takes them. */
export function resolveSessionWriteLockOptions(
  config?: SessionWriteLockAcquireTimeoutConfig,
  {
    env,
    maxHoldMsFallback = DEFAULT_SESSION_WRITE_LOCK_MAX_HOLD_MS,
  }: { env?: NodeJS.ProcessEnv; maxHoldMsFallback?: number } = {},
): { timeoutMs: number; staleMs: number; maxHoldMs: number } {
  return {
    timeoutMs: resolveSessionWriteLockAcquireTimeoutMs(config, env),
    staleMs: resolveSessionWriteLockStaleMs(config, env),
    maxHoldMs: resolveMs("maxHoldMs", config, env, maxHoldMsFallback),
  };
}

/** How long a run that may take `timeoutMs` may hold its lock. */
export function resolveSessionLockMaxHoldFromTimeout(limits: {
  timeoutMs: number;
  graceMs?: number;
  minMs?: number;
}): number {
  const minMs = finiteMs(limits.minMs) ?? DEFAULT_SESSION_WRITE_LOCK_MAX_HOLD_MS;
  const timeoutMs = positiveMs(limits.timeoutMs) ?? minMs;
  const graceMs = finiteMs(limits.graceMs) ?? GRACE_MS;
  return Math.min(LONGEST_HOLD_MS, Math.max(minMs, timeoutMs + graceMs));
}

/** `NaN`, zero and less mean the default. What isn't a number at all is the package's to refuse. */
function positiveMs(value: number | undefined): number | undefined {
  return typeof value !== "number" || value > 0 ? value : undefined;
}

/** The same where `Infinity` means the default, too. */
function finiteMs(value: number | undefined): number | undefined {
  return value === Infinity ? undefined : positiveMs(value);
}

// --- Errors -------------------------------------------------------------------------------------

const TIMEOUT_CODE = "OPENCLAW_SESSION_WRITE_LOCK_TIMEOUT";
const STALE_CODE = "OPENCLAW_SESSION_WRITE_LOCK_STALE";

/**
 * At the deadline the holder was alive, and had held the lock for too long: above `staleMs`, or
 * above the `maxHoldMs` that it wrote down itself. Waiting longer won't help; look at that process.
 */
export class SessionWriteLockStaleError extends Error {
  override readonly name = "SessionWriteLockStaleError";
  readonly code = STALE_CODE;
  readonly owner: string;
  readonly lockPath: string;
  readonly staleReasons: string[];

  constructor(
    details: { owner: string; lockPath: string; staleReasons?: string[] },
    options?: ErrorOptions,
  ) {
    const { owner, lockPath } = details;
    const staleReasons = details.staleReasons?.length ? details.staleReasons : ["unknown"];
    super(`session file lock stale (${staleReasons.join(", ")}): ${owner} ${lockPath}`, options);
    this.owner = owner;
    this.lockPath = lockPath;
    this.staleReasons = staleReasons;
  }
}

/** By `code` as well: an error from another copy of this module, or of the package, is one too. */
export function isSessionWriteLockTimeoutError(error: unknown): boolean {
  return error instanceof SessionWriteLockTimeoutError || hasCode(error, TIMEOUT_CODE);
}

export function isSessionWriteLockStaleError(error: unknown): boolean {
  return error instanceof SessionWriteLockStaleError || hasCode(error, STALE_CODE);
}

/** The lock could not be had in time: contention, not a fault of the model or its provider. */
export function isSessionWriteLockAcquireError(error: unknown): boolean {
  return isSessionWriteLockTimeoutError(error) || isSessionWriteLockStaleError(error);
}

function hasCode(error: unknown, code: string): boolean {
  return typeof error === "object" && error !== null && "code" in error && error.code === code;
}

// --- Locks --------------------------------------------------------------------------------------

/**
 * As the package's, with the gateway's defaults: they come from the environment.
 *
 * A gateway with its own listeners for SIGTERM and SIGINT, which finish its work, passes `handleSignals: "if-alone"`.
 * Then it keeps its locks until that work is done. The default is `true`, as in the older module: the signal releases
 * all locks at once, before the gateway's own listeners run.
 */
export async function acquireSessionWriteLock(options: AcquireOptions): Promise<SessionWriteLock> {
  const defaults = resolveSessionWriteLockOptions();
  try {
    return await acquire({
      ...options,
      timeoutMs: positiveMs(options.timeoutMs) ?? defaults.timeoutMs,
      staleMs: finiteMs(options.staleMs) ?? defaults.staleMs,
      maxHoldMs: finiteMs(options.maxHoldMs) ?? defaults.maxHoldMs,
      allowReentrant: options.allowReentrant ?? false,
    });
  } catch (error) {
    if (isOverdue(error)) {
      throw new SessionWriteLockStaleError(error, { cause: error });
    }
    throw isBareReason(error, options.signal) ? abortError(error) : error;
  }
}

/** Whether the wait was aborted with a reason that is no error, such as `abort("enough")`. */
function isBareReason(error: unknown, signal: AbortSignal | undefined): boolean {
  return signal?.aborted === true && error === signal.reason && !(error instanceof Error);
}

/** The older module's error for such a reason. Callers tell an abort from a failure by its name. */
function abortError(reason: unknown): Error {
  return Object.assign(new Error("request aborted", { cause: reason }), { name: "AbortError" });
}

/** Whether the holder's time was up as well. What this process holds, it may wait for. */
function isOverdue(error: unknown): error is SessionWriteLockTimeoutError {
  if (!(error instanceof SessionWriteLockTimeoutError)) {
    return false;
  }
  const { lockPath, staleReasons } = error;
  const isOurs = heldSessionWriteLocks().some((held) => held.lockPath === lockPath);
  return !isOurs && staleReasons.some((reason) => reason === "too-old" || reason === "hold-exceeded");
}

export type SessionLockOwnerProcessArgsReader = (pid: number) => string[] | null;

/** The package's sweep, with the gateway's settings. `cleaned`: the sessions that were cut off. */
export async function cleanStaleLockFiles(
  options: CleanStaleLockFilesOptions & {
    config?: SessionWriteLockAcquireTimeoutConfig;
    env?: NodeJS.ProcessEnv;
    /** @deprecated Not asked: the kernel says who holds a lock, command lines don't. */
    readOwnerProcessArgs?: SessionLockOwnerProcessArgsReader;
  },
): Promise<{ locks: SessionLockInspection[]; cleaned: SessionLockInspection[] }> {
  const { config, env, readOwnerProcessArgs: _, log, staleMs: given, ...rest } = options;
  const staleMs = finiteMs(given) ?? resolveSessionWriteLockStaleMs(config, env);
  const locks = (await sweep({ ...rest, staleMs })).locks.map(withOlderReasons);
  const cleaned = locks.filter(({ removed }) => removed);
  cleaned.forEach((lock) => logRemoval(log, lock));
  return { locks, cleaned };
}

/**
 * The reasons as the older module's sweep gave them.
 *
 * - `hold-exceeded` is left out: that module said it to contenders only. A sweep keeps a live holder,
 *   so a doctor that reads it as stale offers a fix that does nothing.
 * - A dead lock always has a reason. The package gives none where the recorded process may live, but
 *   the kernel shows that nobody holds the lock. The pid no longer stands for a holder; the older
 *   module's word for that is `recycled-pid`.
 */
function withOlderReasons(inspection: PackageInspection): SessionLockInspection {
  const staleReasons: string[] = inspection.staleReasons.filter(
    (reason) => reason !== "hold-exceeded",
  );
  if (inspection.removable && staleReasons.length === 0) {
    staleReasons.push("recycled-pid");
  }
  return { ...inspection, stale: staleReasons.length > 0, staleReasons };
}

/** Here, not in the package: the line gives the same reasons as the inspection. */
function logRemoval(log: CleanStaleLockFilesOptions["log"], lock: SessionLockInspection): void {
  try {
    log?.warn?.(`removed stale session lock: ${lock.lockPath} (${lock.staleReasons.join(", ")})`);
  } catch {
    // A log that fails must not hide which sessions were cut off.
  }
}

// --- For the gateway's tests --------------------------------------------------------------------

/** What is left of `timeoutMs`, once it runs. */
function resolveRemainingAcquireTimeoutMs(
  timeoutMs: number,
  startedAtMs: number,
  nowMs: number,
): number {
  return Math.max(0, timeoutMs - Math.max(0, nowMs - startedAtMs));
}

/**
 * What the clock says about a record: its age, and whether it is older than `staleMs` or than its own `maxHoldMs`. Pure:
 * it does not ask whether the process lives.
 */
function inspectLockPayload(
  payload: { pid?: number; createdAt?: string; starttime?: number; maxHoldMs?: number } | null,
  staleMs: number,
  nowMs: number,
  { respectMaxHold = false }: { respectMaxHold?: boolean } = {},
): Omit<OlderInspection, "lockPath" | "pidAlive" | "removed"> {
  const { pid = null, createdAt = null, maxHoldMs = Infinity } = payload ?? {};
  const createdAtMs = Date.parse(createdAt ?? "");
  const ageMs = Number.isNaN(createdAtMs) ? null : Math.max(0, nowMs - createdAtMs);
  const staleReasons = [
    pid === null && "missing-pid",
    ageMs === null && "invalid-createdAt",
    ageMs !== null && ageMs > staleMs && "too-old",
    ageMs !== null && respectMaxHold && ageMs > maxHoldMs && "hold-exceeded",
  ].filter((reason) => reason !== false);
  return { pid, createdAt, ageMs, stale: staleReasons.length > 0, staleReasons };
}

export const testing = {
  cleanupSignals: lockTesting.cleanupSignals,
  handleTerminationSignal: lockTesting.handleTerminationSignal,
  inspectLockPayloadForTest: inspectLockPayload,
  releaseAllLocksSync: lockTesting.releaseAllLocksSync,
  runLockWatchdogCheck: lockTesting.runLockWatchdogCheck,
  resolveRemainingAcquireTimeoutMs,
};
export { testing as __testing };

/** As if no lock had been acquired yet. */
export function resetSessionWriteLockStateForTest(): void {
  lockTesting.reset();
}

/** The same, and whatever was being released is off the disk. */
export async function drainSessionWriteLockStateForTest(): Promise<void> {
  lockTesting.releaseAllLocksSync();
  await lockTesting.idle();
  lockTesting.reset();
}
