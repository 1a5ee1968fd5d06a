//! Snapshots that go on with another processor than they were made on.
//!
//! The suite runs the modules one after the other, each in a host of its own with another
//! model of processor, on one store: [`baking`] in the usual host, [`going_on`] in all,
//! [`baking_host`] in one with more features than the usual host, where [`refusing`] comes
//! last.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use supermachine::{Image, Vm, VmConfig};
use supermachine_baker::Store;
use supermachine_formats::snapshot::arch::{Baseline, FeatureWord, Features};
use supermachine_test_support::machines::{self, bake, causes, sh, told};

/// Where the store is that the hosts share.
const STORE: &str = "SUPERMACHINE_TEST_CPU_STORE";

/// What the guest's kernel lists besides what it found, from the vendor, the number of
/// processors, or what it does itself.
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
    told(image.name(name).cpu_baseline(baseline).bake(store()));
}

fn image(name: &str) -> Image {
    store().image(name).unwrap_or_else(|error| panic!("{}", causes(&error)))
}

fn start(name: &str) -> Vm {
    let vm = image(name).start(&VmConfig::new());
    vm.unwrap_or_else(|error| panic!("{}", causes(&error)))
}

fn names(words: &[FeatureWord]) -> BTreeSet<String> {
    words.iter().flat_map(FeatureWord::names).collect()
}

fn flags(cpuinfo: &str) -> BTreeSet<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap();
    line.split_once(':').unwrap().1.split_whitespace().map(str::to_owned).collect()
}

/// The guest's kernel sees the baseline whatever the host is.
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
    // Parts of the extended state are no flags there.
    let required = names(&baseline.required());
    let required = required.iter().filter(|name| !name.ends_with("_state"));
    let hidden: Vec<_> = required.filter(|name| !shown.contains(*name)).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

/// Floating-point sums of two programs that take turns: the state of each comes back whole.
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
            let processor = &image.snapshot().arch.processor;
            assert_eq!(processor.baseline, baseline);
            assert_eq!(processor.features, baseline.required());
            check_guest(name, baseline);
        }
    }
}

mod going_on {
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
    fn host_snapshot_runs_where_it_was_made() {
        bake_for("own", Baseline::Host);
        let image = image("own");
        let processor = &image.snapshot().arch.processor;
        assert_eq!(processor.baseline, Baseline::Host);
        let missing = Features::missing(&processor.features, |_, _, _| 0);
        assert!(missing.to_string().contains("avx2"), "{missing}");
        sh(&start("own"), "true");
    }
}

mod refusing {
    use super::*;

    #[test]
    fn host_snapshot_of_a_processor_with_more_features_is_refused_by_their_names() {
        let error = image("own").start(&VmConfig::new()).unwrap_err();
        let text = causes(&error);
        let (_, rest) = text.split_once("this host's processor lacks ").unwrap();
        let (missing, _) = rest.split_once(", which the snapshot (host) uses").unwrap();
        // The kernel of the host is the judge.
        let had = flags(&std::fs::read_to_string("/proc/cpuinfo").unwrap());
        let missing: Vec<_> = missing.split(", ").collect();
        assert!(!missing.is_empty() && missing.iter().all(|name| !had.contains(*name)), "{text}");
    }
}
