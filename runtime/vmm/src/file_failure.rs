//! The text of a failed file operation, the same in every crate.

use std::io;
use std::path::Path;

/// What failed, as the first half of an error whose source is `source`: `disk full: PATH` if there is no
/// room, else `cannot OPERATION PATH`.
///
/// ```
/// use std::io;
/// use std::path::Path;
/// use supermachine_vmm::file_failure;
///
/// let full = io::Error::from(io::ErrorKind::StorageFull);
/// assert_eq!(file_failure("write", Path::new("/a"), &full), "disk full: /a");
/// let denied = io::Error::from(io::ErrorKind::PermissionDenied);
/// assert_eq!(file_failure("write", Path::new("/a"), &denied), "cannot write /a");
/// ```
#[must_use]
pub fn file_failure(operation: &str, path: &Path, source: &io::Error) -> String {
    let what = match source.kind() {
        io::ErrorKind::StorageFull => "disk full:".to_owned(),
        io::ErrorKind::QuotaExceeded => "disk quota used up:".to_owned(),
        _ => format!("cannot {operation}"),
    };
    format!("{what} {}", path.display())
}
