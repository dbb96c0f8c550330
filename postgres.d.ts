/**
 * Locks between machines that have no disk in common. A PostgreSQL server, 14 or newer, keeps them: it has a queue for
 * each lock, wakes the next waiter, and frees the lock of a holder whose connection ended. Nothing polls.
 *
 * Needs the package `pg`, 8.13 or newer. All times are in milliseconds.
 */

import type { Lock, LockOptions, TryLockOptions } from "./index.js";

/** What {@link postgresLocks} needs to know: either `pool` or `connectionString`. An unknown option is refused. */
export interface PostgresLocksOptions {
  /**
   * A `Pool` of the package `pg`. Only its settings are used: locks have connections of their own, so that the queries
   * of the application and the locks never wait for each other.
   */
  pool?: PgPool | undefined;
  /** For example `postgres://user:password@host:5432/database`. */
  connectionString?: string | undefined;
  /**
   * How many connections the locks may have. Each lock that this process holds or waits for takes one. Further calls
   * wait for a free one, within their `timeoutMs`: a process that holds this many locks and waits for one more
   * waits for itself.
   *
   * @default 20
   */
  maxConnections?: number | undefined;
  /**
   * The schema of the table.
   *
   * @default "public"
   */
  schema?: string | undefined;
  /**
   * Says that the pooler between this process and the server keeps one server connection for each client, as PgBouncer
   * does with `pool_mode=session`. Without it any pooler is refused, because one that shares connections
   * (`pool_mode=transaction`) would share the locks.
   *
   * @default false
   */
  behindSessionPooler?: boolean | undefined;
}

/** The part of `pg.Pool` that is used. */
export interface PgPool {
  readonly options: object;
  connect(...args: any[]): any;
}

/** The part of `pg.Client` that {@link PostgresLock.fence} uses. */
export interface PgQueryable {
  query(text: string, values: unknown[]): PromiseLike<unknown>;
}

/** A lock that this process holds on a server. It does not keep the process alive, and ends with it. */
export interface PostgresLock extends Lock {
  /** The name of the lock. */
  readonly name: string;
  /** `postgres:<name>`. */
  readonly lockPath: string;
  /** Grows with each grant of this lock. */
  readonly generation: bigint;
  /** When it was granted, by the server's clock: ISO 8601, UTC. */
  readonly acquiredAt: string;
  /**
   * Whether the lock is still held, as far as this process knows. Asks nobody: it learns from the connection that the
   * lock was lost. If the network is cut that takes 15 s at most; the server gives the lock away after 35 s.
   */
  readonly held: boolean;
  /**
   * Makes a transaction fail unless this lock is the last one that was granted. Call it in the transaction that it is
   * to protect, with the client that runs it. From then on no later holder is granted the lock until that transaction
   * ends. So a holder that was paused or cut off cannot write after its successor.
   *
   * A holder that is paused or cut off in such a transaction holds the others up. So the server ends a transaction that has been
   * idle for 30 s after the fence, unless the client has an `idle_in_transaction_session_timeout` of its own.
   *
   * Rejects with `LockLostError` (`superseded`) if there is a later generation. The server has then aborted the
   * transaction. Outside a transaction it protects nothing.
   */
  fence(client: PgQueryable): Promise<void>;
  /** Releases the lock, and rejects with `LockLostError` if it was lost before. A second call returns the same promise. */
  readonly release: () => Promise<void>;
}

/**
 * `staleMs` has no effect here: a lock whose holder is gone is free. `maxHoldMs` is watched by the server, also if
 * this process is stopped.
 */
export type PostgresTryLockOptions = TryLockOptions;
export type PostgresLockOptions = LockOptions;

/** The process that holds a lock. */
export interface PostgresLockHolder {
  /** Its number on its machine. */
  readonly pid: number;
  /** The name of its executable. */
  readonly comm: string;
  /** The name of its machine. */
  readonly host: string;
  /** When it was granted the lock: ISO 8601, UTC. */
  readonly createdAt: string;
  readonly label?: string;
}

/** A server process (a *backend*) that serves a holder or a waiter. */
export interface PostgresBackend {
  /** Its number on the server, as in `pg_stat_activity`. */
  readonly pid: number;
  /** The address of its client; `null` for a Unix socket, or if the role may not see it. */
  readonly address: string | null;
}

/** What the server says of a lock that is held or waited for. */
export interface PostgresLockInspection {
  readonly name: string;
  /** `postgres:<name>`. */
  readonly lockPath: string;
  /** `null` for the moment between a grant and its note in the table. */
  readonly holder: PostgresLockHolder | null;
  readonly label: string | null;
  readonly createdAt: string | null;
  readonly ageMs: number | null;
  readonly generation: bigint | null;
  /** The connection of the holder. */
  readonly backend: PostgresBackend | null;
  /** The waiters, in the order in which they will be served. A process waits once for each name. */
  readonly waiters: (PostgresBackend & { readonly waitsForMs: number })[];
}

/** A lock that this process holds, for {@link PostgresLocks.heldLocks}. */
export interface HeldPostgresLock {
  readonly name: string;
  readonly lockPath: string;
  readonly generation: bigint;
  readonly acquiredAt: string;
  readonly heldForMs: number;
  /** `Infinity`: never ended by the server. */
  readonly maxHoldMs: number;
  readonly label?: string;
  readonly acquisitions: 1;
  /** How many calls of this process wait for it. */
  readonly waiters: number;
}

/**
 * The functions of {@link postgresLocks}. They may be called without their object. A name is any string of 1 to 1,000 bytes.
 *
 * All reject with
 * - `TypeError` or `RangeError` (`ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`, `ERR_OUT_OF_RANGE`) for wrong
 *   arguments;
 * - `Error` with `code: "ERR_LOCK_DATABASE"` if the server can't be reached, refuses, or ends while the call waits; its
 *   `cause` is the error of `pg`;
 * - `Error` with `code: "ERR_LOCK_POOLER"` behind a pooler, see {@link PostgresLocksOptions.behindSessionPooler};
 * - `Error` with `code: "ERR_LOCK_CLOSED"` after {@link close}.
 */
export interface PostgresLocks {
  /** Waits for the lock of a name, and takes it. Also rejects with `LockTimeoutError`, or the reason of `signal`. */
  lock(name: string, options?: PostgresLockOptions): Promise<PostgresLock>;
  /** Takes the lock if it is free. Resolves to `null` if somebody holds it or waits for it, this process included. */
  tryLock(name: string, options?: PostgresTryLockOptions): Promise<PostgresLock | null>;
  /** As `withLock` for files: runs a function under the lock, and releases it in every case. */
  withLock<Result>(name: string, fn: (lock: PostgresLock) => Result | PromiseLike<Result>): Promise<Result>;
  withLock<Result>(
    name: string,
    options: PostgresLockOptions | undefined,
    fn: (lock: PostgresLock) => Result | PromiseLike<Result>,
  ): Promise<Result>;
  /** Who holds a lock, and who waits for it. Resolves to `null` if it is free. */
  inspectLock(name: string): Promise<PostgresLockInspection | null>;
  /** The locks that this process holds by this object, sorted by name. Asks nobody. */
  heldLocks(): HeldPostgresLock[];
  /** Creates the table and the function of `lib/postgres/schema.sql`, if they are not there. Needs CREATE on the schema. */
  migrate(): Promise<void>;
  /** Frees all locks of this object (`released`), rejects the calls that wait, and ends the connections. */
  close(): Promise<void>;
}

/** Makes locks that a PostgreSQL server keeps. Connects with the first lock. */
export function postgresLocks(options: PostgresLocksOptions): PostgresLocks;
