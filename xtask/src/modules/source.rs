//! Reads a crate's source files into modules: what each declares, imports and names.
//!
//! Works on tokens, not on a syntax tree, so that paths inside macro calls and attributes are
//! seen too. Code under `#[cfg(test)]` is left out, and so are doc comments.

use std::fs;
use std::path::Path;

use proc_macro2::TokenStream;

use super::module::{Declared, Module};
use super::scan;
use crate::error::Error;

/// Every module of one library or program, the root first.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) modules: Vec<Module>,
}

impl Tree {
    /// Reads the modules of the crate whose root file is `root`.
    pub(crate) fn read(root: &Path) -> Result<Self, Error> {
        let mut tree = Self::default();
        let home = root.parent().unwrap_or(Path::new("")).to_path_buf();
        tree.add_file("", None, root, &home)?;
        Ok(tree)
    }

    /// A file's path relative to the root file's folder.
    pub(crate) fn relative<'a>(&self, file: &'a Path) -> &'a Path {
        let home = self.modules.first().and_then(|root| root.file.parent());
        home.and_then(|home| file.strip_prefix(home).ok()).unwrap_or(file)
    }

    /// Adds the module in `file`, whose children's files are in `home`.
    fn add_file(
        &mut self,
        name: &str,
        parent: Option<usize>,
        file: &Path,
        home: &Path,
    ) -> Result<usize, Error> {
        let text = fs::read_to_string(file).map_err(Error::file("read", file))?;
        let tokens: TokenStream = text.parse().map_err(|error| Error::Unexpected {
            what: "source file",
            expected: "Rust tokens".into(),
            found: format!("{error} in {}", file.display()),
        })?;
        self.add(name, parent, file, home, tokens)
    }

    fn add(
        &mut self,
        name: &str,
        parent: Option<usize>,
        file: &Path,
        home: &Path,
        tokens: TokenStream,
    ) -> Result<usize, Error> {
        let index = self.insert(name, parent, file);
        let Some(module) = self.modules.get_mut(index) else { return Ok(index) };
        for Declared { name, path, body } in scan::module(tokens, module) {
            let below = home.join(&name);
            let child = match (path, body) {
                (_, Some(body)) => self.add(&name, Some(index), file, &below, body)?,
                (Some(path), None) => {
                    let file = file.parent().unwrap_or(Path::new("")).join(path);
                    let home = file.parent().unwrap_or(Path::new("")).to_path_buf();
                    self.add_file(&name, Some(index), &file, &home)?
                }
                (None, None) => {
                    let flat = home.join(format!("{name}.rs"));
                    let file = if flat.is_file() { flat } else { below.join("mod.rs") };
                    self.add_file(&name, Some(index), &file, &below)?
                }
            };
            if let Some(module) = self.modules.get_mut(index) {
                module.children.insert(name, child);
            }
        }
        Ok(index)
    }

    /// The module's index: a new one, or that of a variant for another platform.
    fn insert(&mut self, name: &str, parent: Option<usize>, file: &Path) -> usize {
        let above = parent.and_then(|index| self.modules.get(index));
        if let Some(known) = above.and_then(|above| above.children.get(name)) {
            return *known;
        }
        let name = match above {
            Some(above) if !above.name.is_empty() => format!("{}::{name}", above.name),
            _ => name.to_owned(),
        };
        self.modules.push(Module { name, file: file.to_path_buf(), parent, ..Module::default() });
        self.modules.len() - 1
    }
}
