/**
 * Signals by which this process is to end, or that it passes on.
 */

import { constants } from "node:os";

/** Their default action writes an image of the memory: ours would be of no use to anybody. */
const WITH_CORE = ["SIGQUIT", "SIGABRT", "SIGSEGV", "SIGILL", "SIGFPE", "SIGBUS", "SIGTRAP", "SIGSYS"];

/** As a shell counts the end by a signal. */
function statusOf(signal) {
  return 128 + constants.signals[signal];
}

/**
 * Ends this process as `signal` would have, so that whoever started it sees the same: a shell, for
 * instance, leaves its loop only if the command has ended by SIGINT. It happens at the very end of
 * an ordinary exit, when all that tidies up has been called.
 */
export function dieBy(signal) {
  if (!WITH_CORE.includes(signal)) {
    process.on("exit", () => {
      process.removeAllListeners(signal);
      process.kill(process.pid, signal);
    });
  }
  process.exit(statusOf(signal));
}
