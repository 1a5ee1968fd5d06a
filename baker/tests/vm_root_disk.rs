//! The two kinds of root disk.

use supermachine::Vm;
use supermachine_baker::RootDisk;
use supermachine_test_support::machines::{bake, baked, sh, start};

/// How much the guest's page cache grows when a file of the image is read, in KiB.
fn growth_by_reading(vm: &Vm) -> Option<i64> {
    let script = "cached() { sed -n 's/^Cached: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo; }
        a=$(cached); cat /bin/busybox > /dev/null; b=$(cached); echo $((b - a))";
    sh(vm, script).trim().parse().ok()
}

fn disks(vm: &Vm) -> String {
    sh(vm, "ls /sys/block | grep -v '^loop'")
}

#[test]
fn mapped_root_is_read_through_the_page_cache_once() {
    let vm = start(&baked("mapped", || bake("busybox")));
    assert_eq!(disks(&vm), "pmem0\n");
    growth_by_reading(&vm).unwrap();
    let again = growth_by_reading(&vm).unwrap();
    assert!(again < 64, "{again} KiB of the image were read a second time");
}

#[test]
fn root_on_a_block_device_works() {
    let image = baked("block", || bake("busybox").root_disk(RootDisk::Block));
    for _ in 0..3 {
        let vm = start(&image);
        assert_eq!(disks(&vm), "vda\n");
        let growth = growth_by_reading(&vm).unwrap();
        assert!(growth > 128, "only {growth} KiB were read from the disk");
        assert_eq!(sh(&vm, "echo kept > /bin/new; cat /bin/new"), "kept\n");
    }
}
