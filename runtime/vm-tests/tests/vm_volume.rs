//! Volumes and disks of a guest: what stays, who may have it, and what a power cut leaves.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use supermachine::error::InvalidInput;
use supermachine::{Error, Image, Vm, VmConfig, Volume};
use supermachine_test_support::machines::{
    bake, baked, busybox, causes, fails, folder, isolated_by, scaled, sh, start, until,
};
use supermachine_test_support::volumes::Home;

const MIB: u64 = 1 << 20;

/// The configuration with a worker that can open no file.
fn isolated(config: VmConfig, programs: &Path) -> VmConfig {
    isolated_by(env!("CARGO_BIN_EXE_locked-worker"), config, programs)
}

#[test]
fn what_one_machine_writes_the_next_reads() {
    let home = Home::empty();
    let vm = home.start();
    assert_eq!(sh(&vm, "ls -A /data"), "");
    sh(&vm, "mkdir -p /data/a/b && echo kept > /data/a/b/file && ln -s a/b/file /data/link");
    sh(&vm, "chown 7:8 /data/a && chmod 1750 /data/a");
    drop(vm);
    home.assert_clean();
    let vm = home.start();
    assert_eq!(sh(&vm, "cat /data/link; stat -c '%u %g %a' /data/a"), "kept\n7 8 1750\n");
    sh(&vm, "echo more >> /data/link");
    vm.stop().unwrap();
    let programs = tempfile::tempdir_in(folder()).unwrap();
    let vm = busybox().start(&isolated(home.config(), programs.path())).unwrap();
    assert_eq!(sh(&vm, "cat /data/link"), "kept\nmore\n");
    sh(&vm, "echo and more >> /data/link");
    vm.stop().unwrap();
    assert_eq!(sh(&home.start(), "cat /data/link"), "kept\nmore\nand more\n");
    home.assert_clean();
}

#[test]
fn new_volume_begins_with_the_files_that_it_covers() {
    let home = Home::empty();
    let config = VmConfig::new().with_volume(home.volume(), "/bin");
    let list = "stat -c '%n %a %u %g %h' /bin /bin/*";
    let image = sh(&busybox().start(&VmConfig::new()).unwrap(), list);
    assert!(image.contains("/bin/sh"), "{image}");
    let vm = busybox().start(&config).unwrap();
    assert_eq!(sh(&vm, list), image);
    sh(&vm, "rm /bin/true && echo new > /bin/new");
    drop(vm);
    // Later machines get what is there, and nothing of the image again.
    let vm = busybox().start(&config).unwrap();
    assert_eq!(sh(&vm, "cat /bin/new"), "new\n");
    fails(&vm, "test -e /bin/true");
    home.assert_clean();
}

#[test]
fn disk_has_the_size_that_is_asked_for() {
    for (size, least) in [(64 * MIB, 40), (1 << 30, 950), (1 << 40, 1_000_000)] {
        let home = Home::empty();
        let volume = Volume::at(home.path()).with_size(size);
        let vm = busybox().start(&VmConfig::new().with_volume(volume, "/data")).unwrap();
        let free: u64 =
            sh(&vm, "df -m /data | tail -n 1 | awk '{print $4}'").trim().parse().unwrap();
        assert!(free >= least && free <= size / MIB, "{size}: {free} MiB are free");
        assert!(home.used() < size / 32, "{size}: {} bytes are used", home.used());
        sh(&vm, "echo works > /data/file && sync");
        drop(vm);
        home.assert_clean();
    }
}

#[test]
fn service_keeps_its_data_in_a_volume() {
    let home = Home::empty();
    let (redis, config) = (baked("redis", || bake("redis")), home.config());
    let vm = redis.start(&config).unwrap();
    // It works in the image's own /data, so it starts anew with what covers that.
    assert_eq!(sh(&vm, "redis-cli set key 'a value'; redis-cli save"), "OK\nOK\n");
    drop(vm);
    home.assert_clean();
    assert_eq!(sh(&redis.start(&config).unwrap(), "redis-cli get key"), "a value\n");
}

#[test]
fn service_runs_on_where_nothing_of_it_is_covered() {
    let (home, redis) = (Home::empty(), baked("redis", || bake("redis")));
    let pid = sh(&start(&redis), "pidof redis-server");
    for target in ["/new/folder", "/mnt"] {
        let vm = redis.start(&home.config_at(target)).unwrap();
        assert_eq!(sh(&vm, "pidof redis-server"), pid, "{target}");
        assert_ne!(sh(&vm, &format!("df {target} | tail -n 1")), sh(&vm, "df / | tail -n 1"));
    }
    let vm = redis.start(&home.config_at("/etc/redis")).unwrap();
    assert_ne!(sh(&vm, "redis-cli ping; pidof redis-server"), format!("PONG\n{pid}"));
}

#[test]
fn volume_of_one_machine_is_refused_to_another_by_name() {
    let home = Home::empty();
    let vm = home.start();
    let error = causes(&busybox().start(&home.config()).unwrap_err());
    assert!(error.contains("volume.ext4 is in use"), "{error}");
    let error = causes(&vm.fork_with(1, &home.config()).unwrap_err());
    assert!(error.contains("volume.ext4 is in use"), "{error}");
    let error = causes(&vm.fork(1).unwrap_err());
    assert!(error.contains("volume \"volume.ext4\" at \"/data\""), "{error}");
    assert_eq!(sh(&vm, "echo works > /data/file; cat /data/file"), "works\n");
    let pool = busybox().pool().config(&home.config()).build();
    let Err(Error::Invalid { source: InvalidInput::VolumeOfPool { name } }) = pool else {
        panic!()
    };
    assert!(name.ends_with("volume.ext4"));
}

#[test]
fn fork_with_a_volume_mounts_it_anew() {
    let (home, other) = (Home::empty(), Home::empty());
    let vm = home.start();
    sh(&vm, "echo of the first > /data/file; sync");
    sh(&vm, "sh -c 'exec 3< /data/file; sleep 1000' > /dev/null 2>&1 &");
    let [fork] = <[Vm; 1]>::try_from(vm.fork_with(1, &other.config()).unwrap()).unwrap();
    // It is another volume, and nothing of the first one is on it.
    assert_eq!(sh(&fork, "ls -A /data"), "");
    sh(&fork, "echo of the fork > /data/file");
    fails(&fork, "cat /proc/$(pidof sleep)/fd/3");
    assert_eq!(sh(&vm, "cat /data/file"), "of the first\n");
    drop(fork);
    drop(vm);
    assert_eq!(sh(&home.start(), "cat /data/file"), "of the first\n");
    assert_eq!(sh(&other.start(), "cat /data/file"), "of the fork\n");
    home.assert_clean();
    other.assert_clean();
}

#[test]
fn full_volume_is_an_error_of_the_program_that_fills_it() {
    let home = Home::empty();
    let volume = Volume::at(home.path()).with_size(64 * MIB);
    let config = VmConfig::new().with_volume(volume, "/data");
    let vm = busybox().start(&config).unwrap();
    let said = fails(&vm, "dd if=/dev/zero of=/data/big bs=1M count=100");
    assert!(said.contains("No space left"), "{said}");
    assert!(home.used() <= 64 * MIB);
    sh(&vm, "rm /data/big && echo works > /data/file && sync && cat /data/file");
    drop(vm);
    home.assert_clean();
}

#[test]
fn what_is_deleted_gives_its_room_back() {
    let home = Home::empty();
    let vm = home.start();
    sh(&vm, "dd if=/dev/urandom of=/data/big bs=1M count=64 2> /dev/null && sync");
    let full = home.used();
    assert!(full >= 64 * MIB, "{full}");
    sh(&vm, "rm /data/big && sync");
    until("the room is given back", || home.used() < full - 48 * MIB);
}

#[test]
fn read_only_volume_is_read_by_many_and_stays_as_it_is() {
    let home = Home::empty();
    let vm = home.start();
    sh(&vm, "echo kept > /data/file");
    drop(vm);
    let before = fs::read(home.path()).unwrap();
    let config = VmConfig::new().with_volume(home.volume().read_only(), "/data");
    let machines = [(); 2].map(|()| busybox().start(&config).unwrap());
    for vm in &machines {
        assert_eq!(sh(vm, "cat /data/file"), "kept\n");
        assert!(fails(vm, "echo no > /data/file").contains("Read-only file system"));
        // Not even a guest that mounts as it likes changes anything.
        let _ = vm.exec(["sh", "-c", "mount -o remount,bind,rw /data; echo no > /data/file; sync"]);
        let _ = vm.exec(["sh", "-c", "dd if=/dev/zero of=/dev/vda bs=4096 count=64; sync"]);
    }
    let error = causes(&busybox().start(&home.config()).unwrap_err());
    assert!(error.contains("in use"), "{error}");
    drop(machines);
    assert!(fs::read(home.path()).unwrap() == before);
    home.assert_clean();
}

#[test]
fn scratch_disk_is_empty_for_each_user_of_a_pool() {
    let config = VmConfig::new().with_disk("/scratch", 1 << 30);
    let pool = busybox().pool().config(&config).max(1).build().unwrap();
    for _ in 0..2 {
        let vm = pool.acquire().unwrap();
        assert_eq!(sh(&vm, "ls -A /scratch"), "");
        sh(&vm, "dd if=/dev/zero of=/scratch/big bs=1M count=32 2> /dev/null; sync");
    }
}

/// A program that writes to a volume, and what must be there after its machine was killed.
struct Writer<'a> {
    image: Image,
    target: &'a str,
    /// Prints the last number that is there, after checking all of the data.
    last: &'a str,
    /// Writes the numbers that follow, and prints each once it is on the disk.
    write: &'a str,
}

impl Writer<'_> {
    /// Kills machines while they write, and checks that the next one finds every number that was printed.
    fn survives(&self, rounds: u32) {
        let home = Home::empty();
        let programs = tempfile::tempdir_in(folder()).unwrap();
        let config = isolated(home.config_at(self.target), programs.path());
        let mut synced = 0;
        for round in 0..rounds {
            let vm = self.image.start(&config).unwrap();
            let last: u64 = sh(&vm, self.last).trim().parse().unwrap();
            assert!(last >= synced, "round {round}: {last} of {synced}");
            let mut child = vm.exec_builder().argv(["sh", "-c", self.write]).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout().unwrap()).lines();
            for _ in 0..=round % 7 {
                synced = lines.next().unwrap().unwrap().parse().unwrap();
            }
            kill_workers(programs.path());
            drop(vm);
            if round < 3 || round % 50 == 0 {
                home.assert_clean();
            }
        }
        assert!(synced > 0);
    }
}

#[test]
fn killed_machine_loses_nothing_that_was_synced() {
    Writer {
        image: busybox(),
        target: "/data",
        last: "cat /data/last 2> /dev/null || echo 0",
        write: "i=$(cat /data/last 2> /dev/null || echo 0); while :; do i=$((i + 1)); \
                echo $i > /data/new && mkdir -p /data/d$((i % 50)) && cp /bin/busybox /data/d$((i % 50))/f && \
                sync && mv /data/new /data/last && sync && echo $i; done",
    }
    .survives(scaled(1000, 3));
}

#[test]
fn killed_sqlite_loses_nothing_that_was_committed() {
    for mode in ["delete", "wal"] {
        let open = format!(
            "import sqlite3; db = sqlite3.connect('/data/db', isolation_level=None); \
             db.execute('pragma journal_mode={mode}'); db.execute('pragma synchronous=full'); \
             db.execute('create table if not exists t (i integer primary key, x blob)'); "
        );
        let last = "assert db.execute('pragma integrity_check').fetchone() == ('ok',); \
                    print(db.execute('select coalesce(max(i), 0) from t').fetchone()[0])";
        let write = "[print(db.execute('insert into t (x) values (randomblob(3000))').lastrowid, flush=True) \
                     for _ in iter(int, 1)]";
        Writer {
            image: baked("python3", || bake("python3")),
            target: "/data",
            last: &format!("python3 -c \"{open}{last}\""),
            write: &format!("python3 -c \"{open}{write}\""),
        }
        .survives(scaled(1000, 2));
    }
}

/// Kills the worker that runs from this folder.
fn kill_workers(programs: &Path) {
    let mut killed = 0;
    for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let is_ours = |line: &Vec<u8>| line.starts_with(programs.as_os_str().as_encoded_bytes());
        if fs::read(entry.path().join("cmdline")).is_ok_and(|line| is_ours(&line)) {
            let kill = Command::new("kill").arg("-9").arg(entry.file_name()).status();
            killed += i32::from(kill.unwrap().success());
        }
    }
    assert_eq!(killed, 1);
}

/// Tests of an image with installed packages, which is made for this machine's architecture only.
mod installed {
    use super::*;

    /// Where the image of postgres keeps its data.
    const PGDATA: &str = "/var/lib/postgresql/data";

    fn postgres() -> Image {
        let ready = "log:ready to accept connections".parse().unwrap();
        baked("postgres", || bake("postgres").memory_mib(256).ready(ready))
    }

    #[test]
    fn database_keeps_its_data_in_a_volume() {
        let (home, sql) =
            (Home::empty(), |statement| format!("psql -qtAX -U postgres -c '{statement}'"));
        let config = home.config_at(PGDATA);
        let vm = postgres().start(&config).unwrap();
        sh(&vm, &sql("create table t (i int); insert into t values (7)"));
        drop(vm);
        home.assert_clean();
        assert_eq!(sh(&postgres().start(&config).unwrap(), &sql("select * from t")), "7\n");
    }

    #[test]
    #[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
    fn killed_postgres_loses_nothing_that_was_committed() {
        let psql = "psql -qtAX -v ON_ERROR_STOP=1 -U postgres";
        Writer {
            image: postgres(),
            target: PGDATA,
            last: &format!(
                "{psql} -c 'create table if not exists t (i bigserial primary key, x text)' && \
                 {psql} -c 'select coalesce(max(i), 0) from t' && ! {psql} -c 'select count(*), sum(length(x)) from t' \
                 | grep -q ERROR"
            ),
            write: &format!(
                "yes \"insert into t (x) values (repeat('x', 3000)) returning i;\" | {psql}"
            ),
        }
        .survives(scaled(1000, 2));
    }
}
