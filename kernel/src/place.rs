//! The locations of finished builds. The only module that reads the environment.

use std::ffi::OsString;
use std::path::PathBuf;

/// The folder that the user names instead.
pub(crate) fn override_dir() -> Option<PathBuf> {
    std::env::var_os("SUPERMACHINE_ASSETS").filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// The folder of finished builds.
pub(crate) fn cache() -> PathBuf {
    cache_below(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"))
}

/// Follows the XDG base directory specification, which ignores relative paths.
pub(crate) fn cache_below(xdg: Option<OsString>, home: Option<OsString>) -> PathBuf {
    let xdg = xdg.map(PathBuf::from).filter(|path| path.is_absolute());
    let base = xdg.unwrap_or_else(|| PathBuf::from(home.unwrap_or("/".into())).join(".cache"));
    base.join("supermachine/assets")
}
