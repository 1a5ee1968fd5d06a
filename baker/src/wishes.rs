//! What a user asks of all builds by the environment.
//!
//! | variable | effect |
//! |---|---|
//! | `SUPERMACHINE_NO_BAKE=1`, `DOCS_RS` | snapshots are left out; what opens one gets an error |
//! | `SUPERMACHINE_PREBAKED=FOLDER` | packs `NAME.tar` of the folder are taken instead |
//! | `SUPERMACHINE_OFFLINE=1`, `CARGO_NET_OFFLINE=true` | no network |
//! | `SUPERMACHINE_LOCKED=1` | an image that `supermachine.lock` does not pin is an error |

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

const NO_BAKE: &str = "SUPERMACHINE_NO_BAKE";
const DOCS_RS: &str = "DOCS_RS";
const PREBAKED: &str = "SUPERMACHINE_PREBAKED";
const OFFLINE: &str = "SUPERMACHINE_OFFLINE";
const LOCKED: &str = "SUPERMACHINE_LOCKED";
/// Cargo's own way of asking for no network.
const CARGO_OFFLINE: &str = "CARGO_NET_OFFLINE";

/// What the environment asks for. See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wishes {
    /// Whether to leave snapshots out.
    pub left_out: bool,
    /// The folder of packs that are taken instead of bakes.
    pub prebaked: Option<PathBuf>,
    /// Whether to use no network.
    pub offline: bool,
    /// Whether the lock file must not change.
    pub locked: bool,
}

impl Wishes {
    /// The variables whose change runs a build script again.
    pub(crate) const WATCHED: [&str; 5] = [NO_BAKE, DOCS_RS, PREBAKED, OFFLINE, LOCKED];

    /// Reads the environment of this process.
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

    fn wishes(own: &[(&str, &str)]) -> Wishes {
        Wishes::of(|name| {
            let found = own.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(*value))
        })
    }

    #[test]
    fn wishes_are_read_and_empty_ones_are_none() {
        assert_eq!(wishes(&[(PREBAKED, ""), (LOCKED, ""), (NO_BAKE, "0")]), Wishes::default());
        for name in [NO_BAKE, DOCS_RS] {
            assert!(wishes(&[(name, "1")]).left_out, "{name}");
        }
        assert_eq!(wishes(&[(PREBAKED, "/packs")]).prebaked, Some("/packs".into()));
        assert!(wishes(&[(CARGO_OFFLINE, "true")]).offline);
        assert!(!wishes(&[(CARGO_OFFLINE, "false")]).offline);
        assert!(wishes(&[(OFFLINE, "1")]).offline);
        assert!(wishes(&[(LOCKED, "1")]).locked);
    }
}
