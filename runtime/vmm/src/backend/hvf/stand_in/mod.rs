//! A stand-in for Hypervisor.framework: functions of its names, and vCPUs that play scripts.
//!
//! Like the framework it holds one VM for the process, so tests that use it take turns: each holds a
//! [`Session`]. It refuses what the framework's headers forbid: calls from another thread, pages that
//! are not whole, an interrupt controller after the vCPUs. Dropping a session checks that nothing is left.

mod functions;
mod gic;
mod world;

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vm_memory::MmapRegion;

use super::cpu::{Id, RawExit};
use super::framework::PAGE;
use super::vm::HvfVm;
use crate::arch::aarch64::processor::Host;

pub(super) use world::{Vcpu, World};

/// Codes of `hv_error.h`.
pub(super) const ERROR: u32 = 0xfae9_4001;
pub(super) const BUSY: u32 = 0xfae9_4002;
pub(super) const BAD_ARGUMENT: u32 = 0xfae9_4003;
pub(super) const NO_DEVICE: u32 = 0xfae9_4006;
pub(super) const DENIED: u32 = 0xfae9_4007;

/// The frequency of the host's counter.
pub(super) const HZ: u32 = 24_000_000;

static TURN: Mutex<()> = Mutex::new(());
static WORLD: Mutex<Option<World>> = Mutex::new(None);
/// Notified of every change of the world.
static CHANGED: Condvar = Condvar::new();

/// What a vCPU does when it runs.
pub(super) enum Step {
    /// The guest does something, and continues.
    Do(Box<dyn FnOnce(&mut Vcpu) + Send>),
    /// It exits.
    Exit(RawExit),
    /// The framework fails.
    Fail(u32),
}

impl Step {
    /// The guest sets a general register.
    pub(super) fn set(index: usize, value: u64) -> Self {
        Self::Do(Box::new(move |vcpu| vcpu.registers[index] = value))
    }

    /// It exits by an exception with this syndrome.
    pub(super) fn exception(syndrome: u64, physical_address: u64) -> Self {
        Self::Exit(RawExit { reason: 1, syndrome, virtual_address: 0, physical_address })
    }

    /// It exits by HVC.
    pub(super) fn call() -> Self {
        Self::exception(0x16 << 26 | 1 << 25, 0)
    }

    /// The virtual timer fires.
    pub(super) fn timer() -> Self {
        Self::Exit(RawExit { reason: 2, syndrome: 0, virtual_address: 0, physical_address: 0 })
    }
}

/// A test's use of the framework.
pub(super) struct Session {
    _turn: MutexGuard<'static, ()>,
}

/// Waits for the tests before, and begins with a host that runs no VM.
pub(super) fn begin() -> Session {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    *world() = Some(World::new());
    Session { _turn: turn }
}

impl Session {
    /// Reads or changes the world.
    pub(super) fn with<R>(&self, look: impl FnOnce(&mut World) -> R) -> R {
        let result = look(world().as_mut().unwrap());
        CHANGED.notify_all();
        result
    }

    /// Makes a function fail from now on.
    pub(super) fn refuse(&self, function: &'static str, code: u32) {
        self.with(|world| world.refusals.insert(function, code));
    }

    /// Makes the functions whose names begin so missing, as on an older macOS.
    pub(super) fn lack(&self, prefix: &'static str) {
        self.with(|world| world.lacking.push(prefix));
    }

    /// Adds to what a vCPU does.
    pub(super) fn script(&self, id: Id, steps: impl IntoIterator<Item = Step>) {
        self.with(|world| world.vcpu(id).script.extend(steps));
    }

    /// Reads or changes a vCPU.
    pub(super) fn vcpu<R>(&self, id: Id, look: impl FnOnce(&mut Vcpu) -> R) -> R {
        self.with(|world| look(world.vcpu(id)))
    }

    /// Waits until something is so.
    pub(super) fn wait_until(&self, is_so: impl Fn(&World) -> bool) {
        let guard = world();
        drop(CHANGED.wait_while(guard, |world| !is_so(world.as_ref().unwrap())).unwrap());
    }

    /// The names of the functions that changed something, in order, since the last call.
    pub(super) fn log(&self) -> Vec<&'static str> {
        self.with(|world| std::mem::take(&mut world.log))
    }

    /// What this host shows to guests.
    pub(super) fn host(&self) -> Arc<Host> {
        Arc::new(super::processor::ask(HZ).unwrap())
    }

    /// A VM.
    pub(super) fn vm(&self) -> HvfVm {
        HvfVm::new(self.host()).unwrap()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let world = world().take().unwrap();
        if !std::thread::panicking() {
            assert!(!world.has_vm && world.vcpus.is_empty(), "a VM is left");
            assert!(world.objects.is_empty(), "objects are left: {:?}", world.objects);
        }
    }
}

/// Memory that begins with a whole page, and has this many of them.
pub(super) fn region(pages: usize) -> Arc<MmapRegion> {
    let page = PAGE as usize;
    loop {
        let region = MmapRegion::<()>::new(page * pages).unwrap();
        let surplus = region.as_ptr().align_offset(page);
        if surplus == 0 {
            return Arc::new(region);
        }
        // Takes the room before the next page, so that another region begins there.
        std::mem::forget(region);
        std::mem::forget(MmapRegion::<()>::new(page - surplus).unwrap());
    }
}

/// The address of a function that is looked up by name.
pub(super) fn symbol(name: &CStr) -> Option<NonNull<c_void>> {
    let name = name.to_str().unwrap();
    let lacks = |world: &World| world.lacking.iter().any(|prefix| name.starts_with(prefix));
    if world().as_ref().is_some_and(lacks) {
        return None;
    }
    let found = gic::FUNCTIONS.iter().find(|(known, _)| *known == name);
    found.and_then(|(_, address)| NonNull::new(address().cast_mut().cast()))
}

/// The host's counter.
pub(super) fn host_counter() -> u64 {
    world().as_ref().unwrap().now
}

fn world() -> MutexGuard<'static, Option<World>> {
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}
