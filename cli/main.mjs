/**
 * The command line: what may be asked, and what comes of errors. Each command has a module of its
 * own. The addon is loaded only when a command needs it, so that help is there on every system.
 */

import { readFileSync } from "node:fs";

import { Command, CommanderError, InvalidArgumentError, Option } from "commander";

import { complain } from "./output.mjs";
import { FAILED } from "./run.mjs";
import { ERROR } from "./sweep.mjs";
import { messageOf, printable } from "./words.mjs";

/** The longest time that a timer can be set to. */
const LONGEST_MS = 2 ** 31 - 1;

/** Does what the words say, and leaves the status for the end of the process. */
export async function main(words) {
  const failure = words[0] === "run" ? FAILED : ERROR;
  process.on("uncaughtException", (error) => fail(error, failure));
  // Whoever reads us has enough: nothing to complain about, but the answer isn't complete.
  process.stdout.on("error", () => process.exit(failure));
  // That nobody hears of it is no reason to let go of a lock.
  process.stderr.on("error", () => {});
  try {
    process.exitCode = await execute(words);
  } catch (error) {
    fail(error, failure);
  }
}

function fail(error, status) {
  if (error instanceof CommanderError) {
    // It has said what is wrong. Help and version that were asked for are no error.
    process.exitCode = error.exitCode === 0 ? 0 : status;
    return;
  }
  complain(messageOf(error));
  if (process.env.DEBUG) {
    complain(...String(error?.stack).split("\n").map(printable));
  }
  process.exit(status);
}

/** Parses and runs a command; says with which status to end. */
async function execute(words) {
  let status = 0;
  const perform = (command) => async (...args) => {
    status = await command(...args);
  };
  // Whatever comes after the dashes of `run` is none of our options.
  const dashes = words[0] === "run" ? words.indexOf("--") : -1;
  const ours = dashes < 0 ? words : words.slice(0, dashes);
  const command = dashes < 0 ? [] : words.slice(dashes + 1);
  await programOf(perform, command).parseAsync(ours, { from: "user" });
  return status;
}

function programOf(perform, command) {
  const program = new Command("session-write-lock")
    .description("Says who holds the write lock of a session, and runs commands under it.")
    .version(JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")).version)
    .helpCommand("help [command]", "the same as <command> --help")
    .helpOption("-h, --help", "this text; <command> --help tells more")
    .configureHelp({ subcommandTerm: (each) => `${each.name()} ${each.usage()}` })
    .configureOutput({ outputError })
    .exitOverride()
    .addHelpText("after", PROGRAM_HELP);
  addStatus(program, perform);
  addClean(program, perform);
  addRun(program, perform, command);
  addWhy(program, perform);
  for (const each of program.commands) {
    each.copyInheritedSettings(program).helpOption("-h, --help", "this text").showHelpAfterError(
      `(session-write-lock ${each.name()} --help tells more)`,
    );
  }
  return program.showHelpAfterError("(session-write-lock --help tells more)");
}

/** What the parser complains of contains what was typed. */
function outputError(text, write) {
  const lines = text.replace(/^error: /, "session-write-lock: ").split("\n");
  write(lines.map(printable).join("\n"));
}

const PROGRAM_HELP = `
Examples:
  session-write-lock status sessions            who holds what
  session-write-lock why sessions/chat.jsonl    everything about one lock
  session-write-lock clean sessions             remove what dead processes have left
  session-write-lock run chat.jsonl -- cp chat.jsonl backup.jsonl

Colours are used on a terminal only, and never if NO_COLOR is set. With DEBUG set, an error shows
where it comes from.`;

function addStatus(program, perform) {
  program
    .command("status")
    .summary("who holds which session, since when, and how that is known")
    .description(
      "Lists the lock files in some folders and all that is below them: who holds each lock, since " +
        "when, whether the holder lives, and how that is known. Removes nothing.",
    )
    .argument("[dir...]", "folders with sessions (default: the current one)")
    .option("--json", "print an array of inspections; with --watch one line for each change")
    .option("--watch", "show it again whenever something changes, until Ctrl-C")
    .addOption(staleOption())
    .addHelpText("after", STATUS_HELP)
    .action(perform(async (folders, options) => {
      const { status } = await import("./status.mjs");
      return status(orHere(folders), options, await loadPackage());
    }));
}

const STATUS_HELP = `
Verdicts:
  held      the holder is proved to live
  dead      the holder is gone; the next acquire takes the lock over at once
  unknown   can't be known: counts as alive

Exit status:
  0  no lock file is dead
  1  some are
  2  error: bad usage, a folder that can't be read

Examples:
  session-write-lock status
  session-write-lock status ~/.openclaw/agents --watch
  session-write-lock status --json | jq -r '.[] | select(.verdict == "dead").lockPath'`;

function addClean(program, perform) {
  program
    .command("clean")
    .summary("remove dead lock files, and say why for each")
    .description(
      "Removes the lock files of dead holders in some folders and all that is below them, and says " +
        "why for each. What is held, and what can't be known, is kept. There is no need to clean up: " +
        "a dead lock blocks nobody.",
    )
    .argument("[dir...]", "folders with sessions (default: the current one)")
    .option("--dry-run", "only say what would be removed")
    .option("--json", "print an array of inspections; what has been removed has \"removed\": true")
    .addOption(staleOption())
    .addHelpText("after", CLEAN_HELP)
    .action(perform(async (folders, options) => {
      const { clean } = await import("./clean.mjs");
      return clean(orHere(folders), options, await loadPackage());
    }));
}

const CLEAN_HELP = `
Exit status:
  0  no dead lock file is left
  1  some are: with --dry-run, or somebody else took them meanwhile
  2  error: bad usage, a folder that can't be read, a file that can't be removed

Examples:
  session-write-lock clean --dry-run
  session-write-lock clean ~/.openclaw/agents`;

function addRun(program, perform, command) {
  const own = program.command("run");
  own
    .summary("run a command under the lock of a session, like flock(1)")
    .usage("[options] <session> -- <command> [args...]")
    .description(
      "Waits for the lock of a session, runs a command while it is held, and ends as the command " +
        "has ended. Signals are passed on to it. The command must not take the same lock itself.",
    )
    .argument("<session>", "the session file; need not exist")
    .option("--timeout <ms>", "wait for so long at most; 0: not at all (default: for ever)", milliseconds(0))
    .option("--max-hold <ms>", "stop the command after so long (default: never)", milliseconds(1))
    .addHelpText("after", RUN_HELP)
    .action(perform(async (sessionFile, options) => {
      if (command.length === 0) {
        own.error("error: no command: put it after --");
      }
      const { run } = await import("./run.mjs");
      return run(sessionFile, command, options, await loadPackage());
    }));
}

const RUN_HELP = `
SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on, but for what a key such as
Ctrl-C sends to both anyway. A command is stopped with SIGTERM, and after 10 s with SIGKILL.

Exit status: that of the command; if a signal ended it, the same signal, or 128 + its number. Else:
  123  the command was stopped: it had lost the lock, or held it for longer than --max-hold
  124  the lock was not to be had in time; the command was not run
  125  error: bad usage, a folder that can't be written; the command was not run
  126  the command can't be run
  127  there is no such command

Examples:
  session-write-lock run chat.jsonl -- sh -c 'jq -c . chat.jsonl > tmp && mv tmp chat.jsonl'
  session-write-lock run --timeout 5000 chat.jsonl -- cp chat.jsonl backup.jsonl`;

function addWhy(program, perform) {
  program
    .command("why")
    .summary("explain one lock: what the file says, what the kernel says, what would be done")
    .description(
      "Tells in sentences what the lock file of a session says, what the kernel says, what an " +
        "acquire would do, and why. Changes nothing.",
    )
    .argument("<session>", "the session file, or its lock file")
    .option("--json", "print the inspection, or null if there is no lock file")
    .addOption(staleOption())
    .addHelpText("after", WHY_HELP)
    .action(perform(async (sessionFile, options) => {
      const { why } = await import("./why.mjs");
      return why(sessionFile, options, await loadPackage());
    }));
}

const WHY_HELP = `
Exit status:
  0  held, unknown, or not locked at all
  1  dead
  2  error: bad usage, or an acquire would be refused

Examples:
  session-write-lock why chat.jsonl
  session-write-lock why ~/.openclaw/agents/main/sessions/4f2c.jsonl.lock`;

function staleOption() {
  const text = "give up a lock older than this, where only age can tell (default: 1800000)";
  return new Option("--stale-ms <ms>", text).argParser(milliseconds(1));
}

function milliseconds(least) {
  return (text) => {
    const ms = /^\d+$/.test(text) ? Number(text) : NaN;
    if (!(ms >= least && ms <= LONGEST_MS)) {
      throw new InvalidArgumentError(`Milliseconds: a whole number from ${least} to ${LONGEST_MS}.`);
    }
    return ms;
  };
}

function orHere(folders) {
  return folders.length > 0 ? folders : ["."];
}

/** Whoever has no binary hears of it here, in the package's own words. */
async function loadPackage() {
  return (await import("../index.js")).default;
}
