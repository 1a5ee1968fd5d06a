//! A hypervisor for unit tests: it records its calls and plays vCPUs from a script.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use supermachine_formats::snapshot::arch::x86_64::baseline::{FeatureWord, Register};
use vm_memory::bitmap::BS;
use vm_memory::{Bytes, MmapRegion, VolatileMemory, VolatileSlice};

use super::error::HypervisorError;
use super::hypervisor::{Access, Exit, Kick, Vcpu, Vm};
use crate::arch::layout::port_address;
use crate::arch::x86_64::baseline;
use crate::arch::{
    Clock, ClockReading, InterruptSink, Mismatch, Processor, SavedInterrupts, SavedVcpu, State,
    VcpuState,
};

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
    /// Shuts the guest down.
    Shutdown,
    /// The hypervisor fails.
    Fail,
    /// Running the vCPU is an error.
    Refuse,
    /// The vCPU's thread panics.
    Panic,
}

/// The call that a [`FakeVm`] refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Map,
    /// Creating the vCPU with this index.
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
    /// The features that the processor lacks.
    lacking: Vec<FeatureWord>,
}

/// State that all vCPUs of a VM share.
#[derive(Debug, Default)]
struct Record {
    windows: Mutex<Vec<(MappedWindow, Arc<MmapRegion>)>>,
    answers: Mutex<Vec<Vec<u8>>>,
    /// The number of calls of [`Vcpu::note_pause`].
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
    /// Those of them that are in the guest now.
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

    pub(crate) fn windows(&self) -> Vec<MappedWindow> {
        self.record.windows.lock().unwrap().iter().map(|(window, _)| *window).collect()
    }

    /// The results of the script's reads, in order.
    pub(crate) fn answers(&self) -> Vec<Vec<u8>> {
        self.record.answers.lock().unwrap().clone()
    }

    /// The number of calls of [`Vcpu::note_pause`].
    pub(crate) fn pauses(&self) -> usize {
        self.record.pauses.load(Ordering::SeqCst)
    }

    /// The number of vCPUs that exist.
    pub(crate) fn alive(&self) -> usize {
        self.record.counts.lock().unwrap().alive
    }

    /// Waits until this many vCPUs have played their scripts.
    pub(crate) fn wait_idle(&self, vcpus: usize) {
        let counts = self.record.counts.lock().unwrap();
        drop(self.record.counted.wait_while(counts, |counts| counts.idle < vcpus).unwrap());
    }

    /// Waits until this many vCPUs are in the guest and have played their scripts.
    pub(crate) fn wait_inside(&self, vcpus: usize) {
        let counts = self.record.counts.lock().unwrap();
        drop(self.record.counted.wait_while(counts, |counts| counts.inside < vcpus).unwrap());
    }

    /// The number of vCPUs in the guest that have played their scripts.
    pub(crate) fn inside(&self) -> usize {
        self.record.counts.lock().unwrap().inside
    }

    /// A register of the processor's CPUID: every feature but those that it lacks.
    fn word(&self, function: u32, index: u32, register: Register) -> u32 {
        let place = (function, index, register);
        let lacking =
            self.lacking.iter().find(|word| (word.function, word.index, word.register) == place);
        !lacking.map_or(0, |word| word.mask)
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

impl InterruptSink for FakeVm {
    fn deliver(&self, _: u64, _: u32) {}
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

    fn check(&self, state: &State) -> Result<(), Mismatch> {
        baseline::check(state, |function, index, register| self.word(function, index, register))
    }

    fn complete(&self, state: &mut State) -> Result<(), HypervisorError> {
        baseline::complete(state, |_, _, _| Ok(Vec::new()))
    }

    fn required(&self, origin: &Processor, vcpus: &[SavedVcpu]) -> Processor {
        let states = vcpus.iter().map(|vcpu| &vcpu.state);
        baseline::required(origin, states, |function, index, register| {
            self.word(function, index, register)
        })
    }

    fn restore_interrupts(&self, _: &State) -> Result<(), HypervisorError> {
        Ok(())
    }

    fn save_interrupts(&self) -> Result<SavedInterrupts, HypervisorError> {
        Ok(SavedInterrupts)
    }

    fn read_clock(&self) -> Result<ClockReading, HypervisorError> {
        Ok(ClockReading { monotonic_ns: *self.clock_ns.lock().unwrap() })
    }

    fn set_clock(&self, clock: &Clock) -> Result<(), HypervisorError> {
        self.refuse(Refusal::SetClock)?;
        *self.clock_ns.lock().unwrap() = clock.monotonic_ns;
        Ok(())
    }
}

#[derive(Debug)]
struct FakeVcpu {
    index: u16,
    record: Arc<Record>,
    refusal: Option<Refusal>,
    script: VecDeque<Step>,
    /// The script after a reset.
    again: Vec<Step>,
    current: Option<Step>,
    answer: [u8; 8],
    is_idle: bool,
    state: Option<VcpuState>,
    kick: Arc<FakeKick>,
}

impl FakeVcpu {
    /// Records the answer to the last exit.
    fn keep_answer(&mut self) {
        if let Some(Step::Read { width, .. } | Step::PortRead { width, .. }) = self.current.take() {
            self.record.answers.lock().unwrap().push(self.answer[..width].to_vec());
        }
    }

    /// Performs the steps that need no exit, and returns the next one that does.
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
            Some(Step::Write { address, data }) => Exit::Write { address: *address, data },
            Some(Step::Read { address, width }) => {
                Exit::Read { address: *address, data: &mut self.answer[..*width] }
            }
            Some(Step::PortWrite { port, data }) => {
                Exit::Write { address: port_address(*port), data }
            }
            Some(Step::PortRead { port, width }) => {
                Exit::Read { address: port_address(*port), data: &mut self.answer[..*width] }
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

    fn save(&mut self) -> Result<SavedVcpu, HypervisorError> {
        self.keep_answer();
        assert_ne!(self.refusal, Some(Refusal::SaveAtAll), "as the test asks for");
        refuse(self.refusal, Refusal::Save)?;
        let state = self.state.clone().ok_or(HypervisorError::Unsupported)?;
        Ok(SavedVcpu { state, tsc_khz: 1_000_000 })
    }

    fn restore(&mut self, state: &VcpuState, _: &Clock) -> Result<(), HypervisorError> {
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

    /// It has no page table to map into.
    fn pre_fault(&mut self, _: u64, _: u64) -> bool {
        false
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
