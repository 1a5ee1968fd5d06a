//! A build by cargo, and its results.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use cargo_metadata::{Artifact, BuildScript, Message, PackageId};

use super::arguments::Arguments;
use super::command::command;
use super::snapshots::{Packs, digest_of, packs, skipped};
use crate::error::CargoError;

/// The results of a build.
#[derive(Debug)]
pub(crate) struct BuildOutput {
    pub(crate) status: ExitStatus,
    /// Artifacts, freshly built or up to date.
    pub(crate) artifacts: Vec<Artifact>,
    scripts: Vec<BuildScript>,
}

impl BuildOutput {
    /// The programs, each with its package's manifest.
    pub(crate) fn programs(&self) -> impl Iterator<Item = (PathBuf, PathBuf)> {
        self.artifacts.iter().filter_map(|one| {
            Some((one.executable.clone()?.into(), one.manifest_path.clone().into()))
        })
    }

    /// The packs of all build scripts, including those of dependencies.
    pub(crate) fn packs(&self) -> Packs {
        packs(self.variables())
    }

    /// Names of different packs, each with two of them.
    pub(crate) fn conflicts(&self) -> BTreeMap<String, [PathBuf; 2]> {
        let all = self.packs();
        let each = self.scripts.iter().flat_map(|script| packs(script.env.iter().cloned()));
        each.filter_map(|(name, path)| {
            let kept = all.get(&name).filter(|kept| !is_same(kept, &path))?;
            let both = [path, kept.clone()];
            Some((name, both))
        })
        .collect()
    }

    /// A snapshot that the build skipped because of the environment.
    pub(crate) fn skipped(&self) -> Option<String> {
        skipped(self.variables()).next()
    }

    fn variables(&self) -> impl Iterator<Item = (String, String)> {
        self.scripts.iter().flat_map(|script| script.env.iter().cloned())
    }

    /// The packs of one package's build script.
    pub(crate) fn packs_of(&self, package: &PackageId) -> Packs {
        let scripts = self.scripts.iter().filter(|script| script.package_id == *package);
        packs(scripts.flat_map(|script| script.env.iter().cloned()))
    }
}

/// Builds or checks, while cargo prints its progress. Passes JSON messages on if the arguments ask for
/// them.
pub(crate) fn build_as(name: &str, mut arguments: Arguments) -> Result<BuildOutput, CargoError> {
    let formats = arguments.take("--message-format");
    let wanted = formats.last().and_then(|format| format.to_str()).unwrap_or("human");
    let is_for_machines = wanted.starts_with("json");
    let format = match wanted {
        "human" => "json-render-diagnostics",
        "short" => "json-render-diagnostics,json-diagnostic-short",
        other => other,
    };
    arguments.insert([format!("--message-format={format}").into()]);
    let mut cargo = command(name, &arguments);
    let start = cargo.stdout(Stdio::piped()).spawn();
    let mut child = start.map_err(|source| {
        let program = cargo.get_program().to_owned();
        CargoError::Start { program, source }
    })?;
    let mut artifacts = Vec::new();
    let mut scripts = Vec::new();
    let failed = |source| CargoError::Messages { source };
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let line = line.map_err(failed)?;
        let message = serde_json::from_str(&line);
        if is_for_machines || message.is_err() {
            writeln!(io::stdout(), "{line}").map_err(failed)?;
        }
        match message {
            Ok(Message::CompilerArtifact(artifact)) => artifacts.push(artifact),
            Ok(Message::BuildScriptExecuted(script)) => scripts.push(script),
            _ => {}
        }
    }
    let status = child.wait().map_err(failed)?;
    Ok(BuildOutput { status, artifacts, scripts })
}

/// Whether two packs hold the same snapshot.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other || digest_of(one).is_some_and(|digest| Some(digest) == digest_of(other))
}
