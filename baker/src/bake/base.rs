//! The base: kernel and agent up and idle, before any image is attached.
//!
//! One base exists per kernel, agent, memory size, vCPU count and CPU baseline. All images that are
//! baked on it share it.

use std::sync::Arc;
use std::time::Duration;

use supermachine::agent::{console_tail, next_event};
use supermachine::error::ProtocolError;
use supermachine::{Timings, host};
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::{FORMAT_VERSION, Stage};
use supermachine_formats::wire::{self, Event, Request};
use supermachine_formats::{Digest, Hasher};
use supermachine_kernel::{Asset, Assets};
use supermachine_vmm::{Machine, Origin, Restore};

use super::agent::request;
use super::capture::{Parent, SnapshotInfo, capture};
use crate::boot::{BootInputs, RECIPE, lay_out};
use crate::error::{BakeError, HostError};
use crate::store::Store;

/// How long a guest may take to boot. Hardware needs a tenth of a second; emulation, minutes.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// The inputs of a base.
#[derive(Debug)]
pub(crate) struct BaseInputs {
    kernel: Asset,
    agent: Asset,
    memory_mib: u64,
    vcpus: u16,
    baseline: Baseline,
    /// The zstd level.
    level: i32,
}

impl BaseInputs {
    pub(crate) fn new(
        memory_mib: u64,
        vcpus: u16,
        baseline: Baseline,
        level: i32,
    ) -> Result<Self, BakeError> {
        let assets_error = |source| BakeError::Host(HostError::Assets { source });
        let assets = Assets::locate().map_err(assets_error)?;
        Ok(Self {
            kernel: assets.kernel().map_err(assets_error)?,
            agent: assets.agent().map_err(assets_error)?,
            memory_mib,
            vcpus,
            level,
            baseline,
        })
    }

    /// The digest of all inputs.
    pub(crate) fn key(&self) -> Digest {
        self.key_on(&host::processor())
    }

    fn key_on(&self, processor: &[u32]) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(b"base");
        hasher.update(&FORMAT_VERSION.to_le_bytes());
        hasher.update(&RECIPE.to_le_bytes());
        hasher.update(&self.kernel.digest);
        hasher.update(&self.agent.digest);
        hasher.update(&self.memory_mib.to_le_bytes());
        hasher.update(&self.vcpus.to_le_bytes());
        hasher.update(&self.level.to_le_bytes());
        hasher.update(&[self.baseline as u8]);
        if self.baseline == Baseline::Host {
            // With this baseline the guest sees the host's own processor.
            processor.iter().for_each(|word| hasher.update(&word.to_le_bytes()));
        }
        hasher.finish()
    }

    /// Finds the base in the store, or bakes it.
    pub(crate) fn find_or_make(&self, store: &Store) -> Result<Digest, BakeError> {
        let key = self.key();
        if let Some(base) = store.made_snapshot(key) {
            return Ok(base);
        }
        let _turn = store.lock(key)?;
        if let Some(base) = store.made_snapshot(key) {
            return Ok(base);
        }
        let base = self.make(store)?;
        store.remember(key, base)?;
        Ok(base)
    }

    fn make(&self, store: &Store) -> Result<Digest, BakeError> {
        let inputs = BootInputs {
            kernel: &self.kernel.bytes,
            agent: &self.agent.bytes,
            memory_mib: self.memory_mib,
            vcpus: self.vcpus,
            baseline: self.baseline,
        };
        let boot = lay_out(&inputs).map_err(|source| BakeError::Boot { source })?;
        let parent = boot.composition(self.level).store(store.layout())?.digest;
        let image = store.open_image(parent)?;
        let opening = || BakeError::machine("opening of the boot snapshot");
        let mapped = image.mapped().map_err(opening())?;
        let origin = Origin::Files { memory: mapped.memory.clone(), disks: Vec::new() };
        let parts = Restore::new(Arc::clone(image.snapshot()), origin);
        let machine = Machine::restore(parts, &mut Timings::start())
            .map_err(|source| BakeError::machine("boot")(source.into()))?;
        run_to_idle(&machine).map_err(|source| match source {
            supermachine::Error::Unanswered { limit } => {
                BakeError::NotUp { limit, console: console_tail(&machine) }
            }
            source => BakeError::machine("boot")(source),
        })?;
        let info = SnapshotInfo {
            stage: Stage::Base,
            parent,
            workload: None,
            stop: None,
            image_command: None,
            after_restore: None,
        };
        let capture = capture(&machine, info)?;
        // Almost no chunk is unchanged since the boot snapshot, so the base references none of it.
        let pack = image.pack().map_err(opening())?;
        let parent_pack = Parent { pack, memory: &mapped.memory, is_listed: false };
        capture.store(store, parent_pack, None, Vec::new(), self.level)
    }
}

/// Runs a machine until its kernel is up and idle.
fn run_to_idle(machine: &Machine) -> Result<(), supermachine::Error> {
    let mut control = machine.control()?;
    machine.run();
    match next_event(machine, &mut control, Some(BOOT_LIMIT))? {
        Event::Hello { version: wire::VERSION } => {
            request(machine, &Request::Settle)?.only().map(drop)
        }
        Event::Hello { version: found } => {
            let supported = wire::VERSION;
            Err(supermachine::Error::Protocol {
                source: ProtocolError::Version { found, supported },
            })
        }
        _ => Err(supermachine::Error::Protocol {
            source: ProtocolError::UnexpectedReply { request: "boot" },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_depends_on_the_processor_only_if_the_guest_sees_it() {
        let asset = || Asset { bytes: Vec::new(), digest: [0; 32] };
        let key = |baseline, processor: &[u32]| {
            let (kernel, agent) = (asset(), asset());
            let inputs =
                BaseInputs { kernel, agent, memory_mib: 128, vcpus: 1, baseline, level: 1 };
            inputs.key_on(processor)
        };
        assert_eq!(key(Baseline::V3, &[1]), key(Baseline::V3, &[2]));
        assert_eq!(key(Baseline::Host, &[1]), key(Baseline::Host, &[1]));
        assert_ne!(key(Baseline::Host, &[1]), key(Baseline::Host, &[2]));
    }
}
