//! The environment of a build script.

use std::env;
use std::env::consts::{ARCH, OS};
use std::ffi::OsString;
use std::path::PathBuf;

use super::super::env::BuildEnv;
use crate::error::{BakeError, HostError, ProjectError};

/// Read by `supermachine_kernel`.
pub(super) const ASSETS: &str = "SUPERMACHINE_ASSETS";

/// The package, and the user's settings.
#[derive(Debug, Clone)]
pub(super) struct CargoEnv {
    /// The package's name.
    pub(super) package: String,
    /// The package's folder.
    pub(super) dir: PathBuf,
    /// The script's output folder.
    pub(super) out: PathBuf,
    /// The target platform, as architecture and operating system.
    pub(super) target: (String, String),
    /// The user's settings for all builds.
    pub(super) wanted: BuildEnv,
    /// Whether the user supplies kernel and agent.
    pub(super) has_assets: bool,
}

impl CargoEnv {
    /// Reads the environment of this process.
    pub(super) fn read() -> Result<Self, BakeError> {
        Self::of(env::var_os)
    }

    pub(super) fn of(
        variable: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Self, BakeError> {
        let needed = |name| {
            variable(name)
                .ok_or(BakeError::Project(ProjectError::NotABuildScript { variable: name }))
        };
        let text = |value: OsString| value.to_string_lossy().into_owned();
        Ok(Self {
            package: text(needed("CARGO_PKG_NAME")?),
            dir: needed("CARGO_MANIFEST_DIR")?.into(),
            out: needed("OUT_DIR")?.into(),
            target: (text(needed("CARGO_CFG_TARGET_ARCH")?), text(needed("CARGO_CFG_TARGET_OS")?)),
            wanted: BuildEnv::of(&variable),
            has_assets: variable(ASSETS).is_some_and(|folder| !folder.is_empty()),
        })
    }

    /// Checks that snapshots baked here run on the target platform.
    pub(super) fn check_target(&self) -> Result<(), BakeError> {
        let (arch, os) = &self.target;
        if arch == ARCH && os == OS {
            return Ok(());
        }
        let (target, host) = (format!("{arch} {os}"), format!("{ARCH} {OS}"));
        Err(BakeError::Host(HostError::CrossBuild { target, host }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(own: &[(&str, &str)]) -> Result<CargoEnv, BakeError> {
        let cargo = [
            ("CARGO_PKG_NAME", "app"),
            ("CARGO_MANIFEST_DIR", "/app"),
            ("OUT_DIR", "/out"),
            ("CARGO_CFG_TARGET_ARCH", ARCH),
            ("CARGO_CFG_TARGET_OS", OS),
        ];
        CargoEnv::of(|name| {
            let found = own.iter().chain(&cargo).find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(*value)).filter(|value| value != "-")
        })
    }

    #[test]
    fn other_platforms_are_refused() {
        environment(&[]).unwrap().check_target().unwrap();
        for other in [("CARGO_CFG_TARGET_ARCH", "riscv64"), ("CARGO_CFG_TARGET_OS", "plan9")] {
            let error = environment(&[other]).unwrap().check_target().unwrap_err();
            assert!(matches!(error, BakeError::Host(HostError::CrossBuild { .. })), "{error}");
        }
    }

    #[test]
    fn process_outside_cargo_is_refused() {
        let error = environment(&[("OUT_DIR", "-")]).unwrap_err();
        assert!(
            matches!(
                error,
                BakeError::Project(ProjectError::NotABuildScript { variable: "OUT_DIR" })
            ),
            "{error}"
        );
    }
}
