//! One module: what it declares, imports and names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use proc_macro2::TokenStream;

/// One module: a file, or a `mod name { … }` within one.
#[derive(Debug, Default)]
pub(crate) struct Module {
    /// The path below the crate's root: `a::b`; empty for the root.
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    pub(crate) parent: Option<usize>,
    pub(crate) children: BTreeMap<String, usize>,
    /// Types, functions, constants and macros defined here.
    pub(crate) items: BTreeSet<String>,
    pub(crate) imports: Vec<Import>,
    /// Paths of two segments or more in code.
    pub(crate) paths: Vec<Named>,
    /// Identifiers in code that are not part of a longer path.
    pub(crate) words: BTreeSet<String>,
}

/// One leaf of a `use` declaration.
#[derive(Debug)]
pub(crate) struct Import {
    /// The name in scope; `None` for a glob.
    pub(crate) name: Option<String>,
    pub(crate) path: Named,
    /// Whether others may name it here (`pub`, `pub(crate)`, …).
    pub(crate) is_reexport: bool,
}

/// A path as written, and where.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

/// A `mod` declaration, its body inline or in a file of its own.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) path: Option<String>,
    pub(crate) body: Option<TokenStream>,
}
