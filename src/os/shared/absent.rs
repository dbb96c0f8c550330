//! What neither macOS nor Windows has: files without a name, locks of an open file on a byte, times that tell whether a
//! file was read. What the protocol asks of these is refused or left unanswered, and it goes another way.

#![allow(clippy::unnecessary_wraps, reason = "the same functions as on Linux")]

use std::path::Path;

use super::File;
use crate::os::{Errno, Lease, Result};

/// Only a queue needs this.
pub fn reopen_for_writing(_file: &File) -> Result<File> {
    Err(Errno::OPNOTSUPP)
}

/// The protocol then makes a file under the temporary's name.
pub fn create_unnamed(_folder: &Path) -> Result<File> {
    Err(Errno::OPNOTSUPP)
}

/// See [`create_unnamed`].
pub fn link_unnamed(_file: &File, _path: &Path) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}

/// Nothing is known of file systems that need it here.
pub fn forget_contents(_file: &File) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}

/// The same.
pub fn forget_names(_folder: &Path) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}

/// Reads are not told apart here: every takeover settles.
pub fn forget_reads(_file: &File) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}

/// The same.
pub fn is_open_elsewhere(_file: &File) -> Lease {
    Lease::Unanswered
}

/// See [`HAS_BYTE_LOCKS`](crate::os::HAS_BYTE_LOCKS), also for the next ones.
pub fn lock_byte(_file: &File, _byte: u64) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}

/// Refused.
pub fn lock_all_bytes(_file: &File) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}

/// Refused.
pub fn byte_wait(_file: &File, _byte: u64) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}

/// Refused.
pub fn unlock_bytes(_file: &File) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}

/// Refused.
pub fn locked_byte(_file: &File, _from: u64, _end: u64) -> Result<Option<u64>> {
    Err(Errno::OPNOTSUPP)
}
