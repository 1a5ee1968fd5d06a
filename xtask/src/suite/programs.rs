//! Building the test programs.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use serde::Deserialize;
use supermachine_kernel::Arch;

use crate::command;
use crate::cross;
use crate::error::Error;
use crate::workspace;

/// The prefix of integration tests that need a hypervisor.
pub(super) const VM_PREFIX: &str = "vm_";
/// Started first, so that the run does not end with one host busy and one idle.
const LONGEST_PROGRAM: &str = "vm_services_1";

/// One test program.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) package: PathBuf,
    pub(super) needs_host: bool,
}

/// Builds the test programs of some packages whose names contain `only`. `targets` has the arguments
/// of cargo that select those of the libraries.
pub(super) fn build(
    arch: Arch,
    selections: &[&[&str]],
    only: Option<&str>,
    targets: &[String],
) -> Result<Vec<Program>, Error> {
    println!("building the tests");
    let mut programs = Vec::new();
    for packages in selections {
        programs.extend(build_selection(arch, packages, targets)?);
    }
    if selections == [workspace::SIGNING] {
        programs.retain(|program| program.package.ends_with(workspace::SIGNING_PACKAGE));
    }
    programs.retain(|p| only.is_none_or(|part| p.name.contains(part)));
    programs.sort_by(|a, b| {
        let rank = |program: &Program| program.name != LONGEST_PROGRAM;
        (rank(a), &a.name).cmp(&(rank(b), &b.name))
    });
    Ok(programs)
}

/// Builds the tests of some packages. The libraries' programs and examples come with them, because
/// tests of other packages start them: the worker, the shell. Built apart, they would get other
/// features of shared dependencies, which would be compiled twice.
fn build_selection(
    arch: Arch,
    packages: &[&str],
    targets: &[String],
) -> Result<Vec<Program>, Error> {
    let mut cargo = workspace::cargo();
    let what: &[&str] = match packages == workspace::LIBRARIES {
        true => &["build", "--bins", "--examples"],
        false => &["test", "--no-run"],
    };
    cargo.args(what).args(["--profile", workspace::PROFILE]).args(packages);
    if packages == workspace::LIBRARIES {
        cargo.args(targets);
    }
    cargo.args(["--message-format", "json-render-diagnostics"]);
    cross::build_for(arch, &mut cargo)?;
    cargo.stdout(Stdio::piped()).stdin(Stdio::null());
    let mut child = cargo.spawn().map_err(|e| command::start(&cargo, e))?;
    let output = child.stdout.take().map(BufReader::new);
    let lines = output.into_iter().flat_map(BufRead::lines).map_while(Result::ok);
    let programs: Vec<_> = lines.filter_map(|line| program(&line)).collect();
    let status = child.wait().map_err(Error::system("wait for cargo"))?;
    if status.success() {
        return Ok(programs);
    }
    let status = status.to_string();
    Err(Error::Command { command: format!("cargo {}", what.join(" ")), status })
}

/// The part of a cargo message that describes a test program.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: PathBuf,
    profile: Profile,
    target: Target,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

fn program(line: &str) -> Option<Program> {
    let message: Message = serde_json::from_str(line).ok()?;
    if !message.profile.test {
        return None;
    }
    let is_integration = message.target.kind.iter().any(|kind| kind == "test");
    Some(Program {
        needs_host: is_integration && message.target.name.starts_with(VM_PREFIX),
        name: message.target.name,
        path: message.executable?,
        package: message.manifest_path.parent()?.to_path_buf(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_needs_a_host_if_its_name_says_so() {
        let message = |name: &str, kind: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml",
                "target":{{"name":"{name}","kind":["{kind}"]}},"profile":{{"test":{test}}},
                "executable":"/t/{name}"}}"#
            )
        };
        assert!(program(&message("vm_bake", "test", true)).unwrap().needs_host);
        assert!(!program(&message("vm_bake", "lib", true)).unwrap().needs_host);
        assert!(!program(&message("pull", "test", true)).unwrap().needs_host);
        assert!(program(&message("vm_bake", "test", false)).is_none());
        assert!(program("Compiling").is_none());
    }
}
