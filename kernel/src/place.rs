//! Where finished builds are. The only module that reads the environment.

use std::ffi::OsString;
use std::path::PathBuf;

/// The folder of the kernel built from exactly these inputs.
#[must_use]
pub fn kernel_dir() -> PathBuf {
    cache().join(concat!("kernel-", env!("KERNEL_INPUTS")))
}

/// The folder of the agent built from exactly these inputs.
#[must_use]
pub fn agent_dir() -> PathBuf {
    cache().join(concat!("agent-", env!("AGENT_INPUTS")))
}

/// The folder that the user named instead.
pub(crate) fn override_dir() -> Option<PathBuf> {
    std::env::var_os("SUPERMACHINE_ASSETS").filter(|v| !v.is_empty()).map(PathBuf::from)
}

fn cache() -> PathBuf {
    cache_below(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"))
}

/// As the XDG base directory specification says: a relative path counts as none.
pub(crate) fn cache_below(xdg: Option<OsString>, home: Option<OsString>) -> PathBuf {
    let xdg = xdg.map(PathBuf::from).filter(|path| path.is_absolute());
    let base = xdg.unwrap_or_else(|| PathBuf::from(home.unwrap_or("/".into())).join(".cache"));
    base.join("supermachine/assets")
}
