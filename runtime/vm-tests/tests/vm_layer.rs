//! The writable layer of a guest's root on a disk: what fits on it, what stays, and who cannot have it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use supermachine::error::SnapshotError;
use supermachine::{Error, Image, Vm, VmConfig, Volume};
use supermachine_baker::{AfterRestore, Init};
use supermachine_test_support::machines::{
    bake, baked, busybox, causes, fails, folder, isolated_by, own_store, sh, start, until,
};
use supermachine_test_support::volumes::Home;

const GIB: u64 = 1 << 30;

fn with_disk() -> VmConfig {
    VmConfig::new().with_disk("/", GIB)
}

/// An image without an entrypoint that runs.
fn idle() -> Image {
    baked("idle", || bake("busybox").entrypoint(["true"]).tmpfs("/var/cache".parse().unwrap()))
}

/// Why a machine with this configuration cannot be used. A guest says so to the first command.
fn refusal(image: &Image, config: &VmConfig) -> String {
    let used = image.start(config).and_then(|vm| vm.exec(["true"]));
    causes(&used.unwrap_err())
}

fn logs(vm: &Vm) -> String {
    let mut stdout = Vec::new();
    vm.logs_to(&mut stdout, &mut Vec::new()).unwrap();
    String::from_utf8(stdout).unwrap()
}

#[test]
fn guest_writes_more_than_fits_into_its_memory() {
    let vm = idle().start(&with_disk()).unwrap();
    sh(&vm, "dd if=/dev/zero of=/root/big bs=1M count=400 2> /dev/null && sync");
    assert_eq!(sh(&vm, "wc -c < /root/big"), "419430400\n");
    let size: u64 = sh(&vm, "df -m / | tail -n 1 | awk '{print $2}'").trim().parse().unwrap();
    assert!((900..=1024).contains(&size), "{size} MiB");
    // Files of the image change as ever.
    sh(&vm, "rm /bin/true && echo own > /bin/own && mv /etc/passwd /etc/users && mkdir /etc/d");
    assert_eq!(sh(&vm, "cat /bin/own; ls -d /bin/true /etc/passwd 2> /dev/null || true"), "own\n");
    let said = fails(&vm, "dd if=/dev/zero of=/root/bigger bs=1M count=1000");
    assert!(said.contains("No space left"), "{said}");
}

#[test]
fn other_mounts_are_as_without_a_disk() {
    let list = "awk '$5 != \"/\" {print $5, $9}' /proc/self/mountinfo | sort";
    let expected = sh(&start(&idle()), list);
    assert!(expected.contains("/var/cache tmpfs"), "{expected}");
    let vm = idle().start(&with_disk()).unwrap();
    assert_eq!(sh(&vm, list), expected);
    sh(&vm, "echo works > /dev/shm/file && cat /proc/1/comm && ls /sys/fs/cgroup > /dev/null");
    assert_eq!(sh(&vm, "stat -c '%a %u %g' /; hostname > /dev/null; cat /etc/hostname | wc -l"), {
        sh(&start(&idle()), "stat -c '%a %u %g' /; cat /etc/hostname | wc -l")
    });
}

#[test]
fn volume_keeps_what_was_written_over_its_snapshot() {
    let home = Home::empty();
    let config = home.config_at("/");
    let vm = idle().start(&config).unwrap();
    sh(&vm, "mkdir -p /srv/a && echo kept > /srv/a/file && chown -R 7:8 /srv/a && rm /bin/true");
    vm.stop().unwrap();
    home.assert_clean();
    let vm = idle().start(&config).unwrap();
    assert_eq!(sh(&vm, "cat /srv/a/file; stat -c '%u %g' /srv/a"), "kept\n7 8\n");
    fails(&vm, "test -e /bin/true");
    let ids = [sh(&vm, "cat /run/supermachine/generation"), sh(&vm, "hostname")];
    drop(vm);
    let programs = tempfile::tempdir_in(folder()).unwrap();
    let isolated = isolated_by(env!("CARGO_BIN_EXE_locked-worker"), config, programs.path());
    let vm = idle().start(&isolated.with_hostname("other")).unwrap();
    assert_eq!(sh(&vm, "cat /srv/a/file; hostname; cat /etc/hostname"), "kept\nother\nother\n");
    assert_ne!(sh(&vm, "cat /run/supermachine/generation"), ids[0]);
    drop(vm);
    // What is on it makes sense over its own snapshot only.
    let error = refusal(&busybox(), &home.config_at("/"));
    assert!(error.contains("another snapshot"), "{error}");
    home.assert_clean();
}

#[test]
fn entrypoint_starts_anew_and_keeps_its_data() {
    let image = baked("redis", || bake("redis"));
    let home = Home::empty();
    let config = home.config_at("/");
    let vm = image.start(&config).unwrap();
    assert_eq!(sh(&vm, "redis-cli set key 'a value'; redis-cli save"), "OK\nOK\n");
    // The volume of the image is on the disk too.
    assert_eq!(
        sh(&vm, "stat -f -c %T /data; id -un; stat -c %U /data"),
        "ext2/ext3\nredis\nredis\n"
    );
    assert_eq!(logs(&vm).matches("Ready to accept connections").count(), 2, "{}", logs(&vm));
    vm.stop().unwrap();
    home.assert_clean();
    assert_eq!(sh(&image.start(&config).unwrap(), "redis-cli get key"), "a value\n");
    // Without the disk, the snapshot is as it was.
    assert_eq!(sh(&start(&image), "redis-cli get key"), "\n");
}

#[test]
fn entrypoint_that_is_pid_1_starts_anew() {
    let script =
        "echo began; trap 'exit 0' TERM; echo one >> /var/starts; while :; do sleep 0.2; done";
    let describe = || bake("busybox").init(Init::Image).entrypoint(["sh", "-c", script]);
    let vm = baked("layer-init", describe).start(&with_disk()).unwrap();
    let seen = "wc -l < /var/starts; cat /proc/1/comm; df -m / | grep -c overlay";
    until("it starts anew", || sh(&vm, seen) == "2\nsh\n1\n");
    assert_eq!(logs(&vm), "began\nbegan\n");
    let restarting = || {
        let restart: AfterRestore = "restart".parse().unwrap();
        let entrypoint = ["sh", "-c", script];
        bake("busybox").entrypoint(entrypoint).after_restore(restart)
    };
    // Once is enough where each restore restarts it anyway.
    let vm = baked("layer-restart", restarting).start(&with_disk()).unwrap();
    until("it starts anew", || logs(&vm) == "began\nbegan\n");
}

#[test]
fn pools_machines_begin_without_what_others_wrote() {
    let pool = idle().pool().config(&with_disk()).max(1).build().unwrap();
    for _ in 0..2 {
        let vm = pool.acquire().unwrap();
        fails(&vm, "test -e /root/big");
        sh(&vm, "dd if=/dev/zero of=/root/big bs=1M count=100 2> /dev/null; sync");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let (_home, store) = own_store();
    bake("busybox").name("own").entrypoint(["sleep", "1000000"]).bake(&store).unwrap();
    let image = store.image("own").unwrap();
    let vm = image.start(&with_disk()).unwrap();
    for error in [vm.snapshot("live").unwrap_err(), vm.fork(1).unwrap_err()] {
        let source = match error {
            Error::Snapshot { source } => source,
            other => panic!("{other}"),
        };
        assert!(matches!(source, SnapshotError::LayerOnDisk), "{source}");
    }
    assert_eq!(sh(&vm, "echo works > /root/file; cat /root/file"), "works\n");

    let vm = image.start(&VmConfig::new()).unwrap();
    sh(&vm, "sleep 1000 > /dev/null 2>&1 &");
    let live = vm.snapshot("live").unwrap().image;
    let error = refusal(&live, &with_disk());
    assert!(error.contains("(sleep) runs"), "{error}");

    let home = Home::empty();
    drop(home.start());
    let read_only = VmConfig::new().with_volume(Volume::at(home.path()).read_only(), "/");
    let error = refusal(&image, &read_only);
    assert!(error.contains("read-only volume cannot be at /"), "{error}");

    let image =
        baked("layer-read-only", || bake("busybox").entrypoint(["true"]).read_only_root(true));
    let error = refusal(&image, &with_disk());
    assert!(error.contains("write of /"), "{error}");
}
