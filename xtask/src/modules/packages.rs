//! The packages of the workspace, as cargo describes them.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;
use crate::{command, workspace};

/// One package of the workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// `None` for an ordinary one.
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// Reads the packages of the workspace.
pub(crate) fn packages() -> Result<Vec<Package>, Error> {
    let mut cargo = workspace::cargo();
    cargo.args(["metadata", "--quiet", "--no-deps", "--format-version", "1"]);
    let text = command::output(&mut cargo)?;
    let metadata: Metadata = serde_json::from_str(&text).map_err(|error| Error::Unexpected {
        what: "cargo metadata",
        expected: "a list of packages".into(),
        found: error.to_string(),
    })?;
    Ok(metadata.packages)
}

impl Package {
    /// The root files of its library and programs.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        let is_ours = |kind: &String| kind == "lib" || kind == "bin";
        let targets = self.targets.iter().filter(move |t| t.kind.iter().any(is_ours));
        targets.map(|target| target.src_path.as_path())
    }

    /// The names of the packages that it is built with, those of its tests aside.
    pub(crate) fn dependencies(&self) -> impl Iterator<Item = &str> {
        let dependencies = self.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev"));
        dependencies.map(|dependency| dependency.name.as_str())
    }
}
