//! The functions that programs link.

use std::ffi::c_void;
use std::thread;

use super::world::{Object, Vcpu, World};
use super::{BAD_ARGUMENT, BUSY, CHANGED, ERROR, NO_DEVICE, Step, world};
use crate::backend::hvf::cpu::{Id, RawExit, Vector};
use crate::backend::hvf::framework::PAGE;

const CANCELED: RawExit =
    RawExit { reason: 0, syndrome: 0, virtual_address: 0, physical_address: 0 };
/// A timer's control registers.
const TIMER_CONTROLS: [u16; 2] = [0xdf11, 0xdf19];

/// Does what a function does, unless the test refuses it. The result is the framework's.
pub(super) fn serve(name: &'static str, act: impl FnOnce(&mut World) -> Result<(), u32>) -> i32 {
    let mut guard = world();
    let Some(world) = guard.as_mut() else { return NO_DEVICE.cast_signed() };
    let refusal = world.refusals.get(name).copied();
    let result = refusal.map_or_else(|| act(world), Err);
    if !name.contains("_get") {
        world.log.push(name);
    }
    drop(guard);
    CHANGED.notify_all();
    result.map_or_else(u32::cast_signed, |()| 0)
}

/// The same for a function of a vCPU, which belongs to one thread.
pub(super) fn serve_vcpu(
    name: &'static str,
    id: Id,
    act: impl FnOnce(&mut Vcpu) -> Result<(), u32>,
) -> i32 {
    serve(name, |world| act(own(world, id)?))
}

fn own(world: &mut World, id: Id) -> Result<&mut Vcpu, u32> {
    let vcpu = world.vcpus.get_mut(&id).ok_or(BAD_ARGUMENT)?;
    if vcpu.owner == thread::current().id() { Ok(vcpu) } else { Err(ERROR) }
}

/// Stores a result of a function.
///
/// # Safety
/// The address is aligned and has room.
pub(super) unsafe fn put<T>(at: *mut T, value: T) {
    // SAFETY: by this function's contract.
    unsafe { at.write(value) };
}

pub(super) fn create(object: Object) -> *mut c_void {
    let mut guard = world();
    let world = guard.as_mut().unwrap();
    let number = world.number();
    world.objects.insert(number, object);
    std::ptr::without_provenance_mut(number)
}

#[unsafe(no_mangle)]
extern "C" fn os_release(object: *mut c_void) {
    let released = world().as_mut().unwrap().objects.remove(&object.addr());
    assert!(released.is_some(), "an object is released twice");
}

#[unsafe(no_mangle)]
extern "C" fn hv_vm_config_create() -> *mut c_void {
    create(Object::VmConfig { bits: None })
}

#[unsafe(no_mangle)]
extern "C" fn hv_vm_create(config: *mut c_void) -> i32 {
    serve("hv_vm_create", |world| {
        if world.has_vm {
            return Err(BUSY);
        }
        world.bits = match world.objects.get(&config.addr()) {
            Some(Object::VmConfig { bits }) => *bits,
            _ => None,
        };
        world.has_vm = true;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn hv_vm_destroy() -> i32 {
    serve("hv_vm_destroy", |world| {
        if !world.has_vm || !world.vcpus.is_empty() {
            return Err(BUSY);
        }
        world.has_vm = false;
        world.gic = None;
        world.windows.clear();
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn hv_vm_map(address: *const c_void, ipa: u64, size: usize, flags: u64) -> i32 {
    serve("hv_vm_map", |world| {
        let numbers = [address as u64, ipa, size as u64];
        if !world.has_vm || numbers.iter().any(|number| !number.is_multiple_of(PAGE)) {
            return Err(BAD_ARGUMENT);
        }
        world.windows.push((ipa, size, flags));
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hv_vcpu_create(id: *mut Id, exit: *mut *const RawExit, _: *mut c_void) -> i32 {
    serve("hv_vcpu_create", |world| {
        if !world.has_vm {
            return Err(NO_DEVICE);
        }
        let (number, description) = world.add_vcpu();
        // SAFETY: callers have room for the vCPU's name.
        unsafe { put(id, number) };
        // SAFETY: callers have room for the address of the description.
        unsafe { put(exit, description) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn hv_vcpu_destroy(id: Id) -> i32 {
    serve("hv_vcpu_destroy", |world| {
        own(world, id)?;
        world.vcpus.remove(&id);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn hv_vcpu_config_create() -> *mut c_void {
    create(Object::VcpuConfig)
}

/// Serves CTR_EL0 only.
#[unsafe(no_mangle)]
unsafe extern "C" fn hv_vcpu_config_get_feature_reg(
    config: *mut c_void,
    register: u32,
    value: *mut u64,
) -> i32 {
    serve("hv_vcpu_config_get_feature_reg", |world| {
        let is_config = world.objects.get(&config.addr()) == Some(&Object::VcpuConfig);
        if !is_config || register != 9 {
            return Err(BAD_ARGUMENT);
        }
        // SAFETY: callers have room for the result.
        unsafe { put(value, world.ctr) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn hv_vcpus_exit(ids: *const Id, count: u32) -> i32 {
    assert_eq!(count, 1);
    // SAFETY: callers have one vCPU's name at the address.
    let id = unsafe { ids.read() };
    serve("hv_vcpus_exit", |world| {
        world.vcpus.get_mut(&id).ok_or(BAD_ARGUMENT)?.is_to_exit = true;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn hv_vcpu_run(id: Id) -> i32 {
    let mut guard = world();
    guard.as_mut().unwrap().log.push("hv_vcpu_run");
    loop {
        let world = guard.as_mut().unwrap();
        if let Some(gic) = &mut world.gic {
            gic.is_live = true;
        }
        let vcpu = match own(world, id) {
            Ok(vcpu) => vcpu,
            Err(code) => return code.cast_signed(),
        };
        vcpu.runs += usize::from(!vcpu.is_inside);
        vcpu.is_inside = true;
        CHANGED.notify_all();
        let end = if std::mem::take(&mut vcpu.is_to_exit) {
            Some(Ok(CANCELED))
        } else {
            match vcpu.script.pop_front() {
                Some(Step::Exit(exit)) => Some(Ok(exit)),
                Some(Step::Fail(code)) => Some(Err(code)),
                Some(Step::Do(act)) => {
                    act(vcpu);
                    continue;
                }
                None => None,
            }
        };
        if let Some(end) = end {
            vcpu.is_inside = false;
            return match end {
                Ok(exit) => {
                    *vcpu.exit = exit;
                    vcpu.is_timer_masked |= exit.reason == 2;
                    0
                }
                Err(code) => code.cast_signed(),
            };
        }
        guard = CHANGED.wait(guard).unwrap();
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hv_vcpu_get_reg(id: Id, register: u32, value: *mut u64) -> i32 {
    serve_vcpu("hv_vcpu_get_reg", id, |vcpu| {
        let found = vcpu.registers.get(register as usize).ok_or(BAD_ARGUMENT)?;
        // SAFETY: callers have room for the result.
        unsafe { put(value, *found) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn hv_vcpu_set_reg(id: Id, register: u32, value: u64) -> i32 {
    serve_vcpu("hv_vcpu_set_reg", id, |vcpu| {
        *vcpu.registers.get_mut(register as usize).ok_or(BAD_ARGUMENT)? = value;
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hv_vcpu_get_simd_fp_reg(id: Id, register: u32, value: *mut u128) -> i32 {
    serve_vcpu("hv_vcpu_get_simd_fp_reg", id, |vcpu| {
        let [low, high] = *vcpu.simd.get(register as usize).ok_or(BAD_ARGUMENT)?;
        // SAFETY: callers have room for the result.
        unsafe { put(value, u128::from(high) << 64 | u128::from(low)) };
        Ok(())
    })
}

/// Takes the value in a vector register, as the framework does.
#[expect(improper_ctypes_definitions, reason = "C has the type")]
#[unsafe(no_mangle)]
extern "C" fn hv_vcpu_set_simd_fp_reg(id: Id, register: u32, value: Vector) -> i32 {
    serve_vcpu("hv_vcpu_set_simd_fp_reg", id, |vcpu| {
        // SAFETY: both types have 16 bytes, and every value of them is legal.
        let halves = unsafe { std::mem::transmute::<Vector, [u64; 2]>(value) };
        *vcpu.simd.get_mut(register as usize).ok_or(BAD_ARGUMENT)? = halves;
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hv_vcpu_get_sys_reg(id: Id, register: u16, value: *mut u64) -> i32 {
    serve("hv_vcpu_get_sys_reg", |world| {
        let now = world.now;
        let vcpu = own(world, id)?;
        let mut found = *vcpu.system.get(&register).ok_or(BAD_ARGUMENT)?;
        if TIMER_CONTROLS.contains(&register) {
            found = vcpu.timer_control(register, now);
        }
        // SAFETY: callers have room for the result.
        unsafe { put(value, found) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn hv_vcpu_set_sys_reg(id: Id, register: u16, value: u64) -> i32 {
    serve("hv_vcpu_set_sys_reg", |world| {
        let writable = world.writable.get(&register).copied().unwrap_or(u64::MAX);
        let found = own(world, id)?.system.get_mut(&register).ok_or(BAD_ARGUMENT)?;
        if (*found ^ value) & !writable != 0 {
            return Err(BAD_ARGUMENT);
        }
        *found = value;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn hv_vcpu_set_vtimer_offset(id: Id, offset: u64) -> i32 {
    serve_vcpu("hv_vcpu_set_vtimer_offset", id, |vcpu| {
        vcpu.offset = offset;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn hv_vcpu_set_vtimer_mask(id: Id, is_masked: bool) -> i32 {
    serve_vcpu("hv_vcpu_set_vtimer_mask", id, |vcpu| {
        vcpu.is_timer_masked = is_masked;
        Ok(())
    })
}
