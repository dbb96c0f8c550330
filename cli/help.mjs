/** The options of each command, and the help texts. */

const COMMON = {
  help: { short: "h" },
};

const STALE_MS = { value: "<ms>", least: 1 };

/** By command and long name: the `short` name, the `value` it takes, and what it sets (`as`, `is`). */
export const OPTIONS = {
  status: { ...COMMON, all: {}, json: {}, watch: {}, "stale-ms": STALE_MS },
  clean: { ...COMMON, all: {}, "dry-run": {}, json: {}, "stale-ms": STALE_MS },
  run: {
    ...COMMON,
    timeout: { value: "<ms>", least: 0 },
    nonblock: { short: "n", as: "timeout", is: 0 },
    wait: { short: "w", value: "<seconds>", as: "timeout" },
    command: { short: "c", value: "<command>" },
    "max-hold": { value: "<ms>", least: 1 },
  },
  why: { ...COMMON, json: {}, "stale-ms": STALE_MS },
};

export const PROGRAM_HELP = `Usage: session-write-lock <command>

Shows who holds the lock of a file, and runs commands under it.

Commands:
  status [options] [dir...]    who holds which lock, and who waits
  why [options] <file>         explain one lock, and say what you can do
  clean [options] [dir...]     remove dead lock files, and say why for each
  run [options] <file> <command> [args...]
                               run a command under the lock, like flock(1)
  help [command]               the same as <command> --help

Options:
  -V, --version  the version
  -h, --help     this text; <command> --help tells more

Examples:
  session-write-lock status sessions            who holds what
  session-write-lock why sessions/chat.jsonl    everything about one lock
  session-write-lock clean sessions             remove what is dead
  session-write-lock run chat.jsonl cp chat.jsonl backup.jsonl

Colours are used on a terminal only, and never if NO_COLOR is set. With DEBUG
set, an error shows where it comes from.
`;

export const HELP = {
  status: `Usage: session-write-lock status [options] [dir...]

Lists the *.jsonl.lock files (--all: any name) in some folders and all folders
below them: which process holds each lock, for how long, how that is known, and
how many processes wait. Removes nothing.

Arguments:
  dir              folders with lock files (default: the current one)

Options:
  --all            show locks of any name, not only *.jsonl.lock
  --json           print an array of inspections; with --watch one line for each
                   change
  --watch          show it again whenever something changes, until Ctrl-C
  --stale-ms <ms>  a lock of which only age can tell is dead after this long
                   (default: 1800000)
  -h, --help       this text

Verdicts:
  dead      the holder is gone; the next acquire takes the lock over at once
  held      the holder is proved to be alive
  unknown   nothing proves either; it counts as alive

Exit status:
  0  no lock file is known to be dead
  1  some are
  2  error: bad usage, a folder that can't be read

Examples:
  session-write-lock status
  session-write-lock status ~/.openclaw/agents --watch
  session-write-lock status --json |
    jq -r '.[] | select(.verdict == "dead").lockPath'
`,

  clean: `Usage: session-write-lock clean [options] [dir...]

Removes the lock files of dead holders in some folders and all folders below
them, and says why for each. Held and unknown locks are kept. You need not clean
up: a dead lock blocks no process of the same user.

Arguments:
  dir              folders with lock files (default: the current one)

Options:
  --all            clean locks of any name, not only *.jsonl.lock
  --dry-run        only say what would be removed
  --json           print an array of inspections; a removed one has
                   "removed": true
  --stale-ms <ms>  a lock of which only age can tell is dead after this long
                   (default: 1800000)
  -h, --help       this text

Exit status:
  0  no lock file known to be dead is left
  1  some are: with --dry-run, or because another process took them meanwhile
  2  error: bad usage, a folder that can't be read, a file that can't be removed

Examples:
  session-write-lock clean --dry-run
  session-write-lock clean ~/.openclaw/agents
`,

  run: `Usage: session-write-lock run [options] <file> <command> [args...]
       session-write-lock run [options] <file> -- <command> [args...]
       session-write-lock run [options] <file> -c <shell command>

Waits for the lock of a file, runs a command while it is held, and ends as the
command ends. Signals are passed on to it. The command must not take the same
lock itself; a nested run for the same file is refused at once.

Arguments:
  file                   the file to protect; need not exist
  command                run without a shell, with the stdin, stdout and stderr
                         of run

Options:
  --timeout <ms>         wait for at most this long (default: for ever)
  -w, --wait <seconds>   the same in seconds, as flock(1) has it
  -n, --nonblock         do not wait: the same as --timeout 0
  -c, --command <command>
                         run this with the shell, $SHELL or /bin/sh
  --max-hold <ms>        stop the command after this long (default: never)
  -h, --help             this text

Options stand before the command. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and
SIGUSR2 are passed on, except those that a key such as Ctrl-C sends to both
anyway. A command is stopped with SIGTERM, and after 10 s with SIGKILL.

Exit status: that of the command; if a signal ended it, the same signal, or
128 + its number. Else:
  123  the command was stopped: it lost the lock, or held it for longer than
       --max-hold
  124  the lock was not free in time; the command was not run
  125  error: bad usage, a nested run, a folder that can't be written, another
       program's file where the lock file belongs; the command was not run
  126  the command can't be run
  127  there is no such command

Examples:
  session-write-lock run chat.jsonl -c 'jq -c . chat.jsonl > tmp &&
    mv tmp chat.jsonl'
  session-write-lock run -w 5 chat.jsonl cp chat.jsonl backup.jsonl
`,

  why: `Usage: session-write-lock why [options] <file>

Explains one lock: what you can do, which processes have it, what the file and
the kernel say, and what an acquire would do. Changes nothing.

Arguments:
  file             the file to protect, or its lock file

Options:
  --json           print the inspection, or null if there is no lock file
  --stale-ms <ms>  a lock of which only age can tell is dead after this long
                   (default: 1800000)
  -h, --help       this text

Exit status:
  0  held, unknown, or not locked at all
  1  dead
  2  error: bad usage, no such file, or an acquire would be refused

Examples:
  session-write-lock why chat.jsonl
  session-write-lock why ~/.openclaw/agents/main/sessions/4f2c.jsonl.lock
`,
};
