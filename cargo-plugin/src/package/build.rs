//! A build by cargo, and what it made.

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use cargo_metadata::{Artifact, Message};

use super::{Arguments, CargoError, command};

/// What cargo told of a build.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) status: ExitStatus,
    /// What was built or is still fresh.
    pub(crate) artifacts: Vec<Artifact>,
}

impl Built {
    /// The programs among it.
    pub(crate) fn programs(&self) -> impl Iterator<Item = PathBuf> {
        self.artifacts.iter().filter_map(|one| one.executable.as_ref()).map(|path| path.into())
    }
}

/// Builds, and lets cargo tell how it goes. Whoever asked for messages in JSON gets them.
pub(crate) fn build(mut arguments: Arguments) -> Result<Built, CargoError> {
    let formats = arguments.take("--message-format");
    let wanted = formats.last().and_then(|format| format.to_str()).unwrap_or("human");
    let is_for_machines = wanted.starts_with("json");
    let format = match wanted {
        "human" => "json-render-diagnostics",
        "short" => "json-render-diagnostics,json-diagnostic-short",
        other => other,
    };
    arguments.insert([format!("--message-format={format}").into()]);
    let mut cargo = command("build", &arguments);
    let start = cargo.stdout(Stdio::piped()).spawn();
    let mut child = start.map_err(|source| {
        let program = cargo.get_program().to_owned();
        CargoError::Start { program, source }
    })?;
    let mut artifacts = Vec::new();
    let failed = |source| CargoError::Messages { source };
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let line = line.map_err(failed)?;
        let message = serde_json::from_str(&line);
        if is_for_machines || message.is_err() {
            writeln!(io::stdout(), "{line}").map_err(failed)?;
        }
        if let Ok(Message::CompilerArtifact(artifact)) = message {
            artifacts.push(artifact);
        }
    }
    let status = child.wait().map_err(failed)?;
    Ok(Built { status, artifacts })
}
