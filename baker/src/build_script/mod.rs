//! Build scripts that bake: what a package's `build.rs` calls.
//!
//! A snapshot that is baked here is found by `supermachine::include_snapshot!` and
//! `snapshot_path!`: the script tells the compiler where its pack is. Bakes come from the
//! [cache of builds](Builds), so that most builds find what they need there. The script runs
//! again only when something that it depends on has changed. [`Wishes`] are what the environment can
//! ask for.

mod environment;
mod progress;
#[cfg(test)]
mod tests;

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

use crate::bake::Baked;
use crate::lock::{Lock, LockError};
use crate::manifest::Metadata;
use crate::oci::ImageSource;
use crate::{BakeError, Builds, OciImageBuilder, Wishes};
use environment::{ASSETS, Environment};
use progress::{Progress, mebibytes};

/// How much earlier than the script a file must be written for cargo to take it for old.
const BEFORE: Duration = Duration::from_secs(1);

/// Bakes the snapshots that `describe` asks for; the whole of a `build.rs`:
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
/// What goes wrong is told as cargo tells errors.
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
    // Where standard output is closed there is nobody to tell.
    let _ = tell(&mut io::stdout(), "error", &text);
    ExitCode::FAILURE
}

/// Bakes the snapshots that the package's `Cargo.toml` declares; the whole of a `build.rs`:
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     supermachine_baker::build_script_from_metadata()
/// }
/// ```
///
/// [`manifest`](crate::manifest) tells what can be declared.
#[must_use]
pub fn build_script_from_metadata() -> ExitCode {
    build_script(|script| Ok(script.bake_declared().map(drop)?))
}

/// A running build script.
pub struct BuildScript {
    environment: Environment,
    lock: Lock,
    /// Opened when it is needed.
    builds: Option<Builds>,
    began: SystemTime,
    names: BTreeSet<String>,
    cargo: Box<dyn Write>,
}

impl std::fmt::Debug for BuildScript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildScript").field("names", &self.names).finish_non_exhaustive()
    }
}

/// A snapshot that a build script has made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Built {
    /// Its name.
    pub name: String,
    /// Its pack, one file in `OUT_DIR`. Empty if it was left out.
    pub path: PathBuf,
    /// Bytes of the pack.
    pub size: u64,
    /// The digest of its manifest; none if it was left out.
    pub digest: Option<Digest>,
    /// Whether nothing had to be baked.
    pub was_cached: bool,
}

impl BuildScript {
    fn new(cargo: Box<dyn Write>) -> Result<Self, BakeError> {
        Self::with(Environment::read()?, None, cargo)
    }

    fn with(
        environment: Environment,
        builds: Option<Builds>,
        cargo: Box<dyn Write>,
    ) -> Result<Self, BakeError> {
        let lock = Lock::beside(&environment.dir)?.frozen(environment.wishes.locked);
        let (began, names) = (SystemTime::now(), BTreeSet::new());
        let mut script = Self { environment, lock, builds, began, names, cargo };
        for name in Wishes::WATCHED.into_iter().chain([ASSETS]) {
            script.tell("rerun-if-env-changed", name)?;
        }
        Ok(script)
    }

    /// Bakes a snapshot, or finds it, and tells the compiler where it is. One after the other
    /// may be baked, each under another name.
    ///
    /// # Errors
    /// Any [`BakeError`]: [`BakeError::CrossBuild`] if this host's snapshots are not for the
    /// platform that is built for, [`BakeError::NoHypervisor`] if it must be baked and this host
    /// cannot, [`BakeError::Fetch`] with [`NotCached`](crate::oci::Error::NotCached) if it must
    /// be fetched and there shall be no network.
    pub fn bake(&mut self, builder: OciImageBuilder) -> Result<Built, BakeError> {
        let name = builder.snapshot_name()?;
        if !supermachine_snapshots::pack::is_name(&name) {
            return Err(BakeError::InvalidName { name });
        }
        if !self.names.insert(name.clone()) {
            return Err(BakeError::BakedTwice { name });
        }
        // What was baked stays while a build leaves it out, or takes another one: programs have it.
        let built = if self.environment.wishes.left_out {
            leave_out(self.place("left-out", &name)?, name)?
        } else if let Some(folder) = self.environment.wishes.prebaked.clone() {
            self.take(&folder, self.place("prebaked", &name)?, name, &builder)?
        } else {
            self.find_or_bake(self.place("", &name)?, name, builder)?
        };
        let value = format!("SUPERMACHINE_SNAPSHOT_{}={}", built.name, built.path.display());
        self.tell("rustc-env", &value)?;
        Ok(built)
    }

    /// Bakes what the package's `Cargo.toml` declares.
    ///
    /// # Errors
    /// [`BakeError::Manifest`], and those of [`BuildScript::bake`].
    pub fn bake_declared(&mut self) -> Result<Vec<Built>, BakeError> {
        let dir = self.environment.dir.clone();
        let manifest = dir.join("Cargo.toml");
        self.watch(&manifest)?;
        let declared = Metadata::read(&manifest)?.snapshots;
        declared.iter().map(|declared| self.bake(declared.builder(&dir)?)).collect()
    }

    /// Where a pack of one kind goes.
    fn place(&self, kind: &str, name: &str) -> Result<PathBuf, BakeError> {
        let dir = self.environment.out.join(kind);
        fs::create_dir_all(&dir).map_err(BakeError::io("create", &dir))?;
        Ok(dir.join(format!("{name}.tar")))
    }

    /// Takes a pack that was baked elsewhere.
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
            return Err(BakeError::OtherMachine { path: from, wanted, found });
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
        builder.fetch.offline |= self.environment.wishes.offline;
        let progress = Arc::new(Progress::new(&name));
        if builder.observer.is_none() {
            builder = builder.observer(Arc::clone(&progress) as Arc<_>);
        }
        let builds = self.builds()?.clone();
        let mut baked = self.baked(&builder)?;
        let size = match export(&builds, baked.digest, &name, &path) {
            // The cache was spoiled: what is not there is made again.
            Err(BakeError::Pack { source: PackError::Damaged { digest, .. } }) => {
                let blob = builds.store().layout().blob_path(digest);
                fs::remove_file(&blob).map_err(BakeError::io("remove", blob))?;
                baked = self.baked(&builder)?;
                export(&builds, baked.digest, &name, &path)?
            }
            other => other?,
        };
        let Baked { digest, was_cached, .. } = baked;
        if !was_cached {
            let told = format!("{name}: baked in {}: {}", progress.summary(), mebibytes(size));
            self.tell("warning", &told)?;
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
            // One that is not there would run the script each time.
            if path.is_file() {
                self.watch(&path)?;
            }
            return Ok(baked);
        }
        builds.bake(&self.environment.package, builder, &mut self.lock)
    }

    /// Writes the lock file, and makes it look as if it had been there before the script began:
    /// cargo would run the script again in the next build otherwise.
    fn save_lock(&mut self) -> Result<(), BakeError> {
        if !self.lock.is_changed() {
            return Ok(());
        }
        match self.lock.save() {
            // A dependency's folder cannot be written to, and need not be.
            Err(LockError::Io { source, path, .. }) if is_read_only(&source) => {
                self.tell("warning", &format!("{} cannot be written: {source}", path.display()))
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

    fn builds(&mut self) -> Result<&Builds, BakeError> {
        if self.builds.is_none() {
            self.builds = Some(Builds::open()?);
        }
        match &self.builds {
            Some(builds) => Ok(builds),
            None => Err(BakeError::NotABuildScript { variable: "HOME" }),
        }
    }

    /// Lets cargo watch what lies on this host and goes into the bake.
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
            let assets = assets.map_err(|source| BakeError::Assets { source })?;
            self.watch(assets.kernel_path())?;
            self.watch(assets.agent_path())?;
        }
        builder.files.sources().try_for_each(|path| self.watch(path))
    }

    fn watch(&mut self, path: &Path) -> Result<(), BakeError> {
        self.tell("rerun-if-changed", &path.display().to_string())
    }

    fn tell(&mut self, key: &str, value: &str) -> Result<(), BakeError> {
        tell(&mut self.cargo, key, value).map_err(BakeError::io("write to", "standard output"))
    }
}

/// An instruction for cargo, a line each: none may have several.
fn tell(cargo: &mut dyn Write, key: &str, value: &str) -> io::Result<()> {
    let lines = value.lines().filter(|line| !line.is_empty());
    lines.into_iter().try_for_each(|line| writeln!(cargo, "cargo::{key}={line}"))?;
    cargo.flush()
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// A pack without anything in it.
fn leave_out(path: PathBuf, name: String) -> Result<Built, BakeError> {
    fs::write(&path, b"").map_err(BakeError::io("write", &path))?;
    Ok(Built { name, path, size: 0, digest: None, was_cached: true })
}

/// Copies a file's content, and its mode not: the copy is this package's. Gives its size.
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

/// Writes the pack, unless the one that is there is the same.
fn export(builds: &Builds, digest: Digest, name: &str, path: &Path) -> Result<u64, BakeError> {
    let note = path.with_extension("digest");
    let size = || fs::metadata(path).map(|found| found.len()).ok();
    let noted = |size: u64| format!("{digest} {size}\n");
    if let Some(size) = size()
        && fs::read_to_string(&note).is_ok_and(|found| found == noted(size))
    {
        return Ok(size);
    }
    // Until the pack is whole, nothing may say so.
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
