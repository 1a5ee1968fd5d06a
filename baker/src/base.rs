//! The base: kernel and agent up and idle, before any image is attached.
//!
//! Made once for each kernel, agent, memory size and number of vCPUs, and shared by every
//! image that is baked on it.

use std::sync::Arc;
use std::time::Duration;

use supermachine::Timings;
use supermachine::agent::{console_tail, next_event};
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::{FORMAT_VERSION, Stage};
use supermachine_formats::wire::{self, Event, Request};
use supermachine_formats::{Digest, Hasher};
use supermachine_kernel::{Asset, Assets};
use supermachine_vmm::{Machine, Origin, Restore};

use crate::ask::ask;
use crate::boot::{BootInputs, RECIPE, lay_out};
use crate::capture::{Behind, Kind, capture};
use crate::{BakeError, Store};

/// How long a guest may take to boot. Hardware needs a tenth of a second; emulation, minutes.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// What a base is made from.
#[derive(Debug)]
pub(crate) struct BaseInputs {
    kernel: Asset,
    agent: Asset,
    memory_mib: u64,
    vcpus: u16,
    baseline: Baseline,
    /// How hard to compress.
    level: i32,
}

impl BaseInputs {
    pub(crate) fn new(
        memory_mib: u64,
        vcpus: u16,
        baseline: Baseline,
        level: i32,
    ) -> Result<Self, BakeError> {
        let assets_error = |source| BakeError::Assets { source };
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
        hasher.finish()
    }

    /// Finds the base in the store, or makes it.
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
        let parent = boot.store(store, self.level)?;
        let image = store.open_image(parent)?;
        let opening = || BakeError::machine("opening of the boot snapshot");
        let mapped = image.mapped().map_err(opening())?;
        let origin = Origin::Files { memory: mapped.memory.clone(), disks: Vec::new() };
        let parts = Restore { snapshot: Arc::clone(image.snapshot()), origin };
        let machine = Machine::restore(parts, &mut Timings::start())
            .map_err(|source| BakeError::machine("boot")(source.into()))?;
        run_to_idle(&machine).map_err(|source| match source {
            supermachine::Error::Unanswered { limit } => {
                BakeError::NotUp { limit, console: console_tail(&machine) }
            }
            source => BakeError::machine("boot")(source),
        })?;
        let kind =
            Kind { stage: Stage::Base, parent, workload: None, stop: None, image_command: None };
        let capture = capture(&machine, kind)?;
        // Hardly a chunk is as the boot snapshot had it: the base stands alone.
        let pack = image.pack().map_err(opening())?;
        let behind = Behind { pack, memory: &mapped.memory, is_listed: false };
        capture.store(store, behind, None, Vec::new(), self.level)
    }
}

/// Runs a machine until its kernel is up and idle.
fn run_to_idle(machine: &Machine) -> Result<(), supermachine::Error> {
    let mut control = machine.control()?;
    machine.run();
    match next_event(machine, &mut control, Some(BOOT_LIMIT))? {
        Event::Hello { version: wire::VERSION } => ask(machine, &Request::Settle)?.only().map(drop),
        Event::Hello { version: found } => Err(supermachine::Error::Protocol {
            source: supermachine::error::ProtocolError::Version { found, supported: wire::VERSION },
        }),
        _ => Err(supermachine::Error::Protocol {
            source: supermachine::error::ProtocolError::UnexpectedReply { request: "boot" },
        }),
    }
}
