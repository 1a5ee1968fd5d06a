//! Baking: an image reference in, a snapshot in the store out.
//!
//! Fetch the image, lay its files out as a disk, find or make the base, restore it with the
//! disk in its slot, let the agent attach and start the container, wait until it is ready,
//! capture. Every step's result is remembered by the digest of what went into it.

use std::fs;
use std::sync::Arc;

use supermachine::agent::{Replies, resume};
use supermachine::host::missing_features;
use supermachine::{Image, Timings, VmConfig};
use supermachine_formats::pack::Index;
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::{Disk, Snapshot, Stage, Stop, Workload};
use supermachine_formats::wire::{Container, Control, Reply, Request};
use supermachine_formats::{Digest, Hasher};
use supermachine_snapshots::mapped::{expanded_disk, forget_mapped};
use supermachine_snapshots::pack::Manifest;
use supermachine_vmm::layout::ROOT_SLOT;
use supermachine_vmm::{Machine, MachineError, MemoryFiles, Origin, Restore};

use crate::ask::ask;
use crate::base::BaseInputs;
use crate::boot::check_size;
use crate::capture::{Behind, Capture, Kind, capture};
use crate::container::{argv, container, image_command, stop_signal};
use crate::key::Key;
use crate::oci::{self, BlobStore, OciImage, Platform};
use crate::root_disk::{self, RootDisk};
use crate::warmup::Warmup;
use crate::{BakeError, OciImageBuilder, Store, ready, warm};

/// What machines are called until they are given a name at their start. Not the snapshot's
/// name: one snapshot can have several.
const HOSTNAME: &str = "supermachine";
/// What only lives for a moment is compressed as quickly as can be.
const TRIAL_LEVEL: i32 = 1;
/// A change of what a bake does must change this, so that what was remembered before is not
/// taken for it.
pub(crate) const RECIPE: u16 = 2;

/// Told what a bake does. Called from any thread, and not to block.
pub trait Observer: Send + Sync {
    /// A step begins.
    fn step(&self, step: &str);

    /// Something happens while the image is fetched.
    fn fetch(&self, event: oci::Event<'_>);
}

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
    /// Whether it was there already.
    pub was_cached: bool,
}

impl OciImageBuilder {
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
        self.bake_as(store, self.snapshot_name()?, &|| Ok(()))
    }

    /// Bakes under another name. Before a machine is started, `may_start` is asked.
    pub(crate) fn bake_as(
        &self,
        store: &Store,
        name: String,
        may_start: &dyn Fn() -> Result<(), BakeError>,
    ) -> Result<Baked, BakeError> {
        store.check_name(&name)?;
        // Before anything is downloaded for nothing.
        check_size(self.memory_mib, self.vcpus).map_err(|source| BakeError::Boot { source })?;
        check_processor(self.baseline)?;
        let image = self.fetch_image(store)?;
        if argv(&image.config, &self.overrides).is_empty() && !self.for_commands {
            return Err(BakeError::NoCommand { reference: image.reference });
        }
        let base = self.base_inputs()?;
        let _hold = store.layout().hold()?;
        let (mut digest, mut was_cached) = once(store, self.key(&image, base.key()), || {
            may_start()?;
            self.make(store, &image, &base)
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
        Ok(Baked { name, digest, image: image.root_digest, was_cached })
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
        if self.start_entrypoint(&machine, image)? {
            self.step("wait until ready");
            self.wait_until_ready(&machine, image)?;
        }
        self.step("capture");
        request(&machine, &Request::Settle, "capture")?;
        warm::exercise(&machine).map_err(BakeError::machine("capture"))?;
        let stop = stop_signal(&image.config).map(|signal| Stop { signal });
        let kind = Kind {
            stage: Stage::Image,
            parent,
            workload: Some(self.workload(image)),
            stop,
            image_command: Some(image_command(&image.config)),
        };
        let capture = capture(&machine, kind)?;
        drop(machine);
        let pack = base.pack().map_err(opening())?;
        let behind = Behind { pack, memory: &memory, is_listed: true };
        self.finish(store, capture, behind, Some(&disk))
    }

    /// Starts the entrypoint, and returns whether there is one to wait for. A snapshot for commands
    /// can do without.
    fn start_entrypoint(&self, machine: &Machine, image: &OciImage) -> Result<bool, BakeError> {
        if argv(&image.config, &self.overrides).is_empty() {
            return Ok(false);
        }
        match ask(machine, &Request::Start).and_then(Replies::only) {
            Ok(_) => Ok(true),
            Err(supermachine::Error::Agent { .. }) if self.for_commands => Ok(false),
            Err(supermachine::Error::Agent { failure }) => {
                Err(BakeError::EntrypointMissing { failure })
            }
            Err(source) => Err(BakeError::machine("start of the entrypoint")(source)),
        }
    }

    /// Waits until the machine is ready. The entrypoint of a snapshot for commands may exit with any
    /// status.
    fn wait_until_ready(&self, machine: &Machine, image: &OciImage) -> Result<(), BakeError> {
        let ports = &image.config.exposed_ports;
        match ready::wait(machine, &self.ready, ports, self.ready_timeout) {
            Err(BakeError::EntrypointEnded { .. }) if self.for_commands => Ok(()),
            done => done,
        }
    }

    /// Starts the image's snapshot, runs the warm-up in it, and captures what it leaves.
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
        warm::exercise(machine).map_err(BakeError::machine("capture"))?;
        let snapshot = image.snapshot();
        let kind = Kind {
            stage: Stage::Warmed,
            parent,
            workload: snapshot.workload.clone(),
            stop: snapshot.stop,
            image_command: snapshot.image_command.clone(),
        };
        let capture = capture(machine, kind)?;
        drop(vm);
        let pack = image.pack().map_err(failed())?;
        let behind = Behind { pack, memory: &memory, is_listed: true };
        // Its disks are its parent's.
        self.finish(store, capture, behind, None)
    }

    /// Starts a capture on trial and stores it with what that tells.
    fn finish(
        &self,
        store: &Store,
        mut capture: Capture,
        behind: Behind<'_>,
        disk: Option<&Index>,
    ) -> Result<Digest, BakeError> {
        self.step("trial start");
        let trial = Trial::new(store, &capture, behind, disk)?;
        let used = warm::observe(&trial.image).map_err(BakeError::machine("trial start"))?;
        capture.snapshot.working_set = used.working_set;
        self.step("store");
        let digest = capture.store(store, behind, disk, used.order, self.level)?;
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
        let mut image = oci::fetch(&self.source, &downloads, &options)?;
        image.layers.extend(self.files.layer(&downloads)?);
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
        let mut key = Key::new();
        key.add(b"image");
        key.add(&RECIPE.to_le_bytes());
        key.add(&base.0);
        key.add(&image.manifest_digest.0);
        key.add(&(image.layers.len() as u64).to_le_bytes());
        image.layers.iter().for_each(|layer| key.add(&layer.diff_id.0));
        key.add(&[self.root_disk as u8]);
        key.add(&self.level.to_le_bytes());
        key.add(self.ready.to_string().as_bytes());
        key.list(&argv(&image.config, overrides));
        key.list(&overrides.env);
        key.list(overrides.user.as_slice());
        key.list(overrides.working_dir.as_slice());
        key.add(&[u8::from(self.for_commands)]);
        key.finish()
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

    /// The name that was given, or the last part of the image's, without its tag.
    pub(crate) fn snapshot_name(&self) -> Result<String, BakeError> {
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

/// What the key's inputs gave before, or give now; whoever else wants it waits. Tells whether it
/// was there.
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
        .map_err(supermachine::Error::from)
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
        disk: Option<&Index>,
    ) -> Result<Self, BakeError> {
        let digest = capture.store(store, behind, disk, Vec::new(), TRIAL_LEVEL)?;
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
    request(machine, &Request::Attach(container), "attachment of the image").map(drop)
}

fn request(machine: &Machine, request: &Request, step: &'static str) -> Result<Reply, BakeError> {
    ask(machine, request).and_then(Replies::only).map_err(BakeError::machine(step))
}
