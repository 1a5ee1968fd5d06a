//! The two ways in which a guest has its root file system.

mod support;

use supermachine_baker::RootDisk;
use support::{bake, baked, sh, start};

#[test]
fn a_mapped_root_is_used_in_place() {
    let vm = start(&baked("mapped", || bake("busybox")));
    let mounts = sh(&vm, "cat /proc/mounts");
    let image = mounts.lines().find(|line| line.starts_with("/dev/pmem0 "));
    assert!(image.is_some_and(|line| line.contains(" erofs ") && line.contains("dax")), "{mounts}");
}

#[test]
fn a_root_behind_requests_works_as_well() {
    let image = baked("block", || bake("busybox").root_disk(RootDisk::Block));
    for _ in 0..3 {
        let vm = start(&image);
        let mounts = sh(&vm, "cat /proc/mounts");
        let disk = mounts.lines().find(|line| line.starts_with("/dev/vda "));
        assert!(disk.is_some_and(|line| line.contains(" erofs ")), "{mounts}");
        // Not read before the capture: it comes from the disk now.
        assert!(sh(&vm, "cat /bin/busybox | wc -c").trim().parse::<u64>().unwrap() > 1 << 19);
        assert_eq!(sh(&vm, "echo kept > /bin/new; cat /bin/new"), "kept\n");
    }
}
