//! Files, their names and their locks.
//!
//! Every open file shares reading, writing and deleting, as all of Node's do. So a name can be removed or replaced while
//! the file is open.
//!
//! **Names vanish at once**, although Windows lets a removed file keep its name until its last handle is closed (but for
//! the "POSIX semantics" of NTFS, which not every file system has): [`unlink`] gives the file another name first. An
//! older process doesn't: such a name is `BUSY`.
//!
//! **Paths are verbatim** (`\\?\C:\…`) for every call, as Node's own are. So a name means itself, also one that Win32
//! would shorten (`s.jsonl.`) or take for a device (`aux.jsonl`), and may be longer than 260 units. People are shown
//! the plain path.
//!
//! Sources: `CreateFileW`, `LockFileEx`, `ReOpenFile`, `SetFileInformationByHandle`, and "Locking and Unlocking
//! Byte Ranges in Files".

#![expect(
    unsafe_code,
    reason = "the standard library locks whole files only, and doesn't say why it was refused"
)]

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::mem::offset_of;
use std::os::windows::ffi::OsStringExt;
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle, RawHandle};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_CALL_NOT_IMPLEMENTED, ERROR_INVALID_PARAMETER, ERROR_IO_PENDING,
    ERROR_LOCK_VIOLATION, ERROR_NOT_LOCKED, ERROR_SHARING_VIOLATION, GENERIC_READ,
    INVALID_HANDLE_VALUE, STATUS_DELETE_PENDING, STATUS_FILE_DELETED,
};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, DELETE, FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_REPARSE_POINT,
    FILE_ATTRIBUTE_TAG_INFO, FILE_BASIC_INFO, FILE_DISPOSITION_FLAG_DELETE,
    FILE_DISPOSITION_FLAG_IGNORE_READONLY_ATTRIBUTE, FILE_DISPOSITION_FLAG_POSIX_SEMANTICS,
    FILE_DISPOSITION_INFO_EX, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_DELETE_ON_CLOSE,
    FILE_FLAG_OPEN_REPARSE_POINT, FILE_ID_INFO, FILE_INFO_BY_HANDLE_CLASS, FILE_READ_ATTRIBUTES,
    FILE_REMOTE_PROTOCOL_INFO, FILE_RENAME_INFO, FILE_SHARE_DELETE, FILE_SHARE_READ,
    FILE_SHARE_WRITE, FILE_STANDARD_INFO, FileAttributeTagInfo, FileBasicInfo,
    FileDispositionInfoEx, FileIdInfo, FileRemoteProtocolInfo, FileRenameInfo, FileStandardInfo,
    FindClose, FindFirstFileW, GetFileInformationByHandle, GetFileInformationByHandleEx,
    LOCKFILE_EXCLUSIVE_LOCK, LOCKFILE_FAIL_IMMEDIATELY, LockFileEx, MoveFileExW, ReOpenFile,
    SetFileInformationByHandle, UnlockFileEx, WIN32_FIND_DATAW,
};
use windows_sys::Win32::System::IO::OVERLAPPED;

use super::wide;
use crate::os::{Entry, Errno, FileId, FileKind, Lease, Result, Status};

#[path = "../shared/absent.rs"]
mod absent;
pub use absent::*;

/// An open file. Clones share it, and its locks; it is closed with the last of them.
#[derive(Debug, Clone)]
pub struct File(Arc<std::fs::File>);

impl AsRawHandle for File {
    fn as_raw_handle(&self) -> RawHandle {
        self.0.as_raw_handle()
    }
}

/// The owner of every file, see [`own_user`](super::process::own_user).
pub const EVERYBODY: u32 = 0;

const SHARE_ALL: u32 = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

/// The byte whose exclusive lock is the lock of a file: far beyond its end, so that nobody is kept from reading it.
const WITNESS: u64 = 1 << 62;

/// The byte that those who wait for that lock block for.
const BELL: u64 = WITNESS + 1;

// --- Opening and creating -----------------------------------------------------------------------

/// Opens `path` for reading: a file or a folder.
pub fn open(path: &Path) -> Result<File> {
    opened(options().read(true).open(verbatim(path)))
}

/// Only a queue needs this.
pub fn create_or_open(_path: &Path) -> Result<File> {
    Err(Errno::OPNOTSUPP)
}

/// Creates a file at `path`. Fails if `path` exists.
pub fn create_new(path: &Path) -> Result<File> {
    let created = opened(options().read(true).write(true).create_new(true).open(verbatim(path)));
    created.map_err(exists_if_busy)
}

/// Does not follow symbolic links, and opens folders, too.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS);
    options
}

fn opened(answer: io::Result<std::fs::File>) -> Result<File> {
    answer.map(|file| File(Arc::new(file))).map_err(refusal)
}

/// What the system says. `BUSY`: the file is being deleted, for which Win32 has no code of its own.
fn refusal(error: io::Error) -> Errno {
    #[link(name = "ntdll")]
    unsafe extern "system" {
        safe fn RtlGetLastNtStatus() -> i32;
    }

    let is_going = matches!(RtlGetLastNtStatus(), STATUS_DELETE_PENDING | STATUS_FILE_DELETED);
    if is(&error, ERROR_ACCESS_DENIED) && is_going {
        return Errno::BUSY;
    }
    error.into()
}

/// A name that is being deleted is still a name.
fn exists_if_busy(errno: Errno) -> Errno {
    if errno == Errno::BUSY { Errno::EXIST } else { errno }
}

fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error().and_then(|code| u32::try_from(code).ok()) == Some(code)
}

// --- Contents -----------------------------------------------------------------------------------

/// Writes `bytes` at `offset`, all of them.
pub fn write(file: &File, mut bytes: &[u8], mut offset: u64) -> Result<()> {
    while !bytes.is_empty() {
        match file.0.seek_write(bytes, offset)? {
            0 => return Err(Errno::IO),
            count => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}

/// The start of the file, at most `most` bytes.
pub fn read(file: &File, most: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; most];
    let mut length = 0;
    while length < most {
        match file.0.seek_read(&mut bytes[length..], length as u64)? {
            0 => break,
            count => length += count,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Only a queue needs this.
pub fn touch(_file: &File) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}

// --- Names --------------------------------------------------------------------------------------

/// What is at `path`. `BUSY`: a file that is being deleted.
pub fn status_at(path: &Path) -> Result<Status> {
    status_of(&opened(options().access_mode(FILE_READ_ATTRIBUTES).open(verbatim(path)))?)
}

/// What an open file is.
pub fn status_of(file: &File) -> Result<Status> {
    let basic: FILE_BASIC_INFO = query(file)?;
    let standard: FILE_STANDARD_INFO = query(file)?;
    let has = |attribute| basic.FileAttributes & attribute != 0;
    Ok(Status {
        id: id_of(file)?,
        modified_ms: ms_since_1970(basic.LastWriteTime),
        changed_ms: ms_since_1970(basic.ChangeTime),
        was_read: true,
        length: u64::try_from(standard.EndOfFile).unwrap_or(0),
        names: standard.NumberOfLinks.into(),
        owner: EVERYBODY,
        odd_kind: if has(FILE_ATTRIBUTE_REPARSE_POINT) && is_another_name(file)? {
            Some(FileKind::Symlink)
        } else if has(FILE_ATTRIBUTE_DIRECTORY) {
            Some(FileKind::Directory)
        } else {
            None
        },
    })
}

/// Whether a reparse point stands for another file or folder, as symbolic links and mount points do. Others only say
/// how the file is stored: that it is compressed, or in a cloud.
fn is_another_name(file: &File) -> Result<bool> {
    /// `IsReparseTagNameSurrogate` of ntifs.h.
    const NAME_SURROGATE: u32 = 0x2000_0000;

    let FILE_ATTRIBUTE_TAG_INFO { ReparseTag: tag, .. } = query(file)?;
    Ok(tag & NAME_SURROGATE != 0)
}

/// FAT has only the older, shorter numbers.
fn id_of(file: &File) -> Result<FileId> {
    if let Ok(FILE_ID_INFO { VolumeSerialNumber, FileId }) = query(file) {
        return Ok(crate::os::FileId {
            device: VolumeSerialNumber,
            inode: fold(FileId.Identifier),
        });
    }
    let mut found = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: `file` is open; the call fills this structure.
    let is_known = unsafe { GetFileInformationByHandle(file.as_raw_handle(), &raw mut found) } != 0;
    if !is_known {
        return Err(io::Error::last_os_error().into());
    }
    Ok(FileId {
        device: found.dwVolumeSerialNumber.into(),
        inode: u64::from(found.nFileIndexHigh) << 32 | u64::from(found.nFileIndexLow),
    })
}

/// NTFS numbers its files by the lower half; `ReFS` needs both.
fn fold(identifier: [u8; 16]) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

    let both = u128::from_le_bytes(identifier);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    let (low, high) = (both as u64, (both >> 64) as u64);
    low ^ high.wrapping_mul(GOLDEN)
}

/// From units of 100 ns since 1601.
fn ms_since_1970(ticks: i64) -> i64 {
    const FROM_1601_TO_1970_MS: i64 = 11_644_473_600_000;

    ticks / 10_000 - FROM_1601_TO_1970_MS
}

/// Gives a file another name, and takes the old one away: one step instead of two. Fails if `to` exists.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    move_to_vacant(from, to)
}

/// Renames `from` to `to`, in the place of `old`. Two steps: `old` is removed, by its handle, so that nobody else's file
/// can be; and if another file is at `to` by then, or `old` keeps its name until it is closed, that is `EXIST`.
pub fn replace(from: &Path, to: &Path, old: &File) -> Result<()> {
    let access = DELETE | FILE_READ_ATTRIBUTES;
    match open_again(old, access, SHARE_ALL, FILE_FLAG_DELETE_ON_CLOSE).map_err(refusal) {
        Ok(dying) => _ = move_away(&dying, to), // on failure as in `unlink`
        Err(Errno::PERM) => remove_read_only(&open_again(old, access, SHARE_ALL, 0)?)?,
        Err(errno) => return Err(errno),
    }
    move_to_vacant(from, to)
}

/// A full path in the form that nobody interprets.
fn verbatim(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_encoded_bytes();
    let is_device = bytes.starts_with(br"\\?\") || bytes.starts_with(br"\\.\");
    let (prefix, skipped) = match bytes {
        _ if is_device => return path.to_owned(),
        [b'\\', b'\\', ..] => (r"\\?\UNC\", 2),
        _ => (r"\\?\", 0),
    };
    // SAFETY: the bytes of a path, split after two backslashes, which are UTF-8.
    let rest = unsafe { OsStr::from_encoded_bytes_unchecked(&bytes[skipped..]) };
    let mut verbatim = OsString::from(prefix);
    verbatim.push(rest);
    verbatim.into()
}

/// A verbatim path as people write it: `C:\…` or `\\server\share\…`. One without such a form stays as it is.
fn plain(verbatim: PathBuf) -> PathBuf {
    let Some(rest) = verbatim.to_str().and_then(|text| text.strip_prefix(r"\\?\")) else {
        return verbatim;
    };
    match rest.as_bytes() {
        [b'U', b'N', b'C', b'\\', ..] => format!(r"\\{}", &rest[4..]).into(),
        [_, b':', b'\\', ..] => rest.into(),
        _ => verbatim, // a volume without a letter
    }
}

fn move_to_vacant(from: &Path, to: &Path) -> Result<()> {
    let [from, to] = [from, to].map(|path| wide(verbatim(path).as_os_str()));
    // SAFETY: both paths end with NUL.
    let is_moved = unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), 0) } != 0;
    if is_moved { Ok(()) } else { Err(exists_if_busy(refusal(io::Error::last_os_error()))) }
}

/// Windows has no such call.
pub fn exchange(_one: &Path, _other: &Path) -> Result<()> {
    Err(Errno::NOSYS)
}

/// Removes a name. A file that others have open keeps its name until they close it, so it gets another one first. It
/// goes with its last handle, also if this process dies in between.
pub fn unlink(path: &Path) -> Result<()> {
    let mut how = options();
    how.access_mode(DELETE | FILE_READ_ATTRIBUTES);
    how.custom_flags(FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_DELETE_ON_CLOSE);
    match opened(how.open(verbatim(path))) {
        // On failure the name stays until the last handle is closed.
        Ok(dying) => _ = move_away(&dying, path),
        Err(Errno::PERM) => {
            how.custom_flags(FILE_FLAG_OPEN_REPARSE_POINT);
            remove_read_only(&opened(how.open(verbatim(path)))?)?;
        }
        Err(errno) => return Err(errno),
    }
    Ok(())
}

/// Removes a file that may be read-only, which `FILE_FLAG_DELETE_ON_CLOSE` refuses. Its name is gone when `file` is
/// closed. `PERM`: this file system can't do that.
fn remove_read_only(file: &impl AsRawHandle) -> Result<()> {
    let info = FILE_DISPOSITION_INFO_EX {
        Flags: FILE_DISPOSITION_FLAG_DELETE
            | FILE_DISPOSITION_FLAG_POSIX_SEMANTICS
            | FILE_DISPOSITION_FLAG_IGNORE_READONLY_ATTRIBUTE,
    };
    // SAFETY: `file` is open; this class takes this structure, and reads no more than its size.
    let is_removed = unsafe {
        SetFileInformationByHandle(
            file.as_raw_handle(),
            FileDispositionInfoEx,
            (&raw const info).cast(),
            size_of_u32::<FILE_DISPOSITION_INFO_EX>(),
        )
    } != 0;
    if is_removed { Ok(()) } else { Err(Errno::PERM) }
}

/// Gives an open file a name that nobody uses, beside `path`.
fn move_away(file: &impl AsRawHandle, path: &Path) -> Result<()> {
    let mut number = [0; 8];
    super::random(&mut number)?;
    let other = format!("{:016x}.lock.gone", u64::from_le_bytes(number));
    Ok(move_open(file, &path.with_file_name(other))?)
}

/// Renames this very file, whatever its old path names by now.
fn move_open(file: &impl AsRawHandle, to: &Path) -> io::Result<()> {
    const NAME: usize = offset_of!(FILE_RENAME_INFO, FileName);

    let name = wide(verbatim(to).as_os_str());
    let bytes = NAME + size_of_val(name.as_slice());
    // Of 64-bit numbers, so that it is aligned as the structure is.
    let mut buffer =
        vec![0_u64; bytes.div_ceil(size_of::<u64>()).max(size_of::<FILE_RENAME_INFO>() / 8)];
    let length = u32::try_from(size_of_val(name.as_slice()) - size_of::<u16>()).unwrap_or(u32::MAX);
    // SAFETY: the buffer is as large as the structure with the whole name, and aligned for it; all zeros are a valid
    // one: nothing is replaced, and the name is relative to no folder.
    unsafe {
        let info = buffer.as_mut_ptr().cast::<FILE_RENAME_INFO>();
        (*info).FileNameLength = length;
        let start = (&raw mut (*info).FileName).cast::<u16>();
        start.copy_from_nonoverlapping(name.as_ptr(), name.len());
    }
    let size = u32::try_from(size_of_val(buffer.as_slice())).unwrap_or(u32::MAX);
    // SAFETY: `file` is open; this class takes this structure, and reads no more than `size`.
    let is_moved = unsafe {
        SetFileInformationByHandle(
            file.as_raw_handle(),
            FileRenameInfo,
            buffer.as_ptr().cast(),
            size,
        )
    } != 0;
    if is_moved { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The path without symbolic links, as people write it.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn real_path(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(verbatim(path)).map(plain).map_err(refusal)
}

/// The long name of the file at `path`, if the path may have the short one that Windows makes up: `CHAT-2~1.JSO` for
/// `chat-2026.jsonl`. `None`: it can't be a short one, or there is no file. Follows no link.
pub fn long_name(path: &Path) -> Option<OsString> {
    let name = path.file_name()?.as_encoded_bytes();
    // No file's name has these characters, and the call would take them for patterns.
    if !name.contains(&b'~') || name.iter().any(|byte| br#"*?<>""#.contains(byte)) {
        return None;
    }
    let mut found = WIN32_FIND_DATAW::default();
    // SAFETY: the path ends with NUL; the call fills this structure.
    let search =
        unsafe { FindFirstFileW(wide(verbatim(path).as_os_str()).as_ptr(), &raw mut found) };
    if search == INVALID_HANDLE_VALUE {
        return None;
    }
    // SAFETY: the search is open, and nobody else's.
    let _ = unsafe { FindClose(search) };
    let end = found.cFileName.iter().position(|unit| *unit == 0)?;
    Some(OsString::from_wide(&found.cFileName[..end]))
}

/// Creates a folder and those above it that are missing.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn create_folders(path: &Path) -> Result<()> {
    // Not by `refusal`: the standard library makes other calls after the one that failed.
    Ok(std::fs::create_dir_all(verbatim(path))?)
}

/// The entries of a folder, in no order.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn list(folder: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(verbatim(folder))? {
        let entry = entry?;
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        entries.push(Entry { name: entry.file_name(), is_folder });
    }
    Ok(entries)
}

// --- Locks --------------------------------------------------------------------------------------

/// Takes the exclusive lock, and the bell if nobody is just hearing it. `WOULDBLOCK`: another open file has the lock.
pub fn flock(file: &File) -> Result<()> {
    lock(file, WITNESS, LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY)?;
    // Somebody may just hear it, or be about to give it back. Without the bell those who wait look by time.
    for _ in 0..ASKED_FOR_BELL {
        if lock(file, BELL, LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY).is_ok() {
            break;
        }
        crate::os::yield_now();
    }
    Ok(())
}

/// How often it is asked for.
const ASKED_FOR_BELL: u32 = 3;

/// Takes a shared lock. `WOULDBLOCK`: another open file has the exclusive one.
pub fn flock_shared(file: &File) -> Result<()> {
    lock(file, WITNESS, LOCKFILE_FAIL_IMMEDIATELY)
}

/// Blocks until somebody gives the lock back, or dies. Then the lock may be free: all who waited look again. Meanwhile
/// every other call for this open file waits as well.
///
/// All hear the bell at once, because they ask for a shared lock. A thread that is suspended then, and keeps it, is in
/// nobody's way.
pub fn flock_wait(file: &File) -> Result<()> {
    match lock(file, BELL, LOCKFILE_FAIL_IMMEDIATELY) {
        // Somebody has the lock without the bell, or has just given both back. Don't look all the time.
        Ok(()) => {
            unlock_byte(file, BELL)?;
            crate::os::sleep(WITHOUT_BELL);
            crate::os::count_timer();
            Ok(())
        }
        Err(Errno::WOULDBLOCK) => {
            lock(file, BELL, 0)?;
            crate::os::count_event();
            unlock_byte(file, BELL)
        }
        Err(errno) => Err(errno),
    }
}

/// How soon who waits looks again while there is no bell.
const WITHOUT_BELL: Duration = Duration::from_millis(10);

fn lock(file: &File, byte: u64, mode: u32) -> Result<()> {
    let mut place = at(byte);
    // SAFETY: `file` is open. It was not opened for overlapped calls, so this one is over when it returns, and
    // `place` lives as long.
    let is_ours = unsafe { LockFileEx(file.as_raw_handle(), mode, 0, 1, 0, &raw mut place) } != 0;
    if is_ours {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let is_taken = is(&error, ERROR_LOCK_VIOLATION) || is(&error, ERROR_IO_PENDING);
    Err(if is_taken { Errno::WOULDBLOCK } else { error.into() })
}

/// Gives the lock back, and then rings the bell.
pub fn unlock(file: &File) -> Result<()> {
    let given_back = unlock_byte(file, WITNESS);
    let rung = unlock_byte(file, BELL);
    given_back.and(rung)
}

fn unlock_byte(file: &File, byte: u64) -> Result<()> {
    let mut place = at(byte);
    // SAFETY: as in `lock`.
    let is_free = unsafe { UnlockFileEx(file.as_raw_handle(), 0, 1, 0, &raw mut place) } != 0;
    if is_free {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let was_free = is(&error, ERROR_NOT_LOCKED) || is(&error, ERROR_LOCK_VIOLATION); // Wine says the latter
    if was_free { Ok(()) } else { Err(error.into()) }
}

fn at(byte: u64) -> OVERLAPPED {
    let mut place = OVERLAPPED::default();
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    let (low, high) = (byte as u32, (byte >> 32) as u32);
    place.Anonymous.Anonymous.Offset = low;
    place.Anonymous.Anonymous.OffsetHigh = high;
    place
}

/// Whether somebody has the file open for writing, or denies reading it: opening it while denying others to write it
/// would be refused.
pub fn lease(file: &File) -> Lease {
    match open_again(file, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, 0) {
        Ok(_) => Lease::Granted,
        Err(error) if is(&error, ERROR_SHARING_VIOLATION) => Lease::Refused,
        Err(_) => Lease::Unanswered,
    }
}

/// Opens the same file once more, whatever its path names by now.
fn open_again(file: &File, access: u32, share: u32, flags: u32) -> io::Result<OwnedHandle> {
    // SAFETY: `file` is open.
    let again = unsafe {
        ReOpenFile(file.as_raw_handle(), access, share, flags | FILE_FLAG_OPEN_REPARSE_POINT)
    };
    if again == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is new, and nobody else's.
    Ok(unsafe { OwnedHandle::from_raw_handle(again) })
}

// --- Asking about an open file --------------------------------------------------------------------

/// A structure, and the class of information that fills it.
trait Information: Default {
    const CLASS: FILE_INFO_BY_HANDLE_CLASS;
}

impl Information for FILE_BASIC_INFO {
    const CLASS: FILE_INFO_BY_HANDLE_CLASS = FileBasicInfo;
}

impl Information for FILE_STANDARD_INFO {
    const CLASS: FILE_INFO_BY_HANDLE_CLASS = FileStandardInfo;
}

impl Information for FILE_ID_INFO {
    const CLASS: FILE_INFO_BY_HANDLE_CLASS = FileIdInfo;
}

impl Information for FILE_ATTRIBUTE_TAG_INFO {
    const CLASS: FILE_INFO_BY_HANDLE_CLASS = FileAttributeTagInfo;
}

impl Information for FILE_REMOTE_PROTOCOL_INFO {
    const CLASS: FILE_INFO_BY_HANDLE_CLASS = FileRemoteProtocolInfo;
}

fn query<T: Information>(file: &File) -> io::Result<T> {
    let mut found = T::default();
    // SAFETY: `file` is open; a class fills its own structure, and no more than its size.
    let is_known = unsafe {
        GetFileInformationByHandleEx(
            file.as_raw_handle(),
            T::CLASS,
            (&raw mut found).cast(),
            size_of_u32::<T>(),
        )
    } != 0;
    if is_known { Ok(found) } else { Err(io::Error::last_os_error()) }
}

/// Whether the file is on a disk of this machine, for sure. Of such a file Windows has no information about a remote
/// protocol, and calls the question an invalid parameter. Wine never has any.
pub(super) fn is_local(file: &File) -> bool {
    let answer = query::<FILE_REMOTE_PROTOCOL_INFO>(file);
    let is = |code| answer.as_ref().is_err_and(|error| is(error, code));
    is(ERROR_INVALID_PARAMETER) || is(ERROR_CALL_NOT_IMPLEMENTED)
}

#[expect(clippy::cast_possible_truncation, reason = "structures of a few bytes")]
const fn size_of_u32<T>() -> u32 {
    size_of::<T>() as u32
}
