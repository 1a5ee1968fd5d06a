//! `[package.metadata.supermachine]`: snapshots that a package declares in its `Cargo.toml`.
//!
//! ```toml
//! [[package.metadata.supermachine.snapshots]]
//! name = "python"
//! image = "python:3.12-slim"
//! memory = 256                            # MiB
//! vcpus = 1
//! ready = "exec:python3 -c 1"             # as Ready has it
//! init = "agent"                          # or "image": which process is PID 1
//! after_restore = "signal:HUP"            # as AfterRestore has it
//! env = { LANG = "C.UTF-8" }
//! files = { "/opt/app" = "guest/app" }    # in the guest = on the host, beside Cargo.toml
//! warmup = [["python3", "-c", "import json"]]
//! ```
//!
//! All keys but `name` and `image` are optional. The others are `ready_timeout` and
//! `after_restore_timeout` (seconds), `entrypoint`, `command` (lists of words), `user`, `working_dir`,
//! `read_only`, `tmpfs`, `ulimits` (lists of texts, as `/run:size=64m` and `nofile=64`), and `shm_size`
//! (MiB). An unknown key is an error that suggests the most similar known one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use supermachine::Ulimit;
use supermachine_snapshots::pack::is_name;
use toml::{Table, Value};

use crate::bake::{AfterRestore, Init, OciImageBuilder, Ready, Tmpfs};
pub use crate::error::ManifestError;
use crate::error::{BakeError, InputError};
use crate::oci::ImageSource;

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
    "init",
    "after_restore",
    "after_restore_timeout",
    "env",
    "files",
    "entrypoint",
    "command",
    "user",
    "working_dir",
    "read_only",
    "tmpfs",
    "shm_size",
    "ulimits",
    "warmup",
];
/// The least similarity of a suggested key, from 0 to 1.
const ALIKE: f64 = 0.75;

/// A package's declarations.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Metadata {
    /// The snapshots, in the file's order.
    pub snapshots: Vec<DeclaredSnapshot>,
    /// The table `bundle`, unparsed: the bundler interprets it.
    pub bundle: Option<Table>,
}

/// A declared snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeclaredSnapshot {
    /// Its name.
    pub name: String,
    /// The image. A relative path starts at the package's folder.
    pub image: String,
    /// Guest memory in MiB.
    pub memory_mib: Option<u64>,
    /// Virtual processors.
    pub vcpus: Option<u16>,
    /// The readiness condition, in [`Ready`]'s text form.
    pub ready: Option<String>,
    /// The time limit for readiness.
    pub ready_timeout: Option<Duration>,
    /// Which process is PID 1.
    pub init: Option<Init>,
    /// The action after each restore, in [`AfterRestore`]'s text form.
    pub after_restore: Option<String>,
    /// The time limit of each hook after a restore.
    pub after_restore_timeout: Option<Duration>,
    /// Environment variables and their values.
    pub env: Vec<(String, String)>,
    /// Paths in the guest, and the host's files and directories to add there.
    pub files: Vec<(String, PathBuf)>,
    /// Another entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Another command.
    pub command: Option<Vec<String>>,
    /// Another user.
    pub user: Option<String>,
    /// Another working directory.
    pub working_dir: Option<String>,
    /// Whether the root file system is read-only.
    pub read_only: Option<bool>,
    /// File systems in memory, in [`Tmpfs`]'s text form.
    pub tmpfs: Vec<String>,
    /// The size of `/dev/shm` in MiB.
    pub shm_size_mib: Option<u64>,
    /// Limits of processes, in [`Ulimit`]'s text form.
    pub ulimits: Vec<String>,
    /// The warm-up commands.
    pub warmup: Vec<Vec<String>>,
}

impl Metadata {
    /// Reads the declarations in the `Cargo.toml` at `path`; empty if it has no such table.
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
    /// The file cannot be read, or the table is invalid.
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ManifestError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Parses the declarations in the text of a `Cargo.toml`. Errors name `path`.
    ///
    /// # Errors
    /// The table is invalid.
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

impl DeclaredSnapshot {
    /// The bake that it declares, for a package in the folder `dir`.
    ///
    /// # Errors
    /// The image or the readiness condition is malformed.
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
        if let Some(init) = self.init {
            builder = builder.init(init);
        }
        if let Some(action) = &self.after_restore {
            builder = builder.after_restore(action.parse()?);
        }
        if let Some(limit) = self.after_restore_timeout {
            builder = builder.after_restore_timeout(limit);
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
        builder = self.apply_settings(builder)?;
        if !self.warmup.is_empty() {
            builder = builder.with_warmup_commands(self.warmup.clone());
        }
        Ok(builder)
    }

    fn apply_settings(&self, mut builder: OciImageBuilder) -> Result<OciImageBuilder, BakeError> {
        if let Some(read_only) = self.read_only {
            builder = builder.read_only_root(read_only);
        }
        for text in &self.tmpfs {
            builder = builder.tmpfs(text.parse()?);
        }
        if let Some(mib) = self.shm_size_mib {
            builder = builder.shm_size(mib.saturating_mul(1 << 20));
        }
        for text in &self.ulimits {
            builder = builder.ulimit(ulimit(text)?);
        }
        Ok(builder)
    }

    /// The image's source, with relative paths resolved against the package's folder.
    ///
    /// # Errors
    /// The text does not name an image.
    pub fn source(&self, dir: &Path) -> Result<ImageSource, BakeError> {
        // What exists decides between a path and a reference, so look relative to the package.
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

fn ulimit(text: &str) -> Result<Ulimit, InputError> {
    text.parse().map_err(|source| InputError::InvalidUlimit { source })
}

fn snapshots(fields: &mut Fields<'_>) -> Result<Vec<DeclaredSnapshot>, ManifestError> {
    let list = fields.take("snapshots", "a list of tables", |value| {
        value.as_array()?.iter().map(|value| value.as_table().cloned()).collect::<Option<Vec<_>>>()
    })?;
    let mut all: Vec<DeclaredSnapshot> = Vec::new();
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

fn declared(mut fields: Fields<'_>) -> Result<DeclaredSnapshot, ManifestError> {
    let declared = DeclaredSnapshot {
        name: fields.required("name")?,
        image: fields.required("image")?,
        memory_mib: fields.number("memory", "a number of MiB")?,
        vcpus: fields.number("vcpus", "a number of processors")?,
        ready: fields.text("ready")?,
        ready_timeout: fields.seconds("ready_timeout")?,
        init: fields.take("init", "\"agent\" or \"image\"", |value| match value.as_str()? {
            "agent" => Some(Init::Agent),
            "image" => Some(Init::Image),
            _ => None,
        })?,
        after_restore: fields.text("after_restore")?,
        after_restore_timeout: fields.seconds("after_restore_timeout")?,
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
        read_only: fields.take("read_only", "true or false", Value::as_bool)?,
        tmpfs: fields.words("tmpfs")?.unwrap_or_default(),
        shm_size_mib: fields.number("shm_size", "a number of MiB")?,
        ulimits: fields.words("ulimits")?.unwrap_or_default(),
        warmup: fields.commands("warmup")?,
    };
    fields.check("name", || match is_name(&declared.name) {
        true => Ok(()),
        false => Err(InputError::InvalidName { name: declared.name.clone() }.into()),
    })?;
    let dir = fields.path.parent().unwrap_or(Path::new(""));
    fields.check("image", || declared.source(dir).map(drop))?;
    if let Some(ready) = &declared.ready {
        fields.check("ready", || Ok(ready.parse::<Ready>().map(drop)?))?;
    }
    if let Some(action) = &declared.after_restore {
        let parse = || action.parse::<AfterRestore>();
        fields.check("after_restore", || Ok(parse().map(drop)?))?;
    }
    for text in &declared.tmpfs {
        fields.check("tmpfs", || Ok(text.parse::<Tmpfs>().map(drop)?))?;
    }
    for text in &declared.ulimits {
        fields.check("ulimits", || Ok(ulimit(text).map(drop)?))?;
    }
    fields.end(SNAPSHOT_KEYS)?;
    Ok(declared)
}

/// A table whose keys are taken one by one.
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

    fn seconds(&mut self, key: &str) -> Result<Option<Duration>, ManifestError> {
        Ok(self.number(key, "a number of seconds")?.map(Duration::from_secs))
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

    /// Refuses the keys that are left.
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

/// A value as an error shows it: short ones in full, others by type.
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
