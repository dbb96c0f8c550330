//! Numbers of errors: libuv's, as Node gives them in `error.errno`, and which codes of Win32 they stand for.
//!
//! Sources: libuv's include/uv/errno.h and src/win/error.c; Microsoft's "System Error Codes".

use std::io::Error;

use windows_sys::Win32::Foundation as win32;

pub mod numbers {
    //! The negated numbers of libuv. It has none for the last four: 1 to 4 are nobody's.

    pub const EACCES: i32 = 4092;
    pub const EAGAIN: i32 = 4088;
    pub const EBADF: i32 = 4083;
    pub const EBUSY: i32 = 4082;
    pub const EEXIST: i32 = 4075;
    pub const EINTR: i32 = 4072;
    pub const EINVAL: i32 = 4071;
    pub const EIO: i32 = 4070;
    pub const EISDIR: i32 = 4068;
    pub const ELOOP: i32 = 4067;
    pub const EMFILE: i32 = 4066;
    pub const ENAMETOOLONG: i32 = 4064;
    pub const ENFILE: i32 = 4061;
    pub const ENODEV: i32 = 4059;
    pub const ENOENT: i32 = 4058;
    pub const ENOMEM: i32 = 4057;
    pub const ENOSPC: i32 = 4055;
    pub const ENOSYS: i32 = 4054;
    pub const ENOTDIR: i32 = 4052;
    pub const EOPNOTSUPP: i32 = 4049;
    pub const EPERM: i32 = 4048;
    pub const EROFS: i32 = 4043;
    pub const ESRCH: i32 = 4040;
    pub const ETXTBSY: i32 = 4038;
    pub const EXDEV: i32 = 4037;
    pub const ENXIO: i32 = 4033;
    pub const EMLINK: i32 = 4032;
    pub const EDQUOT: i32 = 1;
    pub const ENOLCK: i32 = 2;
    pub const ESTALE: i32 = 3;
}

/// The number of an error that the standard library reports. A code that is not listed counts as `EIO`.
pub fn number_of(error: &Error) -> Option<i32> {
    let code = error.raw_os_error().and_then(|code| u32::try_from(code).ok())?;
    Some(match code {
        win32::ERROR_FILE_NOT_FOUND
        | win32::ERROR_PATH_NOT_FOUND
        | win32::ERROR_INVALID_DRIVE
        | win32::ERROR_BAD_PATHNAME
        | win32::ERROR_BAD_NETPATH
        | win32::ERROR_BAD_NET_NAME
        | win32::ERROR_DIRECTORY
        | win32::ERROR_NOT_READY => numbers::ENOENT,
        win32::ERROR_ACCESS_DENIED | win32::ERROR_PRIVILEGE_NOT_HELD => numbers::EPERM,
        win32::ERROR_CANT_ACCESS_FILE | win32::ERROR_NOACCESS => numbers::EACCES,
        win32::ERROR_SHARING_VIOLATION
        | win32::ERROR_LOCK_VIOLATION
        | win32::ERROR_DELETE_PENDING => numbers::EBUSY,
        win32::ERROR_FILE_EXISTS | win32::ERROR_ALREADY_EXISTS => numbers::EEXIST,
        win32::ERROR_TOO_MANY_OPEN_FILES => numbers::EMFILE,
        win32::ERROR_INVALID_HANDLE => numbers::EBADF,
        win32::ERROR_NOT_ENOUGH_MEMORY
        | win32::ERROR_OUTOFMEMORY
        | win32::ERROR_NO_SYSTEM_RESOURCES => numbers::ENOMEM,
        win32::ERROR_DISK_FULL
        | win32::ERROR_HANDLE_DISK_FULL
        | win32::ERROR_DISK_QUOTA_EXCEEDED => numbers::ENOSPC,
        win32::ERROR_WRITE_PROTECT => numbers::EROFS,
        win32::ERROR_NOT_SAME_DEVICE => numbers::EXDEV,
        win32::ERROR_INVALID_PARAMETER | win32::ERROR_INVALID_DATA | win32::ERROR_INVALID_NAME => {
            numbers::EINVAL
        }
        win32::ERROR_INVALID_FUNCTION | win32::ERROR_CALL_NOT_IMPLEMENTED => numbers::ENOSYS,
        win32::ERROR_NOT_SUPPORTED => numbers::EOPNOTSUPP,
        win32::ERROR_FILENAME_EXCED_RANGE | win32::ERROR_BUFFER_OVERFLOW => numbers::ENAMETOOLONG,
        win32::ERROR_CANT_RESOLVE_FILENAME => numbers::ELOOP,
        win32::ERROR_TOO_MANY_LINKS => numbers::EMLINK,
        _ => numbers::EIO,
    })
}

/// The texts of those that can arise here.
pub fn text_of(number: i32) -> String {
    let text = match number {
        numbers::EACCES => "permission denied",
        numbers::EAGAIN => "resource temporarily unavailable",
        numbers::EBADF => "the handle is not open for this",
        numbers::EBUSY => "in use by another process, or being deleted",
        numbers::EEXIST => "file already exists",
        numbers::EINVAL => "invalid argument",
        numbers::EIO => "i/o error",
        numbers::EISDIR => "it is a folder",
        numbers::ELOOP => "a symbolic link, or too many of them",
        numbers::EMFILE => "too many open files",
        numbers::EMLINK => "too many links",
        numbers::ENAMETOOLONG => "name too long",
        numbers::ENOENT => "no such file or directory",
        numbers::ENOMEM => "not enough memory",
        numbers::ENOSPC => "no space left on device",
        numbers::ENOSYS | numbers::EOPNOTSUPP => "not supported here",
        numbers::ENOTDIR => "not a directory",
        numbers::EPERM => "operation not permitted",
        numbers::EROFS => "read-only file system",
        numbers::ESRCH => "no such process",
        numbers::EXDEV => "two file systems",
        _ => "unknown error",
    };
    text.to_owned()
}
