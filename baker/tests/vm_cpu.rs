//! Snapshots that run on another processor than the one that made them.
//!
//! The suite runs the modules one after the other on one store, in hosts with different processors:
//! [`baking`] in the usual host, [`running`] in all, [`baking_host`] in one with more features than the
//! usual host, and [`refusing`] last, in the usual host.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use supermachine::{Image, Vm, VmConfig};
use supermachine_baker::Store;
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::arch::x86_64::baseline::{FeatureWord, Processor, missing};
use supermachine_test_support::machines::{self, bake, causes, expect_baked, sh};

/// Names the folder of the store that the hosts share.
const STORE: &str = "SUPERMACHINE_TEST_CPU_STORE";

/// Flags that the guest's kernel adds by itself: for the vendor, the number of processors, or its own
/// features.
const KERNELS_OWN: &str = "ht cmp_legacy rep_good nopl cpuid extd_apicid 3dnowprefetch vmmcall \
                           tsc_known_freq constant_tsc xtopology lfence_rdtsc";

fn store() -> &'static Store {
    static STORE_OPEN: OnceLock<Store> = OnceLock::new();
    STORE_OPEN.get_or_init(|| {
        let Some(folder) = std::env::var_os(STORE) else {
            panic!("{STORE} is not set: these tests run under `cargo xtask test`");
        };
        Store::open_with_cache(PathBuf::from(folder), machines::folder().join("cache")).unwrap()
    })
}

fn bake_for(name: &str, baseline: Baseline) {
    let image = bake("busybox").entrypoint(["sleep", "1000000"]);
    expect_baked(image.name(name).cpu_baseline(baseline).bake(store()));
}

fn image(name: &str) -> Image {
    store().image(name).unwrap_or_else(|error| panic!("{}", causes(&error)))
}

fn start(name: &str) -> Vm {
    let vm = image(name).start(&VmConfig::new());
    vm.unwrap_or_else(|error| panic!("{}", causes(&error)))
}

fn processor(image: &Image) -> &Processor {
    &image.snapshot().arch.x86_64().unwrap().processor
}

fn names(words: &[FeatureWord]) -> BTreeSet<String> {
    words.iter().flat_map(FeatureWord::names).collect()
}

fn flags(cpuinfo: &str) -> BTreeSet<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap();
    line.split_once(':').unwrap().1.split_whitespace().map(str::to_owned).collect()
}

/// Asserts that the guest's kernel sees the baseline, on any host.
fn check_guest(name: &str, baseline: Baseline) {
    let vm = start(name);
    let cpuinfo = sh(&vm, "cat /proc/cpuinfo");
    assert!(cpuinfo.contains(&format!("supermachine {baseline}")), "{cpuinfo}");
    assert!(cpuinfo.contains("AuthenticAMD"), "{cpuinfo}");
    let shown = flags(&cpuinfo);
    let own = KERNELS_OWN.split_whitespace().map(str::to_owned);
    let allowed: BTreeSet<String> = names(&baseline.shown()).into_iter().chain(own).collect();
    let outside: Vec<_> = shown.difference(&allowed).collect();
    assert!(outside.is_empty(), "{outside:?}");
    // The kernel lists no flags for parts of the extended state.
    let required = names(&baseline.required());
    let required = required.iter().filter(|name| !name.ends_with("_state"));
    let hidden: Vec<_> = required.filter(|name| !shown.contains(*name)).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

/// Two programs take turns at floating-point sums: the state of each survives the switches.
fn check_arithmetic(name: &str) {
    let vm = start(name);
    let sum = "awk 'BEGIN { for (i = 1; i <= 20000; i++) s += i / 4; print s }'";
    let text = sh(&vm, &format!("set -e; {sum} & {sum}; wait $!"));
    assert_eq!(text, "50002500\n50002500\n");
}

mod baking {
    use super::*;

    #[test]
    fn named_baselines_are_baked_with_their_features() {
        for (name, baseline) in [("v3", Baseline::V3), ("v2", Baseline::V2)] {
            bake_for(name, baseline);
            let image = image(name);
            let processor = processor(&image);
            assert_eq!(processor.baseline, baseline);
            assert_eq!(processor.features, baseline.required());
            check_guest(name, baseline);
        }
    }
}

mod running {
    use super::*;

    #[test]
    fn snapshot_of_x86_64_v3_runs_commands_and_shows_its_features() {
        check_guest("v3", Baseline::V3);
        check_arithmetic("v3");
    }

    #[test]
    fn snapshot_of_x86_64_v2_runs_commands_and_shows_its_features() {
        check_guest("v2", Baseline::V2);
        check_arithmetic("v2");
    }
}

mod baking_host {
    use super::*;

    #[test]
    fn host_snapshot_runs_on_the_host_that_made_it() {
        bake_for("own", Baseline::Host);
        let image = image("own");
        let processor = processor(&image);
        assert_eq!(processor.baseline, Baseline::Host);
        let missing = missing(&processor.features, |_, _, _| 0);
        assert!(missing.to_string().contains("avx2"), "{missing}");
        sh(&start("own"), "true");
    }
}

mod refusing {
    use super::*;

    #[test]
    fn host_snapshot_is_refused_with_the_names_of_missing_features() {
        let error = image("own").start(&VmConfig::new()).unwrap_err();
        let text = causes(&error);
        let (_, rest) = text.split_once("this host's processor lacks ").unwrap();
        let (missing, _) = rest.split_once(", which the snapshot (host) uses").unwrap();
        // The host's kernel must not list them.
        let had = flags(&std::fs::read_to_string("/proc/cpuinfo").unwrap());
        let missing: Vec<_> = missing.split(", ").collect();
        assert!(!missing.is_empty() && missing.iter().all(|name| !had.contains(*name)), "{text}");
    }
}
