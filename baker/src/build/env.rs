//! Environment variables that apply to all builds.
//!
//! | variable | effect |
//! |---|---|
//! | `SUPERMACHINE_NO_BAKE=1`, `DOCS_RS` | bakes nothing; opening a snapshot is an error |
//! | `SUPERMACHINE_PREBAKED=FOLDER` | uses the packs `NAME.tar` in the folder instead of bakes |
//! | `SUPERMACHINE_OFFLINE=1`, `CARGO_NET_OFFLINE=true` | uses no network |
//! | `SUPERMACHINE_LOCKED=1` | refuses an image that `supermachine.lock` does not pin |

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

const NO_BAKE: &str = "SUPERMACHINE_NO_BAKE";
const DOCS_RS: &str = "DOCS_RS";
const PREBAKED: &str = "SUPERMACHINE_PREBAKED";
const OFFLINE: &str = "SUPERMACHINE_OFFLINE";
const LOCKED: &str = "SUPERMACHINE_LOCKED";
/// Cargo's own variable for offline builds.
const CARGO_OFFLINE: &str = "CARGO_NET_OFFLINE";

/// The settings that the environment makes for builds; see [`BuildEnv::read`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuildEnv {
    /// Whether to bake nothing.
    pub left_out: bool,
    /// The folder of packs to use instead of bakes.
    pub prebaked: Option<PathBuf>,
    /// Whether to use no network.
    pub offline: bool,
    /// Whether the lock file must not change.
    pub locked: bool,
}

impl BuildEnv {
    /// The variables that make cargo run a build script again when they change.
    pub(crate) const WATCHED: [&str; 5] = [NO_BAKE, DOCS_RS, PREBAKED, OFFLINE, LOCKED];

    /// Reads `SUPERMACHINE_NO_BAKE`, `DOCS_RS`, `SUPERMACHINE_PREBAKED`, `SUPERMACHINE_OFFLINE`,
    /// `CARGO_NET_OFFLINE` and `SUPERMACHINE_LOCKED` from the environment of this process.
    #[must_use]
    pub fn read() -> Self {
        Self::of(env::var_os)
    }

    pub(crate) fn of(variable: impl Fn(&'static str) -> Option<OsString>) -> Self {
        let is_set = |name| variable(name).is_some_and(|value| !value.is_empty() && value != "0");
        let prebaked = variable(PREBAKED).filter(|folder| !folder.is_empty());
        Self {
            left_out: is_set(NO_BAKE) || is_set(DOCS_RS),
            prebaked: prebaked.map(PathBuf::from),
            offline: is_set(OFFLINE) || variable(CARGO_OFFLINE).is_some_and(|v| v == "true"),
            locked: is_set(LOCKED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env_of(own: &[(&str, &str)]) -> BuildEnv {
        BuildEnv::of(|name| {
            let found = own.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(*value))
        })
    }

    #[test]
    fn build_env_is_read_and_empty_ones_are_none() {
        assert_eq!(env_of(&[(PREBAKED, ""), (LOCKED, ""), (NO_BAKE, "0")]), BuildEnv::default());
        for name in [NO_BAKE, DOCS_RS] {
            assert!(env_of(&[(name, "1")]).left_out, "{name}");
        }
        assert_eq!(env_of(&[(PREBAKED, "/packs")]).prebaked, Some("/packs".into()));
        assert!(env_of(&[(CARGO_OFFLINE, "true")]).offline);
        assert!(!env_of(&[(CARGO_OFFLINE, "false")]).offline);
        assert!(env_of(&[(OFFLINE, "1")]).offline);
        assert!(env_of(&[(LOCKED, "1")]).locked);
    }
}
