//! The locations of finished builds. The only module that reads the environment.

use std::ffi::OsString;
use std::path::PathBuf;

/// A digest of the kernel's inputs.
pub(crate) const KERNEL_INPUTS: &str = env!("KERNEL_INPUTS");
/// A digest of the agent's inputs.
pub(crate) const AGENT_INPUTS: &str = env!("AGENT_INPUTS");

/// The folder of the kernel that is built from these inputs.
#[must_use]
pub fn kernel_dir() -> PathBuf {
    cache().join(format!("kernel-{KERNEL_INPUTS}"))
}

/// The folder of the agent that is built from these inputs.
#[must_use]
pub fn agent_dir() -> PathBuf {
    cache().join(format!("agent-{AGENT_INPUTS}"))
}

/// The folder that the user names instead.
pub(crate) fn override_dir() -> Option<PathBuf> {
    std::env::var_os("SUPERMACHINE_ASSETS").filter(|v| !v.is_empty()).map(PathBuf::from)
}

fn cache() -> PathBuf {
    cache_below(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"))
}

/// Follows the XDG base directory specification, which ignores relative paths.
pub(crate) fn cache_below(xdg: Option<OsString>, home: Option<OsString>) -> PathBuf {
    let xdg = xdg.map(PathBuf::from).filter(|path| path.is_absolute());
    let base = xdg.unwrap_or_else(|| PathBuf::from(home.unwrap_or("/".into())).join(".cache"));
    base.join("supermachine/assets")
}
