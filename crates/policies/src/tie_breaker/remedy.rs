//! What a person can do about a store that the operating system refuses to work with.

use std::io;

/// What to do about an error, to follow its words; nothing where nobody knows.
pub(super) fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => "; make room on that file system",
        Some(libc::EDQUOT) => "; make room in its owner's quota",
        Some(libc::EROFS) => "; mount that file system for writing again",
        Some(libc::EACCES) => "; give the user that ft-vm runs as the right to write there",
        Some(libc::ENOENT) => "; is its file system mounted? The folder that it is in must exist",
        Some(libc::EIO | libc::ESTALE | libc::EUCLEAN) => "; look after that file system, or its server",
        _ => "",
    }
}
