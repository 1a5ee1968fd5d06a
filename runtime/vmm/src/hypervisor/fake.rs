//! A hypervisor for unit tests: it records what it is asked and plays vCPUs from a script.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use supermachine_formats::snapshot::arch::x86_64::CpuidLeaf;
use supermachine_formats::snapshot::arch::x86_64::baseline::Register;
use supermachine_formats::snapshot::arch::{Baseline, FeatureWord, VcpuState};
use vm_memory::bitmap::BS;
use vm_memory::{Bytes, MmapRegion, VolatileMemory, VolatileSlice};

use super::{Access, Exit, HypervisorError, Kick, Vcpu, Vm};

/// One step of a scripted vCPU.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Writes device memory.
    Write { address: u64, data: Vec<u8> },
    /// Reads device memory.
    Read { address: u64, width: usize },
    /// Writes a port.
    PortWrite { port: u16, data: Vec<u8> },
    /// Reads a port.
    PortRead { port: u16, width: usize },
    /// Writes guest memory, without an exit.
    Store { address: u64, data: Vec<u8> },
    /// Reads guest memory, without an exit.
    Load { address: u64 },
    /// Ends the guest.
    Shutdown,
    /// The hypervisor gives up.
    Fail,
    /// Running the vCPU is an error.
    Refuse,
    /// The vCPU's thread panics.
    Panic,
}

/// What a [`FakeVm`] does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Map,
    /// Making the vCPU with this index.
    Create(u16),
    /// Restoring the vCPU with this index.
    Restore(u16),
    /// Resetting the vCPU with this index.
    Reset(u16),
    /// Saving any vCPU.
    Save,
    /// Saving any vCPU, by a panic.
    SaveAtAll,
    /// The first kick of each vCPU: it is lost.
    FirstKick,
    SetClock,
}

/// A window that was mapped: its index, guest address, size, and access.
pub(crate) type MappedWindow = (u32, u64, u64, Access);

/// A VM whose first vCPU plays a script; every vCPU then waits to be kicked.
#[derive(Debug, Default)]
pub(crate) struct FakeVm {
    record: Arc<Record>,
    clock_ns: Mutex<u64>,
    script: Vec<Step>,
    refusal: Option<Refusal>,
    /// What the processor has not.
    lacking: Vec<FeatureWord>,
}

/// What all vCPUs of a VM share.
#[derive(Debug, Default)]
struct Record {
    messages: Mutex<Vec<(u64, u32)>>,
    windows: Mutex<Vec<(MappedWindow, Arc<MmapRegion>)>>,
    answers: Mutex<Vec<Vec<u8>>>,
    /// How often a vCPU was told of a pause.
    pauses: AtomicUsize,
    counts: Mutex<Counts>,
    counted: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    /// vCPUs that exist.
    alive: usize,
    /// vCPUs that have played their script to the end.
    idle: usize,
    /// Of these, those that are in the guest now.
    inside: usize,
}

impl FakeVm {
    pub(crate) fn with_script(script: Vec<Step>) -> Self {
        Self { script, ..Self::default() }
    }

    pub(crate) fn refusing(refusal: Refusal) -> Self {
        Self { refusal: Some(refusal), ..Self::default() }
    }

    /// A VM on a processor without some features.
    pub(crate) fn lacking(features: Vec<FeatureWord>) -> Self {
        Self { lacking: features, ..Self::default() }
    }

    pub(crate) fn messages(&self) -> Vec<(u64, u32)> {
        self.record.messages.lock().unwrap().clone()
    }

    pub(crate) fn windows(&self) -> Vec<MappedWindow> {
        self.record.windows.lock().unwrap().iter().map(|(window, _)| *window).collect()
    }

    /// What the script's reads gave, in order.
    pub(crate) fn answers(&self) -> Vec<Vec<u8>> {
        self.record.answers.lock().unwrap().clone()
    }

    /// How often a vCPU was told of a pause.
    pub(crate) fn pauses(&self) -> usize {
        self.record.pauses.load(Ordering::SeqCst)
    }

    /// How many vCPUs exist.
    pub(crate) fn alive(&self) -> usize {
        self.record.counts.lock().unwrap().alive
    }

    /// Waits until this many vCPUs run and have nothing left to do.
    pub(crate) fn wait_idle(&self, vcpus: usize) {
        let counts = self.record.counts.lock().unwrap();
        drop(self.record.counted.wait_while(counts, |counts| counts.idle < vcpus).unwrap());
    }

    /// Waits until this many vCPUs are in the guest and have nothing left to do.
    pub(crate) fn wait_inside(&self, vcpus: usize) {
        let counts = self.record.counts.lock().unwrap();
        drop(self.record.counted.wait_while(counts, |counts| counts.inside < vcpus).unwrap());
    }

    /// How many vCPUs are in the guest and have nothing left to do.
    pub(crate) fn inside(&self) -> usize {
        self.record.counts.lock().unwrap().inside
    }

    fn refuse(&self, refusal: Refusal) -> Result<(), HypervisorError> {
        refuse(self.refusal, refusal)
    }
}

impl Record {
    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap());
        self.counted.notify_all();
    }

    fn with_memory<R>(
        &self,
        address: u64,
        access: impl FnOnce(VolatileSlice<'_, BS<'_, ()>>) -> R,
    ) -> R {
        let windows = self.windows.lock().unwrap();
        let (window, region) = windows
            .iter()
            .find(|((_, start, size, _), _)| (*start..start + size).contains(&address))
            .unwrap();
        let offset = (address - window.1) as usize;
        access(region.as_volatile_slice().offset(offset).unwrap())
    }
}

fn refuse(refusal: Option<Refusal>, asked: Refusal) -> Result<(), HypervisorError> {
    if refusal == Some(asked) {
        return Err(HypervisorError::Capability { capability: "what the test asks for" });
    }
    Ok(())
}

impl Vm for FakeVm {
    fn map(
        &self,
        index: u32,
        guest_address: u64,
        region: Arc<MmapRegion>,
        access: Access,
    ) -> Result<(), HypervisorError> {
        self.refuse(Refusal::Map)?;
        let window = (index, guest_address, region.size() as u64, access);
        self.record.windows.lock().unwrap().push((window, region));
        Ok(())
    }

    fn create_vcpu(&self, index: u16) -> Result<Box<dyn Vcpu>, HypervisorError> {
        self.refuse(Refusal::Create(index))?;
        self.record.count(|counts| counts.alive += 1);
        let script = if index == 0 { self.script.clone() } else { Vec::new() };
        Ok(Box::new(FakeVcpu {
            index,
            record: Arc::clone(&self.record),
            refusal: self.refusal,
            again: script.clone(),
            script: script.into(),
            current: None,
            answer: [0; 8],
            is_idle: false,
            state: None,
            kick: Arc::new(FakeKick {
                is_deaf: Mutex::new(self.refusal == Some(Refusal::FirstKick)),
                ..FakeKick::default()
            }),
        }))
    }

    fn cpuid(&self, _: Baseline, _: u16, _: u16) -> Result<Vec<CpuidLeaf>, HypervisorError> {
        Ok(Vec::new())
    }

    fn processor_word(&self, function: u32, index: u32, register: Register) -> u32 {
        let place = (function, index, register);
        let lacking =
            self.lacking.iter().find(|word| (word.function, word.index, word.register) == place);
        !lacking.map_or(0, |word| word.mask)
    }

    fn signal_msi(&self, address: u64, data: u32) -> Result<(), HypervisorError> {
        self.record.messages.lock().unwrap().push((address, data));
        Ok(())
    }

    fn clock_ns(&self) -> Result<u64, HypervisorError> {
        Ok(*self.clock_ns.lock().unwrap())
    }

    fn set_clock_ns(&self, ns: u64) -> Result<(), HypervisorError> {
        self.refuse(Refusal::SetClock)?;
        *self.clock_ns.lock().unwrap() = ns;
        Ok(())
    }
}

#[derive(Debug)]
struct FakeVcpu {
    index: u16,
    record: Arc<Record>,
    refusal: Option<Refusal>,
    script: VecDeque<Step>,
    /// What it plays after a reset.
    again: Vec<Step>,
    current: Option<Step>,
    answer: [u8; 8],
    is_idle: bool,
    state: Option<VcpuState>,
    kick: Arc<FakeKick>,
}

impl FakeVcpu {
    /// Keeps what the last exit was answered with.
    fn keep_answer(&mut self) {
        if let Some(Step::Read { width, .. } | Step::PortRead { width, .. }) = self.current.take() {
            self.record.answers.lock().unwrap().push(self.answer[..width].to_vec());
        }
    }

    /// Carries out the steps that need no exit, and gives the next one that does.
    fn next_step(&mut self) -> Option<Step> {
        loop {
            match self.script.pop_front() {
                Some(Step::Store { address, data }) => {
                    self.record
                        .with_memory(address, |memory| memory.write_slice(&data, 0))
                        .unwrap();
                }
                Some(Step::Load { address }) => {
                    let byte: u8 = self.record.with_memory(address, |m| m.read_obj(0)).unwrap();
                    self.record.answers.lock().unwrap().push(vec![byte]);
                }
                step => return step,
            }
        }
    }
}

impl Vcpu for FakeVcpu {
    fn run(&mut self) -> Result<Exit<'_>, HypervisorError> {
        self.keep_answer();
        self.current = self.next_step();
        self.answer = [0; 8];
        Ok(match &self.current {
            Some(Step::Write { address, data }) => Exit::MmioWrite { address: *address, data },
            Some(Step::Read { address, width }) => {
                Exit::MmioRead { address: *address, data: &mut self.answer[..*width] }
            }
            Some(Step::PortWrite { port, data }) => Exit::PortWrite { port: *port, data },
            Some(Step::PortRead { port, width }) => {
                Exit::PortRead { port: *port, data: &mut self.answer[..*width] }
            }
            Some(Step::Fail) => Exit::Failed { reason: "the script says so", code: 7 },
            Some(Step::Refuse) => return Err(HypervisorError::Unsupported),
            Some(Step::Panic) => panic!("the script says so"),
            Some(_) => Exit::Shutdown,
            None => {
                if !self.is_idle {
                    self.is_idle = true;
                    self.record.count(|counts| counts.idle += 1);
                }
                self.record.count(|counts| counts.inside += 1);
                self.kick.wait();
                self.record.count(|counts| counts.inside -= 1);
                Exit::Kicked
            }
        })
    }

    fn note_pause(&mut self) {
        self.record.pauses.fetch_add(1, Ordering::SeqCst);
    }

    fn complete_exit(&mut self) -> Result<(), HypervisorError> {
        self.keep_answer();
        Ok(())
    }

    fn save(&mut self) -> Result<VcpuState, HypervisorError> {
        assert_ne!(self.refusal, Some(Refusal::SaveAtAll), "as the test asks for");
        refuse(self.refusal, Refusal::Save)?;
        self.state.clone().ok_or(HypervisorError::Unsupported)
    }

    fn restore(&mut self, state: &VcpuState) -> Result<(), HypervisorError> {
        refuse(self.refusal, Refusal::Restore(self.index))?;
        self.state = Some(state.clone());
        Ok(())
    }

    fn reset(&mut self, state: &VcpuState, _: bool) -> Result<(), HypervisorError> {
        refuse(self.refusal, Refusal::Reset(self.index))?;
        self.keep_answer();
        self.script = self.again.clone().into();
        self.is_idle = false;
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

impl Drop for FakeVcpu {
    fn drop(&mut self) {
        self.record.count(|counts| counts.alive -= 1);
    }
}

#[derive(Debug, Default)]
struct FakeKick {
    pending: Mutex<bool>,
    is_deaf: Mutex<bool>,
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
        if std::mem::take(&mut *self.0.is_deaf.lock().unwrap()) {
            return;
        }
        *self.0.pending.lock().unwrap() = true;
        self.0.changed.notify_all();
    }
}
