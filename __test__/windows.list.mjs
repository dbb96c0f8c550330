/**
 * The test files that run on the binary for Windows under Wine, and the tests in them that can't pass there, with the
 * reason. A pattern is matched against the file and the whole title.
 */

export const FILES = ["acquire", "try-acquire", "lock", "held", "await-using", "abort", "watchdog", "workers", "contention", "names", "spellings"];

const REMOVED = "Wine keeps a removed file at its path until its last handle is closed";
const REPLACED = "Wine doesn't replace a file that is open";
const LINKS = "Wine doesn't follow symbolic links to the real path";
const NAMES = "Wine passes a name on that is too long";
const PROC = "the test looks into /proc, or starts a shell";
const COUNTS = "the test counts on events, or on more open files than Wine has";
const OLDER = "the stand-in for the older module finds out by /proc who lives";
const DOTS = "Wine drops a dot at the end of a folder's name when asked for its real path";
const FLAGS = "Node warns of its flag there";

export const SKIPPED = [
  [/^acquire the lock file says who holds the lock/, PROC],
  [/^acquire an older handle's release does nothing/, REMOVED],
  [/^acquire a symlinked folder/, LINKS],
  [/^try-acquire .*(does not share a lock whose file is gone)/, REMOVED],
  [/^try-acquire .*where the system refuses/, NAMES],
  [/^try-acquire .*where something else than a file stands/, LINKS],
  [/^lock .*(rejects if (somebody removed|the lock was lost))/, REMOVED],
  [/^lock .*by every name of the folder/, LINKS],
  [/^lock .*a lock outside of the allowed folders/, FLAGS],
  [/^held (what the watchdog or somebody else has ended|a loss that only the release finds)/, REMOVED],
  [/^abort .*never aborts is left without listeners/, NAMES],
  [/^abort .*from another process leaves the lock either taken or free/, COUNTS],
  [/^abort .*(is nothing, also after a thousand)/, PROC],
  [/^watchdog .*(its file was|another file was moved over it)/, REMOVED],
  [/^watchdog a holder > (that removes its own file|of many locks is told|can give its signal)/, REMOVED],
  [/^workers .*(leave nothing behind|in many workers at once)/, PROC],
  [/^workers the main thread > may call process.exit/, PROC],
  [/^names .*in the folder foo\./, DOTS],
  [/^contention a release after (the lock was taken|another file was moved)/, REPLACED],
  [/^contention a hundred waiting acquires/, COUNTS],
  [/^contention (a process with the older module in a race|the older module respects a live lock|processes with the older module and)/, OLDER],
  [/^contention two contenders that wait for a holder with the older module/, PROC],
];
