//! The arrows between a crate's modules, and the circles among them.
//!
//! A module has an arrow to the module that defines what it names: re-exports are followed to
//! their source, so a parent that only declares and re-exports its children has no arrows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::module::{Import, Module, Named};
use super::source::Tree;

/// Imports that lead to imports: more in a row are a re-export of itself.
const MOST_STEPS: usize = 12;

/// Which module names which. Each arrow keeps one file and line that it comes from.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    arrows: BTreeMap<String, BTreeMap<String, String>>,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Module(usize),
    /// Something that this module defines.
    Item(usize),
    /// Another crate, or a name that is not a module's.
    Outside,
}

impl Graph {
    /// The arrows between single modules.
    pub(crate) fn of_modules(tree: &Tree) -> Self {
        let mut graph = Self::default();
        for (index, module) in tree.modules.iter().enumerate() {
            graph.arrows.entry(module.name.clone()).or_default();
            for path in &module.paths {
                graph.add(tree, index, tree.resolve(index, &path.segments, 0), path.line);
            }
            for import in &module.imports {
                graph.add_import(tree, index, import);
            }
        }
        graph
    }

    /// The arrows between siblings, each with all that is below it.
    pub(crate) fn of_folders(&self) -> Self {
        let mut graph = Self::default();
        for (from, targets) in &self.arrows {
            for (to, place) in targets {
                if let Some((from, to)) = siblings(from, to) {
                    graph.arrows.entry(to.clone()).or_default();
                    graph.arrows.entry(from).or_default().entry(to).or_insert(place.clone());
                }
            }
        }
        graph
    }

    /// Each module with the modules that it names.
    pub(crate) fn arrows(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        self.arrows
            .iter()
            .map(|(from, to)| (from.as_str(), to.keys().map(String::as_str).collect()))
    }

    /// Each arrow between two modules of one knot: from, to, and a place that it comes from.
    pub(crate) fn within<'a>(
        &'a self,
        knot: &BTreeSet<&'a str>,
    ) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
        let from =
            knot.iter().flat_map(|from| self.targets(from).map(move |(to, at)| (*from, to, at)));
        from.filter(|(_, to, _)| knot.contains(to))
    }

    /// The sets of modules that reach each other, the smallest first.
    pub(crate) fn knots(&self) -> Vec<BTreeSet<&str>> {
        let reach: BTreeMap<&str, BTreeSet<&str>> =
            self.arrows.keys().map(|from| (from.as_str(), self.reachable(from))).collect();
        let mut knots = BTreeSet::new();
        for (from, found) in &reach {
            if found.contains(from) {
                let back = |to: &&&str| reach.get(*to).is_some_and(|found| found.contains(from));
                knots.insert(found.iter().filter(back).copied().collect::<BTreeSet<_>>());
            }
        }
        let mut knots: Vec<_> = knots.into_iter().collect();
        knots.sort_by_key(BTreeSet::len);
        knots
    }

    /// The shortest circle within a knot: each module with the place that names the next.
    pub(crate) fn shortest_circle<'a>(
        &'a self,
        knot: &BTreeSet<&'a str>,
    ) -> Vec<(&'a str, &'a str)> {
        let circles = knot.iter().map(|start| self.circle_from(start, knot));
        circles.filter(|circle| !circle.is_empty()).min_by_key(Vec::len).unwrap_or_default()
    }

    fn add(&mut self, tree: &Tree, from: usize, to: Target, line: usize) {
        let (Target::Module(to) | Target::Item(to)) = to else { return };
        let (Some(from), Some(to)) = (tree.modules.get(from), tree.modules.get(to)) else { return };
        if from.name == to.name {
            return;
        }
        let place = format!("{}:{line}", tree.relative(&from.file).display());
        let arrows = self.arrows.entry(from.name.clone()).or_default();
        arrows.entry(to.name.clone()).or_insert(place);
    }

    fn add_import(&mut self, tree: &Tree, index: usize, import: &Import) {
        let Named { segments, line } = &import.path;
        let target = tree.resolve_import(index, import, 0);
        match (target, &import.name) {
            (Target::Item(owner), Some(name)) => {
                let is_used = || tree.modules.get(index).is_some_and(|m| m.words.contains(name));
                // A re-export is an arrow only if the module uses the name itself, or lends
                // a name from outside its own children.
                if !import.is_reexport || !tree.is_below(owner, index) || is_used() {
                    self.add(tree, index, target, *line);
                }
            }
            // Importing a module is no arrow; naming something in it is.
            (Target::Module(_) | Target::Outside, Some(_)) => {}
            (_, None) if import.is_reexport && tree.is_inside(target, index) => {}
            (_, None) => {
                self.add(tree, index, target, *line);
                for owner in tree.lent_by(index, segments) {
                    self.add(tree, index, owner, *line);
                }
            }
        }
    }

    fn targets(&self, from: &str) -> impl Iterator<Item = (&str, &str)> + use<'_> {
        let targets = self.arrows.get(from).into_iter().flatten();
        targets.map(|(to, place)| (to.as_str(), place.as_str()))
    }

    fn reachable(&self, from: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut queue: VecDeque<&str> = self.targets(from).map(|(to, _)| to).collect();
        while let Some(next) = queue.pop_front() {
            if found.insert(next) {
                queue.extend(self.targets(next).map(|(to, _)| to));
            }
        }
        found
    }

    /// The shortest way from `start` back to itself, by breadth first.
    fn circle_from<'a>(
        &'a self,
        start: &'a str,
        knot: &BTreeSet<&'a str>,
    ) -> Vec<(&'a str, &'a str)> {
        let mut came: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(from) = queue.pop_front() {
            for (to, place) in self.targets(from).filter(|(to, _)| knot.contains(to)) {
                if came.contains_key(to) {
                    continue;
                }
                came.insert(to, (from, place));
                queue.push_back(to);
                if to == start {
                    return way_back(start, &came);
                }
            }
        }
        Vec::new()
    }
}

/// Follows `came` from `start` backwards to itself.
fn way_back<'a>(
    start: &'a str,
    came: &BTreeMap<&'a str, (&'a str, &'a str)>,
) -> Vec<(&'a str, &'a str)> {
    let mut steps = Vec::new();
    let mut at = start;
    while let Some((from, place)) = came.get(at) {
        steps.push((*from, *place));
        at = from;
        if at == start {
            break;
        }
    }
    steps.reverse();
    steps
}

/// The children of the nearest common parent that two modules are, or are below.
fn siblings(from: &str, to: &str) -> Option<(String, String)> {
    let (from, to): (Vec<_>, Vec<_>) = (from.split("::").collect(), to.split("::").collect());
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let (from, to) = (from.get(..=shared)?.join("::"), to.get(..=shared)?.join("::"));
    // The root is nobody's sibling.
    (!from.is_empty() && !to.is_empty()).then_some((from, to))
}

impl Tree {
    /// What the path `segments` means in the module `at`.
    fn resolve(&self, at: usize, segments: &[String], steps: usize) -> Target {
        let Some((first, mut rest)) = segments.split_first() else { return Target::Outside };
        let mut at = match first.as_str() {
            "crate" => 0,
            "self" => at,
            "super" => self.parent(at),
            name => match self.lookup(at, name, steps) {
                Some(Target::Module(module)) => module,
                Some(other) => return other,
                None => return Target::Outside,
            },
        };
        while let Some((name, tail)) = rest.split_first() {
            rest = tail;
            if name == "super" {
                at = self.parent(at);
                continue;
            }
            match self.lookup(at, name, steps) {
                Some(Target::Module(module)) => at = module,
                Some(other) => return other,
                // Made by a macro, perhaps.
                None => return Target::Item(at),
            }
        }
        Target::Module(at)
    }

    fn resolve_import(&self, at: usize, import: &Import, steps: usize) -> Target {
        if steps > MOST_STEPS {
            return Target::Outside;
        }
        self.resolve(at, &import.path.segments, steps + 1)
    }

    /// What `name` means in the module `at`; `None` if the module does not have it.
    fn lookup(&self, at: usize, name: &str, steps: usize) -> Option<Target> {
        let module = self.modules.get(at)?;
        if let Some(child) = module.children.get(name) {
            return Some(Target::Module(*child));
        }
        if module.items.contains(name) {
            return Some(Target::Item(at));
        }
        let is_named = |import: &&Import| {
            // `use name::…` is no import of itself.
            import.name.as_deref() == Some(name) && import.path.segments != [name]
        };
        if let Some(import) = module.imports.iter().find(is_named) {
            return Some(self.resolve_import(at, import, steps));
        }
        let globs = module.imports.iter().filter(|import| import.name.is_none());
        globs.filter(|_| steps < MOST_STEPS).find_map(|glob| {
            match self.resolve_import(at, glob, steps) {
                Target::Module(source) if source != at => self.lookup(source, name, steps + 1),
                _ => None,
            }
        })
    }

    /// The owners of the names that a glob import of `segments` re-exports from other modules.
    fn lent_by(&self, at: usize, segments: &[String]) -> Vec<Target> {
        let Target::Module(source) = self.resolve(at, segments, 0) else { return Vec::new() };
        let imports = self.modules.get(source).into_iter().flat_map(|m: &Module| &m.imports);
        let lent = imports.filter(|import| import.is_reexport);
        lent.map(|import| self.resolve_import(source, import, 0)).collect()
    }

    fn parent(&self, at: usize) -> usize {
        self.modules.get(at).and_then(|module| module.parent).unwrap_or(0)
    }

    fn is_inside(&self, target: Target, above: usize) -> bool {
        match target {
            Target::Module(at) | Target::Item(at) => self.is_below(at, above),
            Target::Outside => false,
        }
    }

    fn is_below(&self, mut at: usize, above: usize) -> bool {
        while let Some(parent) = self.modules.get(at).and_then(|module| module.parent) {
            if parent == above {
                return true;
            }
            at = parent;
        }
        false
    }
}
