//! The state of an x86_64 machine's vCPUs, interrupt controller and clock.
//!
//! Registers have the widths and meanings of the processor's manuals; no hypervisor's structure
//! is used. This module checks form and counts only: the hypervisor refuses a value that no
//! processor accepts.

pub mod baseline;

use alloc::vec::Vec;

use self::baseline::{Processor, Register};
use crate::record::{byte_enum, record};
use crate::snapshot::container::{Builder, Container, Section, SnapshotError, inconsistent};
use crate::snapshot::machine::MAX_VCPUS;

/// The number of input pins of the I/O interrupt controller.
pub const IOAPIC_PINS: usize = 24;
/// Size of a local interrupt controller's register page in bytes.
pub const LAPIC_SIZE: usize = 1024;
/// Size of the XSAVE area in bytes.
pub const XSAVE_SIZE: usize = 4096;

/// The state of an x86_64 machine that is neither memory nor device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What the snapshot requires of the host's processor.
    pub processor: Processor,
    /// The vCPUs.
    pub vcpus: Vec<Vcpu>,
    /// The I/O interrupt controller.
    pub ioapic: Ioapic,
    /// The clock.
    pub clock: Clock,
}

impl State {
    /// Adds this architecture's sections to a state file.
    pub(super) fn encode(&self, file: &mut Builder) {
        file.add(Section::Vcpus, &self.vcpus);
        file.add(Section::Ioapic, &self.ioapic);
        file.add(Section::Clock, &self.clock);
        file.add(Section::Processor, &self.processor);
    }

    /// Reads this architecture's sections from a state file.
    pub(super) fn decode(container: &Container<'_>) -> Result<Self, SnapshotError> {
        Ok(Self {
            processor: container.section(Section::Processor)?,
            vcpus: container.list(Section::Vcpus, MAX_VCPUS)?,
            ioapic: container.section(Section::Ioapic)?,
            clock: container.section(Section::Clock)?,
        })
    }

    /// Checks the state against the machine's number of vCPUs.
    pub(super) fn validate(&self, vcpus: u16) -> Result<(), SnapshotError> {
        if vcpus == 0 || self.vcpus.len() != usize::from(vcpus) {
            return Err(inconsistent(Section::Vcpus, "another number of vCPUs than the machine"));
        }
        if !self.processor.is_valid() {
            return Err(inconsistent(Section::Processor, "features out of order"));
        }
        Ok(())
    }
}

record! {
    /// One vCPU. A part that is `None` has the state of a processor after reset.
    pub struct Vcpu {
        /// CPUID results; if empty, those of the baseline.
        cpuid: Vec<CpuidLeaf>,
        /// General registers.
        registers: Option<Registers>,
        /// Segment and control registers.
        special: Option<SpecialRegisters>,
        /// Whether it runs, waits for an interrupt, or waits for its start.
        run_state: RunState,
        /// The local interrupt controller's register page.
        lapic: Option<[u8; LAPIC_SIZE]>,
        /// Floating-point and vector state in the standard XSAVE layout.
        xsave: Option<[u8; XSAVE_SIZE]>,
        /// XCR0: which parts of `xsave` are enabled.
        xcr0: Option<u64>,
        /// Debug registers.
        debug: Option<DebugRegisters>,
        /// Exceptions and interrupts in progress.
        events: Option<Events>,
        /// Model-specific registers, in the order of their restore.
        msrs: Vec<Msr>,
    }

    /// One result of the CPUID instruction.
    pub struct CpuidLeaf {
        /// The input EAX.
        function: u32,
        /// The input ECX, if `indexed`.
        index: u32,
        /// Whether the result depends on ECX.
        indexed: bool,
        /// The resulting EAX.
        eax: u32,
        /// The resulting EBX.
        ebx: u32,
        /// The resulting ECX.
        ecx: u32,
        /// The resulting EDX.
        edx: u32,
    }

    /// General registers.
    pub struct Registers {
        /// RAX, RBX, RCX, RDX.
        abcd: [u64; 4],
        /// RSI.
        rsi: u64,
        /// RDI.
        rdi: u64,
        /// RSP.
        rsp: u64,
        /// RBP.
        rbp: u64,
        /// R8 to R15.
        r8_r15: [u64; 8],
        /// RIP.
        rip: u64,
        /// RFLAGS.
        rflags: u64,
    }

    /// Segment and control registers.
    pub struct SpecialRegisters {
        /// CS, DS, ES, FS, GS, SS.
        segments: [Segment; 6],
        /// The task register.
        tr: Segment,
        /// The local descriptor table register.
        ldt: Segment,
        /// The global descriptor table.
        gdt: Table,
        /// The interrupt descriptor table.
        idt: Table,
        /// CR0.
        cr0: u64,
        /// CR2.
        cr2: u64,
        /// CR3.
        cr3: u64,
        /// CR4.
        cr4: u64,
        /// CR8.
        cr8: u64,
        /// EFER.
        efer: u64,
        /// Base address and flags of the local interrupt controller.
        apic_base: u64,
    }

    /// Debug registers.
    pub struct DebugRegisters {
        /// DR0 to DR3.
        addresses: [u64; 4],
        /// DR6.
        dr6: u64,
        /// DR7.
        dr7: u64,
    }

    /// Exceptions and interrupts in progress.
    pub struct Events {
        /// An exception is being delivered.
        exception_injected: bool,
        /// An exception is pending.
        exception_pending: bool,
        /// The exception's vector.
        exception_vector: u8,
        /// The exception has an error code.
        exception_has_error_code: bool,
        /// The exception's error code.
        exception_error_code: u32,
        /// The exception has a payload.
        exception_has_payload: bool,
        /// The exception's payload.
        exception_payload: u64,
        /// An interrupt is being delivered.
        interrupt_injected: bool,
        /// The interrupt's vector.
        interrupt_vector: u8,
        /// The interrupt came from an INT instruction.
        interrupt_soft: bool,
        /// The previous instruction blocks interrupts (STI, MOV SS).
        interrupt_shadow: u8,
        /// A non-maskable interrupt is being delivered.
        nmi_injected: bool,
        /// The number of pending non-maskable interrupts.
        nmi_pending: u8,
        /// Non-maskable interrupts are blocked until IRET.
        nmi_masked: bool,
        /// The vector of the received start-up message (SIPI).
        sipi_vector: u32,
        /// A triple fault is pending.
        triple_fault: bool,
    }

    /// A model-specific register.
    pub struct Msr {
        /// Its number.
        index: u32,
        /// Its value.
        value: u64,
    }

    /// The I/O interrupt controller.
    pub struct Ioapic {
        /// Its identification register.
        id: u32,
        /// The selected register (IOREGSEL).
        selected: u8,
        /// The redirection table.
        pins: [u64; IOAPIC_PINS],
    }

    /// The machine's clock.
    pub struct Clock {
        /// The paravirtual clock, in nanoseconds since boot.
        monotonic_ns: u64,
        /// The host's wall clock at capture, in nanoseconds since 1970-01-01 UTC.
        realtime_ns: u64,
        /// The time-stamp counter's rate in kHz; 0 means the host's own rate.
        tsc_khz: u32,
    }
}

record! {
    /// A segment register with its hidden part.
    #[derive(Copy, Default)]
    pub struct Segment {
        /// Base address.
        base: u64,
        /// Limit in bytes.
        limit: u32,
        /// Selector.
        selector: u16,
        /// Access rights as in a descriptor's bytes 5 and 6: type, S, DPL, P, then AVL, L, D/B, G
        /// in bits 12 to 15; bit 16 marks an unusable segment.
        access: u32,
    }

    /// A descriptor table register.
    #[derive(Copy, Default)]
    pub struct Table {
        /// Base address.
        base: u64,
        /// Limit in bytes.
        limit: u16,
    }
}

impl CpuidLeaf {
    /// Returns one register of the result.
    #[must_use]
    pub fn register(&self, register: Register) -> u32 {
        match register {
            Register::Eax => self.eax,
            Register::Ebx => self.ebx,
            Register::Ecx => self.ecx,
            Register::Edx => self.edx,
        }
    }

    /// Returns one register of the result, to modify it.
    pub fn register_mut(&mut self, register: Register) -> &mut u32 {
        match register {
            Register::Eax => &mut self.eax,
            Register::Ebx => &mut self.ebx,
            Register::Ecx => &mut self.ecx,
            Register::Edx => &mut self.edx,
        }
    }
}

byte_enum! {
    /// What a vCPU does.
    pub enum RunState {
        /// Executes instructions.
        Running = 0,
        /// Waits for INIT after a reset.
        Uninitialized = 1,
        /// Received INIT and waits for a start-up message (SIPI).
        Initialized = 2,
        /// Waits for an interrupt.
        Halted = 3,
    }
}
