//! The modules of each crate and the arrows between them: `cargo xtask modules`.

mod graph;
mod module;
mod packages;
mod scan;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub(crate) use graph::Graph;
pub(crate) use packages::{Package, packages};
pub(crate) use source::Tree;

use crate::error::Error;

/// `cargo xtask modules [CRATE…]`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Crates to show [default: all]
    #[arg(value_name = "CRATE")]
    crates: Vec<String>,
    /// Show only the top-level modules, each with everything below it
    #[arg(long)]
    top: bool,
    /// Show only the arrows of circles, each with its file and line
    #[arg(long, conflicts_with = "top")]
    circles: bool,
}

/// Prints each crate's modules, their arrows and their circles.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let packages = packages()?;
    if let Some(name) = args.crates.iter().find(|name| packages.iter().all(|p| p.name != **name)) {
        return Err(Error::Unexpected {
            what: "name of a crate",
            expected: packages.into_iter().map(|p| p.name).collect::<Vec<_>>().join(", "),
            found: name.clone(),
        });
    }
    let is_wanted = |p: &&Package| args.crates.is_empty() || args.crates.contains(&p.name);
    for package in packages.iter().filter(is_wanted) {
        for root in package.roots() {
            println!("{} ({})", package.name, root.display());
            show(&Graph::of_modules(&Tree::read(root)?), args);
        }
    }
    Ok(0)
}

fn show(modules: &Graph, args: &Args) {
    let folders = modules.of_folders();
    let shown = if args.top { &folders } else { modules };
    for (from, to) in shown.arrows().filter(|_| !args.circles) {
        if !args.top || !from.contains("::") {
            let to: Vec<_> = to.into_iter().map(label).collect();
            println!("  {} → {}", label(from), to.join(", "));
        }
    }
    for (graph, of) in [(modules, "modules"), (&folders, "folders")] {
        for knot in graph.knots() {
            println!("  {}", circle(graph, &knot, of));
            for (from, to, place) in graph.within(&knot).filter(|_| args.circles) {
                println!("    {} → {} ({place})", label(from), label(to));
            }
        }
    }
}

/// Describes a knot: its size, its shortest circle, and its members unless the circle names all.
pub(crate) fn circle(graph: &Graph, knot: &BTreeSet<&str>, of: &str) -> String {
    let circle = graph.shortest_circle(knot);
    let steps: Vec<_> =
        circle.iter().map(|(name, place)| format!("{} ({place})", label(name))).collect();
    let first = circle.first().map_or("", |(name, _)| label(name));
    let mut line = format!("circle of {} {of}: {} → {first}", knot.len(), steps.join(" → "));
    if knot.len() > circle.len() {
        let names: Vec<_> = knot.iter().map(|name| label(name)).collect();
        line += &format!("; all: {}", names.join(", "));
    }
    line
}

/// The name of a module, the root's too.
fn label(name: &str) -> &str {
    if name.is_empty() { "crate" } else { name }
}
