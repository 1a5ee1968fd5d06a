//! A hypervisor for unit tests: it records messages and plays vCPUs from a script.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};

use supermachine_formats::snapshot::x86_64;
use vm_memory::MmapRegion;

use super::{Access, Exit, HypervisorError, Kick, Vcpu, Vm};

/// One step of a scripted vCPU.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Write { address: u64, data: Vec<u8> },
    Read { address: u64, width: usize },
    Shutdown,
}

/// A VM whose vCPUs all play the same script, then wait to be kicked.
#[derive(Debug, Default)]
pub(crate) struct FakeVm {
    messages: Mutex<Vec<(u64, u32)>>,
    windows: Mutex<Vec<(u32, u64, u64, Access)>>,
    clock_ns: Mutex<u64>,
    script: Vec<Step>,
}

impl FakeVm {
    pub(crate) fn with_script(script: Vec<Step>) -> Self {
        Self { script, ..Self::default() }
    }

    pub(crate) fn messages(&self) -> Vec<(u64, u32)> {
        self.messages.lock().unwrap().clone()
    }

    pub(crate) fn windows(&self) -> Vec<(u32, u64, u64, Access)> {
        self.windows.lock().unwrap().clone()
    }
}

impl Vm for FakeVm {
    fn map(
        &self,
        index: u32,
        guest_address: u64,
        region: Arc<MmapRegion>,
        access: Access,
    ) -> Result<(), HypervisorError> {
        let window = (index, guest_address, region.size() as u64, access);
        self.windows.lock().unwrap().push(window);
        Ok(())
    }

    fn create_vcpu(&self, _: u16, _: u16) -> Result<Box<dyn Vcpu>, HypervisorError> {
        Ok(Box::new(FakeVcpu {
            script: self.script.clone().into(),
            current: None,
            answer: [0; 8],
            state: None,
            kick: Arc::default(),
        }))
    }

    fn signal_msi(&self, address: u64, data: u32) -> Result<(), HypervisorError> {
        self.messages.lock().unwrap().push((address, data));
        Ok(())
    }

    fn clock_ns(&self) -> Result<u64, HypervisorError> {
        Ok(*self.clock_ns.lock().unwrap())
    }

    fn set_clock_ns(&self, ns: u64) -> Result<(), HypervisorError> {
        *self.clock_ns.lock().unwrap() = ns;
        Ok(())
    }
}

#[derive(Debug)]
struct FakeVcpu {
    script: VecDeque<Step>,
    current: Option<Step>,
    answer: [u8; 8],
    state: Option<x86_64::Vcpu>,
    kick: Arc<FakeKick>,
}

impl Vcpu for FakeVcpu {
    fn run(&mut self) -> Result<Exit<'_>, HypervisorError> {
        self.current = self.script.pop_front();
        Ok(match &self.current {
            Some(Step::Write { address, data }) => Exit::MmioWrite { address: *address, data },
            Some(Step::Read { address, width }) => {
                Exit::MmioRead { address: *address, data: &mut self.answer[..*width] }
            }
            Some(Step::Shutdown) => Exit::Shutdown,
            None => {
                self.kick.wait();
                Exit::Kicked
            }
        })
    }

    fn complete_exit(&mut self) -> Result<(), HypervisorError> {
        Ok(())
    }

    fn save(&mut self) -> Result<x86_64::Vcpu, HypervisorError> {
        self.state.clone().ok_or(HypervisorError::Unsupported)
    }

    fn restore(&mut self, state: &x86_64::Vcpu) -> Result<(), HypervisorError> {
        self.state = Some(state.clone());
        Ok(())
    }

    fn pre_fault(&mut self, _: u64, _: u64) -> bool {
        true
    }

    fn set_tsc_khz(&mut self, _: u32) -> Result<(), HypervisorError> {
        Ok(())
    }

    fn tsc_khz(&self) -> Result<u32, HypervisorError> {
        Ok(1_000_000)
    }

    fn kicker(&self) -> Box<dyn Kick> {
        Box::new(FakeKicker(Arc::clone(&self.kick)))
    }
}

#[derive(Debug, Default)]
struct FakeKick {
    pending: Mutex<bool>,
    changed: Condvar,
}

impl FakeKick {
    fn wait(&self) {
        let mut pending = self.pending.lock().unwrap();
        while !*pending {
            pending = self.changed.wait(pending).unwrap();
        }
        *pending = false;
    }
}

#[derive(Debug)]
struct FakeKicker(Arc<FakeKick>);

impl Kick for FakeKicker {
    fn kick(&self) {
        *self.0.pending.lock().unwrap() = true;
        self.0.changed.notify_all();
    }
}
