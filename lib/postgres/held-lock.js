"use strict";

/** A lock that this process holds on a server. */

const { quote, GENERAL } = require("../errors.js");
const { publishLoss, publishWatchdog, warnHoldExceeded } = require("../diagnostics.js");

/** The server's code (SQLSTATE) for a connection that was idle for longer than its `maxHoldMs`. */
const IDLE_TOO_LONG = "57P05";

/** The code with which `session_write_lock_fence` fails. */
const SUPERSEDED = "SWL01";

/** `error`: why the connection ended, if that is known. */
function howOf(error) {
  return error?.code === IDLE_TOO_LONG ? "hold-exceeded" : "connection-lost";
}

class PostgresLock {
  #connection;
  #request;
  #since = performance.now();
  #isWanted;
  #end;
  #released;
  #loss;
  #signal = new AbortController();
  #wanted;

  /** `isWanted` says whether this process waits for the lock; `end` is called once, when it is released or lost. */
  constructor(request, connection, { generation, acquiredAt }, { isWanted, end }) {
    this.#request = request;
    this.#connection = connection;
    this.#isWanted = isWanted;
    this.#end = end;
    this.name = request.name;
    this.lockPath = request.lockPath;
    this.generation = generation;
    this.acquiredAt = acquiredAt;
    // It needs no `this`: callers take it out of the lock and pass it around.
    this.release = () => (this.#released ??= this.#release());
    connection.onLost((error) => this.lose(howOf(error), error));
  }

  get held() {
    return !this.#released && !this.#loss;
  }

  get signal() {
    return this.#signal.signal;
  }

  get wanted() {
    if (!this.#wanted) {
      this.#wanted = new AbortController();
      if (this.#isWanted()) {
        this.want();
      } else if (this.held) {
        const restOfHold = () => this.#request.maxHoldMs - this.#heldForMs();
        // Without an answer the connection is lost: while the question is repeated, TCP does not probe it. An error of the
        // server, which has a severity, is an answer. If it ends the connection, that is told as well, but not why.
        const hear = ({ cause }) => {
          const how = howOf(cause);
          if (this.held && (cause?.severity === undefined || how === "hold-exceeded")) {
            this.lose(how, cause);
          }
        };
        this.#connection.watchWanted(this.#request.key, () => this.want(), restOfHold).catch(hear);
      }
    }
    return this.#wanted.signal;
  }

  /** Somebody waits for the lock. */
  want() {
    if (this.held) {
      this.#wanted?.abort();
    }
  }

  async fence(client) {
    if (!this.held) {
      throw this.#loss ?? this.#lossError("released");
    }
    try {
      await client.query(this.#request.fence, [this.name, String(this.generation)]);
    } catch (error) {
      if (error?.code !== SUPERSEDED) {
        throw error;
      }
      if (this.held) {
        this.lose("superseded", error);
      }
      throw this.#loss ?? this.#lossError("superseded", error);
    }
  }

  async #release() {
    if (this.#loss) {
      throw this.#loss;
    }
    try {
      if (!(await this.#connection.unlock(this.#request.key))) {
        this.lose("removed");
      }
    } catch (error) {
      this.lose(howOf(error.cause), error.cause);
    }
    if (this.#loss) {
      throw this.#loss;
    }
    this.#connection.keep();
    this.#end();
  }

  /** The lock is lost. The connection is of no use any more. */
  lose(how, cause) {
    if (this.#loss) {
      return;
    }
    this.#loss = this.#lossError(how, cause);
    this.#connection.destroy();
    this.#end();
    publishLoss(this.#loss);
    if (how === "hold-exceeded") {
      this.#warn();
    }
    this.#signal.abort(this.#loss);
  }

  #lossError(how, cause) {
    return new GENERAL.LostError({ lockPath: this.lockPath, how, label: this.#request.label, cause });
  }

  #heldForMs() {
    return performance.now() - this.#since;
  }

  #warn() {
    const { label, maxHoldMs, onWarning } = this.#request;
    const exceeded = { lockPath: this.lockPath, heldForMs: Math.round(this.#heldForMs()), maxHoldMs, label };
    publishWatchdog(exceeded);
    const what = label === undefined ? "" : ` label=${quote(label)}`;
    const message = `lock held for ${exceeded.heldForMs}ms (max=${maxHoldMs}ms) was ended: ${this.lockPath}${what}`;
    warnHoldExceeded(message, exceeded, onWarning ? [onWarning] : []);
  }

  /** As `heldLocks` shows it. */
  show(waiters) {
    const { label, maxHoldMs } = this.#request;
    return {
      name: this.name,
      lockPath: this.lockPath,
      generation: this.generation,
      acquiredAt: this.acquiredAt,
      heldForMs: Math.round(this.#heldForMs()),
      maxHoldMs,
      ...(label !== undefined && { label }),
      acquisitions: 1,
      waiters,
    };
  }
}

if (Symbol.asyncDispose) {
  PostgresLock.prototype[Symbol.asyncDispose] = function dispose() {
    return this.release();
  };
}

module.exports = { PostgresLock };
