//! Entry of an arm64 kernel by its boot protocol.
//!
//! From below, RAM holds the kernel's `Image`, the device tree at the next 2 MiB, and the initial
//! file system at its end. The first vCPU enters the kernel with the device tree's address; the
//! kernel starts the others by PSCI.

#[cfg(test)]
mod tests;

use supermachine_formats::snapshot::arch::aarch64::{
    CoreRegisters, Counter, GENERAL_REGISTERS, Gic, Power, Processor, State, Vcpu,
};
use supermachine_formats::snapshot::arch::{ArchState, Baseline};
use supermachine_formats::snapshot::memory::PAGE_SIZE;
use supermachine_vmm::arch::aarch64::layout::{
    DISTRIBUTOR_SIZE, DISTRIBUTOR_START, INTERRUPTS, RAM_START, REDISTRIBUTOR_SIZE,
    REDISTRIBUTORS_START, SERIAL_LINE, SERIAL_SIZE, SERIAL_START, SLOT_SIZE, SLOTS, affinity,
    slot_address, slot_line,
};
use vm_fdt::{FdtWriter, FdtWriterResult};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::error::BootError;
use super::placed::{Entry, Kernel, Placed, no_room, write};

/// What an `Image` has at [`MAGIC_AT`].
const MAGIC: [u8; 4] = *b"ARM\x64";
const MAGIC_AT: usize = 56;
const TEXT_OFFSET_AT: usize = 8;
const IMAGE_SIZE_AT: usize = 16;
const FLAGS_AT: usize = 24;
/// The flag of a big-endian kernel.
const BIG_ENDIAN: u64 = 1;
const EXPECTED: &str = "a little-endian arm64 Image of this size";

/// Kernels are placed at multiples of this, and map their device tree in such a block.
const BLOCK: u64 = 2 << 20;

/// EL1 with its own stack pointer, and with every kind of interrupt masked.
const ENTRY_STATE: u64 = 0x3c5;

/// A quiet kernel that resets on a panic. As on every architecture, guests have no mitigations: those of
/// the host protect host and neighbours.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=off \
                            dummy.numdummies=0 cgroup.memory=nokmem";

/// The number of the interrupt controller in the device tree.
const CONTROLLER: u32 = 1;
/// Kinds of interrupt in the device tree: shared ones and a vCPU's own.
const SHARED: u32 = 0;
const OWN: u32 = 1;
/// How an interrupt is triggered.
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// A vCPU's own interrupts, less 16: the timers of the secure and the usual EL1, the virtual one,
/// and that of EL2.
const TIMERS: [u32; 4] = [13, 14, 11, 10];
/// The serial port's clock. Nothing waits for its bits.
const SERIAL_CLOCK: u32 = 1_843_200;

/// Places the kernel.
pub(super) fn load(memory: &GuestMemoryMmap<()>, kernel: &[u8]) -> Result<Kernel, BootError> {
    let refused = BootError::Kernel { expected: EXPECTED };
    let word = |at: usize| {
        let bytes = kernel.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_le_bytes)
    };
    if kernel.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) != Some(&MAGIC) {
        return Err(refused);
    }
    let (Some(offset), Some(size), Some(flags)) =
        (word(TEXT_OFFSET_AT), word(IMAGE_SIZE_AT), word(FLAGS_AT))
    else {
        return Err(refused);
    };
    let start = RAM_START.checked_add(offset);
    let end = start.and_then(|start| start.checked_add(size.max(kernel.len() as u64)));
    let (Some(start), Some(end)) = (start, end) else { return Err(refused) };
    let fits = memory.address_in_range(GuestAddress(end - 1)) && offset < BLOCK;
    if !fits || flags & BIG_ENDIAN != 0 {
        return Err(refused);
    }
    memory
        .write_slice(kernel, GuestAddress(start))
        .map_err(|source| BootError::Memory { what: "the kernel", source })?;
    Ok(Kernel { start, end, entry: start })
}

/// Places everything else.
pub(super) fn place(
    memory: &GuestMemoryMmap<()>,
    (memory_size, vcpus): (u64, u16),
    kernel: &Kernel,
    archive: &[u8],
) -> Result<Placed, BootError> {
    let archive_size = archive.len() as u64;
    let archive_start =
        (RAM_START + memory_size).saturating_sub(archive_size) / PAGE_SIZE * PAGE_SIZE;
    let tree_start = kernel.end.next_multiple_of(BLOCK);
    if archive_start < tree_start + BLOCK {
        return Err(no_room("the agent", archive_start));
    }
    let tree = device_tree(memory_size, vcpus, (archive_start, archive_start + archive_size))
        .map_err(|error| BootError::Image { source: std::io::Error::other(error) })?;
    let parts: [(&'static str, u64, &[u8]); 2] =
        [("the device tree", tree_start, &tree), ("the agent", archive_start, archive)];
    let written = write(memory, &parts)?;
    let entry = Entry { address: kernel.entry, parameters: tree_start };
    Ok(Placed { written, entry })
}

/// The state of a machine that was never run: the first vCPU is at the kernel's entry, the
/// others wait for the kernel to start them.
pub(super) fn state(baseline: Baseline, count: u16, entry: Entry) -> ArchState {
    let mut x = [0; GENERAL_REGISTERS];
    if let Some(first) = x.first_mut() {
        *first = entry.parameters;
    }
    let core = CoreRegisters {
        x,
        pc: entry.address,
        pstate: ENTRY_STATE,
        sp_el0: 0,
        sp_el1: 0,
        elr_el1: 0,
        spsr_el1: 0,
    };
    let vcpus = (0..count).map(|index| match index {
        0 => Vcpu { core: Some(core.clone()), ..Vcpu::after_reset(affinity(0), Power::On) },
        _ => Vcpu::after_reset(affinity(index), Power::Off),
    });
    ArchState::Aarch64(State {
        processor: Processor::of(baseline),
        vcpus: vcpus.collect(),
        gic: Gic::reset(INTERRUPTS),
        counter: Counter::after_reset(),
    })
}

/// The description of the machine for its kernel. `archive` is where the initial file system begins
/// and ends.
fn device_tree(memory_size: u64, vcpus: u16, archive: (u64, u64)) -> FdtWriterResult<Vec<u8>> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_string("compatible", "linux,dummy-virt")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_u32("interrupt-parent", CONTROLLER)?;
    let chosen = tree.begin_node("chosen")?;
    tree.property_string("bootargs", COMMAND_LINE)?;
    tree.property_string("stdout-path", &format!("/serial@{SERIAL_START:x}"))?;
    tree.property_u64("linux,initrd-start", archive.0)?;
    tree.property_u64("linux,initrd-end", archive.1)?;
    tree.end_node(chosen)?;
    let memory = tree.begin_node(&format!("memory@{RAM_START:x}"))?;
    tree.property_string("device_type", "memory")?;
    tree.property_array_u64("reg", &[RAM_START, memory_size])?;
    tree.end_node(memory)?;
    processors(&mut tree, vcpus)?;
    interrupts(&mut tree, vcpus)?;
    devices(&mut tree)?;
    tree.end_node(root)?;
    tree.finish()
}

/// The processors, how to start them, and their timers.
fn processors(tree: &mut FdtWriter, vcpus: u16) -> FdtWriterResult<()> {
    let node = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 0)?;
    for address in (0..vcpus).map(affinity) {
        let processor = tree.begin_node(&format!("cpu@{address:x}"))?;
        tree.property_string("device_type", "cpu")?;
        tree.property_string("compatible", "arm,armv8")?;
        tree.property_string("enable-method", "psci")?;
        tree.property_u64("reg", address)?;
        tree.end_node(processor)?;
    }
    tree.end_node(node)?;
    let firmware = tree.begin_node("psci")?;
    let versions = ["arm,psci-1.0", "arm,psci-0.2"].map(str::to_owned);
    tree.property_string_list("compatible", versions.into())?;
    tree.property_string("method", "hvc")?;
    tree.end_node(firmware)?;
    let timer = tree.begin_node("timer")?;
    tree.property_string("compatible", "arm,armv8-timer")?;
    let lines: Vec<u32> = TIMERS.iter().flat_map(|line| [OWN, *line, LEVEL_HIGH]).collect();
    tree.property_array_u32("interrupts", &lines)?;
    tree.property_null("always-on")?;
    tree.end_node(timer)
}

fn interrupts(tree: &mut FdtWriter, vcpus: u16) -> FdtWriterResult<()> {
    let node = tree.begin_node(&format!("interrupt-controller@{DISTRIBUTOR_START:x}"))?;
    tree.property_string("compatible", "arm,gic-v3")?;
    tree.property_phandle(CONTROLLER)?;
    tree.property_null("interrupt-controller")?;
    tree.property_u32("#interrupt-cells", 3)?;
    tree.property_u32("#address-cells", 0)?;
    let size = REDISTRIBUTOR_SIZE * u64::from(vcpus);
    let frames = [DISTRIBUTOR_START, DISTRIBUTOR_SIZE, REDISTRIBUTORS_START, size];
    tree.property_array_u64("reg", &frames)?;
    tree.end_node(node)
}

fn devices(tree: &mut FdtWriter) -> FdtWriterResult<()> {
    let serial = tree.begin_node(&format!("serial@{SERIAL_START:x}"))?;
    tree.property_string("compatible", "ns16550a")?;
    tree.property_array_u64("reg", &[SERIAL_START, SERIAL_SIZE])?;
    tree.property_array_u32("interrupts", &[SHARED, SERIAL_LINE.into(), EDGE_RISING])?;
    tree.property_u32("clock-frequency", SERIAL_CLOCK)?;
    tree.end_node(serial)?;
    for slot in 0..SLOTS {
        let address = slot_address(slot);
        // The agent names the device by this address and this word.
        let node = tree.begin_node(&format!("virtio@{address:x}"))?;
        tree.property_string("compatible", "virtio,mmio")?;
        tree.property_array_u64("reg", &[address, SLOT_SIZE])?;
        tree.property_array_u32("interrupts", &[SHARED, slot_line(slot).into(), EDGE_RISING])?;
        tree.property_null("dma-coherent")?;
        tree.end_node(node)?;
    }
    Ok(())
}
