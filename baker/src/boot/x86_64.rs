//! Entry of an x86_64 kernel by the 64-bit boot protocol.
//!
//! Low memory holds, from below: descriptor table, boot parameters, page tables that map the
//! first gigabyte to itself, command line, MP table. The kernel is where its file says, the
//! initial file system at the end of low RAM.

mod mptable;

use std::fmt::Write as _;
use std::io::Cursor;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{Elf, KernelLoader};
use supermachine_formats::snapshot::arch::x86_64::State;
use supermachine_formats::snapshot::arch::x86_64::baseline::Processor;
use supermachine_formats::snapshot::arch::x86_64::{
    Clock, Registers, RunState, Segment, SpecialRegisters, Table, Vcpu,
};
use supermachine_formats::snapshot::arch::{ArchState, Baseline};
use supermachine_formats::snapshot::memory::PAGE_SIZE;
use supermachine_vmm::arch::x86_64::reset_ioapic;
use supermachine_vmm::layout::{
    self, HIGH_RAM_START, LOW_RAM_END, SLOT_SIZE, SLOTS, slot_address, slot_line,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::error::BootError;
use super::placed::{Entry, Kernel, Placed, no_room, write};

/// Where the kernel's file places it.
const KERNEL_START: u64 = 0x100_0000;

const GDT_ADDRESS: u64 = 0x500;
const BOOT_PARAMS_ADDRESS: u64 = 0x7000;
const PAGE_TABLES_ADDRESS: u64 = 0x9000;
const COMMAND_LINE_ADDRESS: u64 = 0x2_0000;
const CONVENTIONAL_END: u64 = mptable::ADDRESS;
const HIGH_MEMORY_START: u64 = 0x10_0000;

/// A quiet kernel that resets on a panic. Probes for hardware that the machine lacks are off. So is
/// the tracking of memory types: all memory is RAM, or a disk that is RAM to the guest. The network's
/// dummy device is created on request, not at boot. Memory of the kernel's own is not counted against the
/// limits of control groups: counting takes pages and time in each command.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 reboot=t no_timer_check tsc=reliable nopat random.trust_cpu=off \
     dummy.numdummies=0 cgroup.memory=nokmem";

/// Access rights of flat 64-bit segments, in the form of a snapshot's segment.
const CODE: u32 = 0xa09b;
const DATA: u32 = 0xc093;
const TASK: u32 = 0x808b;

/// Places the kernel.
pub(super) fn load(memory: &GuestMemoryMmap<()>, kernel: &[u8]) -> Result<Kernel, BootError> {
    let loaded = Elf::load(memory, None, &mut Cursor::new(kernel), None)
        .map_err(|_| BootError::Kernel { expected: "an uncompressed ELF file of this size" })?;
    Ok(Kernel { start: KERNEL_START, end: loaded.kernel_end, entry: loaded.kernel_load.0 })
}

/// Places everything else.
pub(super) fn place(
    memory: &GuestMemoryMmap<()>,
    (memory_size, vcpus): (u64, u16),
    kernel: &Kernel,
    archive: &[u8],
) -> Result<Placed, BootError> {
    let archive_size = archive.len() as u64;
    let low_end = memory_size.min(LOW_RAM_END);
    let archive_start = low_end.saturating_sub(archive_size) / PAGE_SIZE * PAGE_SIZE;
    if archive_start < kernel.end {
        return Err(no_room("the agent", archive_start));
    }
    let command_line = command_line();
    let parameters = boot_parameters(memory_size, &command_line, archive_start, archive_size);
    let vcpus = u8::try_from(vcpus).unwrap_or(u8::MAX);
    let parts: [(&'static str, u64, &[u8]); 6] = [
        ("the descriptor table", GDT_ADDRESS, &descriptor_table()),
        ("the page tables", PAGE_TABLES_ADDRESS, &page_tables()),
        ("the command line", COMMAND_LINE_ADDRESS, command_line.as_bytes()),
        ("the processor table", mptable::ADDRESS, &mptable::table(vcpus)),
        ("the agent", archive_start, archive),
        ("the boot parameters", BOOT_PARAMS_ADDRESS, &[]),
    ];
    let mut written = write(memory, &parts)?;
    memory
        .write_obj(parameters, GuestAddress(BOOT_PARAMS_ADDRESS))
        .map_err(|source| BootError::Memory { what: "the boot parameters", source })?;
    written.push((BOOT_PARAMS_ADDRESS, size_of::<boot_params>() as u64));
    let entry = Entry { address: kernel.entry, parameters: BOOT_PARAMS_ADDRESS };
    Ok(Placed { written, entry })
}

/// The state of a machine that was never run: the first vCPU is at the kernel's entry, the
/// others wait for the kernel to start them.
pub(super) fn state(baseline: Baseline, count: u16, entry: Entry) -> ArchState {
    ArchState::X86_64(State {
        processor: Processor::of(baseline),
        vcpus: vcpus(count, entry),
        ioapic: reset_ioapic(),
        clock: Clock { monotonic_ns: 0, realtime_ns: 0, tsc_khz: 0 },
    })
}

fn vcpus(count: u16, entry: Entry) -> Vec<Vcpu> {
    let absent = Vcpu {
        cpuid: Vec::new(),
        registers: None,
        special: None,
        run_state: RunState::Uninitialized,
        lapic: None,
        xsave: None,
        xcr0: None,
        debug: None,
        events: None,
        msrs: Vec::new(),
    };
    let first = Vcpu {
        registers: Some(Registers {
            abcd: [0; 4],
            rsi: entry.parameters,
            rdi: 0,
            rsp: BOOT_PARAMS_ADDRESS,
            rbp: BOOT_PARAMS_ADDRESS,
            r8_r15: [0; 8],
            rip: entry.address,
            rflags: 2,
        }),
        special: Some(special_registers()),
        run_state: RunState::Running,
        ..absent.clone()
    };
    let others = std::iter::repeat_n(absent, usize::from(count).saturating_sub(1));
    std::iter::once(first).chain(others).collect()
}

fn special_registers() -> SpecialRegisters {
    let flat = |selector, access| Segment { base: 0, limit: 0xf_ffff, selector, access };
    let data = flat(0x10, DATA);
    let unusable = Segment { access: 1 << 16, ..Segment::default() };
    SpecialRegisters {
        segments: [flat(0x8, CODE), data, data, data, data, data],
        tr: flat(0x18, TASK),
        ldt: unusable,
        gdt: Table { base: GDT_ADDRESS, limit: 4 * 8 - 1 },
        idt: Table { base: 0, limit: 0xffff },
        cr0: 1 | (1 << 4) | (1 << 31),
        cr2: 0,
        cr3: PAGE_TABLES_ADDRESS,
        cr4: 1 << 5,
        cr8: 0,
        efer: (1 << 8) | (1 << 10),
        apic_base: 0xfee0_0900,
    }
}

/// The descriptors that the segment registers were loaded from.
fn descriptor_table() -> Vec<u8> {
    let descriptor = |access: u32| {
        0xffff | (u64::from(access & 0xff) << 40) | (0xf << 48) | (u64::from(access >> 12) << 52)
    };
    [0, descriptor(CODE), descriptor(DATA), descriptor(TASK)]
        .iter()
        .flat_map(|entry: &u64| entry.to_le_bytes())
        .collect()
}

/// Three levels that map the first gigabyte to itself in 2 MiB pages.
fn page_tables() -> Vec<u8> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let mut out = vec![0; 3 * PAGE_SIZE as usize];
    let mut set = |level: usize, index: usize, entry: u64| {
        let at = level * PAGE_SIZE as usize + index * 8;
        if let Some(bytes) = out.get_mut(at..at + 8) {
            bytes.copy_from_slice(&entry.to_le_bytes());
        }
    };
    set(0, 0, (PAGE_TABLES_ADDRESS + PAGE_SIZE) | PRESENT_WRITABLE);
    set(1, 0, (PAGE_TABLES_ADDRESS + 2 * PAGE_SIZE) | PRESENT_WRITABLE);
    for index in 0..512 {
        set(2, index, ((index as u64) << 21) | PRESENT_WRITABLE | LARGE);
    }
    out
}

fn command_line() -> String {
    let mut line = COMMAND_LINE.to_owned();
    for slot in 0..SLOTS {
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            " virtio_mmio.device={}K@{:#x}:{}",
            SLOT_SIZE >> 10,
            slot_address(slot),
            slot_line(slot)
        );
    }
    line.push('\0');
    line
}

#[expect(clippy::expect_used, reason = "sizes were checked by the caller")]
fn boot_parameters(
    memory_size: u64,
    command_line: &str,
    archive_start: u64,
    archive_size: u64,
) -> boot_params {
    const RAM: u32 = 1;
    let mut parameters = boot_params::default();
    let header = &mut parameters.hdr;
    header.boot_flag = 0xaa55;
    header.header = u32::from_le_bytes(*b"HdrS");
    header.type_of_loader = 0xff;
    header.kernel_alignment = 0x100_0000;
    header.cmd_line_ptr = COMMAND_LINE_ADDRESS as u32;
    header.cmdline_size =
        u32::try_from(command_line.len()).expect("the command line fits into its place");
    header.ramdisk_image = u32::try_from(archive_start).expect("the archive is below 4 GiB");
    header.ramdisk_size = u32::try_from(archive_size).expect("the archive is below 4 GiB");
    let mut ranges = vec![
        (0, CONVENTIONAL_END),
        (HIGH_MEMORY_START, memory_size.min(LOW_RAM_END) - HIGH_MEMORY_START),
    ];
    ranges.extend(
        layout::ram_windows(memory_size)
            .iter()
            .filter(|window| window.guest_address >= HIGH_RAM_START)
            .map(|window| (window.guest_address, window.size)),
    );
    for (entry, (addr, size)) in parameters.e820_table.iter_mut().zip(&ranges) {
        *entry = boot_e820_entry { addr: *addr, size: *size, r#type: RAM };
    }
    parameters.e820_entries = u8::try_from(ranges.len()).expect("there are three at most");
    parameters
}
