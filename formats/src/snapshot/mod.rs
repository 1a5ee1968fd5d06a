//! A snapshot's state file: everything of a machine but its memory and disks.
//!
//! The file is a header, a table of tagged sections with their digests, and the sections.
//! The header alone tells the format's version, the architecture and the hypervisor family.
//! [`Snapshot::decode`] checks every digest; [`Snapshot::decode_trusted`] is for files whose
//! digest was checked before and which are known to be unchanged since.

pub mod baseline;
mod container;
pub mod device;
pub mod memory;
#[cfg(test)]
mod tests;
pub mod x86_64;

use alloc::string::String;
use alloc::vec::Vec;

pub use container::{
    FORMAT_VERSION, HEADER_SIZE, MAGIC, MAX_SECTIONS, SnapshotError, TABLE_ENTRY_SIZE,
};

use crate::Digest;
use crate::record::{byte_enum, record};
use baseline::Processor;
use container::Container;
use memory::Run;

byte_enum! {
    /// The processor architecture of a snapshot.
    pub enum Architecture {
        /// AMD64 and Intel 64.
        X86_64 = 1,
        /// 64-bit Arm.
        Aarch64 = 2,
    }

    /// The hypervisors that a snapshot can be restored on.
    pub enum HypervisorFamily {
        /// Any: it was never run.
        Any = 0,
        /// Linux KVM.
        Kvm = 1,
        /// Apple's Hypervisor.framework.
        Hvf = 2,
        /// Windows Hypervisor Platform.
        Whp = 3,
    }

    /// Where a snapshot stands in the chain.
    pub enum Stage {
        /// Laid out, never run.
        Boot = 0,
        /// Kernel and agent are up and idle.
        Base = 1,
        /// An image's entrypoint is ready.
        Image = 2,
        /// Taken of a running machine.
        Live = 3,
        /// A warm-up ran after the image's entrypoint was ready.
        Warmed = 4,
    }
}

impl Architecture {
    /// The name that image platforms have for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }
}

impl HypervisorFamily {
    /// Its name, as people and tools are told it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Kvm => "kvm",
            Self::Hvf => "hvf",
            Self::Whp => "whp",
        }
    }
}

impl Stage {
    /// Its name, as people and tools are told it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Base => "base",
            Self::Image => "image",
            Self::Live => "live",
            Self::Warmed => "warmed",
        }
    }
}

record! {
    /// What a machine is.
    pub struct Machine {
        /// Where the snapshot stands in the chain.
        stage: Stage,
        /// The manifest of the snapshot that this one builds on.
        parent: Option<Digest>,
        /// Bytes of guest RAM.
        memory_size: u64,
        /// Virtual processors.
        vcpus: u16,
    }

    /// What runs in a machine, for people and tools. A restore does not need it.
    pub struct Workload {
        /// The image as it was asked for.
        reference: String,
        /// The image's manifest.
        manifest: Digest,
        /// The entrypoint and its arguments.
        argv: Vec<String>,
        /// The readiness that was waited for.
        ready: String,
        /// TCP ports that the image says it listens on.
        exposed_ports: Vec<u16>,
    }

    /// How the entrypoint is asked to end. A restore does not need it.
    #[derive(Copy)]
    pub struct Stop {
        /// The signal, 1 to 64.
        signal: u8,
    }

    /// A disk that the machine has. Its content is in the index.
    #[derive(Copy)]
    pub struct Disk {
        /// Its size in bytes.
        size: u64,
    }
}

/// The most virtual processors of a machine.
pub const MAX_VCPUS: usize = 64;
/// The most slots, and the most disks, of a machine.
pub const MAX_SLOTS: usize = 64;

/// The whole state of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The processor architecture.
    pub architecture: Architecture,
    /// The hypervisors it can be restored on.
    pub hypervisor: HypervisorFamily,
    /// What the machine is.
    pub machine: Machine,
    /// What runs in it.
    pub workload: Option<Workload>,
    /// How that is asked to end, if not by SIGTERM.
    pub stop: Option<Stop>,
    /// What it asks of the host's processor.
    pub processor: Processor,
    /// Its virtual processors.
    pub vcpus: Vec<x86_64::Vcpu>,
    /// Its interrupt controller.
    pub ioapic: x86_64::Ioapic,
    /// Its clock.
    pub clock: x86_64::Clock,
    /// Its slots.
    pub slots: Vec<device::Slot>,
    /// Its serial port.
    pub serial: device::Serial,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Pages that are used between restore and the first exec's end; written ones first.
    pub working_set: WorkingSet,
}

record! {
    /// Pages that are worth putting in place before the guest runs.
    #[derive(Default)]
    pub struct WorkingSet {
        /// Pages that are written.
        written: Vec<Run>,
        /// Pages that are only read.
        read: Vec<Run>,
    }
}

/// The sections' tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Section {
    /// [`Machine`].
    Machine = 1,
    /// [`Workload`].
    Workload = 2,
    /// The list of [`x86_64::Vcpu`].
    Vcpus = 3,
    /// [`x86_64::Ioapic`].
    Ioapic = 4,
    /// [`x86_64::Clock`].
    Clock = 5,
    /// The list of [`device::Slot`].
    Slots = 6,
    /// [`device::Serial`].
    Serial = 7,
    /// The list of [`Disk`].
    Disks = 8,
    /// [`WorkingSet`].
    WorkingSet = 10,
    /// [`Processor`].
    Processor = 11,
    /// [`Stop`].
    Stop = 12,
}

impl Section {
    /// Every section, in the order in which they are written.
    pub const ALL: [Self; 11] = [
        Self::Machine,
        Self::Workload,
        Self::Vcpus,
        Self::Ioapic,
        Self::Clock,
        Self::Slots,
        Self::Serial,
        Self::Disks,
        Self::WorkingSet,
        Self::Processor,
        Self::Stop,
    ];

    /// The section's name, as errors tell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Workload => "workload",
            Self::Vcpus => "vcpus",
            Self::Ioapic => "ioapic",
            Self::Clock => "clock",
            Self::Slots => "slots",
            Self::Serial => "serial",
            Self::Disks => "disks",
            Self::WorkingSet => "working set",
            Self::Processor => "processor",
            Self::Stop => "stop",
        }
    }
}

impl Snapshot {
    /// The state file's bytes. The same snapshot gives the same bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut container =
            container::Builder::new(self.architecture, self.hypervisor, self.processor.baseline);
        container.add(Section::Machine, &self.machine);
        container.add(Section::Workload, &self.workload);
        container.add(Section::Vcpus, &self.vcpus);
        container.add(Section::Ioapic, &self.ioapic);
        container.add(Section::Clock, &self.clock);
        container.add(Section::Slots, &self.slots);
        container.add(Section::Serial, &self.serial);
        container.add(Section::Disks, &self.disks);
        container.add(Section::WorkingSet, &self.working_set);
        container.add(Section::Processor, &self.processor);
        if let Some(stop) = &self.stop {
            container.add(Section::Stop, stop);
        }
        container.finish()
    }

    /// Reads a state file and checks all of it.
    ///
    /// # Errors
    /// [`SnapshotError`] names the section that is at fault.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let container = Container::decode(bytes)?;
        container.verify()?;
        Self::from_container(&container)
    }

    /// Reads a state file whose digest was checked before: form is checked, digests are not.
    ///
    /// # Errors
    /// [`SnapshotError`] names the section that is at fault.
    pub fn decode_trusted(bytes: &[u8]) -> Result<Self, SnapshotError> {
        Self::from_container(&Container::decode(bytes)?)
    }

    fn from_container(container: &Container<'_>) -> Result<Self, SnapshotError> {
        let snapshot = Self {
            architecture: container.architecture,
            hypervisor: container.hypervisor,
            machine: container.section(Section::Machine)?,
            workload: container.section(Section::Workload)?,
            stop: container.optional(Section::Stop)?,
            processor: container.section(Section::Processor)?,
            vcpus: container.list(Section::Vcpus, MAX_VCPUS)?,
            ioapic: container.section(Section::Ioapic)?,
            clock: container.section(Section::Clock)?,
            slots: container.list(Section::Slots, MAX_SLOTS)?,
            serial: container.section(Section::Serial)?,
            disks: container.list(Section::Disks, MAX_SLOTS)?,
            working_set: container.section(Section::WorkingSet)?,
        };
        if container.baseline != snapshot.processor.baseline {
            let (section, what) = (Section::Processor.name(), "another baseline than the header");
            return Err(SnapshotError::Inconsistent { section, what });
        }
        snapshot.validate()?;
        Ok(snapshot)
    }

    /// Checks what one section says against another.
    fn validate(&self) -> Result<(), SnapshotError> {
        let inconsistent =
            |section: Section, what| SnapshotError::Inconsistent { section: section.name(), what };
        let size = self.machine.memory_size;
        if size == 0 || !size.is_multiple_of(1 << 20) || size > 1 << 40 {
            return Err(inconsistent(Section::Machine, "a memory size that is not 1 MiB to 1 TiB"));
        }
        let vcpus = usize::from(self.machine.vcpus);
        if vcpus == 0 || self.vcpus.len() != vcpus {
            return Err(inconsistent(Section::Vcpus, "another number of processors than told"));
        }
        if !self.processor.is_valid() {
            return Err(inconsistent(Section::Processor, "features out of order"));
        }
        if self.stop.is_some_and(|stop| !(1..=64).contains(&stop.signal)) {
            return Err(inconsistent(Section::Stop, "a signal that is not 1 to 64"));
        }
        let pages = size / memory::PAGE_SIZE;
        let in_memory = |section: Section| {
            move |source| SnapshotError::Section { section: section.name(), source }
        };
        for (name, runs) in
            [("written", &self.working_set.written), ("read", &self.working_set.read)]
        {
            memory::validate_runs(name, runs, pages).map_err(in_memory(Section::WorkingSet))?;
        }
        for slot in &self.slots {
            let disk = match slot {
                device::Slot::Pmem(_, pmem) => pmem.disk,
                device::Slot::Block(_, block) => block.disk,
                _ => continue,
            };
            if usize::from(disk) >= self.disks.len() {
                return Err(inconsistent(Section::Slots, "a disk that the snapshot does not have"));
            }
        }
        Ok(())
    }
}
