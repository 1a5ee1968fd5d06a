use std::io::Write;
use std::process::{Command, Stdio};

use supermachine_formats::snapshot::arch::aarch64::SLOTS_START;
use supermachine_vmm::arch::aarch64::layout::MAX_VCPUS;

use super::*;

const MEMORY: u64 = 128 << 20;
const KERNEL_SIZE: u64 = 3 << 20;

fn memory() -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM_START), MEMORY as usize)]).unwrap()
}

/// An `Image` of one page that needs more memory than its file has.
fn image(text_offset: u64, size: u64, flags: u64) -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[TEXT_OFFSET_AT..][..8].copy_from_slice(&text_offset.to_le_bytes());
    image[IMAGE_SIZE_AT..][..8].copy_from_slice(&size.to_le_bytes());
    image[FLAGS_AT..][..8].copy_from_slice(&flags.to_le_bytes());
    image[MAGIC_AT..][..4].copy_from_slice(&MAGIC);
    image[64..75].copy_from_slice(b"kernel code");
    image
}

/// Reads a blob with the reference compiler, which also checks it. Returns its source.
fn decompiled(tree: &[u8]) -> String {
    let mut compiler = Command::new("dtc")
        .args(["-I", "dtb", "-O", "dts", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("dtc, of Debian's package device-tree-compiler");
    compiler.stdin.take().unwrap().write_all(tree).unwrap();
    let output = compiler.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn device_tree_is_accepted_by_the_reference_compiler_and_names_every_device() {
    for vcpus in [1, 2, MAX_VCPUS] {
        let tree = device_tree(MEMORY, vcpus, (0x4700_0000, 0x4700_1234)).unwrap();
        let source = decompiled(&tree);
        for slot in 0..u64::from(SLOTS) {
            let address = SLOTS_START + slot * 0x1000;
            assert!(source.contains(&format!("virtio@{address:x} {{")), "{source}");
        }
        let count = |text: &str| source.matches(text).count();
        assert_eq!(count("enable-method = \"psci\""), usize::from(vcpus));
        assert_eq!(count("compatible = \"virtio,mmio\""), usize::from(SLOTS));
        let expected = [
            "reg = <0x00 0x40000000 0x00 0x8000000>",
            "linux,initrd-end = <0x00 0x47001234>",
            "stdout-path = \"/serial@9000000\"",
            "interrupts = <0x01 0x0d 0x04 0x01 0x0e 0x04 0x01 0x0b 0x04 0x01 0x0a 0x04>",
            "interrupts = <0x00 0x10 0x01>",
        ];
        for text in expected {
            assert!(source.contains(text), "{text} is not in {source}");
        }
    }
}

#[test]
fn kernel_is_placed_with_the_space_that_it_names() {
    let memory = memory();
    let kernel = load(&memory, &image(0x8_0000, KERNEL_SIZE, 0xa)).unwrap();
    let start = RAM_START + 0x8_0000;
    assert_eq!(kernel, Kernel { start, end: start + KERNEL_SIZE, entry: start });
    let mut code = [0; 11];
    memory.read_slice(&mut code, GuestAddress(start + 64)).unwrap();
    assert_eq!(&code, b"kernel code");
}

#[test]
fn kernels_in_another_form_are_refused() {
    let mut no_magic = image(0, KERNEL_SIZE, 0);
    no_magic[MAGIC_AT] = 0;
    for kernel in [
        no_magic,
        Vec::new(),
        image(0, KERNEL_SIZE, BIG_ENDIAN),
        image(0, MEMORY + 1, 0),
        image(BLOCK, KERNEL_SIZE, 0),
        image(u64::MAX, KERNEL_SIZE, 0),
        image(0, u64::MAX, 0),
    ] {
        let refused = load(&memory(), &kernel);
        assert!(matches!(refused, Err(BootError::Kernel { .. })), "{refused:?}");
    }
}

#[test]
fn first_vcpu_enters_the_kernel_with_the_device_tree() {
    let memory = memory();
    let kernel = load(&memory, &image(0, KERNEL_SIZE, 0)).unwrap();
    let placed = place(&memory, (MEMORY, 2), &kernel, b"agent").unwrap();
    let tree = RAM_START + (4 << 20);
    assert_eq!(placed.entry, Entry { address: RAM_START, parameters: tree });
    let mut magic = [0; 4];
    memory.read_slice(&mut magic, GuestAddress(tree)).unwrap();
    assert_eq!(magic, [0xd0, 0x0d, 0xfe, 0xed]);
    let ArchState::Aarch64(state) = state(Baseline::Armv8_2, 2, placed.entry) else { panic!() };
    let first = state.vcpus[0].core.as_ref().unwrap();
    assert_eq!((first.x[0], first.pc, first.pstate), (tree, RAM_START, ENTRY_STATE));
    assert_eq!((state.vcpus[1].mpidr, state.vcpus[1].power), (1, Power::Off));
    assert!(state.processor.registers.is_empty());
}

#[test]
fn agent_that_leaves_no_room_for_the_device_tree_is_refused() {
    let memory = memory();
    let kernel = load(&memory, &image(0, MEMORY - BLOCK, 0)).unwrap();
    let refused = place(&memory, (MEMORY, 1), &kernel, b"agent");
    assert!(matches!(refused, Err(BootError::Memory { what: "the agent", .. })), "{refused:?}");
}
