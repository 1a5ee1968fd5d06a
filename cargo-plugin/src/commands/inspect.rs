//! `supermachine inspect`: all about a snapshot.

use std::io::{self, Write};

use serde::Serialize;
use supermachine_baker::{BakeError, Store};
use supermachine_formats::Digest;
use supermachine_formats::snapshot::baseline::FeatureWord;
use supermachine_formats::snapshot::device::Slot;
use supermachine_formats::snapshot::memory::{PAGE_SIZE, Run};
use supermachine_formats::snapshot::{Architecture, HypervisorFamily, Snapshot, Stage, Workload};

use crate::error::Error;
use crate::store::{Lineage, Sizes};
use crate::{Globals, format, store};

/// Tell all about a snapshot
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The snapshot
    #[arg(value_name = "NAME")]
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    name: String,
    digest: String,
    image: Option<Image>,
    architecture: &'static str,
    hypervisor: &'static str,
    processor: Processor,
    memory_mib: u64,
    vcpus: u16,
    lineage: Vec<Ancestor>,
    disks: Vec<Disk>,
    slots: Vec<&'static str>,
    working_set: WorkingSet,
    /// Bytes of this snapshot alone.
    own: Sizes,
    /// Bytes of those that it builds on.
    shared: Sizes,
}

#[derive(Debug, Serialize)]
struct Processor {
    baseline: &'static str,
    /// What a host's processor must have, as `/proc/cpuinfo` names it.
    features: Vec<String>,
    /// The rate of the time-stamp counter.
    tsc_khz: u32,
}

#[derive(Debug, Serialize)]
struct Image {
    reference: String,
    manifest: String,
    entrypoint: Vec<String>,
    ready: String,
    ports: Vec<u16>,
}

#[derive(Debug, Serialize)]
struct Ancestor {
    stage: &'static str,
    digest: String,
    #[serde(skip)]
    short: String,
    own_pages: u64,
    size: u64,
}

#[derive(Debug, Serialize)]
struct Disk {
    digest: String,
    size: u64,
}

#[derive(Debug, Serialize)]
struct WorkingSet {
    written_pages: u64,
    read_pages: u64,
}

/// Prints what there is to know.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let Some(store) = store::open_existing(globals.store.as_deref())? else {
        let store = store::dir(globals.store.as_deref())?;
        return Err(BakeError::NoSuchName { name: args.name.clone(), store }.into());
    };
    let digest = store.digest(&args.name)?;
    let lineage = store::lineage(&store, digest)?;
    let report = Report::new(&args.name, digest, &lineage, &store);
    let text = if args.json { format::json(&report) } else { report.text() };
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(0)
}

impl Report {
    fn new(name: &str, digest: Digest, lineage: &Lineage, store: &Store) -> Self {
        let snapshot = lineage.snapshot();
        Self {
            name: name.to_owned(),
            digest: digest.to_string(),
            image: snapshot.workload.as_ref().map(Image::new),
            architecture: architecture(snapshot),
            hypervisor: hypervisor(snapshot),
            processor: Processor::new(snapshot),
            memory_mib: snapshot.machine.memory_size >> 20,
            vcpus: snapshot.machine.vcpus,
            lineage: lineage.stages().map(|stage| Ancestor::new(store, stage)).collect(),
            disks: snapshot.disks.iter().map(Disk::new).collect(),
            slots: snapshot.slots.iter().map(device).collect(),
            working_set: WorkingSet {
                written_pages: pages(&snapshot.working_set.written),
                read_pages: pages(&snapshot.working_set.read),
            },
            own: lineage.own(store),
            shared: lineage.shared(store),
        }
    }

    fn text(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |label: &str, text: String| rows.push([label.to_owned(), text]);
        row("name", self.name.clone());
        row("digest", self.digest.clone());
        if let Some(image) = &self.image {
            let words: Vec<_> =
                image.entrypoint.iter().map(|word| format::shell_word(word)).collect();
            let ports: Vec<_> = image.ports.iter().map(u16::to_string).collect();
            row("image", image.reference.clone());
            row("manifest", image.manifest.clone());
            row("entrypoint", words.join(" "));
            row("ready", image.ready.clone());
            row("ports", or_none(ports.join(", ")));
        }
        row("machine", format!("{} on {}", self.architecture, self.hypervisor));
        let Processor { baseline, features, tsc_khz } = &self.processor;
        row("processor", format!("{baseline}, time-stamp counter at {} MHz", tsc_khz / 1000));
        row("needs", features.join(" "));
        row("memory", format!("{} MiB", self.memory_mib));
        row("vcpus", self.vcpus.to_string());
        let filled: Vec<_> = self.slots.iter().copied().filter(|kind| *kind != "empty").collect();
        row("slots", format!("{} of {}: {}", filled.len(), self.slots.len(), filled.join(", ")));
        for disk in &self.disks {
            row("disk", format!("{}, {}", disk.digest, format::bytes(disk.size)));
        }
        for (index, ancestor) in self.lineage.iter().enumerate() {
            let label = if index == 0 { "lineage" } else { "" };
            let Ancestor { stage, short, own_pages, size, .. } = ancestor;
            let size = format::bytes(*size);
            row(label, format!("{stage:5} {short}  {own_pages} pages of its own, {size}"));
        }
        let WorkingSet { written_pages, read_pages } = self.working_set;
        let bytes = format::bytes((written_pages + read_pages).saturating_mul(PAGE_SIZE));
        row(
            "working set",
            format!("{written_pages} pages written, {read_pages} read, {bytes} of memory"),
        );
        let (own, shared) = (format::bytes(self.own.total()), format::bytes(self.shared.total()));
        row("size", format!("{own} of its own, {shared} that others share"));
        format::table(&rows)
    }
}

impl Processor {
    fn new(snapshot: &Snapshot) -> Self {
        let processor = &snapshot.processor;
        Self {
            baseline: processor.baseline.name(),
            features: processor.features.iter().flat_map(FeatureWord::names).collect(),
            tsc_khz: snapshot.clock.tsc_khz,
        }
    }
}

impl Image {
    fn new(workload: &Workload) -> Self {
        Self {
            reference: workload.reference.clone(),
            manifest: workload.manifest.to_string(),
            entrypoint: workload.argv.clone(),
            ready: workload.ready.clone(),
            ports: workload.exposed_ports.clone(),
        }
    }
}

impl Ancestor {
    fn new(store: &Store, stage: &(Digest, Snapshot)) -> Self {
        let (digest, snapshot) = stage;
        Self {
            stage: match snapshot.machine.stage {
                Stage::Boot => "boot",
                Stage::Base => "base",
                Stage::Image => "image",
            },
            digest: digest.to_string(),
            short: format::short(*digest),
            own_pages: snapshot.memory.own_pages(),
            size: Sizes::of(store, stage).total(),
        }
    }
}

impl Disk {
    fn new(disk: &supermachine_formats::snapshot::Disk) -> Self {
        Self { digest: disk.blob.to_string(), size: disk.size }
    }
}

fn architecture(snapshot: &Snapshot) -> &'static str {
    match snapshot.architecture {
        Architecture::X86_64 => "x86_64",
        Architecture::Aarch64 => "aarch64",
    }
}

fn hypervisor(snapshot: &Snapshot) -> &'static str {
    match snapshot.hypervisor {
        HypervisorFamily::Any => "any hypervisor",
        HypervisorFamily::Kvm => "KVM",
        HypervisorFamily::Hvf => "Hypervisor.framework",
        HypervisorFamily::Whp => "Windows Hypervisor Platform",
    }
}

fn device(slot: &Slot) -> &'static str {
    match slot {
        Slot::Empty => "empty",
        Slot::Vsock(..) => "vsock",
        Slot::Rng(..) => "rng",
        Slot::Pmem(..) => "pmem",
        Slot::Block(..) => "block",
        _ => "other",
    }
}

fn pages(runs: &[Run]) -> u64 {
    runs.iter().map(|run| u64::from(run.count)).sum()
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}
