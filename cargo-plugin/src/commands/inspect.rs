//! `supermachine inspect`: shows the details of a snapshot.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use supermachine_baker::{Footprint, Sizes, Summary};
use supermachine_formats::snapshot::arch::ArchState;
use supermachine_formats::snapshot::arch::x86_64::baseline::FeatureWord;
use supermachine_formats::snapshot::device::Slot;
use supermachine_formats::snapshot::memory::{PAGE_SIZE, Run};
use supermachine_formats::snapshot::{FORMAT_VERSION, Snapshot, Workload};

use crate::error::Error;
use crate::globals::Globals;
use crate::{format, store};

/// Show the details of a snapshot
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show this snapshot
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
    /// What each machine does after its restore.
    after_restore: Option<String>,
    architecture: String,
    hypervisor: String,
    processor: Processor,
    format_version: u16,
    memory_mib: u64,
    vcpus: u16,
    lineage: Vec<Ancestor>,
    disks: Vec<Disk>,
    slots: Vec<&'static str>,
    working_set: WorkingSet,
    /// Bytes of this snapshot alone.
    own: Size,
    /// Bytes that it shares with other snapshots.
    shared: Size,
    shared_with: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct Processor {
    baseline: &'static str,
    /// Features that the host's processor must have: as `/proc/cpuinfo` names them, on arm64 fields of
    /// its identification registers.
    features: Vec<String>,
    /// The frequency of the time-stamp counter; absent on arm64.
    #[serde(skip_serializing_if = "Option::is_none")]
    tsc_khz: Option<u32>,
    /// The frequency of the counter; absent on x86_64.
    #[serde(skip_serializing_if = "Option::is_none")]
    counter_hz: Option<u32>,
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
    size: u64,
}

#[derive(Debug, Serialize)]
struct Disk {
    size: u64,
}

#[derive(Debug, Serialize)]
struct Size {
    description: u64,
    memory: u64,
    disks: u64,
    total: u64,
}

#[derive(Debug, Serialize)]
struct WorkingSet {
    written_pages: u64,
    read_pages: u64,
}

/// Prints the details.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let store = store::open_for(globals.store.as_deref(), &args.name)?;
    let lineage = store.lineage(store.digest(&args.name)?)?;
    let footprint = store.footprint(&args.name)?;
    let Some(summary) = lineage.first() else { return Ok(1) };
    let report = Report::new(&args.name, summary, &lineage, footprint);
    let text = if args.json { format::json(&report) } else { report.text() };
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(0)
}

impl Report {
    fn new(name: &str, summary: &Summary, lineage: &[Summary], footprint: Footprint) -> Self {
        let snapshot = &summary.snapshot;
        Self {
            name: name.to_owned(),
            digest: summary.descriptor.digest.to_string(),
            image: snapshot.workload.as_ref().map(Image::new),
            after_restore: snapshot.after_restore.as_ref().map(|it| it.action.clone()),
            architecture: snapshot.arch.architecture().to_string(),
            hypervisor: snapshot.hypervisor.to_string(),
            processor: Processor::new(snapshot),
            format_version: FORMAT_VERSION,
            memory_mib: snapshot.machine.memory_size >> 20,
            vcpus: snapshot.machine.vcpus,
            lineage: lineage.iter().map(Ancestor::new).collect(),
            disks: snapshot.disks.iter().map(|disk| Disk { size: disk.size }).collect(),
            slots: snapshot.slots.iter().map(device).collect(),
            working_set: WorkingSet {
                written_pages: pages(&snapshot.working_set.written),
                read_pages: pages(&snapshot.working_set.read),
            },
            own: Size::new(footprint.own),
            shared: Size::new(footprint.shared),
            shared_with: footprint.shared_with,
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
        if let Some(action) = &self.after_restore {
            row("after restore", action.clone());
        }
        row("machine", format!("{} on {}", self.architecture, self.hypervisor));
        let Processor { baseline, features, tsc_khz, counter_hz } = &self.processor;
        let (kind, khz) = match (tsc_khz, counter_hz) {
            (Some(khz), _) => ("time-stamp counter", *khz),
            (None, hz) => ("counter", hz.unwrap_or(0) / 1000),
        };
        row("processor", format!("{baseline}, {kind} at {} MHz", khz / 1000));
        row("needs", features.join(" "));
        row("format", format!("version {}", self.format_version));
        row("memory", format!("{} MiB", self.memory_mib));
        row("vcpus", self.vcpus.to_string());
        let filled: Vec<_> = self.slots.iter().copied().filter(|kind| *kind != "empty").collect();
        row("slots", format!("{} of {}: {}", filled.len(), self.slots.len(), filled.join(", ")));
        for disk in &self.disks {
            row("disk", format::bytes(disk.size));
        }
        for (index, ancestor) in self.lineage.iter().enumerate() {
            let label = if index == 0 { "lineage" } else { "" };
            let Ancestor { stage, short, size, .. } = ancestor;
            row(label, format!("{stage:6} {short}  {}", format::bytes(*size)));
        }
        let WorkingSet { written_pages, read_pages } = self.working_set;
        let bytes = format::bytes((written_pages + read_pages).saturating_mul(PAGE_SIZE));
        row(
            "working set",
            format!("{written_pages} pages written, {read_pages} read, {bytes} of memory"),
        );
        row("own", self.own.text());
        row("shared", self.shared.text());
        for (index, (name, bytes)) in self.shared_with.iter().enumerate() {
            let label = if index == 0 { "shared with" } else { "" };
            row(label, format!("{name}, {}", format::bytes(*bytes)));
        }
        format::table(&rows)
    }
}

impl Processor {
    fn new(snapshot: &Snapshot) -> Self {
        let baseline = snapshot.arch.baseline().name();
        let (tsc_khz, counter_hz) = (None, None);
        match &snapshot.arch {
            ArchState::X86_64(state) => {
                let features = state.processor.features.iter().flat_map(FeatureWord::names);
                let tsc_khz = Some(state.clock.tsc_khz);
                Self { baseline, features: features.collect(), tsc_khz, counter_hz }
            }
            ArchState::Aarch64(state) => {
                let counter_hz = Some(state.counter.frequency_hz);
                Self { baseline, features: state.processor.fields(), tsc_khz, counter_hz }
            }
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
    fn new(summary: &Summary) -> Self {
        let digest = summary.descriptor.digest;
        Self {
            stage: summary.snapshot.machine.stage.name(),
            digest: digest.to_string(),
            short: format::short(digest),
            size: summary.size(),
        }
    }
}

impl Size {
    fn new(sizes: Sizes) -> Self {
        let Sizes { description, memory, disks, .. } = sizes;
        Self { description, memory, disks, total: sizes.total() }
    }

    fn text(&self) -> String {
        let [total, memory, disks] = [self.total, self.memory, self.disks].map(format::bytes);
        format!("{total}: memory {memory}, disks {disks}")
    }
}

fn device(slot: &Slot) -> &'static str {
    match slot {
        Slot::Empty => "empty",
        Slot::Vsock(..) => "vsock",
        Slot::Rng(..) => "rng",
        Slot::Pmem(..) => "pmem",
        Slot::Block(..) => "block",
        Slot::Net(..) => "net",
        _ => "other",
    }
}

fn pages(runs: &[Run]) -> u64 {
    runs.iter().map(|run| u64::from(run.count)).sum()
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}
