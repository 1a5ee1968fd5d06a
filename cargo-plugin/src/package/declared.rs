//! Selects packages, and reads their metadata.

use std::path::{Path, PathBuf};

use cargo_metadata::{Metadata, MetadataCommand, Package};

use crate::error::CargoError;

/// Options that select packages.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Selection {
    /// Select this package [default: the package of this folder, or the whole workspace]
    #[arg(short, long = "package", value_name = "NAME")]
    pub(crate) packages: Vec<String>,
    /// Select all packages of the workspace
    #[arg(long, conflicts_with = "packages")]
    pub(crate) workspace: bool,
    /// Use this Cargo.toml
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) manifest_path: Option<PathBuf>,
}

impl Selection {
    /// The selected packages.
    pub(crate) fn find(&self) -> Result<Vec<Package>, CargoError> {
        let metadata = metadata(self.manifest_path.as_deref())?;
        if self.workspace {
            return Ok(metadata.workspace_packages().into_iter().cloned().collect());
        }
        if self.packages.is_empty() {
            return self.here(&metadata);
        }
        let named = |name: &String| {
            let all = metadata.workspace_packages();
            let found = all.into_iter().find(|package| package.name.as_str() == name);
            found.cloned().ok_or_else(|| CargoError::NoPackage { name: name.clone() })
        };
        self.packages.iter().map(named).collect()
    }

    /// The package with the nearest manifest, or all members if that is the workspace's.
    fn here(&self, metadata: &Metadata) -> Result<Vec<Package>, CargoError> {
        let start = match &self.manifest_path {
            Some(path) => path.parent().map(Path::to_path_buf).unwrap_or_default(),
            None => PathBuf::new(),
        };
        let start = std::path::absolute(start.join("Cargo.toml"))
            .map_err(|source| CargoError::Messages { source })?;
        let start = start.canonicalize().unwrap_or(start);
        let mut folders = start.ancestors().skip(1);
        let all = metadata.workspace_packages();
        let nearest = folders.find_map(|folder| {
            all.iter().find(|package| package.manifest_path == folder.join("Cargo.toml"))
        });
        match nearest {
            Some(package) => Ok(vec![(*package).clone()]),
            None => Ok(all.into_iter().cloned().collect()),
        }
    }
}

/// The metadata of a workspace without dependencies. Needs no network.
pub(crate) fn metadata(manifest: Option<&Path>) -> Result<Metadata, CargoError> {
    let mut command = MetadataCommand::new();
    command.no_deps();
    if let Some(path) = manifest {
        command.manifest_path(path);
    }
    command.exec().map_err(|source| CargoError::Metadata { source: Box::new(source) })
}

/// The folder of a package.
pub(crate) fn folder(package: &Package) -> PathBuf {
    package.manifest_path.parent().map(Into::into).unwrap_or_default()
}

/// Whether the package depends on `supermachine` directly.
pub(crate) fn runs_machines(package: &Package) -> bool {
    package.dependencies.iter().any(|dependency| {
        dependency.kind == cargo_metadata::DependencyKind::Normal
            && dependency.name == "supermachine"
    })
}

/// Whether the package's build script bakes. Then it also bakes the declared snapshots.
pub(crate) fn bakes_in_its_build(package: &Package) -> bool {
    let is_baker = |dependency: &cargo_metadata::Dependency| {
        dependency.kind == cargo_metadata::DependencyKind::Build
            && dependency.name == "supermachine-baker"
    };
    package.targets.iter().any(|target| target.is_custom_build())
        && package.dependencies.iter().any(is_baker)
}
