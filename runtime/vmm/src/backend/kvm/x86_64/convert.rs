//! Between KVM's structures and a snapshot's plain fields.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_NMI_PENDING,
    KVM_VCPUEVENT_VALID_PAYLOAD, KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SIPI_VECTOR,
    kvm_debugregs, kvm_dtable, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_segment, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use supermachine_formats::snapshot::arch::x86_64::{
    DebugRegisters, Events, LAPIC_SIZE, Registers, RunState, Segment, SpecialRegisters, Table,
    XSAVE_SIZE,
};

use crate::backend::HypervisorError;

/// What AMD processors call the type of a busy 64-bit task segment.
const BUSY_TSS: u8 = 11;

pub(super) fn registers(from: &kvm_regs) -> Registers {
    Registers {
        abcd: [from.rax, from.rbx, from.rcx, from.rdx],
        rsi: from.rsi,
        rdi: from.rdi,
        rsp: from.rsp,
        rbp: from.rbp,
        r8_r15: [from.r8, from.r9, from.r10, from.r11, from.r12, from.r13, from.r14, from.r15],
        rip: from.rip,
        rflags: from.rflags,
    }
}

pub(super) fn kvm_regs(from: &Registers) -> kvm_regs {
    let [rax, rbx, rcx, rdx] = from.abcd;
    let [r8, r9, r10, r11, r12, r13, r14, r15] = from.r8_r15;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi: from.rsi,
        rdi: from.rdi,
        rsp: from.rsp,
        rbp: from.rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: from.rip,
        rflags: from.rflags,
    }
}

fn segment(from: &kvm_segment) -> Segment {
    let access = u32::from(from.type_ & 0xf)
        | u32::from(from.s & 1) << 4
        | u32::from(from.dpl & 3) << 5
        | u32::from(from.present & 1) << 7
        | u32::from(from.avl & 1) << 12
        | u32::from(from.l & 1) << 13
        | u32::from(from.db & 1) << 14
        | u32::from(from.g & 1) << 15
        | u32::from(from.unusable & 1) << 16;
    Segment { base: from.base, limit: from.limit, selector: from.selector, access }
}

fn kvm_segment(from: &Segment) -> kvm_segment {
    let bits = |shift: u32, mask: u32| ((from.access >> shift) & mask) as u8;
    kvm_segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: bits(0, 0xf),
        s: bits(4, 1),
        dpl: bits(5, 3),
        present: bits(7, 1),
        avl: bits(12, 1),
        l: bits(13, 1),
        db: bits(14, 1),
        g: bits(15, 1),
        unusable: bits(16, 1),
        padding: 0,
    }
}

pub(super) fn special(from: &kvm_sregs) -> SpecialRegisters {
    let table = |table: &kvm_dtable| Table { base: table.base, limit: table.limit };
    let mut tr = from.tr;
    // A task segment in use is busy by definition; some hosts report its 16-bit form.
    if tr.present == 1 && tr.s == 0 && tr.type_ == 3 {
        tr.type_ = BUSY_TSS;
    }
    SpecialRegisters {
        segments: [&from.cs, &from.ds, &from.es, &from.fs, &from.gs, &from.ss].map(segment),
        tr: segment(&tr),
        ldt: segment(&from.ldt),
        gdt: table(&from.gdt),
        idt: table(&from.idt),
        cr0: from.cr0,
        cr2: from.cr2,
        cr3: from.cr3,
        cr4: from.cr4,
        cr8: from.cr8,
        efer: from.efer,
        apic_base: from.apic_base,
    }
}

/// Marks no interrupt pending: [`Events`] holds those in progress.
pub(super) fn kvm_sregs(from: &SpecialRegisters) -> kvm_sregs {
    let table =
        |table: &Table| kvm_dtable { base: table.base, limit: table.limit, ..Default::default() };
    let [cs, ds, es, fs, gs, ss] = from.segments.each_ref().map(kvm_segment);
    kvm_sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr: kvm_segment(&from.tr),
        ldt: kvm_segment(&from.ldt),
        gdt: table(&from.gdt),
        idt: table(&from.idt),
        cr0: from.cr0,
        cr2: from.cr2,
        cr3: from.cr3,
        cr4: from.cr4,
        cr8: from.cr8,
        efer: from.efer,
        apic_base: from.apic_base,
        interrupt_bitmap: [0; 4],
    }
}

pub(super) fn run_state(from: kvm_mp_state) -> Result<RunState, HypervisorError> {
    match from.mp_state {
        KVM_MP_STATE_RUNNABLE => Ok(RunState::Running),
        KVM_MP_STATE_UNINITIALIZED => Ok(RunState::Uninitialized),
        KVM_MP_STATE_INIT_RECEIVED | KVM_MP_STATE_SIPI_RECEIVED => Ok(RunState::Initialized),
        KVM_MP_STATE_HALTED => Ok(RunState::Halted),
        _ => Err(HypervisorError::Capability { capability: "a known vCPU run state" }),
    }
}

pub(super) fn mp_state(from: RunState) -> kvm_mp_state {
    let mp_state = match from {
        RunState::Running => KVM_MP_STATE_RUNNABLE,
        RunState::Uninitialized => KVM_MP_STATE_UNINITIALIZED,
        RunState::Initialized => KVM_MP_STATE_INIT_RECEIVED,
        RunState::Halted => KVM_MP_STATE_HALTED,
    };
    kvm_mp_state { mp_state }
}

pub(super) fn lapic(from: &kvm_lapic_state) -> [u8; LAPIC_SIZE] {
    from.regs.map(i8::cast_unsigned)
}

pub(super) fn kvm_lapic(from: &[u8; LAPIC_SIZE]) -> kvm_lapic_state {
    kvm_lapic_state { regs: from.map(u8::cast_signed) }
}

/// The offset in an XSAVE area of the mask of parts in use.
const XSTATE_BV: std::ops::Range<usize> = 512..520;

/// Masks the extended state to these parts. Some kernels report parts that the guest does not have,
/// and a host without them would refuse those.
pub(super) fn xsave(from: &kvm_xsave, parts: u64) -> [u8; XSAVE_SIZE] {
    let mut bytes = [0; XSAVE_SIZE];
    for (out, word) in bytes.chunks_exact_mut(4).zip(from.region) {
        out.copy_from_slice(&word.to_le_bytes());
    }
    if let Some(used) = bytes.get_mut(XSTATE_BV) {
        for (byte, parts) in used.iter_mut().zip(parts.to_le_bytes()) {
            *byte &= parts;
        }
    }
    bytes
}

pub(super) fn kvm_xsave(from: &[u8; XSAVE_SIZE]) -> kvm_xsave {
    let mut xsave = kvm_xsave::default();
    for (word, bytes) in xsave.region.iter_mut().zip(from.chunks_exact(4)) {
        *word = bytes.try_into().map_or(0, u32::from_le_bytes);
    }
    xsave
}

pub(super) fn xcr0(from: &kvm_xcrs) -> u64 {
    let used = from.xcrs.iter().take(from.nr_xcrs as usize);
    used.into_iter().find(|xcr| xcr.xcr == 0).map_or(1, |xcr| xcr.value)
}

pub(super) fn kvm_xcrs(xcr0: u64) -> kvm_xcrs {
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    if let Some(first) = xcrs.xcrs.first_mut() {
        first.value = xcr0;
    }
    xcrs
}

pub(super) fn debug(from: &kvm_debugregs) -> DebugRegisters {
    DebugRegisters { addresses: from.db, dr6: from.dr6, dr7: from.dr7 }
}

pub(super) fn kvm_debugregs(from: &DebugRegisters) -> kvm_debugregs {
    kvm_debugregs { db: from.addresses, dr6: from.dr6, dr7: from.dr7, ..Default::default() }
}

pub(super) fn events(from: &kvm_vcpu_events) -> Events {
    Events {
        exception_injected: from.exception.injected != 0,
        exception_pending: from.exception.pending != 0,
        exception_vector: from.exception.nr,
        exception_has_error_code: from.exception.has_error_code != 0,
        exception_error_code: from.exception.error_code,
        exception_has_payload: from.exception_has_payload != 0,
        exception_payload: from.exception_payload,
        interrupt_injected: from.interrupt.injected != 0,
        interrupt_vector: from.interrupt.nr,
        interrupt_soft: from.interrupt.soft != 0,
        interrupt_shadow: from.interrupt.shadow,
        nmi_injected: from.nmi.injected != 0,
        nmi_pending: from.nmi.pending,
        nmi_masked: from.nmi.masked != 0,
        sipi_vector: from.sipi_vector,
        triple_fault: from.triple_fault.pending != 0,
    }
}

pub(super) fn kvm_events(from: &Events) -> kvm_vcpu_events {
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING
            | KVM_VCPUEVENT_VALID_SIPI_VECTOR
            | KVM_VCPUEVENT_VALID_SHADOW,
        ..Default::default()
    };
    // Exception payloads are a capability that is never enabled, so an exception is either
    // delivered or absent.
    if from.exception_has_payload {
        events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
        events.exception_has_payload = 1;
        events.exception_payload = from.exception_payload;
        events.exception.pending = from.exception_pending.into();
    }
    events.exception.injected = from.exception_injected.into();
    events.exception.nr = from.exception_vector;
    events.exception.has_error_code = from.exception_has_error_code.into();
    events.exception.error_code = from.exception_error_code;
    events.interrupt.injected = from.interrupt_injected.into();
    events.interrupt.nr = from.interrupt_vector;
    events.interrupt.soft = from.interrupt_soft.into();
    events.interrupt.shadow = from.interrupt_shadow;
    events.nmi.injected = from.nmi_injected.into();
    events.nmi.pending = from.nmi_pending;
    events.nmi.masked = from.nmi_masked.into();
    events.sipi_vector = from.sipi_vector;
    events
}
