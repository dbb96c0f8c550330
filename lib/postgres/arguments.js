"use strict";

/** Checks the arguments of `postgresLocks` and of its functions. */

const { readBoolean, readKnownObject } = require("../arguments.js");
const { argumentError } = require("../errors.js");

/** The name is the key of an index, whose entries have at most some 2,700 bytes. */
const LONGEST_NAME_BYTES = 1_000;

function readName(name) {
  const read = readText("name", name);
  const bytes = Buffer.byteLength(read);
  if (bytes > LONGEST_NAME_BYTES) {
    throw argumentError("ERR_OUT_OF_RANGE", `name must have at most ${LONGEST_NAME_BYTES} bytes, not ${bytes}`);
  }
  // Otherwise two of these would be one row: both become U+FFFD on their way to the server.
  if (/\p{Surrogate}/u.test(read)) {
    throw argumentError("ERR_INVALID_ARG_VALUE", "name must not contain lone surrogates");
  }
  return read;
}

function readText(what, value) {
  if (typeof value !== "string") {
    throw argumentError("ERR_INVALID_ARG_TYPE", `${what} must be a string, not ${typeof value}`);
  }
  if (value === "" || value.includes("\0")) {
    throw argumentError("ERR_INVALID_ARG_VALUE", `${what} must not be empty, or contain NUL bytes`);
  }
  return value;
}

const NAMES = ["pool", "connectionString", "maxConnections", "schema", "behindSessionPooler"];

function readServer(options) {
  const { pool, connectionString, maxConnections = 20, schema = "public", behindSessionPooler } = readKnownObject(
    options,
    NAMES,
  );
  if ((pool === undefined) === (connectionString === undefined)) {
    throw argumentError("ERR_INVALID_ARG_VALUE", "options must have either pool or connectionString");
  }
  if (!Number.isInteger(maxConnections) || maxConnections < 1) {
    throw argumentError("ERR_OUT_OF_RANGE", "maxConnections must be a whole number, at least 1");
  }
  const source = pool === undefined ? fromString(connectionString) : fromPool(pool);
  return {
    makePool: (settings) => makePool(source(), { ...settings, max: maxConnections }),
    schema: readText("schema", schema),
    isBehindSessionPooler: readBoolean("behindSessionPooler", behindSessionPooler, false),
  };
}

function fromString(connectionString) {
  readText("connectionString", connectionString);
  return () => {
    const { Pool, Client } = requirePg();
    return { Pool, Client, options: { connectionString } };
  };
}

/** Only the settings of the pool are used. Its connections stay for the queries of the application. */
function fromPool(pool) {
  if (typeof pool?.connect !== "function" || typeof pool.Client !== "function" || !pool.options) {
    throw argumentError("ERR_INVALID_ARG_TYPE", "pool must be a Pool of the package pg");
  }
  // `pg` hides the password from those who list the options.
  const options = { ...pool.options, password: pool.options.password };
  return () => ({ Pool: pool.constructor, Client: pool.Client, options });
}

function requirePg() {
  try {
    return require("pg");
  } catch (cause) {
    if (cause?.code !== "MODULE_NOT_FOUND") {
      throw cause;
    }
    const message = "session-write-lock/postgres needs the package pg: run `npm install pg`";
    throw Object.assign(new Error(message, { cause }), { code: "ERR_LOCK_NO_PG" });
  }
}

/** How long to wait for a new connection. */
const CONNECT_MS = 10_000;

function makePool({ Pool, Client, options }, settings) {
  const connectionTimeoutMillis = options.connectionTimeoutMillis || CONNECT_MS;
  // For the pool the same option would also bound how long a lock waits for a connection that is in use.
  class LockClient extends Client {
    constructor(config) {
      super({ ...config, password: config.password, connectionTimeoutMillis });
      // Choices of the application for its own queries, some of which can also be made by `pg.defaults`.
      Object.assign(this, { binary: false, pipeline: false });
      this.connectionParameters.query_timeout = 0;
      // An error that nobody listens for ends the process. Between the pool and us there is a moment without a
      // listener: the server can end a connection in the same packet that says it is ready.
      this.on("error", () => {});
    }
  }
  return new Pool({ ...options, ...settings, connectionTimeoutMillis: 0, Client: LockClient });
}

module.exports = { readName, readServer, readText };
