/**
 * The rules of the protocol, each left out once: which texts of which files become which.
 * `harmless`: why nothing that is promised is lost with it.
 */

const MOD = "src/protocol/mod.rs";
const TAKEOVER = "src/protocol/takeover.rs";
const FILE = "src/protocol/file.rs";
const QUEUE = "src/protocol/queue.rs";
const TEMPORARY = "src/protocol/temporary.rs";
const MAKE = "src/protocol/make.rs";
const BLANK = "src/protocol/blank.rs";

export const MUTANTS = [
  // --- Taking over
  {
    name: "the dead flock is kept during a takeover",
    edits: [[TAKEOVER, "let replaced = match names(", "let _ = os::unlock(&dead.file);\n    let replaced = match names("]],
    harmless: "the temporary's name keeps a second process out too; each guards against the loss of the other",
  },
  {
    name: "the path still names the dead file after its flock",
    edits: [
      [MOD, "if !names(path, &file, None)? {", "if false {"],
      [TAKEOVER, "match names(paths.lock(), dead, None) {", "match crate::error::Result::Ok(true) {"],
    ],
  },
  {
    name: "the path is checked when looked at",
    edits: [[MOD, "if !names(path, &file, None)? {", "if false {"]],
    harmless: "the check before the exchange does it as well",
  },
  {
    name: "the path is checked before the exchange",
    edits: [[TAKEOVER, "match names(paths.lock(), dead, None) {", "match crate::error::Result::Ok(true) {"]],
    harmless: "the check at the look does it as well, while the flock is kept",
  },
  {
    name: "an exchange rather than a rename",
    edits: [[TAKEOVER, "Ok(true) => exchange(paths, dead)", "Ok(true) => rename(paths)"]],
  },
  {
    name: "what came out of the exchange is looked at",
    edits: [[TAKEOVER, "if names(&paths.temporary(), dead, None).unwrap_or(false) {", "if true {"]],
  },
  {
    name: "what cannot be exchanged back is linked back",
    edits: [[TAKEOVER, "Err(Errno::NOENT) => match os::link(&paths.temporary(), paths.lock()) {", "Err(Errno::NOENT) => match os::Result::Err(Errno::EXIST) {"]],
    harmless: "it takes a second older process, and two of those break promises by themselves",
  },
  {
    name: "a takeover settles",
    edits: [[TAKEOVER, "Ok(true) => Ok(Takeover::Unsettled(held))", "Ok(true) => Ok(Takeover::Done(held))"]],
  },
  {
    name: "the path is checked after settling",
    edits: [["tests/simulation/cast.rs", "if held.is_at_its_path() == Ok(true) {", "if true {"]],
  },
  {
    name: "is_unread asks who has it open",
    edits: [[TAKEOVER, "os::is_open_elsewhere(&dead.file) == Lease::Granted\n        && ", ""]],
  },
  {
    name: "is_unread asks whether it was read",
    edits: [[TAKEOVER, "\n        && os::status_of(&dead.file).is_ok_and(|status| !status.was_read)", ""]],
  },
  {
    name: "is_unread asks in this order",
    edits: [[TAKEOVER, "os::is_open_elsewhere(&dead.file) == Lease::Granted\n        && os::status_of(&dead.file).is_ok_and(|status| !status.was_read)", "os::status_of(&dead.file).is_ok_and(|status| !status.was_read)\n        && os::is_open_elsewhere(&dead.file) == Lease::Granted"]],
  },
  {
    name: "only a promised flock spares the settling",
    edits: [[TAKEOVER, "Ok(true) if promised && notes_reads", "Ok(true) if notes_reads"]],
    harmless: "a file that nobody has read needs no settling, whoever made it; only a file of ours is known to have been unread at first",
  },
  {
    name: "reads of a new file are forgotten",
    edits: [[MAKE, "let _ = os::forget_reads(&file);", ""], [TEMPORARY, "is_noted && os::forget_reads(&new.file).is_ok()", "is_noted"]],
    harmless: "a takeover of it settles, and that is all",
  },
  {
    name: "the dead descriptor stays open",
    edits: [[MOD, "match takeover::take_over(", "let (id, path) = (dead.id, paths.lock());\n                drop(dead);\n                let Ok(file) = os::open(path) else { continue };\n                let dead = LockFile { file, id };\n                match takeover::take_over("]],
  },
  // --- Making, publishing, temporaries
  {
    name: "a new file is flocked before it is linked",
    edits: [[BLANK, "let is_flocked = os::flock(file).is_ok();", "let is_flocked = true;"]],
  },
  {
    name: "a temporary is swept only if abandoned",
    edits: [[TEMPORARY, "Err(Errno::WOULDBLOCK) => return Ok(false)", "Err(Errno::WOULDBLOCK) => return Ok(true)"]],
  },
  {
    name: "a temporary is swept only under its own name",
    edits: [[TEMPORARY, "if is_abandoned && names(path, &file, None)? {", "if is_abandoned {"]],
  },
  {
    name: "the dead file under the temporary's name is swept",
    edits: [[TEMPORARY, "let is_abandoned = is_dead_one || is_abandoned", "let is_abandoned = is_abandoned"]],
  },
  // --- Releasing
  {
    name: "a release removes only its own",
    edits: [[FILE, "if ours { remove(", "if ours || true { remove("]],
  },
  {
    name: "a release unlinks before it unlocks",
    edits: [[FILE, "let removed = self\n", "let _ = unlock(self.paths.lock(), &self.file);\n        let removed = self\n"]],
  },
  {
    name: "the turn is given back last",
    edits: [[FILE, "let removed = self\n", "if let Some(place) = &self.place {\n            place.clone().give_up();\n        }\n        let removed = self\n"]],
    harmless: "the next in line waits for the lock file instead",
  },
  // --- The queue
  {
    name: "a place is behind the last one",
    edits: [[QUEUE, "map_or(0, |last| last + 1)", "map_or(0, |last| last.saturating_sub(1))"]],
    harmless: "a byte that is taken is refused, and the next try takes the first free one; only order is at stake, where a place has come free",
  },
  {
    name: "the turn has come when no lower byte is locked",
    edits: [[QUEUE, "if let Some(before) = last_locked(&self.file, byte)? {", "if let Some(before) = last_locked(&self.file, byte.min(1))? {"]],
  },
  {
    name: "the queue's name is checked when the turn has come",
    edits: [[QUEUE, "self.has_turn = os::status_at(&self.paths.queue()).is_ok_and(|found| found.id == self.id);", "self.has_turn = true;"]],
    harmless: "the simulation is too weak: its check of order counts only those who wait in the queue file that has the name; the lock file excludes all the same",
  },
  {
    name: "the exclusive lock is taken, not asked for",
    edits: [[QUEUE, "if os::lock_all_bytes(file).is_ok() {", "if os::lock_all_bytes(file).is_ok() && os::unlock_bytes(file).is_ok() {"]],
  },
  {
    name: "a queue in use is not removed",
    edits: [[QUEUE, "if os::lock_all_bytes(file).is_ok() {", "if true {"]],
  },
  {
    name: "the queue's name is checked before the removal",
    edits: [[QUEUE, "        if is_named() {", "        if is_named() || true {"]],
  },
  {
    name: "own place ends first",
    edits: [[QUEUE, "        self.give_up();\n        remove_if_unused", "        let mine = self.file.clone();\n        let _ = mine;\n        remove_if_unused"]],
    harmless: "one's own lock is not in the way of one's own; two that leave at once are the same as with the rule",
  },
  {
    name: "a newcomer looks for a queue",
    edits: [[MOD, "(Way::Anew, Look::Vacant) if queue::is_there(paths)", "(Way::Anew, Look::Vacant) if false"]],
  },
  {
    name: "a place without the turn asks for it",
    edits: [[MOD, "(Way::Place(place), _) => place.try_turn().into(),", ""]],
  },
  {
    name: "a holder keeps its place",
    edits: [[FILE, "Self { place, ..self }", "if let Some(place) = place {\n            place.leave();\n        }\n        self"]],
    harmless: "the next in line waits behind the lock file instead",
  },
  {
    name: "a queue file has one name",
    edits: [[QUEUE, "        && status.names <= 1\n", ""]],
    harmless: "the file is empty, and nothing is written into it",
  },
  {
    name: "a queue file is empty",
    edits: [[QUEUE, "        && status.length == 0\n", ""]],
    harmless: "a file with two names is left alone",
  },
  {
    name: "a queue file is empty and has one name",
    edits: [[QUEUE, "        && status.length == 0\n        && status.names <= 1\n", ""]],
  },
  // --- Without unnamed files, and where flocks prove nothing
  {
    name: "a new temporary still has its name after its flock",
    edits: [[TEMPORARY, "if names(path, &held.file, None)? {\n            return Ok(Some(held));", "if true {\n            return Ok(Some(held));"]],
  },
  {
    name: "what was linked from a temporary is looked at",
    edits: [["src/protocol/publish.rs", "discard(&paths.temporary(), &held.file);\n    match linked {\n        Ok(()) => Ok(held.is_at_its_path()?.then_some(held)),", "discard(&paths.temporary(), &held.file);\n    match linked {\n        Ok(()) => Ok(Some(held)),"]],
  },
  {
    name: "what came to the path in a takeover is looked at",
    edits: [[TAKEOVER, "match held.is_at_its_path() {", "match crate::error::Result::Ok(true) {"]],
  },
];
