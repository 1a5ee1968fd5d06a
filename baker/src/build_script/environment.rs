//! What cargo and the user tell a build script. The only module here that reads the environment.

use std::env;
use std::env::consts::{ARCH, OS};
use std::ffi::OsString;
use std::path::PathBuf;

use crate::BakeError;

/// The variables of the user whose change runs the script again.
pub(super) const WATCHED: [&str; 6] = [NO_BAKE, DOCS_RS, PREBAKED, OFFLINE, LOCKED, ASSETS];
const NO_BAKE: &str = "SUPERMACHINE_NO_BAKE";
const DOCS_RS: &str = "DOCS_RS";
const PREBAKED: &str = "SUPERMACHINE_PREBAKED";
const OFFLINE: &str = "SUPERMACHINE_OFFLINE";
const LOCKED: &str = "SUPERMACHINE_LOCKED";
/// Read by `supermachine_kernel`.
const ASSETS: &str = "SUPERMACHINE_ASSETS";
/// Cargo's own way of asking for no network.
const CARGO_OFFLINE: &str = "CARGO_NET_OFFLINE";

/// What is known of the package, and what is wanted.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    /// The package's name.
    pub(super) package: String,
    /// The package's folder.
    pub(super) dir: PathBuf,
    /// Where the script's results go.
    pub(super) out: PathBuf,
    /// The platform that is built for, as architecture and operating system.
    pub(super) target: (String, String),
    /// Whether to leave snapshots out.
    pub(super) is_placeholder: bool,
    /// The folder of packs that are taken instead of bakes.
    pub(super) prebaked: Option<PathBuf>,
    /// Whether to use no network.
    pub(super) is_offline: bool,
    /// Whether the lock file must not change.
    pub(super) is_locked: bool,
    /// Whether kernel and agent are the user's own.
    pub(super) has_assets: bool,
}

impl Environment {
    /// Reads the environment of this process.
    pub(super) fn read() -> Result<Self, BakeError> {
        Self::of(env::var_os)
    }

    pub(super) fn of(
        variable: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Self, BakeError> {
        let needed = |name| variable(name).ok_or(BakeError::NotABuildScript { variable: name });
        let text = |value: OsString| value.to_string_lossy().into_owned();
        let is_set = |name| variable(name).is_some_and(|value| !value.is_empty() && value != "0");
        let prebaked = variable(PREBAKED).filter(|folder| !folder.is_empty());
        Ok(Self {
            package: text(needed("CARGO_PKG_NAME")?),
            dir: needed("CARGO_MANIFEST_DIR")?.into(),
            out: needed("OUT_DIR")?.into(),
            target: (text(needed("CARGO_CFG_TARGET_ARCH")?), text(needed("CARGO_CFG_TARGET_OS")?)),
            is_placeholder: is_set(NO_BAKE) || is_set(DOCS_RS),
            prebaked: prebaked.map(PathBuf::from),
            is_offline: is_set(OFFLINE) || variable(CARGO_OFFLINE).is_some_and(|v| v == "true"),
            is_locked: is_set(LOCKED),
            has_assets: variable(ASSETS).is_some_and(|folder| !folder.is_empty()),
        })
    }

    /// Whether snapshots that are baked here are for the platform that is built for.
    pub(super) fn check_target(&self) -> Result<(), BakeError> {
        let (arch, os) = &self.target;
        if arch == ARCH && os == OS {
            return Ok(());
        }
        let (target, host) = (format!("{arch} {os}"), format!("{ARCH} {OS}"));
        Err(BakeError::CrossBuild { target, host })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(own: &[(&str, &str)]) -> Result<Environment, BakeError> {
        let cargo = [
            ("CARGO_PKG_NAME", "app"),
            ("CARGO_MANIFEST_DIR", "/app"),
            ("OUT_DIR", "/out"),
            ("CARGO_CFG_TARGET_ARCH", ARCH),
            ("CARGO_CFG_TARGET_OS", OS),
        ];
        Environment::of(|name| {
            let found = own.iter().chain(&cargo).find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(*value)).filter(|value| value != "-")
        })
    }

    #[test]
    fn wishes_are_read_and_empty_ones_are_none() {
        let plain = environment(&[(PREBAKED, ""), (LOCKED, ""), (NO_BAKE, "0")]).unwrap();
        assert!(!plain.is_placeholder && !plain.is_offline && !plain.is_locked);
        assert_eq!(plain.prebaked, None);
        for name in [NO_BAKE, DOCS_RS] {
            assert!(environment(&[(name, "1")]).unwrap().is_placeholder, "{name}");
        }
        assert!(environment(&[(CARGO_OFFLINE, "true")]).unwrap().is_offline);
        assert!(!environment(&[(CARGO_OFFLINE, "false")]).unwrap().is_offline);
        assert!(environment(&[(OFFLINE, "1")]).unwrap().is_offline);
        assert!(environment(&[(LOCKED, "1")]).unwrap().is_locked);
    }

    #[test]
    fn other_platforms_are_told_from_this_one() {
        environment(&[]).unwrap().check_target().unwrap();
        for other in [("CARGO_CFG_TARGET_ARCH", "riscv64"), ("CARGO_CFG_TARGET_OS", "plan9")] {
            let error = environment(&[other]).unwrap().check_target().unwrap_err();
            assert!(matches!(error, BakeError::CrossBuild { .. }), "{error}");
        }
    }

    #[test]
    fn process_that_is_no_build_script_is_told_so() {
        let error = environment(&[("OUT_DIR", "-")]).unwrap_err();
        assert!(matches!(error, BakeError::NotABuildScript { variable: "OUT_DIR" }), "{error}");
    }
}
