/**
 * The command line: reads what was typed, and turns errors into one line and a status. Each command has a module
 * of its own, which is loaded when it is needed; so is the addon, so that help works on every system.
 */

import { parseArgs } from "node:util";

import { HELP, OPTIONS, PROGRAM_HELP } from "./help.mjs";
import { complain, print } from "./output.mjs";
import { ERROR, FAILED, messageOf, nearest, printable } from "./words.mjs";

/** The longest time that a timer can be set to. */
const LONGEST_MS = 2 ** 31 - 1;

/** Bad usage: the message, and lines that help. */
class UsageError extends Error {
  constructor(message, ...hints) {
    super(message);
    this.hints = hints;
  }
}

/** Does what the words say, and leaves the status for the end of the process. `load` is the `require` of `bin/`. */
export async function main(words, load) {
  const failure = words[0] === "run" ? FAILED : ERROR;
  process.on("uncaughtException", (error) => fail(error, failure));
  // The reader has closed the pipe. The answer is incomplete, but nobody is left to be told.
  process.stdout.on("error", () => process.exit(failure));
  // A complaint that nobody reads must not end a process that holds a lock.
  process.stderr.on("error", () => {});
  try {
    process.exitCode = await execute(words, load);
  } catch (error) {
    fail(error, failure);
  }
}

function fail(error, status) {
  complain(messageOf(error));
  if (error instanceof UsageError) {
    process.stderr.write(error.hints.map((hint) => `${printable(hint)}\n`).join(""));
  } else if (process.env.DEBUG) {
    complain(...String(error?.stack).split("\n").map(printable));
  }
  process.exit(status);
}

/** Returns the status to end with. */
function execute([name, ...words], load) {
  if (name === undefined) {
    process.stderr.write(PROGRAM_HELP);
    return ERROR;
  }
  if (["-V", "--version"].includes(name)) {
    return show(`${load("../package.json").version}\n`);
  }
  if (["-h", "--help", "help"].includes(name)) {
    return show(words.length === 0 ? PROGRAM_HELP : HELP[commandNamed(words[0])]);
  }
  const command = commandNamed(name);
  const { options, operands } = parse(command, words);
  if (options.help) {
    return show(HELP[command]);
  }
  // Without a binary this throws the package's own error.
  return COMMANDS[command](options, operands, () => load("../index.js"));
}

function show(text) {
  process.stdout.write(text);
  return 0;
}

function commandNamed(name) {
  if (Object.hasOwn(HELP, name)) {
    return name;
  }
  const what = name.startsWith("-") ? "option" : "command";
  const near = nearest(name, what === "option" ? ["--help", "--version"] : [...Object.keys(HELP), "help"]);
  throw new UsageError(`unknown ${what} '${name}'`, ...didYouMean(near), MORE_HELP);
}

const MORE_HELP = "(session-write-lock --help tells more)";

const COMMANDS = {
  async status(options, folders, loadPackage) {
    const { status } = await import("./status.mjs");
    return status(orHere(folders), options, loadPackage());
  },

  async clean(options, folders, loadPackage) {
    const { clean } = await import("./clean.mjs");
    return clean(orHere(folders), options, loadPackage());
  },

  async run(options, [file, ...words], loadPackage) {
    const command = commandToRun(options, words);
    const { run } = await import("./run.mjs");
    return run(file, command, options, loadPackage());
  },

  async why(options, [file], loadPackage) {
    const { why } = await import("./why.mjs");
    return why(file, options, loadPackage());
  },
};

/** `-c` gives its text to the shell, as flock(1) does. */
function commandToRun({ command }, words) {
  if (command !== undefined && words.length > 0) {
    throw usageError("run", "-c takes the whole command as one argument");
  }
  if (command === undefined && words.length === 0) {
    throw usageError("run", "no command: put it after the file");
  }
  return command === undefined ? words : [process.env.SHELL || "/bin/sh", "-c", command];
}

function orHere(folders) {
  return folders.length > 0 ? folders : ["."];
}

// --- Words ---------------------------------------------------------------------------------------

/** How many operands a command takes; `run` also takes the words of its command. */
const OPERANDS = { status: [0, Infinity], clean: [0, Infinity], run: [1, Infinity], why: [1, 1] };

/** The options and the operands of a command. Throws a `UsageError` for what it doesn't take. */
function parse(command, words) {
  const known = OPTIONS[command];
  const types = Object.fromEntries(
    Object.entries(known).map(([name, { short, value }]) => [
      name,
      { type: value ? "string" : "boolean", ...(short && { short }) },
    ]),
  );
  const { tokens } = parseArgs({ args: words, options: types, strict: false, tokens: true });
  const options = {};
  const operands = [];
  for (const token of tokens) {
    if (token.kind === "option") {
      Object.assign(options, readOption(command, known, token));
    } else if (command === "run" && isEndOfOwnWords(token, operands)) {
      operands.push(...words.slice(token.kind === "positional" ? token.index : token.index + 1));
      break;
    } else if (token.kind === "positional") {
      operands.push(token.value);
    }
  }
  const [least, most] = OPERANDS[command];
  if (!options.help && operands.length < least) {
    throw usageError(command, "missing argument <file>");
  }
  if (operands.length > most) {
    throw usageError(command, `too many arguments: ${operands.slice(most).join(" ")}`);
  }
  return { options, operands };
}

/** What follows is the command of `run`, with its own options: its first word, or `--`. */
function isEndOfOwnWords({ kind }, operands) {
  if (kind === "option-terminator" && operands.length === 0) {
    throw usageError("run", "missing argument <file> before --");
  }
  return operands.length > 0;
}

function readOption(command, known, { name, rawName, value, inlineValue }) {
  const option = Object.hasOwn(known, name) ? known[name] : undefined;
  if (option === undefined) {
    const near = nearest(rawName, Object.keys(known).map((each) => `--${each}`));
    throw usageError(command, `unknown option '${rawName}'`, ...didYouMean(near));
  }
  if (!option.value && inlineValue) {
    throw usageError(command, `option '${rawName}' takes no argument`);
  }
  if (option.value && value === undefined) {
    throw usageError(command, `option '${rawName} ${option.value}' needs an argument`);
  }
  const result = option.value ? READERS[option.value](value, option) : true;
  if (result instanceof Error) {
    const message = `option '${rawName} ${option.value}' argument '${value}' is invalid. ${result.message}`;
    throw usageError(command, message);
  }
  return { [option.as ?? camelCase(name)]: option.is ?? result };
}

/** Options with a value, by what they take. An `Error` says what is wrong. */
const READERS = {
  "<ms>": (text, { least }) => {
    const ms = /^\d+$/.test(text) ? Number(text) : NaN;
    const isRight = ms >= least && ms <= LONGEST_MS;
    return isRight ? ms : new Error(`Milliseconds: a whole number from ${least} to ${LONGEST_MS}.`);
  },
  "<seconds>": (text) => {
    const ms = /^\d+(\.\d+)?$/.test(text) ? Math.ceil(Number(text) * 1_000) : NaN;
    const most = Math.floor(LONGEST_MS / 1_000);
    return ms <= LONGEST_MS ? ms : new Error(`Seconds: a number from 0 to ${most}, such as 2 or 0.5.`);
  },
  "<command>": (text) => text,
};

function camelCase(name) {
  return name.replace(/-(\w)/g, (_, letter) => letter.toUpperCase());
}

function didYouMean(near) {
  return near === undefined ? [] : [`(Did you mean ${near}?)`];
}

function usageError(command, message, ...hints) {
  return new UsageError(message, ...hints, `(session-write-lock ${command} --help tells more)`);
}
