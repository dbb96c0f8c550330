//! One lock file, several holders: how it is left to those in line, and how the next makes it its own.
//!
//! Removing a lock file and publishing another costs more than everything else in a hand-over. So a
//! holder that sees somebody in line (by the mark [`LINE`]) *hands on*: it unlocks and leaves
//! the file where it is. Whoever gets the flock then *inherits*: it writes its own record over the
//! old one. The same happens after a holder's death: the flock comes free, the file is there.
//!
//! **What excludes** is what always does: the flock, on the file that the path names. Whoever has it
//! and sees *afterwards* that the path still names the file is the only one who may write into it.
//!
//! **Readers must not see a mixture**, such as one holder's pid with another's start time. So the
//! first byte is spoilt before the rest is written, and mended last: what is read in between is no
//! JSON. A crash in between leaves a file that says just this, and is dead without a flock.
//!
//! **Older processes** may have read the old record. If they thought it dead, they are about to
//! remove the path. They can have thought so only if its process had ended. So who hands on puts a
//! mark on the file, which the kernel takes away when that process ends: while it is there even after
//! the new record is written, nobody can have thought so, and there is nothing to settle. If it is not,
//! this is a takeover.
//!
//! **Nobody comes.** Those in line may all give up or die just when the file is left to them. So who
//! has handed on looks back after a while ([`HandedOn::clear`]), and removes what nobody has taken.
//! If it dies before that, the file is a dead process's.

use super::{
    Attempt, Claim, Contended, HeldLock, LockFile, LockPaths, compose, discard, is_guarded, names,
    sweep_temporary,
};
use crate::error::{Context, Result};
use crate::record::{self, DeclaredWitness, Record};
use crate::sys;

use std::fs::File;

use rustix::io::Errno;

/// The mark of those who stand in line.
pub const LINE: i64 = 0;

/// Makes a lock file ours whose flock we have. It has to be [heritable](LockFile::is_heritable).
/// `None` if the path doesn't name it any more. `own`: the token of the record that this open file has
/// left there.
pub fn inherit(
    paths: &LockPaths,
    claim: &Claim,
    mut file: LockFile,
    own: Option<&str>,
) -> Result<Option<Attempt>> {
    let path = &paths.lock;
    let Some(writer) = file.writer.clone() else {
        return Ok(None);
    };
    // Who has it is in line no more, and hasn't handed it on. (Without marks none need taking away.)
    let _ = sys::take_marks_away(&file.file);
    let before = sys::read(&writer).during("read", path)?;
    // Finding one's own token there spares reading the record: that costs more than all the rest.
    let is_own = own.is_some_and(|token| contains(&before, token));
    let previous =
        if is_own { None } else { Record::decode(&before).and_then(|record| record.token) };
    let previous_lives =
        || is_own || previous.as_deref().is_some_and(|token| is_marked(&file, token));
    let was_handed_on = previous_lives();
    // If not, an older process may be about to remove it, or its holder may have died in the middle of
    // an exchange that had brought out a live lock.
    let is_free = || Ok(!is_guarded(paths) && sweep_temporary(&paths.temporary(), Some(file.id))?);
    if !was_handed_on && !is_free()? {
        let _ = sys::unlock(&file.file); // closing it would do as well
        return Ok(Some(Attempt::Contended(Contended::default())));
    }
    let composed = compose(claim, Some(DeclaredWitness::Flock)).during("getrandom", path)?;
    if let Err(errno) = write_over(&writer, composed.text.as_bytes(), before.len()) {
        // Half written; no other has the flock. Better no lock than one that says nothing.
        discard(path, &file);
        let _ = sys::unlock(&file.file); // closing it would do as well
        return Err(errno).during("write", path);
    }
    // Asked again: whoever has read the old record until now has seen a process that lives.
    let need_not_settle = was_handed_on && previous_lives();
    file.promises_flock = true;
    let held = HeldLock { paths: paths.clone(), file, token: composed.token };
    if !held.is_at_its_path()? {
        return Ok(None);
    }
    Ok(Some(if need_not_settle { Attempt::Acquired(held) } else { Attempt::TakenOver(held) }))
}

/// Gives up a flock that came to one who doesn't want it any more: to those behind, if there are any;
/// otherwise the file is removed, as by a release. Says whether there were none.
pub fn decline(paths: &LockPaths, file: &LockFile) -> bool {
    let is_last = !sys::is_marked(&file.file, LINE).unwrap_or(true);
    if file.promises_flock && is_last {
        discard(&paths.lock, file);
    }
    let _ = sys::unlock(&file.file); // closing it would do as well
    is_last
}

/// Puts a record in the place of another one of `length` bytes.
fn write_over(writer: &File, text: &[u8], length: usize) -> rustix::io::Result<()> {
    /// Filling up with blanks is cheaper than cutting off, up to here.
    const MOST_BLANKS: usize = 1024;

    let blanks = length.saturating_sub(text.len());
    let mut text = text.to_vec();
    text.resize(text.len() + blanks.min(MOST_BLANKS), b' ');
    sys::write_at(writer, &[record::BEING_WRITTEN], 0)?;
    sys::write_at(writer, &text[1..], 1)?;
    if blanks > MOST_BLANKS {
        sys::truncate(writer, text.len() as u64)?;
    }
    sys::write_at(writer, &text[..1], 0)
}

/// Whether a lock file that nobody has the flock of is on its way to those in line.
pub fn is_on_its_way(file: &LockFile, record: Option<&Record>) -> bool {
    let token = record.and_then(|record| record.token.as_deref());
    token.is_some_and(|token| is_marked(file, token))
}

/// Says that the holder whose record has this token has handed on.
fn mark(file: &File, token: &str) -> bool {
    offset(token).is_some_and(|offset| sys::mark(file, offset).is_ok())
}

/// Whether that holder has handed on, and its process lives.
fn is_marked(file: &LockFile, token: &str) -> bool {
    offset(token).is_some_and(|offset| sys::is_marked(&file.file, offset).unwrap_or(false))
}

/// Where a holder's mark is: its token, as far as it fits. [`LINE`] is none of these.
fn offset(token: &str) -> Option<i64> {
    const DIGITS: usize = 15;

    i64::from_str_radix(token.get(..DIGITS)?, 16).ok().map(|number| number + LINE + 1)
}

/// A lock file that was left to those in line, kept open: nobody else gets its inode number.
#[derive(Debug)]
pub struct HandedOn {
    paths: LockPaths,
    file: LockFile,
    /// Of the record that is in it until somebody takes it.
    token: String,
}

/// What a look back has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleared {
    /// Somebody has taken it, or nobody can any more.
    Yes,
    /// Somebody has its flock, and has not written into it.
    NotYet,
}

impl HandedOn {
    /// Marks a lock as handed on. `None` if it can't be, or nobody is in line.
    pub(super) fn leave(held: &HeldLock) -> Option<Self> {
        let HeldLock { paths, file, token } = held;
        let is_left = file.promises_flock
            && sys::is_marked(&file.file, LINE).unwrap_or(false)
            && mark(&file.file, token);
        is_left.then(|| Self { paths: paths.clone(), file: file.clone(), token: token.clone() })
    }

    /// Takes it again if nobody has been faster, ahead of those in line. `None` if it is no more.
    pub fn take_back(&self, claim: &Claim) -> Result<Option<Attempt>> {
        let Self { paths, file, token } = self;
        match sys::flock(&file.file) {
            Ok(()) => inherit(paths, claim, file.clone(), Some(token)),
            Err(Errno::WOULDBLOCK) => self.stand_behind(),
            Err(errno) => Err(errno).during("flock", &paths.lock),
        }
    }

    /// Finds it in the way, without having to look for it. `None` if it is no more.
    pub fn stand_behind(&self) -> Result<Option<Attempt>> {
        let is_there = names(&self.paths.lock, &self.file, None)?;
        let contended = || Attempt::Contended(Contended::by_flock(self.file.clone()));
        Ok(is_there.then(contended))
    }

    /// Looks back: what nobody has taken is removed.
    pub fn clear(&self) -> Cleared {
        let Self { paths, file, token } = self;
        match sys::flock(&file.file) {
            Ok(()) if decline(paths, file) => Cleared::Yes,
            Err(_) if !says(file, token) => Cleared::Yes,
            _ => Cleared::NotYet,
        }
    }
}

/// Whether a record with this token is in the file.
fn says(file: &LockFile, token: &str) -> bool {
    sys::read(&file.file).is_ok_and(|text| contains(&text, token))
}

fn contains(text: &[u8], token: &str) -> bool {
    text.windows(token.len()).any(|window| window == token.as_bytes())
}
