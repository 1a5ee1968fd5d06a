//! The functions that programs look up by name.

use std::ffi::c_void;
use std::slice;

use super::functions::{create, put, serve, serve_vcpu};
use super::world::{Gic, Object};
use super::{BAD_ARGUMENT, BUSY, NO_DEVICE, world};
use crate::arch::aarch64::layout::REDISTRIBUTOR_SIZE;
use crate::backend::hvf::cpu::Id;

/// What the state of a controller begins with.
const MAGIC: &[u8] = b"GIC";

type Address = fn() -> *const ();

macro_rules! table {
    ($($name:ident)*) => { [$((stringify!($name), (|| $name as *const ()) as Address),)*] };
}

/// The functions and their addresses.
pub(super) const FUNCTIONS: [(&str, Address); 21] = table! {
    hv_vm_config_get_max_ipa_size
    hv_vm_config_set_ipa_size
    hv_gic_config_create
    hv_gic_config_set_distributor_base
    hv_gic_config_set_redistributor_base
    hv_gic_create
    hv_gic_reset
    hv_gic_set_spi
    hv_gic_get_distributor_size
    hv_gic_get_distributor_base_alignment
    hv_gic_get_redistributor_size
    hv_gic_get_redistributor_base_alignment
    hv_gic_get_redistributor_base
    hv_gic_get_spi_interrupt_range
    hv_gic_set_redistributor_reg
    hv_gic_get_icc_reg
    hv_gic_set_icc_reg
    hv_gic_state_create
    hv_gic_state_get_size
    hv_gic_state_get_data
    hv_gic_set_state
};

unsafe extern "C" fn hv_vm_config_get_max_ipa_size(bits: *mut u32) -> i32 {
    serve("hv_vm_config_get_max_ipa_size", |world| {
        // SAFETY: callers have room for the result.
        unsafe { put(bits, world.most_bits) };
        Ok(())
    })
}

extern "C" fn hv_vm_config_set_ipa_size(config: *mut c_void, bits: u32) -> i32 {
    serve("hv_vm_config_set_ipa_size", |world| {
        let most = world.most_bits;
        match world.objects.get_mut(&config.addr()) {
            Some(Object::VmConfig { bits: own }) if bits <= most => *own = Some(bits),
            _ => return Err(BAD_ARGUMENT),
        }
        Ok(())
    })
}

extern "C" fn hv_gic_config_create() -> *mut c_void {
    create(Object::GicConfig)
}

extern "C" fn hv_gic_config_set_distributor_base(config: *mut c_void, base: u64) -> i32 {
    set_base("hv_gic_config_set_distributor_base", config, base)
}

extern "C" fn hv_gic_config_set_redistributor_base(config: *mut c_void, base: u64) -> i32 {
    set_base("hv_gic_config_set_redistributor_base", config, base)
}

fn set_base(name: &'static str, config: *mut c_void, base: u64) -> i32 {
    serve(name, |world| match world.objects.get(&config.addr()) {
        Some(Object::GicConfig) if base.is_multiple_of(0x1_0000) => Ok(()),
        _ => Err(BAD_ARGUMENT),
    })
}

extern "C" fn hv_gic_create(config: *mut c_void) -> i32 {
    serve("hv_gic_create", |world| {
        let is_config = world.objects.get(&config.addr()) == Some(&Object::GicConfig);
        if !world.has_vm || !world.vcpus.is_empty() || world.gic.is_some() || !is_config {
            return Err(BAD_ARGUMENT);
        }
        world.gic = Some(Gic { state: MAGIC.to_vec(), sent: Vec::new(), is_live: false });
        Ok(())
    })
}

extern "C" fn hv_gic_reset() -> i32 {
    serve("hv_gic_reset", |world| {
        let gic = world.gic.as_mut().ok_or(NO_DEVICE)?;
        (gic.state, gic.is_live) = (MAGIC.to_vec(), false);
        Ok(())
    })
}

extern "C" fn hv_gic_set_spi(interrupt: u32, level: bool) -> i32 {
    serve("hv_gic_set_spi", |world| {
        let (first, count) = world.gic_interrupts;
        if !(first..first + count).contains(&interrupt) {
            return Err(BAD_ARGUMENT);
        }
        world.gic.as_mut().ok_or(NO_DEVICE)?.sent.push((interrupt, level));
        Ok(())
    })
}

unsafe extern "C" fn hv_gic_get_distributor_size(size: *mut usize) -> i32 {
    serve("hv_gic_get_distributor_size", |world| {
        // SAFETY: callers have room for the result.
        unsafe { put(size, world.gic_sizes.0) };
        Ok(())
    })
}

unsafe extern "C" fn hv_gic_get_redistributor_size(size: *mut usize) -> i32 {
    serve("hv_gic_get_redistributor_size", |world| {
        // SAFETY: callers have room for the result.
        unsafe { put(size, world.gic_sizes.1) };
        Ok(())
    })
}

unsafe extern "C" fn hv_gic_get_distributor_base_alignment(alignment: *mut usize) -> i32 {
    serve("hv_gic_get_distributor_base_alignment", |_| {
        // SAFETY: callers have room for the result.
        unsafe { put(alignment, 0x1_0000) };
        Ok(())
    })
}

unsafe extern "C" fn hv_gic_get_redistributor_base_alignment(alignment: *mut usize) -> i32 {
    serve("hv_gic_get_redistributor_base_alignment", |_| {
        // SAFETY: callers have room for the result.
        unsafe { put(alignment, 0x1_0000) };
        Ok(())
    })
}

/// Places redistributors in the order of the vCPUs' creation.
unsafe extern "C" fn hv_gic_get_redistributor_base(id: Id, base: *mut u64) -> i32 {
    serve("hv_gic_get_redistributor_base", |world| {
        let place = world.vcpus.keys().position(|own| *own == id).ok_or(BAD_ARGUMENT)?;
        if world.vcpu(id).system[&0xc005] == 0 || world.gic.is_none() {
            return Err(BAD_ARGUMENT);
        }
        let address = world.redistributors + REDISTRIBUTOR_SIZE * place as u64;
        // SAFETY: callers have room for the result.
        unsafe { put(base, address) };
        Ok(())
    })
}

unsafe extern "C" fn hv_gic_get_spi_interrupt_range(first: *mut u32, count: *mut u32) -> i32 {
    serve("hv_gic_get_spi_interrupt_range", |world| {
        // SAFETY: callers have room for the first result.
        unsafe { put(first, world.gic_interrupts.0) };
        // SAFETY: callers have room for the second result.
        unsafe { put(count, world.gic_interrupts.1) };
        Ok(())
    })
}

extern "C" fn hv_gic_set_redistributor_reg(id: Id, register: u32, value: u64) -> i32 {
    serve_vcpu("hv_gic_set_redistributor_reg", id, |vcpu| {
        vcpu.redistributor.push((register, value));
        Ok(())
    })
}

unsafe extern "C" fn hv_gic_get_icc_reg(id: Id, register: u16, value: *mut u64) -> i32 {
    serve_vcpu("hv_gic_get_icc_reg", id, |vcpu| {
        let found = vcpu.interface.get(&register).ok_or(BAD_ARGUMENT)?;
        // SAFETY: callers have room for the result.
        unsafe { put(value, *found) };
        Ok(())
    })
}

extern "C" fn hv_gic_set_icc_reg(id: Id, register: u16, value: u64) -> i32 {
    serve_vcpu("hv_gic_set_icc_reg", id, |vcpu| {
        *vcpu.interface.get_mut(&register).ok_or(BAD_ARGUMENT)? = value;
        Ok(())
    })
}

extern "C" fn hv_gic_state_create() -> *mut c_void {
    let state = {
        let guard = world();
        let world = guard.as_ref().unwrap();
        let is_stopped = world.vcpus.values().all(|vcpu| !vcpu.is_inside);
        let is_refused = world.refusals.contains_key("hv_gic_state_create");
        world.gic.as_ref().filter(|_| is_stopped && !is_refused).map(|gic| gic.state.clone())
    };
    state.map_or(std::ptr::null_mut(), |state| create(Object::GicState(state)))
}

unsafe extern "C" fn hv_gic_state_get_size(object: *mut c_void, size: *mut usize) -> i32 {
    serve("hv_gic_state_get_size", |world| {
        let Some(Object::GicState(state)) = world.objects.get(&object.addr()) else {
            return Err(BAD_ARGUMENT);
        };
        // SAFETY: callers have room for the result.
        unsafe { put(size, state.len()) };
        Ok(())
    })
}

unsafe extern "C" fn hv_gic_state_get_data(object: *mut c_void, data: *mut c_void) -> i32 {
    serve("hv_gic_state_get_data", |world| {
        let Some(Object::GicState(state)) = world.objects.get(&object.addr()) else {
            return Err(BAD_ARGUMENT);
        };
        // SAFETY: callers have room for as many bytes as `hv_gic_state_get_size` said.
        unsafe { data.cast::<u8>().copy_from(state.as_ptr(), state.len()) };
        Ok(())
    })
}

unsafe extern "C" fn hv_gic_set_state(data: *const c_void, size: usize) -> i32 {
    // SAFETY: callers have that many bytes there.
    let state = unsafe { slice::from_raw_parts(data.cast::<u8>(), size) };
    serve("hv_gic_set_state", |world| {
        let has_vcpus = !world.vcpus.is_empty();
        let gic = world.gic.as_mut().ok_or(NO_DEVICE)?;
        if gic.is_live || !has_vcpus {
            return Err(BUSY);
        }
        if !state.starts_with(MAGIC) {
            return Err(BAD_ARGUMENT);
        }
        gic.state = state.to_vec();
        Ok(())
    })
}
