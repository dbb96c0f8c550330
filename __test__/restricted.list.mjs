/**
 * The tests that a system without some of Linux's means can't pass, and what it lacks. A pattern is matched against the
 * file and the whole title.
 */

/** Leases, or the open files of others in /proc. Until it is as old as `staleMs`, such a file counts as a live lock. */
const WRITER = "nobody says which process has a file open for writing";
const USERS = "nobody says which processes hold a lock or wait for it";
const EVENTS = "the stand-in for kqueue tells nothing";
const QUEUE = "there is no queue, and no strict order";
const WANTED = "`lock.wanted` never fires";
const COUNTS = "the test counts on calls, or on a sleep, that Linux's means make";
const CACHE = "FUSE on Linux has a cache for each spelling of a name, and Linux's means of looking past it";
const OVERRIDE = "the binary that is tried comes by the variable that this test is about";

export const SKIPPED = [
  [/^cli .*(shows who holds what|ends with 0 where|prints JSON with|with --all shows|how many processes wait|removes what is dead, says|held by a flock|each other kind what|holder and a waiter that are stopped|whose first holder has been killed|never advises to end|who holds the lock when its time)/, USERS],
  [/^cli .*prints a new table after each change/, USERS],
  [/^(readme|cli) .*what (README|docs\/command-line)\.md shows/, USERS],
  [/^screens /, USERS],
  [/^inspection .*the processes of a lock/, USERS],
  [/^(cli|packaging) .*(no binary for this system|override)/, OVERRIDE],
  [/.*(keeps live locks of other|takes staleMs for|abandoned temporaries|agree on a table|beside others|with the pid of another program)/, WRITER],
  [/^inspection .*(with the older module is held|without any witness is held|missing-pid|orphan-self-pid|is given the grace|isn't taken for a holder)/, WRITER],
  [/^contention .*one torn lock/, WRITER],
  [/.*(with the older module isn't robbed|a lock file that nobody holds is waited for|an empty file from the future)/, WRITER],
  [/^waiting .*(with the older module (releases|is killed)|by its process is woken|too old to be someone's)/, EVENTS],
  [/.*(wait for one with the older module, and it for them|that name, behind the older module)/, EVENTS],
  [/^containers .*(of the older module|\{pid, createdAt(, comm)?\})/, WRITER],
  [/^examples .*the demo > holds every claim/, WRITER],
  [/^faults-queue .*(in the order in which they came|does not change the order of the others|leaves no queue file|queue file of waiters that (were killed|have exited)|leaves the queue file of those)/, QUEUE],
  [/^faults-queue .*behind the older module/, EVENTS],
  [/^examples .*(a client that goes away|lock-for-life\.mjs)/, WANTED],
  [/^wanted .*a holder is told/, WANTED],
  [/^spellings .*the other spelling's lock is free, held and dead/, CACHE],
  [/^faults .*(fails with (ENOLCK|EIO)|forbids hard links|where no timer may be set|watchdogs are kept while a disk hangs)/, COUNTS],
];
