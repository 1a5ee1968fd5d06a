//! Pools: what resets erase, how long machines last, and who gets them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../examples/examples/eval_pool.rs"]
#[allow(dead_code, reason = "only the example's work is tested, not its main function")]
mod eval_pool;

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use supermachine::agent::{Replies, resume};
use supermachine::error::InvalidInput;
use supermachine::{Error, Image, Pool, PooledVm, Timings, VmConfig};
use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::arch::ArchState;
use supermachine_formats::snapshot::arch::aarch64::Gic;
use supermachine_formats::snapshot::arch::x86_64::Msr;
use supermachine_formats::snapshot::device::Slot;
use supermachine_formats::wire::{Command, Control, Request};
use supermachine_test_support::machines::{self, alone, bake, baked, busybox, held, sh};
use supermachine_vmm::arch::aarch64::layout::{PHYSICAL_TIMER, VIRTUAL_TIMER};
use supermachine_vmm::{Machine, Origin, Restore};

/// Longer than anything takes, even on a slow host.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Appears nowhere else in a guest.
const SECRET: &str = "tiger-lily-sesame";
/// The register that counts on x86_64.
const TIME_STAMP_COUNTER: u32 = 0x10;

/// An expanded image: a machine that starts from the pack itself cannot be reset.
fn image() -> Image {
    let image = busybox();
    image.mapped().unwrap();
    image
}

/// The same snapshot, opened again: its pools are dropped with it.
fn own_image() -> Image {
    let image = image();
    let cache = machines::folder().join("cache");
    Image::open(image.source().clone(), image.digest(), &cache).unwrap()
}

/// A pool with one machine, which all users share in turn.
fn of_one() -> Pool {
    image().pool().max(1).acquire_timeout(TIMEOUT).build().unwrap()
}

/// Waits until no machine starts or resets.
fn settle(pool: &Pool) {
    let end = Instant::now() + TIMEOUT;
    while pool.stats().returning + pool.stats().starting > 0 {
        assert!(Instant::now() < end, "{:?}", pool.stats());
        thread::sleep(Duration::from_millis(2));
    }
}

/// Values that must differ between two users.
fn identity(vm: &PooledVm) -> Vec<String> {
    let script = "head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/boot_id";
    sh(vm, script).lines().map(str::to_owned).collect()
}

#[test]
fn next_user_finds_nothing_of_the_previous_one() {
    let _alone = alone();
    let pool = of_one();
    let vm = pool.acquire().unwrap();
    let before = sh(&vm, "ls /tmp /dev/shm /root; ps -o comm; cat /proc/uptime");
    let first = identity(&vm);
    let leave = format!(
        "echo {SECRET} > /tmp/file; echo {SECRET} > /dev/shm/file; mkdir /left; \
         export LEFT={SECRET}; (sleep 7777 &) > /dev/null 2>&1 < /dev/null; (yes > /dev/null &); \
         nc -l -p 99 > /dev/null 2>&1 < /dev/null & \
         hostname {SECRET}; echo 1 > /proc/sys/vm/drop_caches; sleep 3; cat /tmp/file"
    );
    assert_eq!(sh(&vm, &leave), format!("{SECRET}\n"));
    drop(vm);

    let vm = pool.acquire().unwrap();
    assert_eq!((pool.stats().created, pool.stats().reset), (1, 1));
    let after = sh(&vm, "ls /tmp /dev/shm /root; ps -o comm; cat /proc/uptime");
    let lines = |text: &str| -> Vec<String> {
        // The end of a kernel worker's name is its current task.
        let name = |line: &str| match line.strip_prefix("kworker/") {
            Some(worker) => format!("kworker/{}", worker.split('-').next().unwrap_or_default()),
            None => line.to_owned(),
        };
        let mut lines: Vec<String> = text.lines().map(name).collect();
        lines.pop();
        lines.sort();
        lines
    };
    assert_eq!(lines(&before), lines(&after));
    let second = identity(&vm);
    for (first, second) in first.iter().zip(&second) {
        assert_ne!(first, second);
    }
    let left = "ls -d /left; ps | grep 777[7]; hostname; env; netstat -ln; true";
    let left = sh(&vm, left);
    assert!(!left.contains(SECRET) && !left.contains("7777"), "{left}");
    assert!(!left.contains("/left\n") && !left.contains(":99 "), "{left}");
    // Guest time continues from the snapshot, not from the previous user.
    let uptime = |text: &str| -> f64 {
        text.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    assert!((uptime(&after) - uptime(&before)).abs() < 2.0, "{before} {after}");
}

/// A machine without a [`supermachine::Vm`] around it, to inspect its state.
struct Bare {
    machine: Machine,
    control: Option<UnixStream>,
}

impl Bare {
    fn new() -> Self {
        let image = image();
        let mapped = image.mapped().unwrap().clone();
        let origin = Origin::Files { memory: mapped.memory, disks: mapped.disks };
        let parts = Restore::new(Arc::clone(image.snapshot()), origin);
        Self { machine: Machine::restore(parts, &mut Timings::start()).unwrap(), control: None }
    }

    fn run(&mut self) {
        self.control = Some(self.machine.control().unwrap());
        self.machine.send_control(&Control::Resume(resume(None).unwrap())).unwrap();
        self.machine.run();
    }

    fn sh(&self, script: &str) {
        let argv = ["sh", "-c", script].map(|text| text.as_bytes().to_vec()).to_vec();
        let request = Request::Exec(Command { argv, ..Command::default() });
        let mut replies = Replies::open(&self.machine, &request).unwrap();
        replies.set_limit(Some(TIMEOUT)).unwrap();
        while !replies.next().unwrap().is_final() {}
    }

    fn reset(&self) {
        self.machine.reset(supermachine_vmm::Ends::default(), &mut Timings::start()).unwrap();
    }

    /// The state that two machines at the same point share: everything except time and used ports.
    fn state(&self) -> Snapshot {
        let mut state = self.machine.capture_live().unwrap().snapshot;
        forget_time(&mut state.arch);
        for slot in &mut state.slots {
            if let Slot::Vsock(_, vsock) = slot {
                vsock.next_port = 0;
            }
        }
        state
    }

    /// The counter of the first processor.
    fn counter(&self) -> u64 {
        match self.machine.capture_live().unwrap().snapshot.arch {
            ArchState::X86_64(state) => {
                let is_counter = |msr: &&Msr| msr.index == TIME_STAMP_COUNTER;
                state.vcpus[0].msrs.iter().find(is_counter).unwrap().value
            }
            ArchState::Aarch64(state) => state.counter.value,
        }
    }

    fn pages_with(&self, text: &str) -> usize {
        let captured = self.machine.capture_live().unwrap();
        let has = |page: &[u8]| page.windows(text.len()).any(|found| found == text.as_bytes());
        captured.dirty.iter().filter(|(_, page)| has(page.as_slice())).count()
    }
}

/// Sets to zero what differs between two machines at the same point because time passes.
fn forget_time(arch: &mut ArchState) {
    const PROCESSOR_PRIORITY: usize = 0xa0;
    match arch {
        ArchState::X86_64(state) => {
            state.clock.realtime_ns = 0;
            state.clock.monotonic_ns = 0;
            for vcpu in &mut state.vcpus {
                vcpu.msrs.retain(|msr| msr.index != TIME_STAMP_COUNTER);
                // The processor derives it from other registers when it reads it.
                if let Some(lapic) = &mut vcpu.lapic {
                    lapic[PROCESSOR_PRIORITY] = 0;
                }
            }
        }
        ArchState::Aarch64(state) => {
            state.counter.realtime_ns = 0;
            state.counter.value = 0;
            // The kernel derives the timers' lines from the counter when it loads a vCPU.
            if let Gic::Registers(registers) = &mut state.gic {
                for own in &mut registers.redistributors {
                    own.lines &= !(1 << VIRTUAL_TIMER | 1 << PHYSICAL_TIMER);
                }
            }
        }
    }
}

/// How far the counter gets in a second.
fn counts_in_a_second(arch: &ArchState) -> u64 {
    match arch {
        ArchState::X86_64(state) => u64::from(state.clock.tsc_khz) * 1000,
        ArchState::Aarch64(state) => state.counter.frequency_hz.into(),
    }
}

/// Leaves the secret in kernel memory, processes and files, many times.
fn leave_secrets() -> String {
    format!(
        "i=0; while [ $i -lt 2000 ]; do echo {SECRET}$i; i=$((i+1)); done > /dev/shm/x; \
         cp /dev/shm/x /tmp/y; sort /tmp/y | tail -n 1; (sleep 1000 {SECRET} &); sleep 2"
    )
}

#[test]
fn reset_machine_has_the_state_and_memory_of_a_fresh_one() {
    let _alone = alone();
    let mut bare = Bare::new();
    let (fresh, begin) = (bare.state(), bare.counter());
    for _ in 0..3 {
        bare.run();
        bare.sh(&leave_secrets());
        assert_ne!(bare.state(), fresh);
        assert!(bare.pages_with(SECRET) > 10);
        let stream = bare.machine.connect(9999, b"").unwrap();
        bare.reset();
        let counter = bare.counter();
        // The counter was set back: far less time has passed than the commands took.
        let limit = counts_in_a_second(&fresh.arch) * 3 / 2;
        assert!(counter.abs_diff(begin) < limit, "{counter}, at first {begin}");
        assert_eq!(bare.state(), fresh);
        let captured = bare.machine.capture_live().unwrap();
        let mut before = [0; 4096];
        for (page, content) in captured.dirty.iter() {
            bare.machine.memory_files().unwrap().read_page(page, &mut before).unwrap();
            assert!(before == *content, "page {page}");
        }
        assert!(captured.dirty.count() < 1024, "{}", captured.dirty.count());
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        assert_eq!((&stream).read(&mut [0; 16]).unwrap(), 0);
    }
}

#[test]
fn next_user_has_no_memory_of_the_previous_one() {
    let _alone = alone();
    let mut bare = Bare::new();
    bare.run();
    bare.sh(&leave_secrets());
    assert!(bare.pages_with(SECRET) > 10);
    bare.reset();
    bare.run();
    bare.sh("ls -R /tmp /dev/shm; ps");
    assert_eq!(bare.pages_with(SECRET), 0);
}

#[test]
fn clock_of_a_reset_machine_is_right_and_its_uptime_is_the_snapshots() {
    let _alone = alone();
    let pool = of_one();
    let uptime =
        |vm: &PooledVm| -> f64 { sh(vm, "cut -d ' ' -f 1 /proc/uptime").trim().parse().unwrap() };
    let first = uptime(&pool.acquire().unwrap());
    for turn in 0..12 {
        let vm = pool.acquire().unwrap();
        let guest: u64 = sh(&vm, "date +%s").trim().parse().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!(guest.abs_diff(now.as_secs()) <= 2, "{guest} {now:?}");
        // Some resets follow each other within a second, others do not.
        thread::sleep(Duration::from_millis(if turn % 4 == 3 { 1500 } else { 300 }));
        drop(vm);
        let vm = pool.acquire().unwrap();
        let again = uptime(&vm);
        assert!((again - first).abs() < 1.0, "{first} {again}");
    }
}

#[test]
fn two_thousand_leases_leak_no_threads_descriptors_or_memory() {
    let _alone = alone();
    const TURNS: usize = 2000;
    let pool = of_one();
    let turn = |pool: &Pool| {
        let vm = pool.acquire().unwrap();
        assert!(vm.exec(["/bin/true"]).unwrap().success());
    };
    (0..20).for_each(|_| turn(&pool));
    settle(&pool);
    let (before, memory) = (held(), resident_kib());
    let begin = Instant::now();
    (0..TURNS).for_each(|_| turn(&pool));
    eprintln!("{TURNS} turns in {:?}", begin.elapsed());
    settle(&pool);
    assert_eq!(held(), before);
    let grown = resident_kib().saturating_sub(memory);
    assert!(grown < 4 << 10, "{grown} KiB");
    let stats = pool.stats();
    assert_eq!((stats.created, stats.replaced, stats.failures), (1, 0, 0));
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "long: runs with SUPERMACHINE_TEST_FULL"]
fn two_hundred_machines_of_one_snapshot_answer() {
    let _alone = alone();
    const MACHINES: usize = 200;
    let image = baked("small", || bake("busybox").memory_mib(64).entrypoint(["sleep", "1000000"]));
    image.mapped().unwrap();
    let pool = image.pool().max(MACHINES).build().unwrap();
    let vms: Vec<PooledVm> = (0..MACHINES).map(|_| pool.acquire().unwrap()).collect();
    let mut ids = HashSet::new();
    for (index, vm) in vms.iter().enumerate() {
        let answer = sh(vm, &format!("echo {index}; cat /proc/sys/kernel/random/boot_id"));
        let (number, id) = answer.split_once('\n').unwrap();
        assert_eq!(number, index.to_string());
        assert!(ids.insert(id.to_owned()));
    }
    assert_eq!(pool.stats().in_use, MACHINES);
}

#[test]
fn sixteen_threads_share_five_machines() {
    let _alone = alone();
    let pool = image().pool().min(2).max(5).acquire_timeout(TIMEOUT).build().unwrap();
    let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for thread in 0..16 {
            let (pool, inside, most) = (&pool, &inside, &most);
            scope.spawn(move || {
                for turn in 0..4 {
                    let vm = pool.acquire().unwrap();
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let script =
                        format!("cat /tmp/mine 2>/dev/null; echo {thread}-{turn} | tee /tmp/mine");
                    assert_eq!(sh(&vm, &script), format!("{thread}-{turn}\n"));
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert!(most.into_inner() <= 5);
    let stats = pool.stats();
    assert!(stats.created <= 5 && stats.failures == 0, "{stats:?}");
}

#[test]
fn eval_loop_with_a_pool_of_five_and_threads() {
    let _alone = alone();
    // As an application writes it.
    let image = own_image();
    let config = VmConfig::new().with_pool_warm(5);
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for task in 0..8 {
            let (image, config, results) = (&image, &config, &results);
            scope.spawn(move || -> Result<(), Error> {
                let vm = image.acquire_with(config)?;
                let outcome = vm.exec(["sh", "-c", &format!("echo $(({task} * {task}))")])?;
                results.lock().unwrap().push((task, outcome.stdout));
                Ok(())
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort();
    let expected: Vec<_> = (0..8).map(|n| (n, format!("{}\n", n * n).into_bytes())).collect();
    assert_eq!(results, expected);
}

#[test]
fn example_evaluates_each_script_in_a_clean_machine() {
    let _alone = alone();
    let script = "cat /tmp/left 2>/dev/null; echo $$ > /tmp/left; echo done";
    let mut scripts = vec![script.into(); 12];
    scripts.push("exit 3".into());
    let results = eval_pool::run(&image(), &scripts).unwrap();
    let outcomes: Vec<_> = results.into_iter().map(|result| result.unwrap().unwrap()).collect();
    assert_eq!(outcomes[12].status.code(), Some(3));
    for outcome in &outcomes[..12] {
        assert_eq!(outcome.stdout, b"done\n");
    }
}

#[test]
fn dead_machine_is_replaced() {
    let _alone = alone();
    let pool = of_one();
    let vm = pool.acquire().unwrap();
    sh(&vm, "echo here > /tmp/mark");
    // The guest's kernel resets the machine.
    let crash = "echo 1 > /proc/sys/kernel/sysrq; echo b > /proc/sysrq-trigger; sleep 1000";
    let limit = Duration::from_secs(60);
    let ended = vm.exec_builder().argv(["sh", "-c", crash]).timeout(limit).output();
    if ended.is_ok() {
        // A guest without SysRq: discard the machine instead.
        vm.discard();
    } else {
        drop(vm);
    }
    let vm = pool.acquire().unwrap();
    assert_eq!(sh(&vm, "cat /tmp/mark 2>/dev/null; echo well"), "well\n");
    assert_eq!((pool.stats().created, pool.stats().replaced), (2, 1));
}

#[test]
fn panic_while_holding_a_machine_returns_it_clean() {
    let _alone = alone();
    let pool = of_one();
    let panics = || {
        let vm = pool.acquire().unwrap();
        sh(&vm, "echo left > /tmp/mark");
        panic!("on purpose");
    };
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    let vm = pool.acquire().unwrap();
    assert_eq!(sh(&vm, "cat /tmp/mark 2>/dev/null; echo well"), "well\n");
    assert_eq!(pool.stats().created, 1);
}

#[test]
fn without_restore_files_stay_and_a_long_wait_fails() {
    let _alone = alone();
    let limit = Duration::from_millis(200);
    let builder = image().pool().max(1).restore_on_release(false).acquire_timeout(limit);
    let pool = builder.build().unwrap();
    let vm = pool.acquire().unwrap();
    sh(&vm, "echo kept > /tmp/mark");
    assert!(matches!(pool.acquire(), Err(Error::PoolExhausted { in_use: 1, max: 1, .. })));
    drop(vm);
    assert_eq!(sh(&pool.acquire().unwrap(), "cat /tmp/mark"), "kept\n");
}

#[test]
fn image_pool_and_machines_can_be_dropped_in_any_order() {
    let _alone = alone();
    let before = held();
    for order in 0..4 {
        let image = own_image();
        let pool = image.pool().min(1).max(3).build().unwrap();
        let (first, second) = (pool.acquire().unwrap(), pool.acquire().unwrap());
        match order {
            0 => drop((pool, first, image, second)),
            1 => drop((first, pool, image, second)),
            2 => {
                drop((image, pool));
                assert_eq!(sh(&first, "echo lives"), "lives\n");
                assert_eq!(sh(&second.into_inner(), "echo lives"), "lives\n");
            }
            _ => {
                let own = image.acquire().unwrap();
                drop((second, pool, first, image));
                assert_eq!(sh(&own, "echo lives"), "lives\n");
            }
        }
    }
    let end = Instant::now() + TIMEOUT;
    while held() != before {
        assert!(Instant::now() < end, "{:?}, before {before:?}", held());
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn pool_of_an_invalid_size_is_refused() {
    let _alone = alone();
    for (min, max) in [(0, 0), (3, 2)] {
        let refused = image().pool().min(min).max(max).build();
        assert!(
            matches!(refused, Err(Error::Invalid { source: InvalidInput::PoolSize { .. } })),
            "{refused:?}"
        );
    }
    let other = image().pool().config(&VmConfig::new().with_memory_mib(99)).build();
    assert!(
        matches!(other, Err(Error::Invalid { source: InvalidInput::Mismatch { wanted: 99, .. } })),
        "{other:?}"
    );
}
