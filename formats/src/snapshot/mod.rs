//! A snapshot's state file: everything of a machine but the content of its memory and disks.
//!
//! The file is a header, a table of tagged sections with their digests, and the sections. The
//! header alone states the format version, the architecture and the hypervisor family.
//! [`Snapshot::decode`] checks every digest. [`Snapshot::decode_trusted`] skips the digests; it
//! is for a file that was checked before and is known to be unchanged since.
//!
//! What depends on the processor is in [`arch`]; the rest of this module serves every
//! architecture.

pub mod arch;
mod baseline;
mod container;
pub mod device;
mod machine;
pub mod memory;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

pub use container::{
    FORMAT_VERSION, HEADER_SIZE, MAGIC, MAX_SECTIONS, Section, SnapshotError, TABLE_ENTRY_SIZE,
};
pub use machine::{
    AfterRestore, Architecture, Disk, HypervisorFamily, ImageCommand, MAX_SLOTS, MAX_VCPUS,
    Machine, Stage, Stop, Workload,
};
pub use memory::WorkingSet;

use arch::ArchState;
use container::{Builder, Container};

/// The whole state of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The hypervisors that can restore it.
    pub hypervisor: HypervisorFamily,
    /// The machine's shape.
    pub machine: Machine,
    /// What runs in it.
    pub workload: Option<Workload>,
    /// How to stop the entrypoint; `None` means SIGTERM.
    pub stop: Option<Stop>,
    /// The image's own entrypoint and command. `None` in snapshots without this section.
    pub image_command: Option<ImageCommand>,
    /// What runs after each restore; `None` if the bake set no action.
    pub after_restore: Option<AfterRestore>,
    /// The state of its vCPUs, interrupt controller and clock, of one architecture.
    pub arch: ArchState,
    /// Its slots.
    pub slots: Vec<device::Slot>,
    /// Its serial port.
    pub serial: device::Serial,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// The pages used between a restore and the end of the first exec.
    pub working_set: WorkingSet,
}

impl Snapshot {
    /// Encodes the state file. Equal snapshots give equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut file =
            Builder::new(self.arch.architecture(), self.hypervisor, self.arch.baseline());
        file.add(Section::Machine, &self.machine);
        file.add(Section::Workload, &self.workload);
        self.arch.encode(&mut file);
        file.add(Section::Slots, &self.slots);
        file.add(Section::Serial, &self.serial);
        file.add(Section::Disks, &self.disks);
        file.add(Section::WorkingSet, &self.working_set);
        if let Some(stop) = &self.stop {
            file.add(Section::Stop, stop);
        }
        if let Some(command) = &self.image_command {
            file.add(Section::ImageCommand, command);
        }
        if let Some(after_restore) = &self.after_restore {
            file.add(Section::AfterRestore, after_restore);
        }
        file.finish()
    }

    /// Decodes a state file and checks all of it.
    ///
    /// # Errors
    /// [`SnapshotError`] names the section at fault.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let container = Container::decode(bytes)?;
        container.verify()?;
        Self::from_container(&container)
    }

    /// Decodes a state file whose digest was checked before. Checks the form but no digest.
    ///
    /// # Errors
    /// [`SnapshotError`] names the section at fault.
    pub fn decode_trusted(bytes: &[u8]) -> Result<Self, SnapshotError> {
        Self::from_container(&Container::decode(bytes)?)
    }

    fn from_container(container: &Container<'_>) -> Result<Self, SnapshotError> {
        let snapshot = Self {
            hypervisor: container.hypervisor,
            machine: container.section(Section::Machine)?,
            workload: container.section(Section::Workload)?,
            stop: container.optional(Section::Stop)?,
            image_command: container.optional(Section::ImageCommand)?,
            after_restore: container.optional(Section::AfterRestore)?,
            arch: ArchState::decode(container)?,
            slots: container.list(Section::Slots, MAX_SLOTS)?,
            serial: container.section(Section::Serial)?,
            disks: container.list(Section::Disks, MAX_SLOTS)?,
            working_set: container.section(Section::WorkingSet)?,
        };
        snapshot.validate()?;
        Ok(snapshot)
    }

    /// Checks the sections against each other.
    fn validate(&self) -> Result<(), SnapshotError> {
        let inconsistent =
            |section: Section, what| SnapshotError::Inconsistent { section: section.name(), what };
        let size = self.machine.memory_size;
        if size == 0 || !size.is_multiple_of(1 << 20) || size > 1 << 40 {
            return Err(inconsistent(Section::Machine, "a memory size that is not 1 MiB to 1 TiB"));
        }
        self.arch.validate(self.machine.vcpus, self.hypervisor)?;
        if self.stop.is_some_and(|stop| !(1..=64).contains(&stop.signal)) {
            return Err(inconsistent(Section::Stop, "a signal that is not 1 to 64"));
        }
        self.working_set.validate(size / memory::PAGE_SIZE).map_err(|source| {
            SnapshotError::Section { section: Section::WorkingSet.name(), source }
        })?;
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
