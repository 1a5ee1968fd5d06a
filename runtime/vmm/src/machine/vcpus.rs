//! The threads that run vCPUs: how they are started, paused, saved, reset and joined.
//!
//! Each vCPU has a thread, `sm-vcpu<N>`, owned by [`Vcpus`] and joined when that is dropped. A
//! thread creates its vCPU, restores it, and parks. The only lock, [`Shared::control`], guards the
//! command that all threads follow. It is not held while a guest runs or is saved, or while a
//! device is served. Each change of the command kicks the running vCPUs, and a kicked thread reads
//! the command again. However a thread exits, it records so in its progress, so that no other
//! thread waits for it forever. A thread that exits without a command stops the guest.
//!
//! The caller gives one command at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use supermachine_formats::snapshot::WorkingSet;

use super::board::Board;
use super::exit_state::ExitState;
use crate::arch::{Clock, SavedVcpu, VcpuState};
use crate::backend::{Exit, HypervisorError, Kick, Vcpu, Vm};
use crate::error::{GuestFailure, MachineError};
use crate::memory::Ram;
use crate::os::{Populate, thread_cpu_time};

/// How long a vCPU may take to leave the guest before it is kicked again. A kick can be lost: it is
/// a queued signal, and the host limits how many of them a user may have queued.
const KICK_AGAIN: Duration = Duration::from_millis(100);

/// What the vCPUs are created from.
#[derive(Debug)]
pub(super) struct VcpuSetup {
    /// The state of each vCPU.
    pub(super) states: Vec<VcpuState>,
    /// The clock, with the rates that processors count at.
    pub(super) clock: Clock,
    /// Pages that the first vCPU populates before it runs.
    pub(super) working_set: (Arc<Ram>, WorkingSet),
}

/// Called once, on a vCPU thread, when the guest has stopped by itself.
pub(super) type OnFailure = Box<dyn Fn(&GuestFailure) + Send + Sync>;

/// A machine's vCPU threads.
#[derive(Debug)]
pub(super) struct Vcpus {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// The number of exits from the guest.
    exits: AtomicU64,
    control: Mutex<Control>,
    /// Notified of every change of `control`.
    changed: Condvar,
    on_failure: OnFailure,
    exit_state: Arc<ExitState>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("control", &self.control).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Control {
    command: Command,
    /// What each thread does.
    progress: Vec<Progress>,
    /// A handle of each vCPU, while its thread lives.
    kickers: Vec<Option<Box<dyn Kick>>>,
    failure: Option<GuestFailure>,
    /// The number of pauses that a user asked for.
    pauses: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Pause,
    /// Pause, and save the state.
    Save,
    /// Pause, and restore the original state.
    Reset(ResetRound),
    Run,
    Stop,
}

/// The vCPUs that are reset together: the first alone, then all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResetRound {
    First,
    Others,
}

impl ResetRound {
    fn includes(self, index: usize) -> bool {
        (index == 0) == (self == Self::First)
    }
}

#[derive(Debug)]
enum Progress {
    Starting,
    Running,
    Parked,
    Saved(Box<Result<SavedVcpu, HypervisorError>>),
    Reset(Result<(), HypervisorError>),
    /// The vCPU could not be created or restored.
    Refused(HypervisorError),
    /// The thread has exited.
    Exited,
}

impl Vcpus {
    /// Creates and restores the vCPUs. They are parked until [`Vcpus::run`].
    pub(super) fn start(
        vm: &Arc<dyn Vm>,
        board: &Arc<Board>,
        setup: VcpuSetup,
        on_failure: OnFailure,
    ) -> Result<Self, MachineError> {
        let control = Control {
            command: Command::Pause,
            progress: setup.states.iter().map(|_| Progress::Starting).collect(),
            kickers: setup.states.iter().map(|_| None).collect(),
            failure: None,
            pauses: 0,
        };
        let (exits, control) = (AtomicU64::new(0), Mutex::new(control));
        let shared = Arc::new(Shared {
            exits,
            control,
            changed: Condvar::new(),
            on_failure,
            exit_state: Arc::default(),
        });
        let mut vcpus = Self { shared, threads: Vec::with_capacity(setup.states.len()) };
        let mut working_set = Some(setup.working_set);
        for (index, state) in (0..).zip(setup.states) {
            let thread_setup = ThreadSetup {
                vm: Arc::clone(vm),
                index,
                state,
                clock: setup.clock.clone(),
                working_set: working_set.take(),
            };
            let (shared, board) = (Arc::clone(&vcpus.shared), Arc::clone(board));
            let thread = thread::Builder::new()
                .name(format!("sm-vcpu{index}"))
                .stack_size(256 << 10)
                .spawn(move || shared.thread(thread_setup, &board))
                .map_err(|source| MachineError::Thread { source })?;
            vcpus.threads.push(thread);
        }
        vcpus.wait_started()?;
        Ok(vcpus)
    }

    /// Runs the vCPUs, unless the guest has stopped by itself.
    pub(super) fn run(&self) {
        let mut control = self.shared.lock();
        if control.failure.is_none() {
            self.shared.follow(&mut control, Command::Run);
        }
    }

    /// Whether the vCPUs run or are about to.
    pub(super) fn is_to_run(&self) -> bool {
        self.shared.lock().command == Command::Run
    }

    /// The same as [`Vcpus::run`], after a pause that the guest must learn of.
    pub(super) fn run_again(&self) {
        self.shared.lock().pauses += 1;
        self.run();
    }

    /// Pauses the vCPUs; on return none is in the guest. Returns whether they ran before.
    pub(super) fn pause(&self) -> bool {
        let was_to_run = self.shared.command(Command::Pause) == Command::Run;
        drop(self.shared.wait(|progress| !matches!(progress, Progress::Running)));
        was_to_run
    }

    /// Pauses the vCPUs and saves them, each on its own thread.
    pub(super) fn save(&self) -> Result<Vec<SavedVcpu>, MachineError> {
        self.shared.command(Command::Save);
        let mut control =
            self.shared.wait(|progress| matches!(progress, Progress::Saved(_) | Progress::Exited));
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
            return Err(thread_exited().into());
        }
        Ok(saved.into_iter().collect::<Result<_, _>>()?)
    }

    /// Pauses the vCPUs and restores their original state.
    ///
    /// # Errors
    /// A vCPU refuses the state, or its thread has exited.
    pub(super) fn reset(&self) -> Result<(), MachineError> {
        self.reset_round(ResetRound::First)?;
        if self.threads.len() > 1 { self.reset_round(ResetRound::Others) } else { Ok(()) }
    }

    fn reset_round(&self, round: ResetRound) -> Result<(), MachineError> {
        self.shared.command(Command::Reset(round));
        let mut control = self.shared.wait_each(|index, progress| {
            !round.includes(index) || matches!(progress, Progress::Reset(_) | Progress::Exited)
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
                Progress::Exited if round.includes(index) => return Err(thread_exited().into()),
                _ => {}
            }
        }
        result
    }

    /// How the guest stopped by itself; `None` if it did not.
    pub(super) fn failure(&self) -> Option<GuestFailure> {
        self.shared.lock().failure.clone()
    }

    /// How the guest stopped, for code that outlives the vCPUs.
    pub(super) fn exit_state(&self) -> &Arc<ExitState> {
        &self.shared.exit_state
    }

    /// The processor time of all vCPU threads.
    pub(super) fn cpu_time(&self) -> Duration {
        self.threads.iter().filter_map(|thread| thread_cpu_time(thread).ok()).sum()
    }

    /// The number of exits from the guest.
    pub(super) fn exits(&self) -> u64 {
        self.shared.exits.load(Ordering::Relaxed)
    }

    /// A function that stops the guest from another thread, as if it had stopped by itself.
    pub(super) fn stopper(&self) -> Box<dyn Fn(GuestFailure) + Send> {
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
            if matches!(progress, Progress::Exited) {
                return Err(thread_exited().into());
            }
        }
        Ok(())
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.shared.exit_state.end_use();
        self.shared.command(Command::Stop);
        for thread in self.threads.drain(..) {
            // A vCPU thread that panicked has nothing left to clean up.
            let _ = thread.join();
        }
    }
}

/// What one thread creates its vCPU from.
struct ThreadSetup {
    vm: Arc<dyn Vm>,
    index: u16,
    state: VcpuState,
    clock: Clock,
    working_set: Option<(Arc<Ram>, WorkingSet)>,
}

impl ThreadSetup {
    fn vcpu(&self) -> Result<Box<dyn Vcpu>, HypervisorError> {
        let mut vcpu = self.vm.create_vcpu(self.index)?;
        vcpu.restore(&self.state, &self.clock)?;
        Ok(vcpu)
    }
}

/// Populates the pages that the guest is about to use. This only saves time: a page that is left
/// out costs a fault when the guest touches it.
fn populate(vcpu: &mut dyn Vcpu, ram: &Ram, pages: &WorkingSet) {
    ram.populate(&pages.written, Populate::Write);
    let ranges = ram.guest_ranges(&pages.merged());
    if !ranges.iter().all(|(address, size)| vcpu.pre_fault(*address, *size)) {
        // The hypervisor cannot, but the host's own page table is the larger part of the work.
        ram.populate(&pages.read, Populate::Read);
    }
}

/// The failure of a guest whose vCPU thread has exited.
fn thread_exited() -> GuestFailure {
    GuestFailure::Unrunnable { reason: "vCPU thread exited".into(), code: 0 }
}

/// Records a vCPU thread's exit, even after a panic.
struct ThreadGuard<'a> {
    shared: &'a Shared,
    index: usize,
}

impl Drop for ThreadGuard<'_> {
    fn drop(&mut self) {
        let mut control = self.shared.lock();
        // The thread's id may soon be that of another thread, which must not be kicked.
        if let Some(kicker) = control.kickers.get_mut(self.index) {
            *kicker = None;
        }
        let is_refused = control.is(self.index, |is| matches!(is, Progress::Refused(_)));
        let is_asked = is_refused || control.command == Command::Stop;
        if !is_refused {
            control.set(self.index, Progress::Exited);
        }
        drop(control);
        self.shared.changed.notify_all();
        if !is_asked {
            self.shared.fail(thread_exited());
        }
    }
}

impl Shared {
    fn thread(&self, mut setup: ThreadSetup, board: &Board) {
        let index = usize::from(setup.index);
        // Before the vCPU, so that it is dropped after it.
        let _guard = ThreadGuard { shared: self, index };
        let mut vcpu = match setup.vcpu() {
            Ok(vcpu) => vcpu,
            Err(error) => return self.report(index, Progress::Refused(error)),
        };
        if let Some(kicker) = self.lock().kickers.get_mut(index) {
            *kicker = Some(vcpu.kicker());
        }
        let mut working_set = setup.working_set.take();
        let mut pauses = 0;
        loop {
            match self.park(index, vcpu.as_mut(), &setup.state) {
                Command::Stop => return,
                _ => {
                    let paused = self.lock().pauses;
                    if std::mem::replace(&mut pauses, paused) != paused {
                        vcpu.note_pause();
                    }
                    // Not before, so that the caller who starts the machine does not wait for it.
                    if let Some((ram, pages)) = working_set.take() {
                        populate(vcpu.as_mut(), &ram, &pages);
                    }
                    self.run_guest(vcpu.as_mut(), board);
                }
            }
        }
    }

    /// Runs the guest until it is kicked or has stopped by itself.
    fn run_guest(&self, vcpu: &mut dyn Vcpu, board: &Board) {
        loop {
            let exit = vcpu.run();
            // Relaxed: only a count.
            self.exits.fetch_add(1, Ordering::Relaxed);
            let failure = match exit {
                Ok(Exit::Read { address, data }) => {
                    board.read(address, data);
                    continue;
                }
                Ok(Exit::Write { address, data }) => {
                    board.write(address, data);
                    continue;
                }
                Ok(Exit::Kicked) => return,
                Ok(Exit::Shutdown) => GuestFailure::Shutdown,
                Ok(Exit::Failed { reason, code }) => {
                    GuestFailure::Unrunnable { reason: reason.into(), code }
                }
                Err(HypervisorError::Call { source, .. }) => GuestFailure::Unrunnable {
                    reason: "hypervisor call failed".into(),
                    code: source.raw_os_error().map_or(0, i32::unsigned_abs).into(),
                },
                Err(_) => GuestFailure::Unrunnable { reason: "hypervisor refused".into(), code: 0 },
            };
            return self.fail(failure);
        }
    }

    /// Records how the guest stopped by itself, and pauses it for good. Only the first call counts.
    fn fail(&self, failure: GuestFailure) {
        let mut control = self.lock();
        let is_first = control.failure.is_none();
        control.failure.get_or_insert_with(|| failure.clone());
        drop(control);
        self.exit_state.fail(&failure);
        if is_first {
            (self.on_failure)(&failure);
        }
        self.pause_all();
    }

    /// Pauses every vCPU of a guest that has stopped by itself.
    fn pause_all(&self) {
        let mut control = self.lock();
        // Checked and changed under one lock: a stop in between must not be lost.
        if control.command == Command::Run {
            self.follow(&mut control, Command::Pause);
        }
    }

    /// Waits on the vCPU's thread for a command to run or to stop, and meanwhile saves and resets
    /// the vCPU on command.
    fn park(&self, index: usize, vcpu: &mut dyn Vcpu, original: &VcpuState) -> Command {
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
                    let state = vcpu.save();
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
                    let result = vcpu.reset(original, round == ResetRound::First);
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

    /// Gives a command. Returns the former one.
    fn command(&self, command: Command) -> Command {
        let mut control = self.lock();
        let before = control.command;
        self.follow(&mut control, command);
        before
    }

    fn follow(&self, control: &mut Control, command: Command) {
        control.command = command;
        self.changed.notify_all();
        // Parked threads wait for the command; only those in the guest need a kick.
        if command != Command::Run {
            control.kick();
        }
    }

    /// Waits until every thread's progress matches.
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

    /// Makes the vCPUs that are in the guest leave it. Progress and command are under one lock, so
    /// this misses no thread that has yet to read the command.
    fn kick(&self) {
        for (progress, kicker) in self.progress.iter().zip(&self.kickers) {
            if let (Progress::Running, Some(kicker)) = (progress, kicker) {
                kicker.kick();
            }
        }
    }
}
