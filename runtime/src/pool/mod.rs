//! Pools of warm machines of one snapshot.
//!
//! A returned machine is reset in place: its written pages are dropped or overwritten, its
//! processors and devices get the snapshot's state, and the guest gets fresh entropy, the time and
//! new ids. A warm machine is one that runs and is idle.
//!
//! The [`scheduler`] decides who gets which machine; [`Vm`] starts and resets one.

mod lease;
mod scheduler;
mod state;
mod stats;
#[cfg(test)]
mod tests;

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use supermachine_vmm::MachineError;

use self::lease::{Acquire, Lease};
use self::scheduler::Scheduler;
use self::state::{Manager, PoolOptions, Urgency};
pub use self::stats::PoolStats;
use crate::error::InvalidInput;
use crate::{Error, Image, Vm, VmConfig, disks};

const DEFAULT_MAX: usize = 64;
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const DEFAULT_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// Warm machines of one snapshot. Cheap to clone; all clones are one pool.
///
/// Dropping the last clone stops the unused machines and the pool's thread. Machines in use keep
/// running until they are dropped.
///
/// ```no_run
/// use supermachine::Image;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let image = Image::from_store("snapshots", "python")?;
/// let pool = image.pool().min(2).max(5).build()?;
/// std::thread::scope(|scope| {
///     for _ in 0..16 {
///         scope.spawn(|| pool.acquire()?.exec(["python3", "-c", "print(6 * 7)"]));
///     }
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Pool {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner {
    scheduler: Arc<Scheduler<VmManager>>,
    thread: Option<JoinHandle<()>>,
}

impl Pool {
    /// Takes a warm machine. If there is none, this thread resets a returned one or starts a new
    /// one; if the pool is full, it waits. The queue is first come, first served.
    ///
    /// # Errors
    /// [`Error::PoolExhausted`] when none became free in time, or those of [`Vm::start`].
    pub fn acquire(&self) -> Result<PooledVm, Error> {
        PooledVm::new(self.begin_acquire().wait()?)
    }

    /// Begins to acquire a machine.
    pub(crate) fn begin_acquire(&self) -> Acquire<VmManager> {
        Acquire::new(&self.owner.scheduler)
    }

    /// The pool's current state and counters.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.owner.scheduler.stats()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.scheduler.close();
        // A thread that panicked has nothing left to do.
        let _ = self.thread.take().map(JoinHandle::join);
        self.scheduler.clear();
    }
}

/// Describes a [`Pool`]; [`Image::pool`] makes it.
#[derive(Debug, Clone)]
#[must_use = "it does nothing before it is built"]
pub struct PoolBuilder {
    image: Image,
    config: VmConfig,
    options: PoolOptions,
}

impl PoolBuilder {
    pub(crate) fn new(image: &Image) -> Self {
        let options = PoolOptions {
            min: 0,
            max: DEFAULT_MAX,
            idle_timeout: DEFAULT_IDLE_TIMEOUT,
            acquire_timeout: DEFAULT_ACQUIRE_TIMEOUT,
            restores: true,
        };
        Self { image: image.detached(), config: VmConfig::new(), options }
    }

    /// Starts machines with this configuration. Its [`VmConfig::with_pool_warm`] is ignored.
    pub fn config(mut self, config: &VmConfig) -> Self {
        self.config = config.clone();
        self
    }

    /// Keeps this many machines warm, within [`max`](Self::max). The default is 0.
    pub fn min(mut self, min: usize) -> Self {
        self.options.min = min;
        self
    }

    /// Limits the machines of the pool, in use or not. The default is 64.
    pub fn max(mut self, max: usize) -> Self {
        self.options.max = max;
        self
    }

    /// Evicts a warm machine beyond [`min`](Self::min) once it was idle for this long. The default
    /// is a minute.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.idle_timeout = timeout;
        self
    }

    /// Limits the wait for a machine. The default is half a minute.
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.options.acquire_timeout = timeout;
        self
    }

    /// Whether to reset a returned machine to its snapshot, which is the default. Without it, the
    /// next user sees what the previous one left; a machine whose user panicked is stopped.
    pub fn restore_on_release(mut self, restores: bool) -> Self {
        self.options.restores = restores;
        self
    }

    /// Builds the pool, which starts to warm its machines.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `max` is 0 or less than `min`, or the configuration requires another
    /// machine than the snapshot holds; the host has no thread left.
    pub fn build(self) -> Result<Pool, Error> {
        let Self { image, config, options } = self;
        if options.max == 0 || options.min > options.max {
            return Err(Error::Invalid {
                source: InvalidInput::PoolSize { min: options.min, max: options.max },
            });
        }
        image.require(&config)?;
        disks::check_pool(&config)?;
        let scheduler = Arc::new(Scheduler::new(VmManager { image, config }, options));
        let tended = Arc::clone(&scheduler);
        let thread = thread::Builder::new().name("sm-pool".into()).spawn(move || tended.tend());
        let thread = thread.map_err(|source| MachineError::Thread { source })?;
        Ok(Pool { owner: Arc::new(Owner { scheduler, thread: Some(thread) }) })
    }
}

/// A machine of a pool. Dropping it returns the machine.
#[derive(Debug)]
pub struct PooledVm {
    /// Taken once: by a method that consumes this, or by its `Drop`.
    vm: ManuallyDrop<Vm>,
    scheduler: Arc<Scheduler<VmManager>>,
}

impl PooledVm {
    /// Turns a lease into a machine, made or reset if needed.
    pub(crate) fn new(lease: Lease<VmManager>) -> Result<Self, Error> {
        let scheduler = lease.scheduler();
        Ok(Self { vm: ManuallyDrop::new(lease.fulfill()?), scheduler })
    }

    /// Takes the machine out of its pool for good; the pool may make another in its place.
    #[must_use]
    pub fn into_inner(self) -> Vm {
        let (vm, scheduler) = self.take();
        scheduler.let_go();
        vm
    }

    /// Has the pool stop the machine instead of reusing it.
    pub fn discard(self) {
        let (mut vm, scheduler) = self.take();
        vm.close_forwards();
        scheduler.give_back(vm, false);
    }

    fn take(self) -> (Vm, Arc<Scheduler<VmManager>>) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again and never dropped, so the machine is taken once.
        let vm = unsafe { ManuallyDrop::take(&mut this.vm) };
        // SAFETY: as above; the reference moves into the result.
        let scheduler = unsafe { std::ptr::read(&raw const this.scheduler) };
        (vm, scheduler)
    }
}

impl Deref for PooledVm {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        &self.vm
    }
}

impl Drop for PooledVm {
    fn drop(&mut self) {
        // SAFETY: `Drop` runs once, and not after a method that took the machine.
        let mut vm = unsafe { ManuallyDrop::take(&mut self.vm) };
        // At once, so that no forward of this user leads to the machine of another.
        vm.close_forwards();
        // Without a reset, the state after a panic is not handed on, and a paused machine is
        // resumed.
        let is_sound = self.scheduler.restores() || (!thread::panicking() && vm.resume().is_ok());
        self.scheduler.give_back(vm, is_sound);
    }
}

/// Makes a pool's machines.
#[derive(Debug)]
pub(crate) struct VmManager {
    /// Without attached pools, as it is part of one.
    image: Image,
    config: VmConfig,
}

impl Manager for VmManager {
    type Machine = Vm;

    fn create(&self, urgency: Urgency) -> Result<Vm, Error> {
        match urgency {
            Urgency::Immediate => Vm::start(&self.image, &self.config),
            // A machine that starts on demand cannot be reset.
            Urgency::Ahead => Vm::start(&self.image, &self.config.clone().with_expand_first(true)),
        }
    }

    fn reset(&self, vm: &mut Vm) -> Result<(), Error> {
        vm.reset(&self.config)
    }

    fn is_healthy(&self, vm: &Vm) -> bool {
        vm.handle().is_healthy()
    }
}

/// The pools of an image, one for each configuration.
#[derive(Debug, Default)]
struct Pools(Mutex<Vec<(VmConfig, Pool)>>);

impl Pools {
    /// The pool for a configuration, built at the first call.
    fn get(&self, image: &Image, config: &VmConfig) -> Result<Pool, Error> {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pool)) = pools.iter().find(|(known, _)| known == config) {
            return Ok(pool.clone());
        }
        // Pools without machines are closed, so that ever new configurations leave no threads.
        pools.retain(|(_, pool)| !pool.owner.scheduler.is_empty());
        let warm = config.pool_warm();
        let builder = image.pool().config(config).min(warm).max(warm.max(DEFAULT_MAX));
        let pool = builder.build()?;
        pools.push((config.clone(), pool.clone()));
        Ok(pool)
    }
}

impl Image {
    /// Starts a machine.
    ///
    /// # Errors
    /// Those of [`Vm::start`].
    #[inline]
    pub fn start(&self, config: &VmConfig) -> Result<Vm, Error> {
        Vm::start(self, config)
    }

    /// Takes a warm machine from a pool that belongs to this image and its clones, and closes with
    /// the last of them. The machine returns to the pool when it is dropped.
    ///
    /// # Errors
    /// Those of [`Pool::acquire`].
    pub fn acquire(&self) -> Result<PooledVm, Error> {
        self.acquire_with(&VmConfig::new())
    }

    /// Takes a warm machine of this configuration; each configuration has a pool of its own. With
    /// [`VmConfig::with_pool_warm`] that many machines are kept warm from then on.
    ///
    /// # Errors
    /// Those of [`Pool::acquire`] and [`PoolBuilder::build`].
    pub fn acquire_with(&self, config: &VmConfig) -> Result<PooledVm, Error> {
        self.pool_with(config)?.acquire()
    }

    /// The pool that belongs to this image for a configuration.
    pub(crate) fn pool_with(&self, config: &VmConfig) -> Result<Pool, Error> {
        self.attached::<Pools>().get(self, config)
    }

    /// Describes a pool of machines.
    pub fn pool(&self) -> PoolBuilder {
        PoolBuilder::new(self)
    }
}
