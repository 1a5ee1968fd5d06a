//! Signs with the tool of macOS.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::error::CodesignError;
use super::request::{Identity, Request};

const TOOL: &str = "/usr/bin/codesign";

#[cfg_attr(not(target_os = "macos"), expect(dead_code, reason = "only the tool's use is tested"))]
pub(super) fn sign_file(path: &Path, request: &Request<'_>) -> Result<(), CodesignError> {
    sign_with(Path::new(TOOL), path, request, Some(request.identifier))
}

/// Programs inside must be signed first. The tool signs the bundle's own program.
#[cfg_attr(not(target_os = "macos"), expect(dead_code, reason = "only the tool's use is tested"))]
pub(super) fn sign_bundle(path: &Path, request: &Request<'_>) -> Result<(), CodesignError> {
    sign_with(Path::new(TOOL), path, request, None)
}

/// A bundle has its identifier in its property list.
pub(super) fn sign_with(
    tool: &Path,
    path: &Path,
    request: &Request<'_>,
    identifier: Option<&str>,
) -> Result<(), CodesignError> {
    let entitlements = tempfile::Builder::new().suffix(".plist").tempfile().and_then(|mut file| {
        file.write_all(request.entitlements)?;
        file.flush()?;
        Ok(file.into_temp_path())
    });
    let entitlements = entitlements.map_err(CodesignError::file("signed", path))?;
    let mut sign = Command::new(tool);
    sign.args(["--force", "--sign"]).arg(match request.identity {
        Identity::AdHoc => "-",
        Identity::Named { name, .. } => name,
    });
    sign.arg("--entitlements").arg(&entitlements);
    if let Some(identifier) = identifier {
        sign.args(["--identifier", identifier]);
    }
    if request.is_hardened() {
        sign.args(["--options", "runtime"]);
        sign.arg(if request.timestamp { "--timestamp" } else { "--timestamp=none" });
    }
    run(tool, sign.arg(path))?;
    run(tool, Command::new(tool).args(["--verify", "--strict"]).arg(path))
}

fn run(tool: &Path, command: &mut Command) -> Result<(), CodesignError> {
    let tool = tool.to_path_buf();
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(source) => return Err(CodesignError::NoTool { tool, source }),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(CodesignError::Tool { tool, status: output.status, said })
}
