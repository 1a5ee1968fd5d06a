//! Where files of this user belong. The only module that reads the environment.

use std::env;
use std::path::PathBuf;

/// The folder for what can be made again: `$XDG_CACHE_HOME/supermachine`, or
/// `~/.cache/supermachine`. None when neither variable is set to an absolute path.
pub(crate) fn cache_dir() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("supermachine"))
}

/// The folder of snapshots that the user named: `SUPERMACHINE_SNAPSHOTS`.
pub(crate) fn snapshots_dir() -> Option<PathBuf> {
    env::var_os("SUPERMACHINE_SNAPSHOTS").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// The program's file, with links resolved, as what ships with it lies beside the file itself.
pub(crate) fn executable() -> Option<PathBuf> {
    let path = env::current_exe().ok()?;
    Some(path.canonicalize().unwrap_or(path))
}
