//! What cargo and the user tell a build script.

use std::env;
use std::env::consts::{ARCH, OS};
use std::ffi::OsString;
use std::path::PathBuf;

use crate::{BakeError, Wishes};

/// Read by `supermachine_kernel`.
pub(super) const ASSETS: &str = "SUPERMACHINE_ASSETS";

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
    /// What the user asks for.
    pub(super) wishes: Wishes,
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
        Ok(Self {
            package: text(needed("CARGO_PKG_NAME")?),
            dir: needed("CARGO_MANIFEST_DIR")?.into(),
            out: needed("OUT_DIR")?.into(),
            target: (text(needed("CARGO_CFG_TARGET_ARCH")?), text(needed("CARGO_CFG_TARGET_OS")?)),
            wishes: Wishes::of(&variable),
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
