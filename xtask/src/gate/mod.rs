//! The gate: checks of the sources that run before any test.
//!
//! Owns formatting, lints, documentation, links between documents, the budgets of files,
//! dependencies and size, the rules for dependencies, the arrows between crates and modules, and
//! the type check for other platforms. Every check runs even when an earlier one failed.

mod arrows;
mod dependencies;
mod targets;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::error::{self, Error};
use crate::workspace;

use verdict::{found, none};

/// The most lines of a source file; tests are exempt.
const LONGEST_FILE: usize = 800;
/// The most bytes of a stripped program that restores a snapshot and runs a command.
const LARGEST_PROGRAM: u64 = 3 << 19;

type Check = (&'static str, fn() -> Result<(), Error>);

const CHECKS: [Check; 12] = [
    ("formatting", formatting),
    ("lints", lints),
    ("documentation", documentation),
    ("file lengths", file_lengths),
    ("paths of this machine", machine_paths),
    ("links", links),
    ("arrows between crates", arrows::crates),
    ("arrows between modules", arrows::modules),
    ("rules for dependencies", dependencies::rules),
    ("dependencies of a restoring program", dependencies::budget),
    ("size of a restoring program", program_size),
    ("other platforms", targets::check),
];

/// `cargo xtask gate`
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Run only checks whose names contain NAME
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// Runs every check and fails if one of them does.
pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let only = args.only.as_deref().unwrap_or_default();
    let checks = CHECKS.into_iter().filter(|(name, _)| name.contains(only));
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, check) in checks {
        println!("gate: {name}");
        if let Err(error) = check() {
            println!("gate: {name}: {}", error::chain(&error));
            failed.push(name);
        } else {
            passed += 1;
        }
    }
    if passed == 0 && failed.is_empty() {
        let names = CHECKS.map(|(name, _)| name).join(", ");
        return Err(found("name of a check", &names, only));
    }
    if failed.is_empty() {
        println!("gate: {passed} checks passed");
        return Ok(());
    }
    Err(found("the gate", "every check to pass", &format!("failed: {}", failed.join(", "))))
}

fn formatting() -> Result<(), Error> {
    command::run(workspace::cargo().args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<(), Error> {
    for packages in workspace::SELECTIONS {
        let mut clippy = workspace::cargo();
        clippy.args(["clippy", "--profile", workspace::PROFILE, "--all-targets"]).args(*packages);
        if *packages == workspace::AGENT {
            clippy.args(["--config", &format!("profile.{}.panic='abort'", workspace::PROFILE)]);
        }
        command::run(clippy.args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

fn documentation() -> Result<(), Error> {
    for packages in workspace::SELECTIONS {
        let mut doc = workspace::cargo();
        doc.args(["doc", "--profile", workspace::PROFILE, "--no-deps"]).args(*packages);
        command::run(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    }
    Ok(())
}

fn file_lengths() -> Result<(), Error> {
    let mut long = Vec::new();
    for path in files()? {
        if path.extension().is_none_or(|e| e != "rs") || is_test(&path) {
            continue;
        }
        let lines = read(&path)?.map_or(0, |text| text.lines().count());
        if lines > LONGEST_FILE {
            long.push(format!("{} has {lines}", path.display()));
        }
    }
    none("lines of a source file", &format!("at most {LONGEST_FILE}"), &long)
}

fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n == "tests.rs")
        || path.components().any(|c| c.as_os_str() == "tests")
}

fn machine_paths() -> Result<(), Error> {
    // Spelled in two parts, so that this file does not match.
    let mut paths = vec![concat!("/wo", "rk/").to_owned(), workspace::root().display().to_string()];
    // Every guest has `/root` too, so it does not identify this machine.
    let home = std::env::var_os("HOME").map(PathBuf::from);
    if let Some(home) = home.filter(|h| ![Path::new("/"), Path::new("/root")].contains(&&**h)) {
        paths.push(format!("{}/", home.display()));
    }
    let mut named = Vec::new();
    for path in files()? {
        let text = read(&path)?.unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = paths.iter().find(|word| line.contains(*word)) {
                named.push(format!("{}:{} has {word}", path.display(), number + 1));
            }
        }
    }
    none("absolute paths in the sources", "none of this machine", &named)
}

fn links() -> Result<(), Error> {
    let mut broken = Vec::new();
    for path in files()? {
        if path.extension().is_none_or(|e| e != "md") {
            continue;
        }
        let text = read(&path)?.unwrap_or_default();
        let folder = path.parent().unwrap_or(Path::new(""));
        for target in relative_links(&text) {
            if !workspace::root().join(folder).join(target).exists() {
                broken.push(format!("{} links to {target}", path.display()));
            }
        }
    }
    none("links between documents", "each to lead to a file", &broken)
}

/// The Markdown link targets that are files of the repository.
fn relative_links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    let files = targets.map(|target| target.split('#').next().unwrap_or_default());
    files.filter(|file| !file.is_empty() && !file.contains(':')).collect()
}

fn program_size() -> Result<(), Error> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--quiet", "--release", "--package", "supermachine-examples"]);
    command::run(cargo.args(["--example", "exec"]))?;
    let program = workspace::target().join("release/examples/exec");
    let size = fs::metadata(&program).map_err(Error::file("read", &program))?.len();
    println!("gate: {size} bytes of at most {LARGEST_PROGRAM}");
    if size <= LARGEST_PROGRAM {
        return Ok(());
    }
    let expected = format!("at most {LARGEST_PROGRAM} bytes");
    Err(found("size of a restoring program", &expected, &size.to_string()))
}

/// Every tracked or unignored file, relative to the repository's root.
fn files() -> Result<Vec<PathBuf>, Error> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let text = command::output(git.current_dir(workspace::root()))?;
    Ok(text.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect())
}

/// A file's text; `None` if it is not UTF-8, or is tracked but missing.
fn read(path: &Path) -> Result<Option<String>, Error> {
    let path = workspace::root().join(path);
    match fs::read(&path) {
        Ok(bytes) => Ok(String::from_utf8(bytes).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_links_drops_anchors_and_urls() {
        let text = "[a](b.md#part) [c](https://d.e) ![f](g/h.png \"title\") [i](#j) [k](mailto:l)";
        assert_eq!(relative_links(text), ["b.md", "g/h.png"]);
    }

    #[test]
    fn is_test_goes_by_file_name_or_folder() {
        assert!(is_test(Path::new("a/src/b/tests.rs")));
        assert!(is_test(Path::new("a/tests/b.rs")));
        assert!(!is_test(Path::new("a/src/attests.rs")));
    }
}
