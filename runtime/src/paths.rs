//! The user's folders. The only module that reads the environment.

use std::env;
use std::path::PathBuf;

/// The cache folder: `$XDG_CACHE_HOME/supermachine`, or `~/.cache/supermachine`. `None` when
/// neither variable is an absolute path.
pub(crate) fn cache_dir() -> Option<PathBuf> {
    user_dir("XDG_CACHE_HOME", ".cache")
}

/// The folder of what stays: `$XDG_DATA_HOME/supermachine`, or `~/.local/share/supermachine`. `None` when
/// neither variable is an absolute path.
#[cfg(feature = "fs")]
pub(crate) fn data_dir() -> Option<PathBuf> {
    user_dir("XDG_DATA_HOME", ".local/share")
}

/// Our folder in the one that a variable names, or in `usual` of the home folder.
fn user_dir(variable: &str, usual: &str) -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| Some(absolute("HOME")?.join(usual)))?;
    Some(base.join("supermachine"))
}

/// The folder of snapshots that `SUPERMACHINE_SNAPSHOTS` names.
pub(crate) fn snapshots_dir() -> Option<PathBuf> {
    env::var_os("SUPERMACHINE_SNAPSHOTS").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// The program's file, with links resolved, as its assets are beside the file itself.
pub(crate) fn executable() -> Option<PathBuf> {
    let path = env::current_exe().ok()?;
    Some(path.canonicalize().unwrap_or(path))
}
