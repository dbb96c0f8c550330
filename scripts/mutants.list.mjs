/**
 * The rules of the protocol, each left out once: which texts of which files become which. `by`: the test of
 * the simulation that fails then.
 */

const MOD = "src/protocol/mod.rs";
const TAKEOVER = "src/protocol/takeover.rs";
const FILE = "src/protocol/file.rs";
const HELD = "src/protocol/held.rs";
const QUEUE = "src/protocol/queue.rs";
const TEMPORARY = "src/protocol/temporary.rs";
const PUBLISH = "src/protocol/publish.rs";
const MAKE = "src/protocol/make.rs";
const BLANK = "src/protocol/blank.rs";
const LOCK = "src/locks/lock.rs";
const VERDICT = "src/verdict.rs";

const BESIDE_OLDER = "rules::an_older_process_finds_the_same_dead_lock";

export const MUTANTS = [
  // --- Taking over
  {
    name: "the dead flock is kept during a takeover",
    edits: [[TAKEOVER, "let replaced = match names(", "let _ = os::unlock(&dead.file);\n    let replaced = match names("]],
    by: "rules::those_who_find_a_dead_lock_that_is_being_taken_over_block",
  },
  {
    name: "over NFS 4 a contender keeps the flock of a dead file",
    edits: [[FILE, "        self.file = file;\n", ""]],
    by: "two_processes_on_a_file_server",
  },
  {
    name: "over NFS 4 a takeover does not rename over what has come to the path",
    edits: [
      [TAKEOVER, "match os::link(&paths.temporary(), paths.lock()) {", "match os::replace(&paths.temporary(), paths.lock(), &held.file.file) {"],
    ],
    by: "rules::a_program_on_the_file_server_comes_in_the_middle_of_a_takeover",
  },
  {
    name: "a file server itself leaves its clients' locks alone",
    edits: [[VERDICT, "        if self.is_of_a_client() {\n", "        if false {\n"]],
    by: "rules::a_program_on_the_file_server_finds_the_same_dead_lock",
  },
  {
    name: "the path still names the dead file after its flock",
    edits: [
      [MOD, "if !names(path, &file, None)? {", "if false {"],
      [TAKEOVER, "match names(paths.lock(), dead, None) {", "match crate::error::Result::Ok(true) {"],
    ],
    by: "a_mount_by_chance",
  },
  {
    name: "the path is checked when looked at",
    edits: [[MOD, "if !names(path, &file, None)? {", "if false {"]],
    by: "rules::nobody_makes_a_temporary_where_nothing_is_dead",
  },
  {
    name: "the path is checked before the exchange",
    edits: [[TAKEOVER, "match names(paths.lock(), dead, None) {", "match crate::error::Result::Ok(true) {"]],
    by: "rules::an_older_process_where_names_cannot_be_exchanged",
  },
  {
    name: "an exchange rather than a rename",
    edits: [[TAKEOVER, "Ok(true) => exchange(paths, dead)", "Ok(true) => replace(paths, dead)"]],
    by: BESIDE_OLDER,
  },
  {
    name: "what came out of the exchange is looked at",
    edits: [[TAKEOVER, "if names(&paths.temporary(), dead, None).unwrap_or(false) {", "if true {"]],
    by: BESIDE_OLDER,
  },
  {
    name: "what came to the path in a takeover is looked at",
    edits: [[TAKEOVER, "match held.confirmed()? {", "match is_replaced.then_some(held) {"]],
    by: "rules::two_take_over_by_one_temporary_on_a_mount",
  },
  {
    name: "a takeover settles",
    edits: [[TAKEOVER, "Some(held) => Takeover::Unsettled(held)", "Some(held) => Takeover::Done(held)"]],
    by: BESIDE_OLDER,
  },
  {
    name: "the path is checked after settling",
    edits: [[LOCK, "self.stage = Stage::Busy;\n                match is_ours {", "self.stage = Stage::Busy;\n                match is_ours.map(|_| true) {"]],
    by: "rules::an_older_process_finds_the_same_dead_lock_as_a_machine",
  },
  {
    name: "is_unread asks who has it open",
    edits: [[TAKEOVER, "os::is_open_elsewhere(&dead.file) == Lease::Granted\n        && ", ""]],
    by: BESIDE_OLDER,
  },
  {
    name: "is_unread asks whether it was read",
    edits: [[TAKEOVER, "\n        && os::status_of(&dead.file).is_ok_and(|status| !status.was_read)", ""]],
    by: BESIDE_OLDER,
  },
  {
    name: "is_unread asks in this order",
    edits: [[TAKEOVER, "os::is_open_elsewhere(&dead.file) == Lease::Granted\n        && os::status_of(&dead.file).is_ok_and(|status| !status.was_read)", "os::status_of(&dead.file).is_ok_and(|status| !status.was_read)\n        && os::is_open_elsewhere(&dead.file) == Lease::Granted"]],
    by: BESIDE_OLDER,
  },
  {
    name: "only a promised flock spares the settling",
    edits: [[TAKEOVER, "Some(held) if ground == Ground::FlockGone && notes_reads", "Some(held) if notes_reads"]],
    by: "rules::an_older_process_on_a_mount",
  },
  {
    name: "reads of a new file are forgotten",
    edits: [[MAKE, "let _ = os::forget_reads(&file.file);", ""], [TEMPORARY, "is_noted && os::forget_reads(&new.file).is_ok()", "is_noted"]],
    by: "rules::a_dead_lock_that_nobody_has_read_is_taken_over_at_once",
  },
  {
    name: "the dead descriptor stays open",
    edits: [[MOD, "match takeover::take_over(", "let (id, path) = (dead.id, paths.lock());\n                drop(dead);\n                let Ok(file) = os::open(path) else { continue };\n                let dead = LockFile::new(file, id);\n                match takeover::take_over("]],
    by: BESIDE_OLDER,
  },
  // --- Making, publishing, temporaries
  {
    name: "a new file is flocked before it is linked",
    edits: [[BLANK, "let flocked = os::flock(file);", "let flocked: os::Result<()> = std::result::Result::Ok(());"]],
    by: "machines",
  },
  {
    name: "a temporary is swept only if abandoned",
    edits: [[TEMPORARY, "if flock == Flock::Theirs {\n        return Ok(false);", "if flock == Flock::Theirs {\n        return Ok(true);"]],
    by: "rules::one_comes_upon_a_temporary_in_use",
  },
  {
    name: "a temporary that is open for writing is in use",
    edits: [[TEMPORARY, "Lease::Refused => false", "Lease::Refused => true"]],
    by: "rules::one_comes_upon_a_temporary_that_has_no_flock_yet",
  },
  {
    name: "a temporary is swept only under its own name",
    edits: [[TEMPORARY, "if is_abandoned && names(path, &file, None)? {", "if is_abandoned {"]],
    by: "rules::one_judges_a_temporary_that_another_has_removed",
  },
  {
    name: "the dead file under the temporary's name is swept",
    edits: [[TEMPORARY, "let is_abandoned = is_dead_one || is_abandoned", "let is_abandoned = is_abandoned"]],
    by: "rules::the_temporary_is_a_second_name_of_the_dead_lock",
  },
  {
    name: "what was linked from a temporary is looked at",
    edits: [[PUBLISH, "Ok(()) | Err(Errno::EXIST | Errno::NOENT) => None,", "Ok(()) => {\n            discard(&paths.temporary(), &held.file);\n            return Ok(Some(held));\n        }\n        Err(Errno::EXIST | Errno::NOENT) => {\n            discard(&paths.temporary(), &held.file);\n            return Ok(None);\n        }"]],
    by: "rules::two_publish_one_temporary_on_a_mount",
  },
  {
    name: "what another has linked is looked at",
    edits: [[PUBLISH, "Ok(()) | Err(Errno::EXIST | Errno::NOENT) => None,", "Ok(()) => None,\n        Err(Errno::EXIST | Errno::NOENT) => {\n            discard(&paths.temporary(), &held.file);\n            return Ok(None);\n        }"]],
    by: "rules::two_publish_one_temporary_on_a_mount",
  },
  // --- Releasing
  {
    name: "a release removes only its own",
    edits: [[HELD, "            if ours {\n                match remove(", "            if ours || true {\n                match remove("]],
    by: BESIDE_OLDER,
  },
  {
    name: "a release unlinks before it unlocks",
    edits: [[HELD, "let was_ours = self.is_at", "let _ = unlock(self.paths.lock(), &self.file);\n        let was_ours = self.is_at"]],
    by: "machines",
  },
  {
    name: "the turn is given back last",
    edits: [[HELD, "let was_ours = self.is_at", "if let Some(place) = &self.place {\n            place.clone().give_up();\n        }\n        let was_ours = self.is_at"]],
    by: "rules::the_next_sleeps_until_the_holder_has_released",
  },
  // --- The queue
  {
    name: "a place is behind the last one",
    edits: [[QUEUE, "        for _ in 0..ROUNDS {\n            let byte = match", "        for first in 0..ROUNDS as u64 {\n            let byte = match"], [QUEUE, "last => last.map_or(0, |last| last + 1),\n            };\n            match os::lock_byte", "_ => first,\n            };\n            match os::lock_byte"]],
    by: "rules::one_comes_again_when_the_first_place_is_free",
  },
  {
    name: "the turn has come when no lower byte is locked",
    edits: [[QUEUE, "let before = last_locked(&self.file, byte)?;", "let before = last_locked(&self.file, byte.min(1))?;"]],
    by: "rules::one_joins_behind_two_of_whom_the_first_holds",
  },
  {
    name: "the queue's name is checked when a place is taken",
    edits: [[QUEUE, "if !is_at_path(&self.paths, self.id) {", "if false {"]],
    by: "rules::one_joins_a_queue_file_that_has_just_been_removed",
  },
  {
    name: "the exclusive lock is taken, not asked for",
    edits: [[QUEUE, "if os::lock_all_bytes(file).is_ok() {", "if os::lock_all_bytes(file).is_ok() && os::unlock_bytes(file).is_ok() {"]],
    by: "rules::one_joins_a_queue_file_that_has_just_been_removed",
  },
  {
    name: "a queue in use is not removed",
    edits: [[QUEUE, "if os::lock_all_bytes(file).is_ok() {", "if true {"]],
    by: "rules::two_leave_the_queue_at_once",
  },
  {
    name: "the queue's name is checked before the removal",
    edits: [[QUEUE, "        if is_named() {", "        if is_named() || true {"]],
    by: "rules::one_leaves_a_queue_file_that_another_has_removed",
  },
  {
    name: "no queue file is made on a mount",
    edits: [[MOD, "if claim.may_queue && seen.is_trusted()", "if claim.may_queue"]],
    by: "rules::a_queue_file_on_a_mount_is_not_used",
  },
  {
    name: "no queue file is used on a mount",
    edits: [[QUEUE, "if !is_usable(&status) || !os::is_trusted(&file, status.id) {", "if !is_usable(&status) {"]],
    by: "rules::a_queue_file_on_a_mount_is_not_used",
  },
  {
    name: "own place ends first",
    edits: [[QUEUE, "        self.give_up();\n        remove_if_unused", "        let mine = self.file.clone();\n        let _ = mine;\n        remove_if_unused"]],
    by: "rules::two_leave_the_queue_at_once",
  },
  {
    name: "a newcomer looks for a queue",
    edits: [[MOD, "(Way::Anew, Look::Vacant) if claim.may_queue && queue::is_there(paths)", "(Way::Anew, Look::Vacant) if false"]],
    by: "rules::one_joins_a_queue_file_that_has_just_been_removed",
  },
  {
    name: "a place without the turn asks for it",
    edits: [[MOD, "(Way::Place(place), _) => place.try_turn().into(),", ""]],
    by: "rules::a_machine_acquires_again_while_another_waits",
  },
  {
    name: "a holder keeps its place",
    edits: [[HELD, "Self { place, ..self }", "if let Some(place) = place {\n            place.leave();\n        }\n        self"]],
    by: "rules::the_next_sleeps_until_the_holder_has_released",
  },
  {
    name: "a queue file has one name",
    edits: [[QUEUE, "        && status.names <= 1\n", ""]],
    by: "rules::a_file_of_the_users_is_at_the_queues_path",
  },
  {
    name: "a queue file is empty",
    edits: [[QUEUE, "        && status.length == 0\n", ""]],
    by: "rules::a_file_of_the_users_is_at_the_queues_path",
  },
];
