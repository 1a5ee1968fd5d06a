//! Pools: warm machines of one snapshot, handed out and taken back.
//!
//! A machine that comes back is put back to the snapshot, in place: the pages that were written
//! are dropped or written over, processors and devices take on the snapshot's state, and the guest
//! gets fresh entropy, the time and its own ids. So a warm machine is one that runs and waits.
//!
//! Owns who gets which machine ([`shelf`]); starting and resetting one is [`Vm`]'s affair.

mod shelf;
#[cfg(test)]
mod tests;

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::shelf::{Haste, Lot, Maker, Place, Rules, Shelf};
use crate::{Error, Image, Vm, VmConfig};
use supermachine_vmm::MachineError;

const DEFAULT_MAX: usize = 64;
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const DEFAULT_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// Warm machines of one snapshot. Cheap to clone; all clones are one pool.
///
/// When the last of them is dropped, so are the machines that nobody uses, and the pool's
/// thread ends. Machines in use live on, and end when they are dropped.
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
    shelf: Arc<Shelf<VmMaker>>,
    thread: Option<JoinHandle<()>>,
}

impl Pool {
    /// Takes a warm machine. If there is none, one that was given back is reset, or one is
    /// started, on this thread; if the pool has as many as it may have, this waits. Who waits
    /// longest is served first.
    ///
    /// # Errors
    /// [`Error::PoolExhausted`] when none became free in time, or those of [`Vm::start`].
    pub fn acquire(&self) -> Result<PooledVm, Error> {
        PooledVm::of(self.place().wait()?)
    }

    /// A place for somebody who asks for a machine.
    pub(crate) fn place(&self) -> Place<VmMaker> {
        self.owner.shelf.place()
    }

    /// How the pool stands.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.owner.shelf.stats()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shelf.close();
        // A thread that panicked has nothing left to do.
        let _ = self.thread.take().map(JoinHandle::join);
        self.shelf.clear();
    }
}

/// How a pool stands, and what it did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PoolStats {
    /// Warm machines.
    pub idle: usize,
    /// Machines that somebody has or is about to have.
    pub in_use: usize,
    /// Machines that were given back and are not reset yet.
    pub returning: usize,
    /// Machines that the pool's thread starts or resets.
    pub starting: usize,
    /// Callers who wait for a machine.
    pub waiting: usize,
    /// Machines that were started, since the pool was built.
    pub created: u64,
    /// How often one was reset.
    pub reset: u64,
    /// Machines that were given up: they had died, could not be reset, or were discarded.
    pub replaced: u64,
    /// How often one could not be started.
    pub failures: u64,
}

/// Describes a [`Pool`]; [`Image::pool`] makes it.
#[derive(Debug, Clone)]
#[must_use = "it does nothing before it is built"]
pub struct PoolBuilder {
    image: Image,
    config: VmConfig,
    rules: Rules,
}

impl PoolBuilder {
    pub(crate) fn new(image: &Image) -> Self {
        let rules = Rules {
            min: 0,
            max: DEFAULT_MAX,
            idle_timeout: DEFAULT_IDLE_TIMEOUT,
            acquire_timeout: DEFAULT_ACQUIRE_TIMEOUT,
            restores: true,
        };
        Self { image: image.without_pools(), config: VmConfig::new(), rules }
    }

    /// Starts machines in this way. Its [`VmConfig::with_pool_warm`] does not count here.
    pub fn config(mut self, config: &VmConfig) -> Self {
        self.config = config.clone();
        self
    }

    /// Keeps this many machines warm, as far as the most that there may be allow. 0 unless said
    /// otherwise.
    pub fn min(mut self, min: usize) -> Self {
        self.rules.min = min;
        self
    }

    /// Has at most this many machines, in use or not; 64 unless said otherwise.
    pub fn max(mut self, max: usize) -> Self {
        self.rules.max = max;
        self
    }

    /// Ends a warm machine beyond the least number when nobody has used it for this long; a
    /// minute unless said otherwise.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.rules.idle_timeout = timeout;
        self
    }

    /// Waits for a machine this long at most; half a minute unless said otherwise.
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.rules.acquire_timeout = timeout;
        self
    }

    /// Whether a machine is put back to the snapshot when it is given back, which it is unless
    /// said otherwise. Without, the next user finds what the one before has left, but for a
    /// machine whose user panicked: that one is ended.
    pub fn restore_on_release(mut self, restores: bool) -> Self {
        self.rules.restores = restores;
        self
    }

    /// Makes the pool, which begins to warm its machines.
    ///
    /// # Errors
    /// [`Error::PoolSize`] if it could have no machine or fewer than it is to keep warm,
    /// [`Error::Mismatch`] if the configuration requires another machine than the snapshot
    /// holds, or the host has no thread left.
    pub fn build(self) -> Result<Pool, Error> {
        let Self { image, config, rules } = self;
        if rules.max == 0 || rules.min > rules.max {
            return Err(Error::PoolSize { min: rules.min, max: rules.max });
        }
        crate::vm::check(&image, &config)?;
        let shelf = Arc::new(Shelf::new(VmMaker { image, config }, rules));
        let tended = Arc::clone(&shelf);
        let thread = thread::Builder::new().name("sm-pool".into()).spawn(move || tended.tend());
        let thread = thread.map_err(|source| MachineError::Thread { source })?;
        Ok(Pool { owner: Arc::new(Owner { shelf, thread: Some(thread) }) })
    }
}

/// A machine of a pool, which takes it back when this is dropped.
#[derive(Debug)]
pub struct PooledVm {
    /// Taken once, by whatever ends this.
    vm: ManuallyDrop<Vm>,
    shelf: Arc<Shelf<VmMaker>>,
}

impl PooledVm {
    /// The machine that somebody was given, made or reset if need be.
    pub(crate) fn of(lot: Lot<VmMaker>) -> Result<Self, Error> {
        let shelf = lot.shelf();
        Ok(Self { vm: ManuallyDrop::new(lot.furnish()?), shelf })
    }

    /// Takes the machine out of its pool for good; the pool may have another in its place.
    #[must_use]
    pub fn into_inner(self) -> Vm {
        let (vm, shelf) = self.take();
        shelf.let_go();
        vm
    }

    /// Has the pool end the machine, and not use it again.
    pub fn discard(self) {
        let (mut vm, shelf) = self.take();
        vm.part();
        shelf.give_back(vm, false);
    }

    fn take(self) -> (Vm, Arc<Shelf<VmMaker>>) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again and never dropped, so the machine is taken once.
        let vm = unsafe { ManuallyDrop::take(&mut this.vm) };
        // SAFETY: as above: the one owner of the reference goes on in what is returned.
        let shelf = unsafe { std::ptr::read(&raw const this.shelf) };
        (vm, shelf)
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
        // SAFETY: this is dropped once, and nothing that took the machine before lets it be.
        let mut vm = unsafe { ManuallyDrop::take(&mut self.vm) };
        // At once: nothing of this user leads to a machine that another may have soon.
        vm.part();
        // What a user who panicked has left is no state to hand on, unless it is reset.
        // And nobody waits for a machine that the user before has paused.
        let is_sound = self.shelf.restores() || (!thread::panicking() && vm.resume().is_ok());
        self.shelf.give_back(vm, is_sound);
    }
}

/// Makes a pool's machines.
#[derive(Debug)]
pub(crate) struct VmMaker {
    /// Without pools of its own: it lives in one.
    image: Image,
    config: VmConfig,
}

impl Maker for VmMaker {
    type Machine = Vm;

    fn make(&self, haste: Haste) -> Result<Vm, Error> {
        match haste {
            Haste::Now => Vm::start(&self.image, &self.config),
            // One that starts before its snapshot is expanded cannot be reset.
            Haste::Ahead => Vm::start(&self.image, &self.config.clone().with_expand_first(true)),
        }
    }

    fn reset(&self, vm: &mut Vm) -> Result<(), Error> {
        vm.reset(&self.config)
    }

    fn is_well(&self, vm: &Vm) -> bool {
        vm.is_well()
    }
}

/// The pools that belong to an image: one for each configuration that it was asked with.
#[derive(Debug, Default)]
pub(crate) struct Pools(Mutex<Vec<(VmConfig, Pool)>>);

impl Pools {
    /// The pool for a configuration, made when it is asked for first.
    pub(crate) fn of(&self, image: &Image, config: &VmConfig) -> Result<Pool, Error> {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pool)) = pools.iter().find(|(known, _)| known == config) {
            return Ok(pool.clone());
        }
        // Who asks with ever new configurations leaves no threads behind.
        pools.retain(|(_, pool)| !pool.owner.shelf.is_empty());
        let warm = config.pool_warm();
        let builder = image.pool().config(config).min(warm).max(warm.max(DEFAULT_MAX));
        let pool = builder.build()?;
        pools.push((config.clone(), pool.clone()));
        Ok(pool)
    }
}
