//! The *blank*: our future lock file, still without a record and without a name. A process in the queue makes
//! one while it waits, so that less work is left when its turn comes.

use super::file::LockFile;
use super::paths::LockPaths;
use crate::error::{Context, Result};
use crate::os::{self, Errno, File, Trust};
use crate::record::DeclaredWitness;
use crate::verdict;

/// A new, flocked file. Unless it gets a name, it vanishes when it is closed.
#[derive(Debug, Clone)]
pub struct Blank {
    /// The open file, which owns the flock.
    pub file: LockFile,
    /// What its record will promise.
    pub witness: Option<DeclaredWitness>,
    /// 128 random bits in hexadecimal, for the record.
    pub token: String,
}

impl Blank {
    /// Creates an unnamed file. `None` if the file system has no unnamed files.
    pub fn create(paths: &LockPaths) -> Result<Option<Self>> {
        match os::create_unnamed(paths.folder()) {
            Ok(file) => Self::of(paths, &file).map(Some),
            // Old kernels know no unnamed files and take the flag for O_DIRECTORY.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => Ok(None),
            Err(errno) => Err(errno).during("open", paths.lock()),
        }
    }

    /// The same, some time before it is needed. Writes one byte, which the record will cover: the file system
    /// finds room for the file now, and has less to do when the record is written.
    pub fn create_ahead(paths: &LockPaths) -> Option<Self> {
        let blank = Self::create(paths).ok().flatten()?;
        let _ = os::write(&blank.file.file, b" ", 0); // on failure, writing the record fails as well, and says so
        Some(blank)
    }

    /// Flocks a file that we have just created.
    ///
    /// The record may promise a flock only where every process that can see the file can see its flock. A
    /// flock taken through a FUSE mount can't be seen from the folder beneath it; there the open descriptor
    /// is the witness. One at a file server can't be seen on the server: it has a name of its own.
    pub fn of(paths: &LockPaths, file: &File) -> Result<Self> {
        let id = os::status_of(file).during("fstat", paths.lock())?.id;
        // May fail: the file system has no flocks, or a contender judges the file just now.
        let flocked = os::flock(file);
        let file = LockFile::new(file.clone(), id);
        if file.trust == Trust::Flocks && flocked == Err(Errno::WOULDBLOCK) {
            flocked.during("flock", paths.lock())?; // there nothing but the flock shows that we live
        }
        let is_flocked = flocked.is_ok();
        let witness = verdict::witness_of(file.trust).filter(|_| is_flocked);
        let mut random = [0; 16];
        os::random(&mut random).during("getrandom", paths.lock())?;
        let token = format!("{:032x}", u128::from_ne_bytes(random));
        Ok(Self { file, witness, token })
    }
}
