//! The threads that run vCPUs, and how they are stopped, saved and ended.
//!
//! Each vCPU has a thread, `sm-vcpu<N>`, owned by [`Vcpus`] and joined when that is dropped.
//! A thread makes its vCPU, restores it, and parks. The only lock, [`Shared::control`],
//! guards the command that all threads follow; it is not held while a guest runs, is saved, or
//! while a device is served. After each change of the command the running vCPUs are kicked, and
//! a kicked thread looks at the command again. However a thread ends, it says so in its
//! progress, so that nobody waits for it for ever; one that ends unasked ends the guest.
//!
//! Commands come from one thread at a time: whoever uses [`Vcpus`] sees to that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use supermachine_formats::snapshot::WorkingSet;
use supermachine_formats::snapshot::arch::VcpuState;

use super::bus::Bus;
use super::hypervisor::{Exit, HypervisorError, Kick, Vcpu, Vm};
use super::memory::Ram;
use super::sys::{Populate, thread_cpu_time};
use super::witness::Fate;
use super::{GuestFailure, MachineError};

/// How long a vCPU may take to leave the guest before it is kicked again: the kick is a queued
/// signal, and is lost while the user has as many of them waiting as the host allows.
const KICK_AGAIN: Duration = Duration::from_millis(100);

/// What a vCPU thread needs to make its vCPU.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The state of each vCPU.
    pub(crate) states: Vec<VcpuState>,
    /// The rate of the time-stamp counter.
    pub(crate) tsc_khz: u32,
    /// Memory that the first vCPU puts in place before it runs.
    pub(crate) working_set: (Arc<Ram>, WorkingSet),
}

/// What a vCPU is saved as.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) state: VcpuState,
    /// The rate of its time-stamp counter.
    pub(crate) tsc_khz: u32,
}

/// Called once, on a vCPU thread, when the guest has ended by itself.
pub(crate) type OnFailure = Box<dyn Fn(&GuestFailure) + Send + Sync>;

/// A machine's vCPU threads.
#[derive(Debug)]
pub(crate) struct Vcpus {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// How often the guest was left.
    exits: AtomicU64,
    control: Mutex<Control>,
    /// Told of every change of `control`.
    changed: Condvar,
    on_failure: OnFailure,
    fate: Arc<Fate>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("control", &self.control).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Control {
    command: Command,
    /// What each thread has come to.
    progress: Vec<Progress>,
    /// What kicks each vCPU, while its thread lives.
    kickers: Vec<Option<Box<dyn Kick>>>,
    failure: Option<GuestFailure>,
    /// How often the guest was paused for as long as a user likes.
    pauses: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Pause,
    /// Pause, and save the state.
    Save,
    /// Pause, and take on the state of the beginning.
    Reset(Round),
    Run,
    Stop,
}

/// Which vCPUs are reset: the first alone, then all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    First,
    Others,
}

impl Round {
    fn includes(self, index: usize) -> bool {
        (index == 0) == (self == Self::First)
    }
}

#[derive(Debug)]
enum Progress {
    Starting,
    Running,
    Parked,
    Saved(Box<Result<Saved, HypervisorError>>),
    Reset(Result<(), HypervisorError>),
    /// The vCPU could not be made or restored.
    Refused(HypervisorError),
    /// The thread has ended.
    Ended,
}

impl Vcpus {
    /// Makes and restores the vCPUs. They are parked until [`Vcpus::run`].
    pub(crate) fn start(
        vm: &Arc<dyn Vm>,
        bus: &Arc<Bus>,
        plan: Plan,
        on_failure: OnFailure,
    ) -> Result<Self, MachineError> {
        let control = Control {
            command: Command::Pause,
            progress: plan.states.iter().map(|_| Progress::Starting).collect(),
            kickers: plan.states.iter().map(|_| None).collect(),
            failure: None,
            pauses: 0,
        };
        let (exits, control) = (AtomicU64::new(0), Mutex::new(control));
        let shared = Arc::new(Shared {
            exits,
            control,
            changed: Condvar::new(),
            on_failure,
            fate: Arc::default(),
        });
        let mut vcpus = Self { shared, threads: Vec::with_capacity(plan.states.len()) };
        let mut working_set = Some(plan.working_set);
        for (index, state) in (0..).zip(plan.states) {
            let birth = Birth {
                vm: Arc::clone(vm),
                index,
                state,
                tsc_khz: plan.tsc_khz,
                working_set: working_set.take(),
            };
            let (shared, bus) = (Arc::clone(&vcpus.shared), Arc::clone(bus));
            let thread = thread::Builder::new()
                .name(format!("sm-vcpu{index}"))
                .stack_size(256 << 10)
                .spawn(move || shared.thread(birth, &bus))
                .map_err(|source| MachineError::Thread { source })?;
            vcpus.threads.push(thread);
        }
        vcpus.wait_started()?;
        Ok(vcpus)
    }

    /// Lets the vCPUs run, unless the guest has ended.
    pub(crate) fn run(&self) {
        let mut control = self.shared.lock();
        if control.failure.is_none() {
            self.shared.follow(&mut control, Command::Run);
        }
    }

    /// Whether the vCPUs are to run.
    pub(crate) fn is_to_run(&self) -> bool {
        self.shared.lock().command == Command::Run
    }

    /// The same as [`Vcpus::run`] after a pause that the guest is to be told of.
    pub(crate) fn run_again(&self) {
        self.shared.lock().pauses += 1;
        self.run();
    }

    /// Stops the vCPUs; on return none is in the guest. Tells whether they were to run.
    pub(crate) fn pause(&self) -> bool {
        let was_to_run = self.shared.command(Command::Pause) == Command::Run;
        drop(self.shared.wait(|progress| !matches!(progress, Progress::Running)));
        was_to_run
    }

    /// Stops the vCPUs and saves them, each on its own thread.
    pub(crate) fn save(&self) -> Result<Vec<Saved>, MachineError> {
        self.shared.command(Command::Save);
        let mut control =
            self.shared.wait(|progress| matches!(progress, Progress::Saved(_) | Progress::Ended));
        control.command = Command::Pause;
        let mut saved = Vec::with_capacity(control.progress.len());
        for progress in &mut control.progress {
            if matches!(progress, Progress::Saved(_))
                && let Progress::Saved(result) = std::mem::replace(progress, Progress::Parked)
            {
                saved.push(*result);
            }
        }
        if saved.len() < control.progress.len() {
            return Err(thread_ended().into());
        }
        Ok(saved.into_iter().collect::<Result<_, _>>()?)
    }

    /// Stops the vCPUs and has them take on the state that they began with.
    ///
    /// # Errors
    /// A vCPU does not take it, or its thread has ended.
    pub(crate) fn reset(&self) -> Result<(), MachineError> {
        self.reset_round(Round::First)?;
        if self.threads.len() > 1 { self.reset_round(Round::Others) } else { Ok(()) }
    }

    fn reset_round(&self, round: Round) -> Result<(), MachineError> {
        self.shared.command(Command::Reset(round));
        let mut control = self.shared.wait_each(|index, progress| {
            !round.includes(index) || matches!(progress, Progress::Reset(_) | Progress::Ended)
        });
        control.command = Command::Pause;
        let mut result = Ok(());
        for (index, progress) in control.progress.iter_mut().enumerate() {
            match progress {
                Progress::Reset(_) => {
                    if let Progress::Reset(Err(error)) =
                        std::mem::replace(progress, Progress::Parked)
                    {
                        result = Err(error.into());
                    }
                }
                Progress::Ended if round.includes(index) => return Err(thread_ended().into()),
                _ => {}
            }
        }
        result
    }

    /// How the guest ended, if it did.
    pub(crate) fn failure(&self) -> Option<GuestFailure> {
        self.shared.lock().failure.clone()
    }

    /// What tells how the guest ended, also once the vCPUs are gone.
    pub(crate) fn fate(&self) -> &Arc<Fate> {
        &self.shared.fate
    }

    /// The processor time of all vCPU threads.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.threads.iter().filter_map(|thread| thread_cpu_time(thread).ok()).sum()
    }

    /// How often the guest was left so far.
    pub(crate) fn exits(&self) -> u64 {
        self.shared.exits.load(Ordering::Relaxed)
    }

    /// What ends the guest from another thread, as if it had ended by itself.
    pub(crate) fn ender(&self) -> Box<dyn Fn(GuestFailure) + Send> {
        let shared = Arc::clone(&self.shared);
        Box::new(move |failure| shared.fail(failure))
    }

    fn wait_started(&self) -> Result<(), MachineError> {
        let mut control = self.shared.wait(|progress| !matches!(progress, Progress::Starting));
        for progress in &mut control.progress {
            if matches!(progress, Progress::Refused(_))
                && let Progress::Refused(error) = std::mem::replace(progress, Progress::Parked)
            {
                return Err(error.into());
            }
            if matches!(progress, Progress::Ended) {
                return Err(thread_ended().into());
            }
        }
        Ok(())
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.shared.fate.end_use();
        self.shared.command(Command::Stop);
        for thread in self.threads.drain(..) {
            // A vCPU thread that panicked has nothing left to clean up.
            let _ = thread.join();
        }
    }
}

/// What one thread makes its vCPU from.
struct Birth {
    vm: Arc<dyn Vm>,
    index: u16,
    state: VcpuState,
    tsc_khz: u32,
    working_set: Option<(Arc<Ram>, WorkingSet)>,
}

impl Birth {
    fn vcpu(&self) -> Result<Box<dyn Vcpu>, HypervisorError> {
        let mut vcpu = self.vm.create_vcpu(self.index)?;
        vcpu.set_tsc_khz(self.tsc_khz)?;
        vcpu.restore(&self.state)?;
        Ok(vcpu)
    }
}

/// Puts the pages that the guest is about to use in place in bulk. Only a speed-up: what is
/// not done here is done page by page when the guest gets there.
fn put_in_place(vcpu: &mut dyn Vcpu, ram: &Ram, pages: &WorkingSet) {
    for (runs, how) in [(&pages.written, Populate::Write), (&pages.read, Populate::Read)] {
        ram.populate(runs, how);
        let ranges = ram.guest_ranges(runs);
        let _ = ranges.iter().all(|(address, size)| vcpu.pre_fault(*address, *size));
    }
}

/// What becomes of a guest whose vCPU has no thread any more.
fn thread_ended() -> GuestFailure {
    GuestFailure::Unrunnable { reason: "vCPU thread ended".into(), code: 0 }
}

fn save(vcpu: &mut dyn Vcpu) -> Result<Saved, HypervisorError> {
    vcpu.complete_exit()?;
    Ok(Saved { state: vcpu.save()?, tsc_khz: vcpu.tsc_khz()? })
}

/// A vCPU thread's stay, whose end is told however it comes about.
struct Stay<'a> {
    shared: &'a Shared,
    index: usize,
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        let mut control = self.shared.lock();
        // The thread's number may soon be another's, who must not be kicked.
        if let Some(kicker) = control.kickers.get_mut(self.index) {
            *kicker = None;
        }
        let is_refused = control.is(self.index, |is| matches!(is, Progress::Refused(_)));
        let is_asked = is_refused || control.command == Command::Stop;
        if !is_refused {
            control.set(self.index, Progress::Ended);
        }
        drop(control);
        self.shared.changed.notify_all();
        if !is_asked {
            self.shared.fail(thread_ended());
        }
    }
}

impl Shared {
    fn thread(&self, mut birth: Birth, bus: &Bus) {
        let index = usize::from(birth.index);
        // Before the vCPU, so that it ends after it.
        let _stay = Stay { shared: self, index };
        let mut vcpu = match birth.vcpu() {
            Ok(vcpu) => vcpu,
            Err(error) => return self.report(index, Progress::Refused(error)),
        };
        if let Some(kicker) = self.lock().kickers.get_mut(index) {
            *kicker = Some(vcpu.kicker());
        }
        let mut working_set = birth.working_set.take();
        let mut pauses = 0;
        loop {
            match self.park(index, vcpu.as_mut(), &birth.state) {
                Command::Stop => return,
                _ => {
                    let paused = self.lock().pauses;
                    if std::mem::replace(&mut pauses, paused) != paused {
                        vcpu.note_pause();
                    }
                    // Here, where whoever started the machine has not to wait for it.
                    if let Some((ram, pages)) = working_set.take() {
                        put_in_place(vcpu.as_mut(), &ram, &pages);
                    }
                    self.run_guest(vcpu.as_mut(), bus);
                }
            }
        }
    }

    /// Runs the guest until it is kicked or has ended.
    fn run_guest(&self, vcpu: &mut dyn Vcpu, bus: &Bus) {
        loop {
            let exit = vcpu.run();
            // Only a count: nothing else is read because of it.
            self.exits.fetch_add(1, Ordering::Relaxed);
            let failure = match exit {
                Ok(exit) => match bus.serve(exit) {
                    None => continue,
                    Some(Exit::Failed { reason, code }) => {
                        GuestFailure::Unrunnable { reason: reason.into(), code }
                    }
                    Some(Exit::Shutdown) => GuestFailure::Shutdown,
                    Some(_) => return,
                },
                Err(HypervisorError::Call { source, .. }) => GuestFailure::Unrunnable {
                    reason: "hypervisor call failed".into(),
                    code: source.raw_os_error().map_or(0, i32::unsigned_abs).into(),
                },
                Err(_) => GuestFailure::Unrunnable { reason: "hypervisor refused".into(), code: 0 },
            };
            return self.fail(failure);
        }
    }

    /// Records how the guest ended; the first thread to say so counts. It runs no more then.
    fn fail(&self, failure: GuestFailure) {
        let mut control = self.lock();
        let is_first = control.failure.is_none();
        control.failure.get_or_insert_with(|| failure.clone());
        drop(control);
        self.fate.fail(&failure);
        if is_first {
            (self.on_failure)(&failure);
        }
        self.pause_all();
    }

    /// Holds every vCPU of a guest that has ended.
    fn pause_all(&self) {
        let mut control = self.lock();
        // Judged and changed under one lock: a stop that comes between must not be lost.
        if control.command == Command::Run {
            self.follow(&mut control, Command::Pause);
        }
    }

    /// Waits on the vCPU's thread until it is to run or to stop, and saves it or brings it back
    /// to how it began if asked.
    fn park(&self, index: usize, vcpu: &mut dyn Vcpu, begin: &VcpuState) -> Command {
        let mut control = self.lock();
        loop {
            match control.command {
                Command::Stop => return Command::Stop,
                Command::Run => {
                    control.set(index, Progress::Running);
                    return Command::Run;
                }
                Command::Save if !control.is(index, |is| matches!(is, Progress::Saved(_))) => {
                    drop(control);
                    let state = save(vcpu);
                    control = self.lock();
                    // A stop may have come meanwhile.
                    if control.command == Command::Save {
                        control.set(index, Progress::Saved(Box::new(state)));
                        self.changed.notify_all();
                    }
                }
                Command::Reset(round)
                    if round.includes(index)
                        && !control.is(index, |is| matches!(is, Progress::Reset(_))) =>
                {
                    drop(control);
                    let result = vcpu.reset(begin, round == Round::First);
                    control = self.lock();
                    // A stop may have come meanwhile.
                    if control.command == Command::Reset(round) {
                        control.set(index, Progress::Reset(result));
                        self.changed.notify_all();
                    }
                }
                Command::Pause if !control.is(index, |is| matches!(is, Progress::Parked)) => {
                    control.set(index, Progress::Parked);
                    self.changed.notify_all();
                }
                Command::Save | Command::Reset(_) | Command::Pause => {
                    control = self.changed.wait(control).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn report(&self, index: usize, progress: Progress) {
        self.lock().set(index, progress);
        self.changed.notify_all();
    }

    /// Gives a command; tells the one before it.
    fn command(&self, command: Command) -> Command {
        let mut control = self.lock();
        let before = control.command;
        self.follow(&mut control, command);
        before
    }

    fn follow(&self, control: &mut Control, command: Command) {
        control.command = command;
        self.changed.notify_all();
        // Threads that are to run wait for the command; only those in the guest need a kick.
        if command != Command::Run {
            control.kick();
        }
    }

    /// Waits until every thread's progress is as wanted.
    fn wait(&self, wanted: impl Fn(&Progress) -> bool) -> MutexGuard<'_, Control> {
        self.wait_each(|_, progress| wanted(progress))
    }

    fn wait_each(&self, wanted: impl Fn(usize, &Progress) -> bool) -> MutexGuard<'_, Control> {
        let mut control = self.lock();
        while !control.progress.iter().enumerate().all(|(index, is)| wanted(index, is)) {
            let (next, waited) = self
                .changed
                .wait_timeout(control, KICK_AGAIN)
                .unwrap_or_else(PoisonError::into_inner);
            control = next;
            if waited.timed_out() && control.command != Command::Run {
                control.kick();
            }
        }
        control
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control {
    fn set(&mut self, index: usize, progress: Progress) {
        if let Some(entry) = self.progress.get_mut(index) {
            *entry = progress;
        }
    }

    fn is(&self, index: usize, wanted: impl Fn(&Progress) -> bool) -> bool {
        self.progress.get(index).is_some_and(wanted)
    }

    /// Has the vCPUs that are in the guest leave it. Progress and command are judged under one
    /// lock, so none that is still to look at the command is missed.
    fn kick(&self) {
        for (progress, kicker) in self.progress.iter().zip(&self.kickers) {
            if let (Progress::Running, Some(kicker)) = (progress, kicker) {
                kicker.kick();
            }
        }
    }
}

impl From<HypervisorError> for MachineError {
    fn from(source: HypervisorError) -> Self {
        Self::Hypervisor { source }
    }
}

impl From<GuestFailure> for MachineError {
    fn from(source: GuestFailure) -> Self {
        Self::Ended { source }
    }
}
