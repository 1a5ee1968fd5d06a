//! The licences of all that is linked into a program of ours.
//!
//! Owns the list of those that fit Apache-2.0, and the reading of the expressions in which
//! packages name theirs (SPDX: `MIT OR Apache-2.0`, `(MIT OR ISC) AND Unicode-3.0`).

use serde::Deserialize;

use crate::error::Error;
use crate::{command, workspace};

/// What a package may be licensed under. None of them asks for more than a notice.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Packages for other platforms are left out, so as not to fetch them only for this.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

/// The packages that are not allowed, each with the licence it names.
pub(super) fn refused() -> Result<Vec<String>, Error> {
    let mut cargo = workspace::cargo();
    cargo.args(["metadata", "--quiet", "--format-version", "1", "--filter-platform", PLATFORM]);
    let text = command::output(&mut cargo)?;
    let metadata: Metadata = serde_json::from_str(&text).map_err(|error| Error::Unexpected {
        what: "cargo metadata",
        expected: "a list of packages".into(),
        found: error.to_string(),
    })?;
    println!("gate: {} packages", metadata.packages.len());
    let refused = metadata.packages.iter().filter(|p| !p.license.as_deref().is_some_and(allows));
    Ok(refused
        .map(|Package { name, version, license }| {
            format!("{name} {version}: {}", license.as_deref().unwrap_or("none"))
        })
        .collect())
}

/// Whether an expression lets us choose allowed licences only.
fn allows(expression: &str) -> bool {
    // Older packages write `MIT/Apache-2.0`.
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut words = words.as_slice();
    either(&mut words) == Some(true) && words.is_empty()
}

/// `both OR both …`
fn either(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = both(words)?;
    while take(words, "OR") {
        allowed |= both(words)?;
    }
    Some(allowed)
}

/// `one AND one …`
fn both(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = one(words)?;
    while take(words, "AND") {
        allowed &= one(words)?;
    }
    Some(allowed)
}

/// `( either )`, `LICENCE` or `LICENCE WITH EXCEPTION`; none if it is something else.
fn one(words: &mut &[&str]) -> Option<bool> {
    if take(words, "(") {
        let allowed = either(words)?;
        return take(words, ")").then_some(allowed);
    }
    let (licence, rest) = words.split_first()?;
    *words = rest;
    if !take(words, "WITH") {
        return Some(ALLOWED.contains(licence));
    }
    let (exception, rest) = words.split_first()?;
    *words = rest;
    Some(ALLOWED.contains(&format!("{licence} WITH {exception}").as_str()))
}

fn take(words: &mut &[&str], wanted: &str) -> bool {
    match words.split_first() {
        Some((word, rest)) if *word == wanted => {
            *words = rest;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expression_with_an_allowed_choice_is_allowed() {
        for text in [
            "MIT",
            "MIT OR GPL-3.0-only",
            "GPL-2.0/MIT",
            "(MIT OR GPL-2.0-only) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only",
        ] {
            assert!(allows(text), "{text}");
        }
    }

    #[test]
    fn expression_without_an_allowed_choice_is_refused() {
        for text in [
            "",
            "GPL-2.0-only",
            "MIT AND GPL-2.0-only",
            "GPL-2.0-only OR (MIT AND AGPL-3.0-only)",
            "GPL-2.0-only WITH Classpath-exception-2.0",
            "(MIT",
            "MIT Apache-2.0",
            "OR",
        ] {
            assert!(!allows(text), "{text}");
        }
    }
}
