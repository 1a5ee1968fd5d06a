//! `[package.metadata.supermachine]`: snapshots that a package declares in its `Cargo.toml`.
//!
//! ```toml
//! [[package.metadata.supermachine.snapshots]]
//! name = "python"
//! image = "python:3.12-slim"
//! memory = 256                            # MiB
//! vcpus = 1
//! ready = "exec:python3 -c 1"             # as Ready has it
//! env = { LANG = "C.UTF-8" }
//! files = { "/opt/app" = "guest/app" }    # in the guest = on the host, beside Cargo.toml
//! warmup = [["python3", "-c", "import json"]]
//! ```
//!
//! All keys but `name` and `image` may be left out. The others are `ready_timeout` (seconds),
//! `entrypoint`, `command` (lists of words), `user`, and `working_dir`. A key that is not known
//! is an error that names the one that was probably meant.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use supermachine_snapshots::pack::is_name;
use toml::{Table, Value};

use crate::oci::ImageSource;
use crate::{BakeError, OciImageBuilder, Ready};

/// The keys of the table itself.
const KEYS: &[&str] = &["snapshots", "bundle"];
/// The keys of a snapshot.
const SNAPSHOT_KEYS: &[&str] = &[
    "name",
    "image",
    "memory",
    "vcpus",
    "ready",
    "ready_timeout",
    "env",
    "files",
    "entrypoint",
    "command",
    "user",
    "working_dir",
    "warmup",
];
/// How alike a key must be to be suggested, from 0 to 1.
const ALIKE: f64 = 0.75;

/// Why what a package declares cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{} cannot be read as TOML", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: Box<toml::de::Error>,
    },
    /// A key that means nothing here.
    #[error("{}: {place} has an unknown key {key:?}{}", path.display(), hint(suggestion.as_ref()))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The table that has it.
        place: String,
        /// The key.
        key: String,
        /// The key that was probably meant.
        suggestion: Option<&'static str>,
    },
    /// A key that must be there is not.
    #[error("{}: {place} has no {key:?}", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The table that lacks it.
        place: String,
        /// The key.
        key: &'static str,
    },
    /// A value of another type.
    #[error("{}: {key:?} of {place} is {found}, and must be {expected}", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The table that has it.
        place: String,
        /// The key.
        key: String,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A value that cannot be.
    #[error("{}: {key:?} of {place} cannot be used", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The table that has it.
        place: String,
        /// The key.
        key: &'static str,
        /// Why.
        source: Box<BakeError>,
    },
    /// Two snapshots have one name.
    #[error("{}: two snapshots are named {name:?}", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
}

fn hint(suggestion: Option<&&'static str>) -> String {
    suggestion.map_or_else(String::new, |key| format!("; did you mean {key:?}?"))
}

/// What a package declares.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Metadata {
    /// The snapshots, in the order in which they stand there.
    pub snapshots: Vec<Declared>,
    /// The table `bundle`, as it is: it belongs to who makes bundles.
    pub bundle: Option<Table>,
}

/// A snapshot that is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// The image that it is baked from. A relative path is one from the package's folder.
    pub image: String,
    /// Guest memory in MiB.
    pub memory_mib: Option<u64>,
    /// Virtual processors.
    pub vcpus: Option<u16>,
    /// When the machine is ready, as [`Ready`] is written.
    pub ready: Option<String>,
    /// How long readiness is waited for.
    pub ready_timeout: Option<Duration>,
    /// Environment variables and their values.
    pub env: Vec<(String, String)>,
    /// Paths in the guest, and the files and folders of the host that are added there.
    pub files: Vec<(String, PathBuf)>,
    /// Another entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Another command.
    pub command: Option<Vec<String>>,
    /// Another user.
    pub user: Option<String>,
    /// Another working directory.
    pub working_dir: Option<String>,
    /// Commands that are run in the machine before the snapshot is taken.
    pub warmup: Vec<Vec<String>>,
}

impl Metadata {
    /// Reads what the `Cargo.toml` at `path` declares; nothing if it has no such table.
    ///
    /// ```
    /// use supermachine_baker::manifest::Metadata;
    ///
    /// let dir = tempfile::tempdir()?;
    /// let path = dir.path().join("Cargo.toml");
    /// std::fs::write(&path, r#"
    ///     [package.metadata.supermachine]
    ///     snapshots = [{ name = "cache", image = "redis:7", memory = 128 }]
    /// "#)?;
    /// let metadata = Metadata::read(&path)?;
    /// assert_eq!(metadata.snapshots[0].memory_mib, Some(128));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The file cannot be read, or the table has something that cannot be used.
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ManifestError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Reads what the text of a `Cargo.toml` declares; errors name `path`.
    ///
    /// # Errors
    /// The table has something that cannot be used.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ManifestError> {
        let mut table: Table = toml::from_str(text).map_err(|source| ManifestError::Toml {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let mut below = |key: &str| match table.remove(key) {
            Some(Value::Table(inner)) => {
                table = inner;
                true
            }
            _ => false,
        };
        if !(below("package") && below("metadata")) {
            return Ok(Self::default());
        }
        let place = "package.metadata.supermachine".to_owned();
        let mut fields = match table.remove("supermachine") {
            None => return Ok(Self::default()),
            Some(Value::Table(table)) => Fields { path, place, table },
            Some(other) => {
                let place = "package.metadata".to_owned();
                let fields = Fields { path, place, table: Table::new() };
                return Err(fields.mismatch("supermachine", "a table", &other));
            }
        };
        let snapshots = snapshots(&mut fields)?;
        let bundle = fields.take("bundle", "a table", |value| match value {
            Value::Table(table) => Some(table.clone()),
            _ => None,
        })?;
        fields.end(KEYS)?;
        Ok(Self { snapshots, bundle })
    }
}

impl Declared {
    /// The bake that it describes, for a package in the folder `dir`.
    ///
    /// # Errors
    /// The image or the readiness has no known form.
    pub fn builder(&self, dir: &Path) -> Result<OciImageBuilder, BakeError> {
        let mut builder = OciImageBuilder::from_source(self.source(dir)?).name(&self.name);
        if let Some(memory_mib) = self.memory_mib {
            builder = builder.memory_mib(memory_mib);
        }
        if let Some(vcpus) = self.vcpus {
            builder = builder.vcpus(vcpus);
        }
        if let Some(ready) = &self.ready {
            builder = builder.ready(ready.parse()?);
        }
        if let Some(limit) = self.ready_timeout {
            builder = builder.ready_timeout(limit);
        }
        for (name, value) in &self.env {
            builder = builder.env(name, value);
        }
        for (to, from) in &self.files {
            builder = builder.file(to, dir.join(from));
        }
        if let Some(words) = &self.entrypoint {
            builder = builder.entrypoint(words);
        }
        if let Some(words) = &self.command {
            builder = builder.command(words);
        }
        if let Some(user) = &self.user {
            builder = builder.user(user);
        }
        if let Some(dir) = &self.working_dir {
            builder = builder.working_dir(dir);
        }
        if !self.warmup.is_empty() {
            builder = builder.with_warmup_commands(self.warmup.clone());
        }
        Ok(builder)
    }

    /// Where the image comes from, with paths from the package's folder on.
    ///
    /// # Errors
    /// It is no image's name.
    pub fn source(&self, dir: &Path) -> Result<ImageSource, BakeError> {
        // A path is told from a reference by what is there, so it is looked for from there.
        if dir.join(&self.image).join("oci-layout").is_file() {
            return Ok(ImageSource::Layout { path: dir.join(&self.image), tag: None });
        }
        let mut source = self.image.parse()?;
        match &mut source {
            ImageSource::Registry(_) => {}
            ImageSource::Layout { path, .. }
            | ImageSource::OciArchive { path, .. }
            | ImageSource::DockerArchive { path, .. }
            | ImageSource::Archive { path } => *path = dir.join(&*path),
        }
        Ok(source)
    }
}

fn snapshots(fields: &mut Fields<'_>) -> Result<Vec<Declared>, ManifestError> {
    let list = fields.take("snapshots", "a list of tables", |value| {
        value.as_array()?.iter().map(|value| value.as_table().cloned()).collect::<Option<Vec<_>>>()
    })?;
    let mut all: Vec<Declared> = Vec::new();
    for (number, table) in list.unwrap_or_default().into_iter().enumerate() {
        let place = match table.get("name") {
            Some(Value::String(name)) => format!("snapshot {name:?}"),
            _ => format!("snapshot number {}", number + 1),
        };
        let declared = declared(Fields { path: fields.path, place, table })?;
        if all.iter().any(|other| other.name == declared.name) {
            let path = fields.path.to_owned();
            return Err(ManifestError::Twice { path, name: declared.name });
        }
        all.push(declared);
    }
    Ok(all)
}

fn declared(mut fields: Fields<'_>) -> Result<Declared, ManifestError> {
    let declared = Declared {
        name: fields.required("name")?,
        image: fields.required("image")?,
        memory_mib: fields.number("memory", "a number of MiB")?,
        vcpus: fields.number("vcpus", "a number of processors")?,
        ready: fields.text("ready")?,
        ready_timeout: fields
            .number("ready_timeout", "a number of seconds")?
            .map(Duration::from_secs),
        env: fields.pairs("env")?,
        files: fields
            .pairs("files")?
            .into_iter()
            .map(|(to, from)| (to, PathBuf::from(from)))
            .collect(),
        entrypoint: fields.words("entrypoint")?,
        command: fields.words("command")?,
        user: fields.text("user")?,
        working_dir: fields.text("working_dir")?,
        warmup: fields.commands("warmup")?,
    };
    fields.check("name", || match is_name(&declared.name) {
        true => Ok(()),
        false => Err(BakeError::InvalidName { name: declared.name.clone() }),
    })?;
    let dir = fields.path.parent().unwrap_or(Path::new(""));
    fields.check("image", || declared.source(dir).map(drop))?;
    if let Some(ready) = &declared.ready {
        fields.check("ready", || ready.parse::<Ready>().map(drop))?;
    }
    fields.end(SNAPSHOT_KEYS)?;
    Ok(declared)
}

/// A table whose keys are taken out one after the other.
struct Fields<'a> {
    path: &'a Path,
    place: String,
    table: Table,
}

impl Fields<'_> {
    fn take<T>(
        &mut self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ManifestError> {
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        convert(&value).map(Some).ok_or_else(|| self.mismatch(key, expected, &value))
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, ManifestError> {
        self.take(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    fn required(&mut self, key: &'static str) -> Result<String, ManifestError> {
        let (path, place) = (self.path.to_owned(), self.place.clone());
        self.text(key)?.ok_or(ManifestError::MissingKey { path, place, key })
    }

    fn number<T: TryFrom<i64>>(
        &mut self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<T>, ManifestError> {
        self.take(key, expected, |value| T::try_from(value.as_integer()?).ok())
    }

    fn words(&mut self, key: &str) -> Result<Option<Vec<String>>, ManifestError> {
        self.take(key, "a list of strings", words)
    }

    fn commands(&mut self, key: &str) -> Result<Vec<Vec<String>>, ManifestError> {
        let convert = |value: &Value| {
            let commands = value.as_array()?.iter().map(words);
            commands.map(|words| words.filter(|words| !words.is_empty())).collect()
        };
        self.take(key, "a list of commands, each a list of strings", convert)
            .map(Option::unwrap_or_default)
    }

    /// A table of strings, sorted by key.
    fn pairs(&mut self, key: &str) -> Result<Vec<(String, String)>, ManifestError> {
        let convert = |value: &Value| {
            let pairs = value.as_table()?.iter();
            pairs.map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
        };
        self.take(key, "a table of strings", convert).map(Option::unwrap_or_default)
    }

    fn check(
        &self,
        key: &'static str,
        check: impl FnOnce() -> Result<(), BakeError>,
    ) -> Result<(), ManifestError> {
        check().map_err(|source| ManifestError::Value {
            path: self.path.to_owned(),
            place: self.place.clone(),
            key,
            source: Box::new(source),
        })
    }

    /// Whatever is left is not known.
    fn end(self, known: &[&'static str]) -> Result<(), ManifestError> {
        let Some((key, _)) = self.table.into_iter().next() else { return Ok(()) };
        let suggestion = known
            .iter()
            .map(|known| (strsim::jaro_winkler(known, &key), *known))
            .filter(|(alike, _)| *alike >= ALIKE)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, known)| known);
        let path = self.path.to_owned();
        Err(ManifestError::UnknownKey { path, place: self.place, key, suggestion })
    }

    fn mismatch(&self, key: &str, expected: &'static str, found: &Value) -> ManifestError {
        ManifestError::Type {
            path: self.path.to_owned(),
            place: self.place.clone(),
            key: key.to_owned(),
            expected,
            found: describe(found),
        }
    }
}

fn words(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|word| word.as_str().map(str::to_owned)).collect()
}

/// A value as an error tells it: short ones as they are, others by their type.
fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string {text:?}"),
        Value::Integer(number) => format!("the number {number}"),
        Value::Array(_) => "another list".to_owned(),
        Value::Table(_) => "another table".to_owned(),
        other => format!("a {}", other.type_str()),
    }
}

#[cfg(test)]
mod tests;
