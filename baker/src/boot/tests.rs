use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::memory::PAGE_SIZE;
use supermachine_snapshots::pack::Layout;
use supermachine_vmm::arch::{MAX_MEMORY, MAX_VCPUS, MIN_MEMORY};

use super::*;

/// A kernel of one page that an ELF loader takes: header, one segment at 16 MiB.
fn tiny_kernel() -> Vec<u8> {
    let mut file = vec![0; 0x2000];
    file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x10, &2_u16.to_le_bytes());
    put(0x12, &62_u16.to_le_bytes());
    put(0x14, &1_u32.to_le_bytes());
    put(0x18, &0x100_0000_u64.to_le_bytes());
    put(0x20, &64_u64.to_le_bytes());
    put(0x34, &64_u16.to_le_bytes());
    put(0x36, &56_u16.to_le_bytes());
    put(0x38, &1_u16.to_le_bytes());
    put(64, &1_u32.to_le_bytes());
    put(64 + 4, &5_u32.to_le_bytes());
    put(64 + 8, &0x1000_u64.to_le_bytes());
    put(64 + 16, &0x100_0000_u64.to_le_bytes());
    put(64 + 24, &0x100_0000_u64.to_le_bytes());
    put(64 + 32, &0x1000_u64.to_le_bytes());
    put(64 + 40, &0x1000_u64.to_le_bytes());
    put(64 + 48, &0x1000_u64.to_le_bytes());
    put(0x1000, b"kernel code");
    file
}

fn inputs(kernel: &[u8]) -> BootInputs<'_> {
    BootInputs { kernel, agent: b"agent", memory_mib: 128, vcpus: 2, baseline: Baseline::V3 }
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let kernel = tiny_kernel();
    let (one, two) = (lay_out(&inputs(&kernel)).unwrap(), lay_out(&inputs(&kernel)).unwrap());
    assert_eq!(one.snapshot.encode(), two.snapshot.encode());
    assert_eq!(one.pages, two.pages);
}

#[test]
fn boot_snapshot_records_baseline_and_features() {
    let kernel = tiny_kernel();
    for baseline in [Baseline::V2, Baseline::V3, Baseline::Host] {
        let boot = lay_out(&BootInputs { baseline, ..inputs(&kernel) }).unwrap();
        let state = boot.snapshot.arch.x86_64().unwrap();
        assert_eq!(state.processor.baseline, baseline);
        assert_eq!(state.processor.features, baseline.required());
        assert!(state.vcpus.iter().all(|vcpu| vcpu.cpuid.is_empty()));
    }
}

#[test]
fn the_layout_is_a_valid_snapshot() {
    let boot = lay_out(&inputs(&tiny_kernel())).unwrap();
    let decoded = Snapshot::decode(&boot.snapshot.encode()).unwrap();
    assert_eq!(decoded.arch.x86_64().unwrap().vcpus.len(), 2);
    let count: u64 = boot.runs.iter().map(|run| u64::from(run.count)).sum();
    assert_eq!(count * PAGE_SIZE, boot.pages.len() as u64);
    let text = |needle: &[u8]| boot.pages.windows(needle.len()).any(|bytes| bytes == needle);
    assert!(text(b"kernel code") && text(b"agent") && text(b"virtio_mmio.device=4K@0xd0000000:5"));
}

#[test]
fn sizes_out_of_bounds_are_refused() {
    let kernel = tiny_kernel();
    let (least, most) = (MIN_MEMORY >> 20, MAX_MEMORY >> 20);
    for (memory_mib, vcpus) in [(least - 1, 1), (most + 1, 1), (128, 0), (128, MAX_VCPUS + 1)] {
        let inputs = BootInputs { memory_mib, vcpus, ..inputs(&kernel) };
        assert!(matches!(lay_out(&inputs), Err(BootError::Size { .. })), "{memory_mib} {vcpus}");
    }
}

#[test]
fn kernel_in_another_format_is_refused() {
    let error = lay_out(&inputs(b"not a kernel at all, just some text that is long enough"));
    assert!(matches!(error, Err(BootError::Kernel { .. })));
}

#[test]
fn the_same_inputs_give_the_same_pack_in_any_store() {
    let kernel = tiny_kernel();
    let digests = [1, 2].map(|_| {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        lay_out(&inputs(&kernel)).unwrap().composition(3).store(&layout).unwrap().digest
    });
    assert_eq!(digests[0], digests[1]);
}
