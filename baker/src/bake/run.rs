//! The steps of a bake, in order.
//!
//! Fetch the image, write its files to a disk, find or bake the base, restore it with the disk in its
//! slot, let the agent attach and start the container, wait until it is ready, capture. The store
//! caches each step's result under the digest of its inputs.

use std::ffi::OsStr;
use std::fs;
use std::sync::Arc;

use supermachine::agent::{Replies, resume};
use supermachine::host::{architecture, missing_features};
use supermachine::{Image, Timings, VmConfig};
use supermachine_formats::pack::Index;
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::{self, Disk, Snapshot, Stage, Stop, Workload};
use supermachine_formats::wire::{self, Container, Control, DEFAULT_STOP_SIGNAL, Reply, Request};
use supermachine_formats::{Digest, Hasher};
use supermachine_snapshots::mapped::{expanded_disk, forget_mapped};
use supermachine_snapshots::pack::Manifest;
use supermachine_vmm::layout::ROOT_SLOT;
use supermachine_vmm::{Machine, MachineError, MemoryFiles, Origin, Restore};

use super::agent;
use super::base::BaseInputs;
use super::builder::OciImageBuilder;
use super::capture::{Capture, Parent, SnapshotInfo, capture};
use super::container::{argv, container, image_command, stop_signal};
use super::key::Key;
use super::observer::{Observer, Warning};
use super::root_disk::{self, RootDisk};
use super::warmup::Warmup;
use super::{readiness, trial};
use crate::boot::check_size;
use crate::error::{BakeError, HostError, InputError, WorkloadError};
use crate::oci::{
    self, BlobStore, Directories, FetchOptions, ImageConfig, ImageDescription, ImageSource,
    KeptArchive, Layer, Platform,
};
use crate::store::Store;

/// The host name of machines that are given none at their start. Not the snapshot's name: one
/// snapshot can have several.
const HOSTNAME: &str = "supermachine";
/// The zstd level of short-lived snapshots: the fastest.
const TRIAL_LEVEL: i32 = 1;
/// The version of what a bake does. Bump it with every change, so that cached results are not reused.
pub(crate) const RECIPE: u16 = 3;

/// The endings of archives that a snapshot's name does not keep.
const ARCHIVES: [&str; 4] = [".tar.gz", ".tar.xz", ".tar.zst", ".tar"];

/// A finished bake.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Baked {
    /// The snapshot's name in the store.
    pub name: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The digest of the image that it was baked from: that of an index, or of the only manifest.
    pub image: Digest,
    /// Whether it existed before.
    pub was_cached: bool,
}

impl OciImageBuilder {
    /// Does the steps of a bake that need no hypervisor: fetches the image and writes its files to a
    /// disk. A later bake of the same image with this store continues from there.
    ///
    /// # Errors
    /// The image cannot be fetched, or its layers are damaged.
    pub fn fetch(&self, store: &Store) -> Result<(), BakeError> {
        self.step("fetch");
        let downloads = downloads(store)?;
        let _kept = downloads.hold()?;
        let fetched = oci::fetch(&self.source, &downloads, &self.reporting_options())?;
        let added = self.files.layer(&downloads)?;
        check_platform(&fetched.config)?;
        let _hold = store.layout().hold()?;
        let diff_ids = layer_ids(&fetched.config, added.as_ref());
        let layers = || {
            self.step("root file system");
            Ok(fetched.layers.iter().cloned().chain(added).collect())
        };
        root_disk::find_or_make(store, &diff_ids, self.level, layers).map(drop)
    }

    /// Bakes the image.
    ///
    /// # Errors
    /// Any [`BakeError`]. The store keeps only what later bakes can use.
    pub fn bake(&self, store: &Store) -> Result<Baked, BakeError> {
        self.bake_as(store, self.snapshot_name()?, &|| Ok(()))
    }

    /// Bakes under another name. Calls `may_start` before a machine starts.
    pub(crate) fn bake_as(
        &self,
        store: &Store,
        name: String,
        may_start: &dyn Fn() -> Result<(), BakeError>,
    ) -> Result<Baked, BakeError> {
        store.check_name(&name)?;
        // Check before downloading.
        check_size(self.memory_mib, self.vcpus).map_err(|source| BakeError::Boot { source })?;
        check_processor(self.baseline)?;
        let downloads = downloads(store)?;
        let _kept = downloads.hold()?;
        let image = self.describe_image(&downloads)?;
        if argv(&image.description.config, &self.overrides).is_empty() && !self.for_commands {
            let reference = image.description.reference;
            return Err(BakeError::Input(InputError::NoCommand { reference }));
        }
        let base = self.base_inputs()?;
        let _hold = store.layout().hold()?;
        let (mut digest, mut was_cached) = once(store, self.key(&image, base.key()), || {
            may_start()?;
            self.make(store, &downloads, &image, &base)
        })?;
        if let Some(warmup) = &self.warmup {
            let key = self.warmed_key(digest, &name, warmup)?;
            let (warmed, is_known) = once(store, key, || {
                may_start()?;
                self.warm_up(store, digest, warmup)
            })?;
            (digest, was_cached) = (warmed, was_cached && is_known);
        }
        store.set_name(&name, digest)?;
        Ok(Baked { name, digest, image: image.description.root_digest, was_cached })
    }

    fn base_inputs(&self) -> Result<BaseInputs, BakeError> {
        BaseInputs::new(self.memory_mib, self.vcpus, self.baseline, self.level)
    }

    fn make(
        &self,
        store: &Store,
        downloads: &BlobStore,
        image: &BakedImage,
        base: &BaseInputs,
    ) -> Result<Digest, BakeError> {
        let disk = self.find_root_disk(store, downloads, image)?;
        let image = &image.description;
        self.step("base");
        let parent = base.find_or_make(store)?;
        self.step("start");
        let base = store.open_image(parent)?;
        let opening = || BakeError::machine("opening of the base");
        let memory = base.mapped().map_err(opening())?.memory.clone();
        let root_disk = self.root_disk.fitting(size_of_disk(&disk));
        let machine = start(store, &base, memory.clone(), &disk, root_disk)?;
        attach(&machine, &self.container(image, root_disk))?;
        if self.start_entrypoint(&machine, image)? {
            self.step("wait until ready");
            self.wait_until_ready(&machine, image)?;
        }
        self.step("capture");
        request(&machine, &Request::Settle, "capture")?;
        trial::exercise(&machine).map_err(BakeError::machine("capture"))?;
        let stop = stop_signal(&image.config).map(|signal| Stop { signal });
        let info = SnapshotInfo {
            stage: Stage::Image,
            parent,
            workload: Some(self.workload(image)),
            stop,
            image_command: Some(image_command(&image.config)),
            after_restore: self
                .after_restore
                .as_ref()
                .map(|action| snapshot::AfterRestore { action: action.to_string() }),
        };
        let capture = capture(&machine, info)?;
        drop(machine);
        let pack = base.pack().map_err(opening())?;
        let parent_pack = Parent { pack, memory: &memory, is_listed: true };
        self.finish(store, capture, parent_pack, Some(&disk))
    }

    /// The container for the agent to prepare.
    fn container(&self, image: &ImageDescription, root_disk: RootDisk) -> Container {
        let stop_signal = stop_signal(&image.config);
        let timeout = self.after_restore_timeout.as_millis();
        let mut container = container(&image.config, &self.overrides, root_disk, HOSTNAME);
        container.after_restore = wire::AfterRestore {
            action: self.after_restore.as_ref().and_then(|action| action.action(stop_signal)),
            timeout_ms: u64::try_from(timeout).unwrap_or(u64::MAX).max(1),
        };
        container.readiness = self.ready.of_restarted();
        container.stop_signal = stop_signal.unwrap_or(DEFAULT_STOP_SIGNAL);
        container
    }

    /// Starts the entrypoint, and returns whether there is one to wait for. A snapshot for commands
    /// can do without.
    fn start_entrypoint(
        &self,
        machine: &Machine,
        image: &ImageDescription,
    ) -> Result<bool, BakeError> {
        if argv(&image.config, &self.overrides).is_empty() {
            return Ok(false);
        }
        match agent::request(machine, &self.init.start()).and_then(Replies::only) {
            Ok(_) => Ok(true),
            Err(supermachine::Error::Agent { .. }) if self.for_commands => Ok(false),
            Err(supermachine::Error::Agent { failure }) => {
                Err(WorkloadError::EntrypointMissing { failure }.into())
            }
            Err(source) => Err(BakeError::machine("start of the entrypoint")(source)),
        }
    }

    /// Waits until the machine is ready. The entrypoint of a snapshot for commands may exit with any
    /// status.
    fn wait_until_ready(
        &self,
        machine: &Machine,
        image: &ImageDescription,
    ) -> Result<(), BakeError> {
        let ports = &image.config.exposed_ports;
        match readiness::wait(machine, &self.ready, ports, self.ready_timeout) {
            Err(BakeError::Workload(WorkloadError::EntrypointEnded { .. }))
                if self.for_commands =>
            {
                Ok(())
            }
            done => done,
        }
    }

    /// Starts the image's snapshot, runs the warm-up in it, and captures the result.
    fn warm_up(&self, store: &Store, parent: Digest, warmup: &Warmup) -> Result<Digest, BakeError> {
        self.step("warm up");
        let failed = || BakeError::machine("warm-up");
        let image = store.open_image(parent)?;
        let memory = image.mapped().map_err(failed())?.memory.clone();
        let vm = image.start(&VmConfig::new()).map_err(failed())?;
        warmup.run(&vm)?;
        self.step("capture");
        let machine = vm.machine().map_err(failed())?;
        request(machine, &Request::Settle, "capture")?;
        trial::exercise(machine).map_err(BakeError::machine("capture"))?;
        let snapshot = image.snapshot();
        let info = SnapshotInfo {
            stage: Stage::Warmed,
            parent,
            workload: snapshot.workload.clone(),
            stop: snapshot.stop,
            image_command: snapshot.image_command.clone(),
            after_restore: snapshot.after_restore.clone(),
        };
        let capture = capture(machine, info)?;
        drop(vm);
        let pack = image.pack().map_err(failed())?;
        let parent_pack = Parent { pack, memory: &memory, is_listed: true };
        // It has its parent's disks.
        self.finish(store, capture, parent_pack, None)
    }

    /// Runs a trial start of a capture, and stores it with the recorded pages and chunks.
    fn finish(
        &self,
        store: &Store,
        mut capture: Capture,
        parent_pack: Parent<'_>,
        disk: Option<&Index>,
    ) -> Result<Digest, BakeError> {
        self.step("trial start");
        let trial = Trial::new(store, &capture, parent_pack, disk)?;
        let stage = capture.snapshot.machine.stage;
        let observer = self.observer.as_ref().filter(|_| self.warns_of_generators(stage));
        let used = trial::observe(&trial.image, observer.is_some())
            .map_err(BakeError::machine("trial start"))?;
        capture.snapshot.working_set = used.working_set;
        if let Some(observer) = observer
            && !used.generators.is_empty()
        {
            observer.warn(&Warning::SharedRandomness { generators: used.generators });
        }
        self.step("store");
        let digest = capture.store(store, parent_pack, disk, used.order, self.level)?;
        // The snapshot shares almost all of the trial's files, so it is expanded already.
        let opened = store.open_image(digest)?;
        opened.mapped().map_err(BakeError::machine("opening of the snapshot"))?;
        trial.remove(store, digest)?;
        Ok(digest)
    }

    fn workload(&self, image: &ImageDescription) -> Workload {
        Workload {
            reference: image.reference.clone(),
            manifest: image.manifest_digest,
            argv: argv(&image.config, &self.overrides),
            ready: self.ready.to_string(),
            exposed_ports: image.config.exposed_ports.clone(),
        }
    }

    fn describe_image(&self, downloads: &BlobStore) -> Result<BakedImage, BakeError> {
        self.step("fetch");
        let source = KeptArchive::of(&self.source, downloads)?;
        let mut description = oci::describe(source.source(), downloads, &self.reporting_options())?;
        description.reference = self.source.to_string();
        let added = self.files.layer(downloads)?;
        check_platform(&description.config)?;
        Ok(BakedImage { source, description, added })
    }

    /// Finds the root file system in the store, or builds it. Fetches layers only to build.
    fn find_root_disk(
        &self,
        store: &Store,
        downloads: &BlobStore,
        image: &BakedImage,
    ) -> Result<Index, BakeError> {
        let BakedImage { source, description, added } = image;
        let diff_ids = layer_ids(&description.config, added.as_ref());
        root_disk::find_or_make(store, &diff_ids, self.level, || {
            // The tag may have moved since.
            let source = match source.source() {
                ImageSource::Registry(reference) if reference.digest().is_none() => {
                    ImageSource::Registry(reference.pinned(description.root_digest))
                }
                source => source.clone(),
            };
            let fetched = oci::fetch(&source, downloads, &self.reporting_options())?;
            self.step("root file system");
            Ok(fetched.layers.into_iter().chain(added.clone()).collect())
        })
    }

    /// The fetch options, with events forwarded to the observer.
    fn reporting_options(&self) -> FetchOptions {
        let mut options = self.fetch.clone();
        if let Some(observer) = &self.observer {
            options.progress = Some(Arc::new(Forward(Arc::clone(observer))));
        }
        options
    }

    /// The digest of all inputs of the snapshot.
    fn key(&self, image: &BakedImage, base: Digest) -> Digest {
        let BakedImage { description, added, .. } = image;
        let layers = layer_ids(&description.config, added.as_ref());
        let overrides = &self.overrides;
        let mut key = Key::new();
        key.add(b"image");
        key.add(&RECIPE.to_le_bytes());
        key.add(&base.0);
        key.add(&description.manifest_digest.0);
        key.add(&(layers.len() as u64).to_le_bytes());
        layers.iter().for_each(|(diff_id, _)| key.add(&diff_id.0));
        key.add(&[self.root_disk as u8]);
        key.add(&self.level.to_le_bytes());
        key.add(self.ready.to_string().as_bytes());
        key.list(&argv(&description.config, overrides));
        key.list(&overrides.env);
        key.list(overrides.user.as_slice());
        key.list(overrides.working_dir.as_slice());
        overrides.settings.add_to(&mut key);
        key.add(&[u8::from(self.for_commands), self.init as u8]);
        self.add_after_restore(&mut key);
        key.finish()
    }

    /// Adds what runs after a restore to a key.
    pub(crate) fn add_after_restore(&self, key: &mut Key) {
        let action = self.after_restore.as_ref().map(ToString::to_string);
        key.list(action.as_slice());
        key.add(&self.after_restore_timeout.as_nanos().to_le_bytes());
    }

    fn warmed_key(&self, image: Digest, name: &str, warmup: &Warmup) -> Result<Digest, BakeError> {
        let mut hasher = Hasher::new();
        hasher.update(b"warmed");
        hasher.update(&RECIPE.to_le_bytes());
        hasher.update(&image.0);
        hasher.update(&self.level.to_le_bytes());
        hasher.update(&warmup.identity(name, self.warmup_tag.as_deref())?.0);
        Ok(hasher.finish())
    }

    /// The caller's name, or the last part of the image's without its tag, or the file's without its
    /// ending.
    pub(crate) fn snapshot_name(&self) -> Result<String, BakeError> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let name = match &self.source {
            ImageSource::Registry(reference) => reference.repository().rsplit('/').next(),
            ImageSource::Layout { path, .. } => path.file_name().and_then(OsStr::to_str),
            ImageSource::OciArchive { path, .. }
            | ImageSource::DockerArchive { path, .. }
            | ImageSource::Archive { path } => {
                let name = path.file_name().and_then(OsStr::to_str);
                name.map(|name| {
                    ARCHIVES.iter().find_map(|it| name.strip_suffix(it)).unwrap_or(name)
                })
            }
        };
        match name {
            // Standard input.
            None | Some("" | "-") => {
                let path = self.source.to_string().into();
                Err(BakeError::Input(InputError::Nameless { path }))
            }
            Some(name) => Ok(name.to_owned()),
        }
    }

    /// Whether random generators in a snapshot of this stage are worth a warning: once for a bake, and not
    /// for commands, which are new processes in each machine.
    fn warns_of_generators(&self, stage: Stage) -> bool {
        let is_last = self.warmup.is_none() || stage == Stage::Warmed;
        is_last && self.after_restore.is_none() && !self.for_commands
    }

    fn step(&self, step: &str) {
        if let Some(observer) = &self.observer {
            observer.step(step);
        }
    }
}

/// An image to bake, and the files added to it.
struct BakedImage {
    source: KeptArchive,
    description: ImageDescription,
    added: Option<Layer>,
}

/// The layers by their uncompressed digests, lowest first.
fn layer_ids(config: &ImageConfig, added: Option<&Layer>) -> Vec<(Digest, Directories)> {
    let own = config.diff_ids.iter().map(|diff_id| (*diff_id, Directories::Replace));
    own.chain(added.map(|layer| (layer.diff_id, layer.directories))).collect()
}

/// Refuses an image that guests of this host cannot run.
fn check_platform(config: &ImageConfig) -> Result<(), BakeError> {
    let host = Platform::host();
    match config.platform() {
        Some(found) if !found.same_architecture(&host) => {
            let (found, host) = (found.to_string(), host.to_string());
            Err(BakeError::Host(HostError::Platform { found, host }))
        }
        _ => Ok(()),
    }
}

fn downloads(store: &Store) -> Result<BlobStore, BakeError> {
    Ok(BlobStore::open(store.cache().join("downloads"))?)
}

fn check_processor(baseline: Baseline) -> Result<(), BakeError> {
    let architecture = architecture();
    if !Baseline::all(architecture).contains(&baseline) {
        return Err(BakeError::Host(HostError::OtherBaseline { baseline, architecture }));
    }
    let missing = missing_features(baseline);
    if missing.0.is_empty() {
        Ok(())
    } else {
        Err(BakeError::Host(HostError::Baseline { baseline, missing }))
    }
}

/// The cached result of a key's inputs, or a new one. Other processes that need the same one wait.
/// Returns whether it was cached.
fn once(
    store: &Store,
    key: Digest,
    make: impl FnOnce() -> Result<Digest, BakeError>,
) -> Result<(Digest, bool), BakeError> {
    let _turn = store.lock(key)?;
    if let Some(digest) = store.made_snapshot(key) {
        return Ok((digest, true));
    }
    let digest = make()?;
    store.remember(key, digest)?;
    Ok((digest, false))
}

/// Forwards a fetch's events to a bake's observer.
struct Forward(Arc<dyn Observer>);

impl oci::Progress for Forward {
    fn event(&self, event: oci::Event<'_>) {
        self.0.fetch(event);
    }
}

fn size_of_disk(index: &Index) -> u64 {
    index.disks.first().map_or(0, |disk| disk.size)
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
        .map_err(supermachine::Error::from)
        .map_err(BakeError::machine("start"))?;
    let size = size_of_disk(disk);
    let mut snapshot = Snapshot::clone(base.snapshot());
    if let Some(slot) = snapshot.slots.get_mut(usize::from(ROOT_SLOT)) {
        *slot = root_disk.slot(size);
    }
    snapshot.disks = vec![Disk { size }];
    let origin = Origin::Files { memory, disks: vec![Arc::new(file)] };
    let parts = Restore::new(Arc::new(snapshot), origin);
    let failed = |source: MachineError| BakeError::machine("start")(source.into());
    let machine = Machine::restore(parts, &mut Timings::start()).map_err(failed)?;
    let message = resume(None).map_err(BakeError::machine("start"))?;
    machine.send_control(&Control::Resume(message)).map_err(failed)?;
    machine.run();
    Ok(machine)
}

/// A snapshot without recorded pages and chunks, for the trial start.
struct Trial {
    image: Image,
}

impl Trial {
    fn new(
        store: &Store,
        capture: &Capture,
        parent_pack: Parent<'_>,
        disk: Option<&Index>,
    ) -> Result<Self, BakeError> {
        let digest = capture.store(store, parent_pack, disk, Vec::new(), TRIAL_LEVEL)?;
        Ok(Self { image: store.open_image(digest)? })
    }

    /// Removes the trial's own blobs. They hold one moment of one machine, so no other snapshot shares
    /// them.
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

fn attach(machine: &Machine, container: &Container) -> Result<(), BakeError> {
    request(machine, &Request::Attach(container.encode()), "attachment of the image").map(drop)
}

fn request(machine: &Machine, request: &Request, step: &'static str) -> Result<Reply, BakeError> {
    agent::request(machine, request).and_then(Replies::only).map_err(BakeError::machine(step))
}
