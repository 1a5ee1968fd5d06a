//! Dependencies: licences, duplicates, sources and advisories of all of them; number and names
//! of those that a program which only restores snapshots is built with.

use std::collections::BTreeSet;
use std::process::Command;

use super::verdict::none;
use crate::error::Error;
use crate::{command, tools, workspace};

/// The most crates in the tree of a program that restores a snapshot and runs a command.
const MOST_CRATES: usize = 40;
/// The most crates that the feature `net` adds to it.
const MOST_WITH_NETWORK: usize = 10;
/// The most crates that the feature `fs` adds to it.
const MOST_WITH_FOLDERS: usize = 4;
/// Crates that such a program must not have in its tree.
const KEPT_OUT: [&str; 16] = [
    "clap",
    "flate2",
    "hyper",
    "linux-loader",
    "mio",
    "native-tls",
    "oci-client",
    "oci-spec",
    "openssl",
    "reqwest",
    "ring",
    "rustls",
    "serde",
    "tar",
    "tokio",
    "tracing",
];
/// Seconds to wait for the advisory database.
const DATABASE_LIMIT: &str = "120";

/// Checks licences, sources and duplicates by the rules of `deny.toml`, and advisories where
/// their database can be fetched.
pub(super) fn rules() -> Result<(), Error> {
    let tool = tools::cargo_deny()?;
    let deny = || {
        let mut deny = Command::new(&tool);
        deny.current_dir(workspace::root());
        deny
    };
    command::output(deny().args(["--all-features", "check", "licenses", "sources"]))?;
    command::output(deny().args(["check", "bans"]))?;
    let mut fetch = Command::new("timeout");
    fetch.arg(DATABASE_LIMIT).arg(&tool).args(["fetch", "db"]).current_dir(workspace::root());
    if fetch.output().is_ok_and(|output| output.status.success()) {
        return command::output(deny().args(["--all-features", "check", "advisories"])).map(drop);
    }
    println!("gate: SKIPPED: advisories, their database cannot be downloaded here");
    Ok(())
}

/// Checks the number and the names of the crates in the tree of a restoring program.
pub(super) fn budget() -> Result<(), Error> {
    let crates = tree(&[])?;
    println!("gate: {} crates of at most {MOST_CRATES}", crates.len());
    if crates.len() > MOST_CRATES {
        let names: Vec<_> = crates.into_iter().collect();
        return none("crates of a restoring program", &format!("at most {MOST_CRATES}"), &names);
    }
    for (feature, most, what) in [
        ("net", MOST_WITH_NETWORK, "crates that the feature `net` adds"),
        ("fs", MOST_WITH_FOLDERS, "crates that the feature `fs` adds"),
    ] {
        let with_feature = tree(&["--features", feature])?;
        let added: Vec<_> = with_feature.difference(&crates).cloned().collect();
        println!("gate: {} crates of at most {most} for `{feature}`", added.len());
        if added.len() > most {
            return none(what, &format!("at most {most}"), &added);
        }
    }
    none("crates of a restoring program", "none that is kept out", &kept_out(&crates))
}

/// The crates that the library is built with.
fn tree(features: &[&str]) -> Result<BTreeSet<String>, Error> {
    let mut tree = workspace::cargo();
    tree.args(["tree", "--package", "supermachine", "--edges", "normal", "--prefix", "none"]);
    Ok(crates(&command::output(tree.args(["--format", "{p}"]).args(features))?))
}

/// The name and version in each line of `cargo tree`.
fn crates(tree: &str) -> BTreeSet<String> {
    let name = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    tree.lines().filter(|line| !line.is_empty()).map(name).collect()
}

fn kept_out(crates: &BTreeSet<String>) -> Vec<String> {
    let is_kept_out =
        |entry: &&String| entry.split(' ').next().is_some_and(|name| KEPT_OUT.contains(&name));
    crates.iter().filter(is_kept_out).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crate_that_is_kept_out_is_named_with_its_version() {
        let crates =
            crates("supermachine v0.1.0 (/p)\ntar v0.4.4\nstarry v1.0.0\ntar v0.4.4 (*)\n");
        assert_eq!(crates.len(), 3);
        assert_eq!(kept_out(&crates), ["tar v0.4.4"]);
    }
}
