"use strict";

/** A lock that this process holds: its object, its end, and what its holder can be told. */

const {
  clientOf,
  lossListeners,
  native,
  nextTicket,
  outcomeOf,
  waiterListeners,
  warningListeners,
} = require("./client.js");
const { publishLoss } = require("./diagnostics.js");
const { refusalError } = require("./errors.js");

class Lock {
  #face;
  #handle;
  #label;
  #released;
  #signal;
  #abort;
  #wanted;

  constructor(face, handle, lockPath, label) {
    this.#face = face;
    this.#handle = handle;
    this.#label = label;
    this.lockPath = lockPath;
    // It needs no `this`: callers take it out of the lock and pass it around.
    this.release = () => (this.#released ??= this.#release());
  }

  get held() {
    return native.isHeld(this.#handle);
  }

  get signal() {
    this.#signal ??= this.#released
      ? new AbortController().signal
      : this.#lossSignal();
    return this.#signal;
  }

  get wanted() {
    this.#wanted ??= this.#released ? new AbortController().signal : waiterSignal(this.#face, this.#handle);
    return this.#wanted;
  }

  async #release() {
    const how = await giveBack(this.#face, this.#handle);
    // The thread may have been too busy to hear of the loss before.
    if (how && !this.#signal?.aborted) {
      this.#abort?.(how);
    }
    let reason = this.#signal?.aborted ? this.#signal.reason : undefined;
    if (how && !reason) {
      reason = this.#lossError(how);
      publishLoss(reason);
    }
    if (reason && this.#face.rejectsWhenLost) {
      throw reason;
    }
  }

  /** A signal that aborts when the lock is lost. */
  #lossSignal() {
    const controller = new AbortController();
    this.#abort = inThisContext((how) => {
      const error = this.#lossError(how);
      publishLoss(error);
      controller.abort(error);
    });
    lossListeners.set(this.#handle, this.#abort);
    const how = clientOf(this.#face).watchLoss(this.#handle);
    if (how) {
      lossListeners.delete(this.#handle);
      this.#abort(how);
    }
    return controller.signal;
  }

  #lossError(how) {
    return new this.#face.LostError({ lockPath: this.lockPath, how, label: this.#label });
  }
}

if (Symbol.asyncDispose) {
  Lock.prototype[Symbol.asyncDispose] = function dispose() {
    return this.release();
  };
}

/** Gives an acquisition back. Resolves to how the lock was lost before, or `undefined`. */
async function giveBack(face, handle) {
  lossListeners.delete(handle);
  waiterListeners.delete(handle);
  const ticket = nextTicket();
  const { refusal, lost } = clientOf(face).release(ticket, handle) ?? (await outcomeOf(ticket));
  // The watchdog's warning comes later than the loss.
  if (lost !== "hold-exceeded") {
    warningListeners.delete(handle);
  }
  if (refusal) {
    throw refusalError(face, refusal);
  }
  return lost;
}

/** A signal that aborts when somebody begins to wait for the lock. */
function waiterSignal(face, handle) {
  const controller = new AbortController();
  const abort = inThisContext(() => controller.abort());
  waiterListeners.set(handle, abort);
  clientOf(face).watchWanted(handle);
  return controller.signal;
}

/** The same function, which runs in the asynchronous context of the caller. */
function inThisContext(callback) {
  const { AsyncResource } = require("node:async_hooks");
  return AsyncResource.bind(callback);
}

module.exports = { Lock, giveBack };
