//! Build scripts that bake: what a package's `build.rs` calls.
//!
//! The script passes the pack's path to the compiler, where `supermachine::include_snapshot!` and
//! `snapshot_path!` find it. Most builds find their bakes in the [cache of builds](BuildCache). Cargo
//! runs the script again only when an input changes. [`BuildEnv`] lists the environment variables that
//! it follows.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use supermachine_formats::Digest;
use supermachine_snapshots::pack::{Pack, PackError};

use super::super::cache::BuildCache;
use super::super::env::BuildEnv;
use super::super::lock::Lock;
use super::super::manifest::Metadata;
use super::cargo_env::{ASSETS, CargoEnv};
use super::progress::{Progress, mebibytes};
use crate::bake::{Baked, OciImageBuilder};
use crate::error::{BakeError, HostError, InputError, LockError, ProjectError, StoreError};
use crate::oci::ImageSource;

/// How much older than the script a file must be for cargo to consider it unchanged.
const BEFORE: Duration = Duration::from_secs(1);

/// Bakes the snapshots that `describe` asks for. A complete `build.rs`:
///
/// ```no_run
/// use std::process::ExitCode;
/// use supermachine_baker::{OciImageBuilder, build_script};
///
/// fn main() -> ExitCode {
///     build_script(|b| {
///         b.bake(OciImageBuilder::new("python:3.12-slim")?.name("python").memory_mib(256))?;
///         Ok(())
///     })
/// }
/// ```
///
/// Errors are printed in cargo's form.
pub fn build_script(
    describe: impl FnOnce(&mut BuildScript) -> Result<(), Box<dyn Error>>,
) -> ExitCode {
    let done = BuildScript::new(Box::new(io::stdout()))
        .map_err(Into::into)
        .and_then(|mut script| describe(&mut script));
    let Err(error) = done else { return ExitCode::SUCCESS };
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    // A closed standard output leaves no way to report it.
    let _ = emit(&mut io::stdout(), "error", &text);
    ExitCode::FAILURE
}

/// Bakes the snapshots that the package's `Cargo.toml` declares. A complete `build.rs`:
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     supermachine_baker::build_script_from_metadata()
/// }
/// ```
///
/// [`manifest`](crate::manifest) documents the declarations.
#[must_use]
pub fn build_script_from_metadata() -> ExitCode {
    build_script(|script| Ok(script.bake_declared().map(drop)?))
}

/// A running build script.
pub struct BuildScript {
    environment: CargoEnv,
    lock: Lock,
    /// Opened on first use.
    builds: Option<BuildCache>,
    began: SystemTime,
    names: BTreeSet<String>,
    cargo: Box<dyn Write>,
}

impl std::fmt::Debug for BuildScript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildScript").field("names", &self.names).finish_non_exhaustive()
    }
}

/// A snapshot baked by a build script.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Built {
    /// Its name.
    pub name: String,
    /// Its pack, a file in `OUT_DIR`. Empty if nothing was baked.
    pub path: PathBuf,
    /// Bytes of the pack.
    pub size: u64,
    /// The digest of its manifest; `None` if nothing was baked.
    pub digest: Option<Digest>,
    /// Whether it came from the cache.
    pub was_cached: bool,
}

impl BuildScript {
    fn new(cargo: Box<dyn Write>) -> Result<Self, BakeError> {
        Self::with(CargoEnv::read()?, None, cargo)
    }

    fn with(
        environment: CargoEnv,
        builds: Option<BuildCache>,
        cargo: Box<dyn Write>,
    ) -> Result<Self, BakeError> {
        let lock = Lock::beside(&environment.dir)?.frozen(environment.wanted.locked);
        let (began, names) = (SystemTime::now(), BTreeSet::new());
        let mut script = Self { environment, lock, builds, began, names, cargo };
        for name in BuildEnv::WATCHED.into_iter().chain([ASSETS]) {
            script.emit("rerun-if-env-changed", name)?;
        }
        Ok(script)
    }

    /// Bakes a snapshot, or finds it in the cache, and passes its path to the compiler. Can be called
    /// repeatedly, each time with another name.
    ///
    /// # Errors
    /// Any [`BakeError`]: [`HostError::CrossBuild`] if snapshots baked here do not run on the target
    /// platform, [`HostError::NoHypervisor`] if it is not cached and this host cannot bake,
    /// [`BakeError::Fetch`] with [`NotCached`](crate::oci::Error::NotCached) if the image is not cached and
    /// the build is offline.
    pub fn bake(&mut self, builder: OciImageBuilder) -> Result<Built, BakeError> {
        let name = builder.snapshot_name()?;
        if !supermachine_snapshots::pack::is_name(&name) {
            return Err(BakeError::Input(InputError::InvalidName { name }));
        }
        if !self.names.insert(name.clone()) {
            return Err(BakeError::Input(InputError::BakedTwice { name }));
        }
        // Each kind has a folder of its own, so that one build does not remove a pack that programs of
        // another use.
        let built = if self.environment.wanted.left_out {
            leave_out(self.place("left-out", &name)?, name)?
        } else if let Some(folder) = self.environment.wanted.prebaked.clone() {
            self.take(&folder, self.place("prebaked", &name)?, name, &builder)?
        } else {
            self.find_or_bake(self.place("", &name)?, name, builder)?
        };
        let value = format!("SUPERMACHINE_SNAPSHOT_{}={}", built.name, built.path.display());
        self.emit("rustc-env", &value)?;
        Ok(built)
    }

    /// Bakes what the package's `Cargo.toml` declares.
    ///
    /// # Errors
    /// [`ProjectError::Manifest`], and those of [`BuildScript::bake`].
    pub fn bake_declared(&mut self) -> Result<Vec<Built>, BakeError> {
        let dir = self.environment.dir.clone();
        let manifest = dir.join("Cargo.toml");
        self.watch(&manifest)?;
        let declared = Metadata::read(&manifest)?.snapshots;
        declared.iter().map(|declared| self.bake(declared.builder(&dir)?)).collect()
    }

    /// The path for a pack of one kind.
    fn place(&self, kind: &str, name: &str) -> Result<PathBuf, BakeError> {
        let dir = self.environment.out.join(kind);
        fs::create_dir_all(&dir).map_err(BakeError::io("create", &dir))?;
        Ok(dir.join(format!("{name}.tar")))
    }

    /// Copies a prebaked pack.
    fn take(
        &mut self,
        folder: &Path,
        path: PathBuf,
        name: String,
        builder: &OciImageBuilder,
    ) -> Result<Built, BakeError> {
        let from = folder.join(format!("{name}.tar"));
        self.watch(&from)?;
        let pack = Pack::open_at(&from, None)?;
        let machine = &pack.snapshot.machine;
        let wanted = (builder.memory_mib, builder.vcpus);
        let found = (machine.memory_size >> 20, machine.vcpus);
        if found != wanted {
            return Err(BakeError::Input(InputError::OtherMachine { path: from, wanted, found }));
        }
        let size = copy(&from, &path)?;
        Ok(Built { name, path, size, digest: Some(pack.digest), was_cached: true })
    }

    fn find_or_bake(
        &mut self,
        path: PathBuf,
        name: String,
        mut builder: OciImageBuilder,
    ) -> Result<Built, BakeError> {
        self.environment.check_target()?;
        self.watch_inputs(&builder)?;
        builder.fetch.offline |= self.environment.wanted.offline;
        let progress = Arc::new(Progress::new(&name));
        if builder.observer.is_none() {
            builder = builder.observer(Arc::clone(&progress) as Arc<_>);
        }
        let builds = self.builds()?.clone();
        let mut baked = self.baked(&builder)?;
        let size = match export(&builds, baked.digest, &name, &path) {
            // A damaged blob in the cache is removed and baked again.
            Err(BakeError::Store(StoreError::Pack {
                source: PackError::Damaged { digest, .. },
            })) => {
                let blob = builds.store().layout().blob_path(digest);
                fs::remove_file(&blob).map_err(BakeError::io("remove", blob))?;
                baked = self.baked(&builder)?;
                export(&builds, baked.digest, &name, &path)?
            }
            other => other?,
        };
        let Baked { digest, was_cached, .. } = baked;
        if !was_cached {
            let message = format!("{name}: baked in {}: {}", progress.summary(), mebibytes(size));
            self.emit("warning", &message)?;
        }
        Ok(Built { name, path, size, digest: Some(digest), was_cached })
    }

    fn baked(&mut self, builder: &OciImageBuilder) -> Result<Baked, BakeError> {
        let builds = self.builds()?.clone();
        if let ImageSource::Registry(reference) = &builder.source
            && reference.digest().is_none()
        {
            let baked = builds.bake(&self.environment.package, builder, &mut self.lock)?;
            self.save_lock()?;
            let path = self.lock.path().to_owned();
            // Watching a missing file would run the script every time.
            if path.is_file() {
                self.watch(&path)?;
            }
            return Ok(baked);
        }
        builds.bake(&self.environment.package, builder, &mut self.lock)
    }

    /// Writes the lock file, and dates it before the script's start: otherwise cargo would run the script
    /// again in the next build.
    fn save_lock(&mut self) -> Result<(), BakeError> {
        if !self.lock.is_changed() {
            return Ok(());
        }
        match self.lock.save() {
            // A dependency's folder may be read-only.
            Err(LockError::Io { source, path, .. }) if is_read_only(&source) => {
                self.emit("warning", &format!("{} cannot be written: {source}", path.display()))
            }
            other => {
                other?;
                let file = File::options().write(true).open(self.lock.path());
                let old = self.began - BEFORE;
                file.and_then(|file| file.set_modified(old))
                    .map_err(BakeError::io("set the time of", self.lock.path()))
            }
        }
    }

    fn builds(&mut self) -> Result<&BuildCache, BakeError> {
        if self.builds.is_none() {
            self.builds = Some(BuildCache::open()?);
        }
        match &self.builds {
            Some(builds) => Ok(builds),
            None => Err(BakeError::Project(ProjectError::NotABuildScript { variable: "HOME" })),
        }
    }

    /// Makes cargo watch the local inputs of the bake.
    fn watch_inputs(&mut self, builder: &OciImageBuilder) -> Result<(), BakeError> {
        match &builder.source {
            ImageSource::Registry(_) => {}
            ImageSource::Layout { path, .. } => self.watch(&path.join("index.json"))?,
            ImageSource::OciArchive { path, .. }
            | ImageSource::DockerArchive { path, .. }
            | ImageSource::Archive { path } => self.watch(path)?,
        }
        if self.environment.has_assets {
            let assets = supermachine_kernel::Assets::locate();
            let assets = assets.map_err(|source| BakeError::Host(HostError::Assets { source }))?;
            self.watch(assets.kernel_path())?;
            self.watch(assets.agent_path())?;
        }
        builder.files.sources().try_for_each(|path| self.watch(path))
    }

    fn watch(&mut self, path: &Path) -> Result<(), BakeError> {
        self.emit("rerun-if-changed", &path.display().to_string())
    }

    fn emit(&mut self, key: &str, value: &str) -> Result<(), BakeError> {
        emit(&mut self.cargo, key, value).map_err(BakeError::io("write to", "standard output"))
    }
}

/// Prints an instruction for cargo for each line of `value`.
fn emit(cargo: &mut dyn Write, key: &str, value: &str) -> io::Result<()> {
    let lines = value.lines().filter(|line| !line.is_empty());
    lines.into_iter().try_for_each(|line| writeln!(cargo, "cargo::{key}={line}"))?;
    cargo.flush()
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Writes an empty pack.
fn leave_out(path: PathBuf, name: String) -> Result<Built, BakeError> {
    fs::write(&path, b"").map_err(BakeError::io("write", &path))?;
    Ok(Built { name, path, size: 0, digest: None, was_cached: true })
}

/// Copies a file's content, without its mode. Returns its size.
fn copy(from: &Path, to: &Path) -> Result<u64, BakeError> {
    let dir = to.parent().unwrap_or(Path::new(""));
    let mut file = tempfile::Builder::new()
        .prefix(".copy-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(BakeError::io("create a file in", dir))?;
    let size = File::open(from)
        .and_then(|mut from| io::copy(&mut from, file.as_file_mut()))
        .map_err(BakeError::io("copy", from))?;
    file.persist(to).map_err(|error| BakeError::io("create", to)(error.error))?;
    Ok(size)
}

/// Writes the pack, unless it exists already. Returns its size.
fn export(builds: &BuildCache, digest: Digest, name: &str, path: &Path) -> Result<u64, BakeError> {
    let note = path.with_extension("digest");
    let size = || fs::metadata(path).map(|found| found.len()).ok();
    let noted = |size: u64| format!("{digest} {size}\n");
    if let Some(size) = size()
        && fs::read_to_string(&note).is_ok_and(|found| found == noted(size))
    {
        return Ok(size);
    }
    // The note must not exist before the pack is complete.
    match fs::remove_file(&note) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(BakeError::io("remove", note)(error));
        }
        _ => {}
    }
    let size = builds.store().export_snapshot(digest, name, path)?;
    fs::write(&note, noted(size)).map_err(BakeError::io("write", note))?;
    Ok(size)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
