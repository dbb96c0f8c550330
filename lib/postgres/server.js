"use strict";

/**
 * The server, and the connections that hold locks. A lock is a session-level advisory lock: it belongs to one
 * connection, and the server frees it when that connection ends. So a connection that holds a lock, or waits for one,
 * serves nothing else.
 */

const { createHash } = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { Limit } = require("./limit.js");
const { databaseError, poolerError } = require("./errors.js");

/**
 * When both sides notice that the network between them is cut. The client gives up after 15 s: 5 s without traffic,
 * then ten probes one second apart (libuv's `uv__tcp_keepalive`). The server waits longer, 35 s, so a holder that runs
 * hears of its loss before the server gives the lock to somebody else. `tcp_user_timeout` is for an answer that was
 * under way when the network was cut: while TCP repeats it, there are no probes (tcp(7)).
 */
const CLIENT_KEEPALIVE_MS = 5_000;
const SERVER_KEEPALIVE = {
  tcp_keepalives_idle: "20",
  tcp_keepalives_interval: "5",
  tcp_keepalives_count: "3",
  tcp_user_timeout: "35s",
};

/** The settings of each connection, whatever the role or the database has for its own. */
const SETTINGS = {
  ...SERVER_KEEPALIVE,
  // A waiter whose process ended leaves the queue within this time. PostgreSQL 14 or newer.
  client_connection_check_interval: "1s",
  // A wait takes as long as it takes. The client has the time-out.
  statement_timeout: "0",
  lock_timeout: "0",
  idle_session_timeout: "0",
  // A generation that was granted must not be granted again after a crash of the server.
  synchronous_commit: "on",
  default_transaction_isolation: "read committed",
  default_transaction_read_only: "off",
};

const SET_UP = [
  ...Object.entries(SETTINGS).map(([name, value]) => `SET ${name} = '${value}'`),
  // From PostgreSQL 17 on.
  "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'",
].join("; ");

/**
 * How long to wait for the answer to a statement that does not wait for a lock. Without it, a network that is cut while
 * a statement is on its way would be noticed only when the kernel gives up sending it again, after some 15 minutes.
 */
const ANSWER_MS = 10_000;

class Server {
  #makePool;
  #pool;
  #isBehindSessionPooler;
  #schema;
  #quotedSchema;
  #table;
  /** The connections that are set up. */
  #ready = new WeakMap();

  constructor({ makePool, isBehindSessionPooler, schema }) {
    this.#makePool = makePool;
    this.#isBehindSessionPooler = isBehindSessionPooler;
    this.#schema = schema;
    this.#quotedSchema = `"${schema.replaceAll('"', '""')}"`;
    this.#table = `${this.#quotedSchema}.session_write_locks`;
  }

  /** A connection for one lock. Waits for one within the limit, if all are in use. */
  async connect(limit) {
    this.#pool ??= this.#openPool();
    const client = await limit.within(this.#connect(), (client) => client.release());
    const connection = new Connection(client, this.#table);
    try {
      if (!this.#ready.has(client)) {
        this.#ready.set(client, await limit.within(this.#setUp(client)));
      }
      connection.backend = this.#ready.get(client);
      return connection;
    } catch (error) {
      connection.destroy();
      throw error;
    }
  }

  async #connect() {
    try {
      return await this.#pool.connect();
    } catch (error) {
      throw databaseError(error);
    }
  }

  #openPool() {
    const pool = this.#makePool({
      keepAlive: true,
      keepAliveInitialDelayMillis: CLIENT_KEEPALIVE_MS,
      // Settings of the application for its own queries, which would cut a wait short.
      query_timeout: 0,
      statement_timeout: 0,
      lock_timeout: 0,
      maxUses: Infinity,
      maxLifetimeSeconds: 0,
      min: 0,
      allowExitOnIdle: true,
    });
    // An idle connection was lost: the pool drops it.
    pool.on("error", () => {});
    return pool;
  }

  /** Returns the number of the server process (the *backend*) of the connection. */
  async #setUp(client) {
    const { rows } = await query(client, { text: "SELECT pg_backend_pid() AS backend" });
    const [{ backend }] = rows;
    // Poolers invent the number that they tell a client when it connects.
    if (client.processID !== backend && !this.#isBehindSessionPooler) {
      throw poolerError();
    }
    // Only now: a pooler may give this connection to the application next.
    await query(client, { text: SET_UP });
    return backend;
  }

  /** Runs `work` on a connection that holds no lock, within a time. */
  async #use(timeoutMs, work) {
    const limit = new Limit(timeoutMs);
    let connection;
    try {
      connection = await this.connect(limit);
      const result = await limit.within(work(connection));
      connection.keep();
      return result;
    } catch (error) {
      connection?.destroy();
      throw typeof error === "symbol" ? databaseError(new Error(`no answer within ${timeoutMs} ms`)) : error;
    } finally {
      limit.end();
    }
  }

  /** How the server knows the lock of a name: an advisory lock has a number of 64 bits. */
  keyOf(name) {
    const hash = createHash("sha256").update(JSON.stringify(["session-write-lock", this.#schema, name]));
    return String(hash.digest().readBigInt64BE(0));
  }

  /** The statement that fails unless a generation is the last one: see `schema.sql`. */
  get fence() {
    return `SELECT ${this.#quotedSchema}.session_write_lock_fence($1, $2)`;
  }

  inspect(key, name, timeoutMs = ANSWER_MS) {
    return this.#use(timeoutMs, (connection) => connection.inspect(key, name));
  }

  async migrate() {
    const schema = fs.readFileSync(path.join(__dirname, "schema.sql"), "utf8");
    await this.#use(60_000, (connection) =>
      connection.migrate(`BEGIN; SET LOCAL search_path TO ${this.#quotedSchema}; ${schema}; COMMIT`),
    );
  }

  /** Ends the idle connections now, the others when they are given back. */
  async end() {
    await this.#pool?.end();
  }
}

const INSPECT = (table) => `
  SELECT l.pid AS backend, l.granted, host(a.client_addr) AS address,
    r.holder::text AS holder, r.label, r.generation::text AS generation, ${utc("r.acquired_at")} AS acquired_at,
    (extract(epoch FROM clock_timestamp() - coalesce(l.waitstart, r.acquired_at)) * 1000)::float8 AS for_ms
  FROM pg_locks l
  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN ${table} r ON l.granted AND r.name = $1 AND r.holder->>'backend' = l.pid::text
  WHERE l.locktype = 'advisory' AND l.objsubid = 1
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.classid = ($2::bigint >> 32 & 4294967295)::oid AND l.objid = ($2::bigint & 4294967295)::oid
  ORDER BY l.granted DESC, l.waitstart`;

const ENTER = (table) => `
  INSERT INTO ${table} (name, holder, label) VALUES ($1, $2, $3)
  ON CONFLICT (name) DO UPDATE SET generation = DEFAULT, holder = excluded.holder,
    label = excluded.label, acquired_at = clock_timestamp()
  RETURNING generation::text AS generation, ${utc("acquired_at")} AS acquired_at, pg_backend_pid() AS backend,
    ${setHoldTime("$4")}`;

/** ISO 8601. */
function utc(instant) {
  return `to_char(${instant} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`;
}

/** The watchdog: the server ends a connection that has been idle for so long. */
function setHoldTime(ms) {
  return `set_config('idle_session_timeout', ${ms}, false)`;
}

/** The longest that the server can be told; a longer hold has no watchdog. */
const LONGEST_HOLD_MS = 2 ** 31 - 1;

function holdTime(ms) {
  return ms > LONGEST_HOLD_MS ? "0" : String(Math.max(1, Math.ceil(ms)));
}

/** How values are read, whatever parsers the application has. By the number of the type; others stay text. */
const PARSERS = { 16: (text) => text === "t", 23: Number, 701: Number };
const types = { getTypeParser: (type) => PARSERS[type] ?? String };

async function query(client, { text, values, timeoutMs = ANSWER_MS }) {
  try {
    return await client.query({ text, values, types, query_timeout: timeoutMs });
  } catch (error) {
    throw databaseError(error);
  }
}

class Connection {
  #client;
  #table;
  #onLost = () => {};
  #isListening = false;
  #isOver = false;

  constructor(client, table) {
    this.#client = client;
    this.#table = table;
    client.on("error", this.#hearLoss);
    client.on("end", this.#hearLoss);
  }

  #hearLoss = (error) => this.#onLost(error);

  /** Calls `onLost` when the connection ends, with the error that says why, if there is one. */
  onLost(onLost) {
    this.#onLost = onLost;
  }

  query(text, values) {
    return query(this.#client, { text, values });
  }

  /** For a statement that waits for others. */
  #wait(text, values) {
    return query(this.#client, { text, values, timeoutMs: 0 });
  }

  /** Waits for another migration. */
  migrate(text) {
    return this.#wait(text);
  }

  /** Takes the lock if it is free and nobody waits for it. */
  async tryLock(key) {
    const { rows } = await this.query("SELECT pg_try_advisory_lock($1) AS granted", [key]);
    return rows[0].granted;
  }

  /** Waits for the lock. The server has a queue for it, in the order of arrival. */
  async lock(key) {
    // In one message: who begins to listen in between is not told, and may look before we wait. The shorter that is, the better.
    await this.#wait(`BEGIN; SELECT pg_notify('${channelOf(key)}', ''); COMMIT; SELECT pg_advisory_lock('${key}'::bigint)`);
  }

  /** Writes down who has the lock, and returns its generation. Waits for a transaction that an earlier holder fenced. */
  async enter({ name, holder, label, maxHoldMs }) {
    const values = [name, JSON.stringify({ ...holder, backend: this.backend }), label, holdTime(maxHoldMs)];
    const { rows } = await this.#wait(ENTER(this.#table), values);
    const [{ backend, generation, acquired_at: acquiredAt }] = rows;
    if (backend !== this.backend) {
      throw poolerError();
    }
    this.#client.unref();
    return { generation: BigInt(generation), acquiredAt };
  }

  /** Frees the lock. `false` if the server does not know that we had it. */
  async unlock(key) {
    this.#client.ref();
    if (this.#isListening) {
      await this.query("UNLISTEN *");
    }
    const { rows } = await this.query(`SELECT pg_advisory_unlock($1) AS unlocked, ${setHoldTime("'0'")}`, [key]);
    return rows[0].unlocked;
  }

  /** Calls `onWanted` when somebody waits for the lock, also if that is so already. */
  async watchWanted(key, onWanted, restOfHold) {
    this.#isListening = true;
    this.#client.on("notification", onWanted);
    await this.query(`LISTEN ${channelOf(key)}`);
    const { rows } = await this.#inspectRows(key, "");
    if (rows.some(({ granted }) => !granted)) {
      onWanted();
    }
    // The server counts its idle time from the last statement. If the lock is free by now, its successor on this
    // connection sets a hold time of its own, later.
    await this.query(`SELECT ${setHoldTime("$1")}`, [holdTime(restOfHold())]);
  }

  #inspectRows(key, name) {
    return this.query(INSPECT(this.#table), [name, key]);
  }

  async inspect(key, name) {
    const { rows } = await this.#inspectRows(key, name);
    return rows;
  }

  /** Gives the connection back, to serve the next lock. */
  keep() {
    this.#leave();
  }

  /** Ends the connection. The server frees its lock, or takes it out of the queue. */
  destroy() {
    this.#leave(true);
  }

  #leave(destroy) {
    if (this.#isOver) {
      return;
    }
    this.#isOver = true;
    this.#onLost = () => {};
    this.#client.removeListener("error", this.#hearLoss);
    this.#client.removeListener("end", this.#hearLoss);
    this.#client.removeAllListeners("notification");
    this.#client.release(destroy);
  }
}

/** The channel on which a waiter tells the holder that the lock is wanted. */
function channelOf(key) {
  return `session_write_lock_${BigInt.asUintN(64, BigInt(key)).toString(16)}`;
}

module.exports = { ANSWER_MS, Server };
