"use strict";

/** `withLock`: a function runs under a lock, which is released in every case. */

const { GENERAL, argumentError, selfDeadlockError } = require("./errors.js");

/**
 * Makes a `withLock`. `readRequest` checks the arguments, `acquire` gets the lock, and `isFor(request, lockPath)` says
 * whether the request is for the lock at that path, or promises to say so.
 */
function makeWithLock({ readRequest, acquire, isFor }) {
  /** What the running function holds by this `withLock`. Made with the first call. */
  let context;

  return async function withLock(target, options, run) {
    if (typeof options === "function" && run === undefined) {
      return withLock(target, undefined, options);
    }
    if (typeof options === "function") {
      throw argumentError("ERR_INVALID_ARG_TYPE", "options come before fn: withLock(file, options, fn)");
    }
    if (typeof run !== "function") {
      throw argumentError("ERR_INVALID_ARG_TYPE", `fn must be a function, not ${typeof run}`);
    }
    const request = readRequest(target, options);
    context ??= new (require("node:async_hooks").AsyncLocalStorage)();
    const outer = context.getStore() ?? [];
    // A hold that is over does not count: its function runs on, and may wait.
    for (const { lockPath, isOver } of outer) {
      // Not awaited if it is `false`, so that calls acquire in the order in which they were made.
      const answer = !isOver && isFor(request, lockPath);
      if (answer && (await answer)) {
        throw selfDeadlockError(lockPath);
      }
    }
    const held = await acquire(request);
    const hold = { lockPath: held.lockPath, isOver: false };
    let result;
    try {
      result = await context.run([...outer, hold], run, held);
    } catch (error) {
      hold.isOver = true;
      await held.release().catch((loss) => throwIfLost(loss, error));
      throw error;
    }
    hold.isOver = true;
    await held.release().catch(warnUnlessLost);
    return result;
  };
}

/**
 * The function may have thrown because it heard of the loss. So the loss is told, with what the function threw. Else
 * that matters more than a lock file that could not be removed.
 */
function throwIfLost(loss, cause) {
  if (loss instanceof GENERAL.LostError) {
    if (cause !== loss) {
      loss.cause ??= cause;
    }
    throw loss;
  }
}

/**
 * A lost lock did not protect the work, so the caller is told. If only the lock file could not be removed, the lock
 * did protect it.
 */
function warnUnlessLost(error) {
  if (error instanceof GENERAL.LostError) {
    throw error;
  }
  process.emitWarning(error.message, { type: "LockWarning", code: error.code });
}

module.exports = { makeWithLock };
