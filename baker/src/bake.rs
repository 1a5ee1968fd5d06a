//! Baking: an image reference in, a snapshot in the store out.
//!
//! Fetch the image, lay its files out as a disk, find or make the base, restore it with the
//! disk in its slot, let the agent attach and start the container, wait until it is ready,
//! capture. Every step's result is remembered by the digest of what went into it.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use supermachine::agent::{Replies, resume};
use supermachine::host::missing_features;
use supermachine::image::{expanded_disk, forget_mapped};
use supermachine::machine::layout::ROOT_SLOT;
use supermachine::machine::{Machine, MachineError, MemoryFiles, Origin, Restore};
use supermachine::pack::{DEFAULT_LEVEL, Manifest};
use supermachine::{Image, Timings};
use supermachine_formats::pack::Index;
use supermachine_formats::snapshot::baseline::Baseline;
use supermachine_formats::snapshot::{Disk, Snapshot, Stage, Workload};
use supermachine_formats::wire::{Container, Control, Reply, Request};
use supermachine_formats::{Digest, Hasher};

use crate::ask::ask;
use crate::base::BaseInputs;
use crate::boot::check_size;
use crate::capture::{Behind, Capture, Kind, capture};
use crate::container::{Overrides, argv, container};
use crate::oci::{self, BlobStore, FetchOptions, ImageSource, OciImage, Platform};
use crate::root_disk::{self, RootDisk};
use crate::{BakeError, Ready, Store, ready, warm};

/// Guest memory when none is asked for, in MiB.
const DEFAULT_MEMORY_MIB: u64 = 256;
/// What machines are called until they are given a name at their start. Not the snapshot's
/// name: one snapshot can have several.
const HOSTNAME: &str = "supermachine";
/// How long readiness is waited for when nobody says.
const DEFAULT_READY_TIMEOUT: Duration = Duration::from_secs(120);
/// What only lives for a moment is compressed as quickly as can be.
const TRIAL_LEVEL: i32 = 1;
/// A change of what a bake does must change this, so that what was remembered before is not
/// taken for it.
const RECIPE: u16 = 2;

/// Told what a bake does. Called from any thread, and not to block.
pub trait Observer: Send + Sync {
    /// A step begins.
    fn step(&self, step: &str);

    /// Something happens while the image is fetched.
    fn fetch(&self, event: oci::Event<'_>);
}

/// Describes a bake; [`OciImageBuilder::bake`] does it.
///
/// ```no_run
/// use supermachine_baker::{OciImageBuilder, Ready, Store};
///
/// # fn main() -> Result<(), supermachine_baker::BakeError> {
/// let store = Store::open("target/snapshots")?;
/// OciImageBuilder::new("nginx:1.27")?
///     .name("web")
///     .memory_mib(128)
///     .ready(Ready::Tcp(80))
///     .bake(&store)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct OciImageBuilder {
    source: ImageSource,
    name: Option<String>,
    memory_mib: u64,
    vcpus: u16,
    baseline: Baseline,
    overrides: Overrides,
    root_disk: RootDisk,
    ready: Ready,
    ready_timeout: Duration,
    level: i32,
    fetch: FetchOptions,
    observer: Option<Arc<dyn Observer>>,
}

impl fmt::Debug for OciImageBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OciImageBuilder")
            .field("source", &self.source)
            .field("name", &self.name)
            .field("memory_mib", &self.memory_mib)
            .field("vcpus", &self.vcpus)
            .field("baseline", &self.baseline)
            .field("overrides", &self.overrides)
            .field("root_disk", &self.root_disk)
            .field("ready", &self.ready)
            .field("ready_timeout", &self.ready_timeout)
            .field("level", &self.level)
            .field("fetch", &self.fetch)
            .finish_non_exhaustive()
    }
}

/// A finished bake.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Baked {
    /// The snapshot's name in the store.
    pub name: String,
    /// The digest of its state file.
    pub digest: Digest,
    /// Whether it was there already.
    pub was_cached: bool,
}

impl OciImageBuilder {
    /// Bakes the image that `source` means: a reference like those of Docker, `oci:FOLDER`,
    /// `oci-archive:FILE`, `docker-archive:FILE`, or the path of such a folder or file.
    ///
    /// # Errors
    /// The text has none of these forms.
    pub fn new(source: &str) -> Result<Self, BakeError> {
        Ok(Self {
            source: source.parse()?,
            name: None,
            memory_mib: DEFAULT_MEMORY_MIB,
            vcpus: 1,
            baseline: Baseline::V3,
            overrides: Overrides::default(),
            root_disk: RootDisk::Mapped,
            ready: Ready::Auto,
            ready_timeout: DEFAULT_READY_TIMEOUT,
            level: DEFAULT_LEVEL,
            fetch: FetchOptions::default(),
            observer: None,
        })
    }

    /// The snapshot's name; otherwise the last part of the image's.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Guest memory in MiB; 256 otherwise.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u64) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Virtual processors; 1 otherwise.
    #[must_use]
    pub fn vcpus(mut self, vcpus: u16) -> Self {
        self.vcpus = vcpus;
        self
    }

    /// The processor features that the guest may use; those of x86-64-v3 otherwise. The snapshot
    /// goes on only where they are.
    #[must_use]
    pub fn cpu_baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }

    /// How the guest reaches its root file system.
    #[must_use]
    pub fn root_disk(mut self, root_disk: RootDisk) -> Self {
        self.root_disk = root_disk;
        self
    }

    /// When the machine is ready to be captured.
    #[must_use]
    pub fn ready(mut self, ready: Ready) -> Self {
        self.ready = ready;
        self
    }

    /// How long readiness is waited for; two minutes otherwise.
    #[must_use]
    pub fn ready_timeout(mut self, limit: Duration) -> Self {
        self.ready_timeout = limit;
        self
    }

    /// How hard to compress, as zstd counts: 1 is quick, 19 takes long; 9 otherwise. What has
    /// been stored at another level before is stored again.
    #[must_use]
    pub fn compression_level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }

    /// Replaces the image's entrypoint, and drops its command.
    #[must_use]
    pub fn entrypoint<I: IntoIterator<Item = S>, S: Into<String>>(mut self, words: I) -> Self {
        self.overrides.entrypoint = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Replaces the image's command.
    #[must_use]
    pub fn command<I: IntoIterator<Item = S>, S: Into<String>>(mut self, words: I) -> Self {
        self.overrides.command = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Sets an environment variable for the entrypoint and every command.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.overrides.env.push(format!("{name}={value}"));
        self
    }

    /// Replaces the image's user, as `user[:group]`.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.overrides.user = Some(user.into());
        self
    }

    /// Replaces the image's working directory.
    #[must_use]
    pub fn working_dir(mut self, dir: impl Into<String>) -> Self {
        self.overrides.working_dir = Some(dir.into());
        self
    }

    /// How the image is fetched: platform, credentials, network.
    #[must_use]
    pub fn fetch_options(mut self, options: FetchOptions) -> Self {
        self.fetch = options;
        self
    }

    /// Who is told how it goes.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Does everything of a bake that needs no hypervisor: fetches the image and lays its files
    /// out. A later bake of the same image on this store goes on from there.
    ///
    /// # Errors
    /// The image cannot be fetched, or its layers are damaged.
    pub fn fetch(&self, store: &Store) -> Result<(), BakeError> {
        let image = self.fetch_image(store)?;
        let _hold = store.layout().hold()?;
        self.find_root_disk(store, &image).map(drop)
    }

    /// Bakes.
    ///
    /// # Errors
    /// Any [`BakeError`]. The store is as it was before, but for what later bakes can use.
    pub fn bake(&self, store: &Store) -> Result<Baked, BakeError> {
        let name = self.snapshot_name()?;
        store.check_name(&name)?;
        // Before anything is downloaded for nothing.
        check_size(self.memory_mib, self.vcpus).map_err(|source| BakeError::Boot { source })?;
        check_processor(self.baseline)?;
        let image = self.fetch_image(store)?;
        if argv(&image.config, &self.overrides).is_empty() {
            return Err(BakeError::NoCommand { reference: image.reference });
        }
        let base = self.base_inputs()?;
        let key = self.key(&image, base.key());
        let _hold = store.layout().hold()?;
        let _turn = store.lock(key)?;
        let known = store.made_snapshot(key);
        let digest = match known {
            Some(digest) => digest,
            None => {
                let digest = self.make(store, &image, &base)?;
                store.remember(key, digest)?;
                digest
            }
        };
        store.set_name(&name, digest)?;
        Ok(Baked { name, digest, was_cached: known.is_some() })
    }

    fn base_inputs(&self) -> Result<BaseInputs, BakeError> {
        BaseInputs::new(self.memory_mib, self.vcpus, self.baseline, self.level)
    }

    fn make(
        &self,
        store: &Store,
        image: &OciImage,
        base: &BaseInputs,
    ) -> Result<Digest, BakeError> {
        let disk = self.find_root_disk(store, image)?;
        self.step("base");
        let parent = base.find_or_make(store)?;
        self.step("start");
        let base = store.open_image(parent)?;
        let opening = || BakeError::machine("opening of the base");
        let memory = base.mapped().map_err(opening())?.memory.clone();
        let machine = start(store, &base, memory.clone(), &disk, self.root_disk)?;
        attach(&machine, container(&image.config, &self.overrides, self.root_disk, HOSTNAME))?;
        self.step("wait until ready");
        ready::wait(&machine, &self.ready, &image.config.exposed_ports, self.ready_timeout)?;
        self.step("capture");
        request(&machine, &Request::Settle, "capture")?;
        warm::exercise(&machine).map_err(BakeError::machine("capture"))?;
        let kind = Kind { stage: Stage::Image, parent, workload: Some(self.workload(image)) };
        let mut capture = capture(&machine, kind)?;
        drop(machine);
        let pack = base.pack().map_err(opening())?;
        let behind = Behind { pack, memory: &memory, is_listed: true };
        self.step("trial start");
        let trial = Trial::new(store, &capture, behind, &disk)?;
        let used = warm::observe(&trial.image).map_err(BakeError::machine("trial start"))?;
        capture.snapshot.working_set = used.working_set;
        self.step("store");
        let digest = capture.store(store, behind, Some(&disk), used.order, self.level)?;
        // Of the trial's files all but a few bytes are those of the snapshot, which is so ready to be
        // mapped here.
        let opened = store.open_image(digest)?;
        opened.mapped().map_err(BakeError::machine("opening of the snapshot"))?;
        trial.remove(store, digest)?;
        Ok(digest)
    }

    fn workload(&self, image: &OciImage) -> Workload {
        Workload {
            reference: image.reference.clone(),
            manifest: image.manifest_digest,
            argv: argv(&image.config, &self.overrides),
            ready: self.ready.to_string(),
            exposed_ports: image.config.exposed_ports.clone(),
        }
    }

    fn fetch_image(&self, store: &Store) -> Result<OciImage, BakeError> {
        self.step("fetch");
        let downloads = BlobStore::open(store.cache().join("downloads"))?;
        let mut options = self.fetch.clone();
        if let Some(observer) = &self.observer {
            options.progress = Some(Arc::new(Forward(Arc::clone(observer))));
        }
        let image = oci::fetch(&self.source, &downloads, &options)?;
        let host = Platform::host();
        match image.config.platform() {
            Some(found) if found.os != host.os || !found.same_architecture(&host) => {
                let (found, host) = (found.to_string(), host.to_string());
                Err(BakeError::Platform { found, host })
            }
            _ => Ok(image),
        }
    }

    fn find_root_disk(&self, store: &Store, image: &OciImage) -> Result<Index, BakeError> {
        self.step("root file system");
        root_disk::find_or_make(store, image, self.level)
    }

    /// The digest of everything that goes into the snapshot.
    fn key(&self, image: &OciImage, base: Digest) -> Digest {
        let overrides = &self.overrides;
        let mut hasher = Hasher::new();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(b"image");
        add(&RECIPE.to_le_bytes());
        add(&base.0);
        add(&image.manifest_digest.0);
        add(&[self.root_disk as u8]);
        add(&self.level.to_le_bytes());
        add(self.ready.to_string().as_bytes());
        for list in [
            &argv(&image.config, overrides),
            &overrides.env,
            &overrides.user.iter().cloned().collect(),
            &overrides.working_dir.iter().cloned().collect(),
        ] {
            add(&(list.len() as u64).to_le_bytes());
            list.iter().for_each(|text| add(text.as_bytes()));
        }
        hasher.finish()
    }

    /// The name that was given, or the last part of the image's, without its tag.
    fn snapshot_name(&self) -> Result<String, BakeError> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let text = self.source.to_string();
        let last = text.rsplit('/').next().unwrap_or_default();
        let name = last.split(['@', ':']).next().unwrap_or_default();
        if name.is_empty() { Err(BakeError::InvalidName { name: text }) } else { Ok(name.into()) }
    }

    fn step(&self, step: &str) {
        if let Some(observer) = &self.observer {
            observer.step(step);
        }
    }
}

fn check_processor(baseline: Baseline) -> Result<(), BakeError> {
    let missing = missing_features(baseline);
    if missing.0.is_empty() { Ok(()) } else { Err(BakeError::Baseline { baseline, missing }) }
}

/// Passes a fetch's events on to a bake's observer.
struct Forward(Arc<dyn Observer>);

impl oci::Progress for Forward {
    fn event(&self, event: oci::Event<'_>) {
        self.0.fetch(event);
    }
}

/// Restores the base with the root disk in its slot and lets it run.
fn start(
    store: &Store,
    base: &Image,
    memory: MemoryFiles,
    disk: &Index,
    root_disk: RootDisk,
) -> Result<Machine, BakeError> {
    let file = expanded_disk(store.cache(), &store.source()?, disk)
        .map_err(BakeError::machine("start"))?;
    let size = disk.disks.first().map_or(0, |disk| disk.size);
    let mut snapshot = Snapshot::clone(base.snapshot());
    if let Some(slot) = snapshot.slots.get_mut(usize::from(ROOT_SLOT)) {
        *slot = root_disk.slot(size);
    }
    snapshot.disks = vec![Disk { size }];
    let origin = Origin::Files { memory, disks: vec![Arc::new(file)] };
    let parts = Restore { snapshot: Arc::new(snapshot), origin };
    let failed = |source: MachineError| BakeError::machine("start")(source.into());
    let machine = Machine::restore(parts, &mut Timings::start()).map_err(failed)?;
    let message = resume(None).map_err(BakeError::machine("start"))?;
    machine.send_control(&Control::Resume(message)).map_err(failed)?;
    machine.run();
    Ok(machine)
}

/// The snapshot as it is before it is known what its starts use.
struct Trial {
    image: Image,
}

impl Trial {
    fn new(
        store: &Store,
        capture: &Capture,
        behind: Behind<'_>,
        disk: &Index,
    ) -> Result<Self, BakeError> {
        let digest = capture.store(store, behind, Some(disk), Vec::new(), TRIAL_LEVEL)?;
        Ok(Self { image: store.open_image(digest)? })
    }

    /// Removes what only the trial had. Its blobs are those of one moment of one machine, so
    /// that no other snapshot has them.
    fn remove(self, store: &Store, kept: Digest) -> Result<(), BakeError> {
        let source = store.source()?;
        let (trial, kept) =
            (Manifest::read(&source, self.image.digest())?, Manifest::read(&source, kept)?);
        let own = trial.blobs().filter(|blob| kept.blobs().all(|other| other != *blob));
        for digest in own.map(|blob| blob.digest).chain([self.image.digest()]) {
            let path = store.layout().blob_path(digest);
            fs::remove_file(&path).map_err(BakeError::io("remove", path))?;
        }
        forget_mapped(store.cache(), self.image.digest());
        Ok(())
    }
}

fn attach(machine: &Machine, container: Container) -> Result<(), BakeError> {
    request(machine, &Request::Attach(container), "attachment of the image")?;
    match ask(machine, &Request::Start).and_then(Replies::only) {
        Ok(_) => Ok(()),
        Err(supermachine::Error::Agent { failure }) => {
            Err(BakeError::EntrypointMissing { failure })
        }
        Err(source) => Err(BakeError::machine("start of the entrypoint")(source)),
    }
}

fn request(machine: &Machine, request: &Request, step: &'static str) -> Result<Reply, BakeError> {
    ask(machine, request).and_then(Replies::only).map_err(BakeError::machine(step))
}
