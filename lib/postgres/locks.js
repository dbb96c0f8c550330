"use strict";

/**
 * Locks between machines that have no disk in common: a PostgreSQL server keeps them. The server has a queue for each
 * lock, wakes the next waiter, and frees the lock of a connection that ended. Nothing polls.
 */

const events = require("node:events");
const os = require("node:os");
const path = require("node:path");

const { LOCK_OPTIONS, TRY_LOCK_OPTIONS, readStrictOptions } = require("../arguments.js");
const { beginWait, isTraced, publishWait, traceAcquire } = require("../diagnostics.js");
const { escape, GENERAL, quote } = require("../errors.js");
const { makeWithLock } = require("../with-lock.js");
const { readName, readServer, readText } = require("./arguments.js");
const { closedError, databaseError } = require("./errors.js");
const { PostgresLock } = require("./held-lock.js");
const { Limit, TIMED_OUT } = require("./limit.js");
const { ANSWER_MS, Server } = require("./server.js");
const { Turns } = require("./turns.js");

/** How long a call that has timed out asks for the holder, for its error. */
const LAST_LOOK_MS = 1_000;

function postgresLocks(options) {
  const server = new Server(readServer(options));
  const turns = new Turns();
  /** The locks that are held, by name. */
  const held = new Map();
  /** Aborts when the locks are closed. */
  const closing = new AbortController();
  events.setMaxListeners(0, closing.signal);

  // --- Getting a lock ---------------------------------------------------------------------------

  async function acquire(request) {
    request.signal?.throwIfAborted();
    closing.signal.throwIfAborted();
    request.since = beginWait();
    return isTraced() ? traceAcquire(request, contend) : contend(request);
  }

  async function contend(request) {
    if (request.timeoutMs === 0) {
      const granted = await attempt(request);
      if (!granted) {
        throw await timeoutError(request);
      }
      return granted;
    }
    const limit = new Limit(request.timeoutMs, request.signal, closing.signal);
    try {
      return await wait(request, limit);
    } catch (error) {
      if (error === TIMED_OUT) {
        publishWait(request);
        throw await timeoutError(request);
      }
      throw error;
    } finally {
      limit.end();
    }
  }

  /** Waits for the turn in this process, then for the lock. */
  async function wait(request, limit) {
    held.get(request.name)?.want();
    await turns.take(request.name, limit);
    return take(request, limit, async (connection) => {
      if (!(await connection.tryLock(request.key))) {
        await connection.lock(request.key);
        publishWait(request);
      }
      return true;
    });
  }

  /** One attempt. `null` if somebody has the lock or waits for it. */
  async function attempt(request) {
    if (turns.isTaken(request.name)) {
      return null;
    }
    const limit = new Limit(Infinity, request.signal, closing.signal);
    const connecting = new Limit(ANSWER_MS, request.signal, closing.signal);
    try {
      await turns.take(request.name, limit);
      return await take(request, limit, (connection) => connection.tryLock(request.key), connecting);
    } catch (error) {
      throw error === TIMED_OUT ? databaseError(new Error(`no free connection within ${ANSWER_MS} ms`)) : error;
    } finally {
      limit.end();
      connecting.end();
    }
  }

  /** Gets the lock by `lock`, which resolves to whether it did. The caller has the turn, and this gives it away. */
  async function take(request, limit, lock, connecting = limit) {
    const end = () => {
      held.delete(request.name);
      turns.give(request.name);
    };
    let connection;
    try {
      connection = await server.connect(connecting);
      if (!(await limit.within(lock(connection)))) {
        connection.keep();
        end();
        return null;
      }
      const grant = await limit.within(connection.enter({ ...request, holder: thisProcess() }));
      const granted = new PostgresLock(request, connection, grant, {
        isWanted: () => turns.waiters(request.name) > 0,
        end,
      });
      held.set(request.name, granted);
      return granted;
    } catch (error) {
      // The server may have granted the lock by now. It frees it with the connection.
      connection?.destroy();
      end();
      throw error;
    }
  }

  async function timeoutError({ name, key, lockPath, timeoutMs }) {
    const isHeldHere = held.has(name);
    const [first] = await server.inspect(key, name, LAST_LOOK_MS).catch(() => []);
    const holder = first?.granted ? holderFrom(first) : null;
    const owner = holder ? ownerOf(holder, first) : "owner=unknown";
    const error = new GENERAL.TimeoutError({
      timeoutMs,
      lockPath,
      holder,
      owner: isHeldHere ? `${owner} (this process)` : owner,
    });
    const waited = timeoutMs > 0 ? `lock timeout after ${timeoutMs} ms` : "locked";
    error.message = `${waited}: ${lockPath} is held by ${describe(holder, isHeldHere)}; wait longer, or see inspectLock`;
    return error;
  }

  // --- What users get ---------------------------------------------------------------------------

  /** How the server knows a lock, and how errors and channels call it. */
  const addressOf = (name) => {
    const lockPath = `postgres:${readName(name)}`;
    return { name, lockPath, file: lockPath, key: server.keyOf(name) };
  };

  const readRequest = (name, options, names) => {
    const read = readStrictOptions(options, names);
    if (read.label) {
      readText("label", read.label);
    }
    return { timeoutMs: Infinity, maxHoldMs: Infinity, ...read, ...addressOf(name), fence: server.fence };
  };

  const readWaiting = (name, options) => readRequest(name, options, LOCK_OPTIONS);

  async function lock(name, options) {
    return acquire(readWaiting(name, options));
  }

  async function tryLock(name, options) {
    const request = readRequest(name, options, TRY_LOCK_OPTIONS);
    closing.signal.throwIfAborted();
    return attempt(request);
  }

  const withLock = makeWithLock({
    readRequest: readWaiting,
    acquire,
    isFor: (request, lockPath) => request.lockPath === lockPath,
  });

  async function inspectLock(name) {
    const { key, lockPath } = addressOf(name);
    closing.signal.throwIfAborted();
    const [first, ...others] = await server.inspect(key, name);
    if (!first) {
      return null;
    }
    // Between a release and the next grant there are only waiters.
    const waiters = first.granted ? others : [first, ...others];
    const holder = first.granted ? holderFrom(first) : null;
    return {
      name,
      lockPath,
      holder,
      label: holder?.label ?? null,
      createdAt: holder?.createdAt ?? null,
      ageMs: holder ? Math.max(0, Math.round(first.for_ms)) : null,
      generation: holder ? BigInt(first.generation) : null,
      backend: first.granted ? backendFrom(first) : null,
      waiters: waiters.map((waiter) => ({ ...backendFrom(waiter), waitsForMs: Math.max(0, Math.round(waiter.for_ms)) })),
    };
  }

  function heldLocks() {
    const shown = [...held.values()].map((lock) => lock.show(turns.waiters(lock.name)));
    return shown.sort((one, other) => (one.name < other.name ? -1 : 1));
  }

  async function migrate() {
    closing.signal.throwIfAborted();
    await server.migrate();
  }

  async function close() {
    if (closing.signal.aborted) {
      return;
    }
    closing.abort(closedError());
    for (const lock of [...held.values()]) {
      lock.lose("released");
    }
    await server.end();
  }

  return { lock, tryLock, withLock, inspectLock, heldLocks, migrate, close };
}

function thisProcess() {
  return { pid: process.pid, comm: path.parse(process.execPath).name, host: os.hostname() };
}

/** The holder that wrote the row; `null` if it has the lock but has not written it yet. */
function holderFrom({ holder, label, acquired_at: createdAt }) {
  if (holder === null) {
    return null;
  }
  const { pid, comm, host } = JSON.parse(holder);
  return { pid, comm, host, createdAt, ...(label !== null && { label }) };
}

function backendFrom({ backend, address }) {
  return { pid: backend, address };
}

function ownerOf({ pid, host, label }, { for_ms: ageMs }) {
  const what = label === undefined ? "" : ` label=${quote(label)}`;
  return `pid=${pid} host=${escape(host)} ageMs=${Math.max(0, Math.round(ageMs))}${what}`;
}

function describe(holder, isHeldHere) {
  if (isHeldHere) {
    return "this very process";
  }
  if (!holder) {
    return "an unknown process";
  }
  const { pid, comm, host, createdAt, label } = holder;
  const what = label === undefined ? "" : `, for ${quote(label)}`;
  return `process ${pid} (${escape(comm)}) on ${escape(host)} since ${createdAt}${what}`;
}

module.exports = { postgresLocks };
