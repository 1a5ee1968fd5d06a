//! Arrows in one direction only: between crates as drawn, between modules without circles.

use super::verdict::none;
use crate::error::Error;
use crate::modules::{Graph, Package, Tree, circle, packages};

/// The crates that each crate may be built with, lower ones first.
const DRAWN: [(&str, &[&str]); 14] = [
    ("supermachine-formats", &[]),
    ("supermachine-vmm", &["supermachine-formats"]),
    ("supermachine-snapshots", &["supermachine-formats", "supermachine-vmm"]),
    ("supermachine-net", &[]),
    ("supermachine-fs", &["supermachine-formats"]),
    (
        "supermachine",
        &[
            "supermachine-formats",
            "supermachine-vmm",
            "supermachine-snapshots",
            "supermachine-net",
            "supermachine-fs",
        ],
    ),
    ("supermachine-init", &["supermachine-formats"]),
    ("supermachine-kernel", &[]),
    (
        "supermachine-baker",
        &[
            "supermachine-formats",
            "supermachine-vmm",
            "supermachine-snapshots",
            "supermachine-net",
            "supermachine-fs",
            "supermachine",
            "supermachine-kernel",
        ],
    ),
    (
        "cargo-supermachine",
        &[
            "supermachine-formats",
            "supermachine-vmm",
            "supermachine-snapshots",
            "supermachine-net",
            "supermachine-fs",
            "supermachine",
            "supermachine-kernel",
            "supermachine-baker",
        ],
    ),
    ("supermachine-examples", &["supermachine", "supermachine-baker"]),
    (
        "supermachine-test-support",
        &[
            "supermachine-formats",
            "supermachine-vmm",
            "supermachine-snapshots",
            "supermachine-net",
            "supermachine-fs",
            "supermachine",
            "supermachine-kernel",
            "supermachine-baker",
        ],
    ),
    ("supermachine-vm-tests", &["supermachine"]),
    ("xtask", &["supermachine-vmm", "supermachine", "supermachine-kernel"]),
];

/// Checks that each crate is built only with those that it may know.
pub(super) fn crates() -> Result<(), Error> {
    none("dependencies between crates", "as drawn in the gate", &undrawn(&packages()?))
}

fn undrawn(packages: &[Package]) -> Vec<String> {
    let mut against = Vec::new();
    for package in packages {
        let Some((_, known)) = DRAWN.iter().find(|(name, _)| *name == package.name) else {
            against.push(format!("{} is not in the drawing", package.name));
            continue;
        };
        let ours = package.dependencies().filter(|name| packages.iter().any(|p| p.name == **name));
        for name in ours.filter(|name| !known.contains(name)) {
            against.push(format!("{} depends on {name}", package.name));
        }
    }
    against
}

/// Checks that no modules of a crate import each other, directly or through others.
pub(super) fn modules() -> Result<(), Error> {
    let mut against = Vec::new();
    for package in packages()? {
        for root in package.roots() {
            let circles = circles(&Graph::of_modules(&Tree::read(root)?));
            against.extend(circles.iter().map(|line| format!("{}: {line}", package.name)));
        }
    }
    none("modules", "no circles (`cargo xtask modules --circles` shows them)", &against)
}

/// Describes the circles of modules and those of folders.
fn circles(modules: &Graph) -> Vec<String> {
    let mut lines = Vec::new();
    for (graph, of) in [(modules, "modules"), (&modules.of_folders(), "folders")] {
        lines.extend(graph.knots().iter().map(|knot| circle(graph, knot, of)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &str) -> Package {
        let text = format!(r#"{{"name":"{name}","targets":[],"dependencies":[{dependencies}]}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn dependency_on_a_higher_crate_is_refused() {
        let packages = [
            package("supermachine-formats", r#"{"name":"supermachine","kind":null}"#),
            package("supermachine", r#"{"name":"supermachine-formats","kind":null}"#),
        ];
        assert_eq!(undrawn(&packages), ["supermachine-formats depends on supermachine"]);
    }

    #[test]
    fn dev_dependencies_and_external_crates_are_ignored() {
        let dependencies =
            r#"{"name":"supermachine-baker","kind":"dev"},{"name":"libc","kind":null}"#;
        let packages = [package("supermachine", dependencies), package("supermachine-baker", "")];
        assert!(undrawn(&packages).is_empty());
    }

    #[test]
    fn crate_missing_from_the_drawing_is_refused() {
        assert_eq!(undrawn(&[package("new", "")]), ["new is not in the drawing"]);
    }
}
