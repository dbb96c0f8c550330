//! For each rule that the large casts break only deep in, if at all: a small cast that begins where it
//! matters. Without its rule it fails within seconds, see `scripts/mutants.list.mjs`.

use crate::cast::{Cast, DEAD_OLDER, DEAD_OURS, EXT4, NOTHING, NTFS, Role, Start, Starts};
use crate::explore::{Exploration, WEDGED};
use crate::kernel::{FileSystem, Name, Text};
use crate::{MOUNT, SERVER, TWO, enough, replays, report};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// These casts end early, or find what there is to find at once.
fn holds(cast: &Cast) {
    if !replays(cast) {
        report(cast, &Exploration::run(cast, enough() / 10));
    }
}

// --- The queue ----------------------------------------------------------------------------------

#[test]
fn one_joins_behind_two_of_whom_the_first_holds() {
    holds(&Cast {
        name: "queue: a third behind the second",
        roles: &[Role::Ours(2), Role::Ours(1), Role::Ours(1)],
        lead: &[
            (A, "Pause(Hold)"),
            (B, "FlockWait"),
            (C, "ByteWait"),
            (A, "Pause(Idle)"),
            (B, "Pause(Hold)"),
            (A, "ByteWait"),
        ],
        ..TWO
    });
}

#[test]
fn one_joins_a_queue_file_that_has_just_been_removed() {
    holds(&Cast {
        name: "queue: joined when it is removed",
        roles: &[Role::Ours(2), Role::Ours(1), Role::Ours(1)],
        lead: &[(A, "Pause(Hold)"), (B, "FlockWait"), (C, "ByteAsk"), (B, "GiveUp"), (B, "End")],
        ..TWO
    });
}

#[test]
fn one_leaves_a_queue_file_that_another_has_removed() {
    holds(&Cast {
        name: "queue: left when it is removed",
        roles: &[Role::Ours(1), Role::Ours(1), Role::Ours(2)],
        lead: &[
            (A, "Pause(Hold)"),
            (B, "FlockWait"),
            (C, "ByteWait"),
            (B, "GiveUp"),
            (B, "ByteLockAll"),
            (C, "GiveUp"),
            (C, "Pause(Idle)"),
        ],
        ..TWO
    });
}

#[test]
fn two_join_a_queue_file_that_is_being_removed() {
    holds(&Cast {
        name: "queue: two join while it is removed",
        roles: &[Role::Ours(2), Role::Ours(1), Role::Ours(1)],
        lead: &[
            (A, "Pause(Hold)"),
            (B, "FlockWait"),
            (B, "GiveUp"),
            (B, "Unlink(Queue)"),
            (C, "ByteWait"),
            (A, "ByteWait"),
            (B, "End"),
            (C, "ByteAsk"),
            (A, "ByteAsk"),
        ],
        ..TWO
    });
}

#[test]
fn two_leave_the_queue_at_once() {
    holds(&Cast {
        name: "queue: two leave at once",
        roles: &[Role::Ours(1); 3],
        lead: &[(A, "Pause(Hold)"), (B, "FlockWait"), (C, "ByteWait")],
        ..TWO
    });
}

#[test]
fn one_comes_again_when_the_first_place_is_free() {
    holds(&Cast {
        name: "queue: the first place is free",
        roles: &[Role::Ours(1), Role::Ours(2), Role::Ours(1)],
        lead: &[
            (A, "Pause(Hold)"),
            (B, "FlockWait"),
            (C, "ByteWait"),
            (B, "GiveUp"),
            (B, "Pause(Idle)"),
        ],
        ..TWO
    });
}

#[test]
fn a_machine_acquires_again_while_another_waits() {
    holds(&Cast {
        name: "queue: a machine acquires again",
        roles: &[Role::Machine(2), Role::Ours(1), Role::Ours(1)],
        lead: &[
            (C, "Pause(Hold)"),
            (A, "Acquire"),
            (A, "FlockWait"),
            (B, "ByteWait"),
            (C, "End"),
            (A, "Release"),
            (A, "ByteAsk"),
        ],
        ..TWO
    });
}

#[test]
fn a_file_of_the_users_is_at_the_queues_path() {
    const LINKED: Start = Start { link: Some(Name::Queue), victim: Text::Empty, ..NOTHING };
    const ALONE: Start = Start { foreign_queue: true, ..NOTHING };
    holds(&Cast {
        name: "queue: a file of the user's",
        starts: Starts::Only(&[LINKED, ALONE]),
        lead: &[(A, "Pause(Hold)")],
        ..TWO
    });
}

/// Where locks prove nothing, no queue keeps an order.
#[test]
fn a_queue_file_on_a_mount_is_not_used() {
    const LEFT_QUEUE: Start = Start { queue: true, ..NOTHING };
    let starts = Starts::Only(&[NOTHING, LEFT_QUEUE]);
    holds(&Cast { name: "queue: on a mount", fs: MOUNT, starts, ..TWO });
}

/// The next one wakes up once, when the lock is free.
#[test]
fn the_next_sleeps_until_the_holder_has_released() {
    holds(&Cast {
        name: "queue: the next wakes up once",
        roles: &[Role::Ours(1); 3],
        lead: &[
            (C, "Pause(Hold)"),
            (A, "FlockWait"),
            (B, "ByteWait"),
            (C, "End"),
            (A, "Pause(Hold)"),
        ],
        spares: "FlockWait",
        ..TWO
    });
}

/// What was released is not taken over.
#[test]
fn nobody_makes_a_temporary_where_nothing_is_dead() {
    holds(&Cast { name: "no temporary for a lock released", spares: "Temporary", ..TWO });
}

// --- Taking over --------------------------------------------------------------------------------

const DEAD_LOCK: Start = Start { lock: Some(DEAD_OURS), ..NOTHING };
const DEAD_OLDER_LOCK: Start = Start { lock: Some(DEAD_OLDER), ..NOTHING };

#[test]
fn those_who_find_a_dead_lock_that_is_being_taken_over_block() {
    holds(&Cast {
        name: "takeover: the others wait for its flock",
        starts: Starts::Only(&[DEAD_LOCK]),
        spares: "Pause(Later)",
        ..TWO
    });
}

#[test]
fn a_dead_lock_that_nobody_has_read_is_taken_over_at_once() {
    holds(&Cast {
        name: "takeover: nobody has read it",
        crashes: 1,
        lead: &[(A, "Pause(Hold)"), (A, "Crash")],
        spares: "Pause(Settle)",
        ..TWO
    });
}

/// One of ours and an older one find a dead lock.
const BESIDE_OLDER: Cast = Cast {
    roles: &[Role::Ours(1), Role::Older(1)],
    starts: Starts::Only(&[DEAD_LOCK, DEAD_OLDER_LOCK]),
    ..TWO
};

#[test]
fn an_older_process_finds_the_same_dead_lock() {
    holds(&Cast { name: "takeover: beside an older", ..BESIDE_OLDER });
}

#[test]
fn an_older_process_finds_the_same_dead_lock_as_a_machine() {
    let roles = &[Role::Machine(1), Role::Older(1)];
    holds(&Cast { name: "takeover: a machine beside an older", roles, ..BESIDE_OLDER });
}

#[test]
fn an_older_process_where_names_cannot_be_exchanged() {
    let fs = FileSystem { exchanges: false, ..EXT4 };
    holds(&Cast { name: "takeover: beside an older, no exchange", fs, ..BESIDE_OLDER });
}

/// There the dead lock is removed by its handle, so an older process that is faster keeps its own.
#[test]
fn an_older_process_on_windows() {
    holds(&Cast { name: "takeover: beside an older, on Windows", fs: NTFS, ..BESIDE_OLDER });
}

/// On a mount with unnamed files: a lease does not tell who has the file open elsewhere.
#[test]
fn an_older_process_on_a_mount() {
    let fs = FileSystem { has_unnamed: true, exchanges: true, ..MOUNT };
    holds(&Cast { name: "takeover: beside an older, on a mount", fs, ..BESIDE_OLDER });
}

/// It does not see the client's flock, and needs no temporary to take the path.
#[test]
fn a_program_on_the_file_server_comes_in_the_middle_of_a_takeover() {
    holds(&Cast {
        name: "takeover: beside the file server itself",
        roles: &[Role::Ours(2), Role::OnServer(2)],
        fs: SERVER,
        starts: Starts::Only(&[DEAD_LOCK]),
        lead: &[(A, "CreateNew(Temporary)")],
        ..TWO
    });
}

/// It leaves the client's lock and temporary alone, though nobody has them open: another client may be about to take over. If
/// none ever comes, it waits for long.
#[test]
fn a_program_on_the_file_server_finds_the_same_dead_lock() {
    let cast = Cast {
        name: "takeover: by the file server itself",
        roles: &[Role::Ours(1), Role::OnServer(1)],
        fs: SERVER,
        starts: Starts::Only(&[DEAD_AND_LEFT]),
        lead: &[(B, "EndLease("), (A, "Open(")],
        ..TWO
    };
    let mut found = Exploration::run(&cast, enough());
    found.broken.take_if(|(what, _)| what == WEDGED);
    report(&cast, &found);
}

#[test]
fn the_temporary_is_a_second_name_of_the_dead_lock() {
    const TWIN: Start = Start { has_twin: true, ..DEAD_LOCK };
    let starts = Starts::Only(&[TWIN]);
    holds(&Cast { name: "takeover: a second name", roles: &[Role::Ours(1)], starts, ..TWO });
}

// --- The temporary ------------------------------------------------------------------------------

const LEFT: Start = Start { temporary: Some(DEAD_OURS), ..NOTHING };
const DEAD_AND_LEFT: Start = Start { temporary: Some(DEAD_OURS), ..DEAD_LOCK };

/// Both think it abandoned, one has removed the other's, and both are about to give theirs its name.
#[test]
fn two_publish_one_temporary_on_a_mount() {
    holds(&Cast {
        name: "temporary: linked twice, on a mount",
        fs: MOUNT,
        starts: Starts::Only(&[LEFT]),
        lead: &[(A, "Unlink(Temporary)"), (B, "Unlink(Temporary)"), (A, "Link("), (B, "Link(")],
        ..TWO
    });
}

#[test]
fn two_take_over_by_one_temporary_on_a_mount() {
    holds(&Cast {
        name: "temporary: renamed twice, on a mount",
        fs: MOUNT,
        starts: Starts::Only(&[DEAD_AND_LEFT]),
        lead: &[(A, "Unlink(Temporary)"), (B, "Unlink(Temporary)"), (A, "Rename("), (B, "Rename(")],
        ..TWO
    });
}

/// One mount, without leases: flocks exclude.
const ONE_MOUNT: FileSystem = FileSystem { excludes: true, ..MOUNT };

#[test]
fn one_comes_upon_a_temporary_in_use() {
    holds(&Cast {
        name: "temporary: in use",
        fs: ONE_MOUNT,
        lead: &[(A, "Link("), (B, "Flock(")],
        ..TWO
    });
}

#[test]
fn one_comes_upon_a_temporary_that_has_no_flock_yet() {
    holds(&Cast {
        name: "temporary: no flock yet",
        fs: FileSystem { has_unnamed: false, ..EXT4 },
        lead: &[(A, "Flock("), (B, "Flock(")],
        ..TWO
    });
}

#[test]
fn one_judges_a_temporary_that_another_has_removed() {
    holds(&Cast {
        name: "temporary: removed when it is judged",
        fs: ONE_MOUNT,
        starts: Starts::Only(&[LEFT]),
        lead: &[(B, "Flock("), (A, "Link(")],
        ..TWO
    });
}

#[test]
fn the_temporary_is_removed_by_hand() {
    holds(&Cast {
        name: "temporary: removed by hand",
        fs: FileSystem { has_unnamed: false, ..EXT4 },
        starts: Starts::Only(&[NOTHING, DEAD_LOCK]),
        removals: 1,
        lead: &[(A, "CreateNew(Temporary)")],
        ..TWO
    });
}
