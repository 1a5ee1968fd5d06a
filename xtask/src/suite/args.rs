//! What a run of the tests includes.

use supermachine_kernel::Arch;

use super::programs::{Program, VM_PREFIX};
use crate::assets;
use crate::host::Kind;
use crate::tools;

/// Asks for the long tests too.
pub(super) const FULL: &str = "SUPERMACHINE_TEST_FULL";
/// Test programs of long runs. What services do on more than one vCPU, others show with smaller programs.
const LONG_PROGRAMS: [&str; 5] = [
    tools::FILE_SYSTEM_PROGRAM,
    "vm_services_16",
    "vm_services_2",
    "vm_services_4",
    "vm_services_8",
];
/// The test program of signing for macOS.
const SIGNING_PROGRAM: &str = "codesign";
/// The architecture whose tests run in an emulated host of it on other machines.
pub(super) const CROSS: Arch = Arch::Aarch64;
/// Test programs that run in the host of another architecture: their images are made for every
/// architecture, and they have passed there. They run at the length of an ordinary run.
const CROSS_PROGRAMS: [&str; 7] =
    ["other_hosts", "vm_exec", "vm_fork", "vm_live", "vm_pause", "vm_pool", "vm_restore"];
/// Test programs that run once more with every machine in a worker process: they have passed so.
const ISOLATED_PROGRAMS: [&str; 9] = [
    "vm_exec",
    "vm_files",
    "vm_fork",
    "vm_init",
    "vm_live",
    "vm_pause",
    "vm_pool",
    "vm_process",
    "vm_restore",
];
/// Part of the names of their tests that do not run there: their images have installed packages.
const CROSS_SKIPPED: &str = "installed::";
/// Has the library isolate machines by default.
const ISOLATED_FEATURE: &str = "supermachine/isolated";
/// The host for them: a guest in an emulated machine of another architecture is so slow that tests
/// would often time out by a clock that does not wait for it. This one counts instructions.
const CROSS_HOST: Kind = Kind::Measuring;

/// `cargo xtask test`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Host for tests that need a hypervisor [default: the one that a probe picks; for another
    /// architecture, the measuring one]
    #[arg(long, value_enum)]
    pub(super) host: Option<Kind>,
    /// Architecture of the guests and their host [default: the machine's own]
    #[arg(long, value_name = "ARCH", value_parser = assets::arch)]
    pub(super) arch: Option<Arch>,
    /// Run only test programs whose names contain NAME
    #[arg(long, value_name = "NAME")]
    pub(super) only: Option<String>,
    /// Run machines in worker processes, as hypervisors need that give a process one machine only
    #[arg(long)]
    pub(super) isolated: bool,
    /// Skip the gate
    #[arg(long)]
    pub(super) no_gate: bool,
    /// Stop a test program in a host after SECONDS
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    pub(super) timeout: u64,
    /// Arguments for the test programs, such as a filter
    #[arg(last = true)]
    pub(super) arguments: Vec<String>,
}

impl Args {
    pub(super) fn arch(&self) -> Arch {
        self.arch.unwrap_or(Arch::host())
    }

    pub(super) fn is_cross(&self) -> bool {
        self.arch() != Arch::host()
    }

    /// Whether the long tests run too.
    pub(super) fn is_full(&self) -> bool {
        is_full() && !self.is_cross()
    }

    /// Whether the tests of signing run. Their dependencies take minutes to build, so a run of all
    /// tests has them only if it is a long one.
    pub(super) fn signs(&self) -> bool {
        self.only.as_deref().map_or(self.is_full(), |part| SIGNING_PROGRAM.contains(part))
    }

    /// The host that is asked for, or must be.
    pub(super) fn host(&self) -> Option<Kind> {
        self.host.or(self.is_cross().then_some(CROSS_HOST))
    }

    /// The arguments of cargo that select the test programs of the libraries. The unit tests of
    /// another architecture than this machine's are not built: some describe this one.
    pub(super) fn targets(&self) -> Vec<String> {
        let named = |name: &str| ["--test".to_owned(), name.to_owned()];
        if self.isolated {
            let feature = ["--features".to_owned(), ISOLATED_FEATURE.to_owned()];
            let wanted = self.only.as_deref().unwrap_or_default();
            let programs = ISOLATED_PROGRAMS.into_iter().filter(|name| name.contains(wanted));
            return feature.into_iter().chain(programs.flat_map(named)).collect();
        }
        match self.only.as_deref() {
            Some(part) if self.is_cross() => named(&format!("*{part}*")).into(),
            Some(part) if part.starts_with(VM_PREFIX) => named(&format!("{part}*")).into(),
            None if self.is_cross() => CROSS_PROGRAMS.into_iter().flat_map(named).collect(),
            _ => vec!["--tests".to_owned()],
        }
    }

    /// The arguments of a test program that choose among its tests: the long ones run too, or some
    /// do not run.
    pub(super) fn choice(&self) -> &'static [&'static str] {
        match (self.is_cross(), self.is_full()) {
            (true, _) => &["--skip", CROSS_SKIPPED],
            (false, true) => &["--include-ignored"],
            (false, false) => &[],
        }
    }

    /// Removes the programs that a run of all leaves out, and prints what does not run.
    pub(super) fn leave_out(&self, programs: &mut Vec<Program>) {
        if self.is_cross() {
            let (arch, ours) = (self.arch().name(), CROSS_PROGRAMS.join(", "));
            println!(
                "NOT RUN on {arch}: all but {ours}, and of these the tests in {CROSS_SKIPPED}*"
            );
        } else if !is_full() && !self.isolated {
            programs.retain(|program| !LONG_PROGRAMS.contains(&&*program.name));
            let long = LONG_PROGRAMS.join(", ");
            println!("NOT RUN without {FULL}: {long}, {SIGNING_PROGRAM}");
        }
    }
}

/// Whether the long tests are asked for.
pub(super) fn is_full() -> bool {
    std::env::var_os(FULL).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(arch: Arch, only: Option<&str>) -> Args {
        let only = only.map(str::to_owned);
        Args {
            host: None,
            arch: Some(arch),
            only,
            isolated: false,
            no_gate: true,
            timeout: 1,
            arguments: Vec::new(),
        }
    }

    #[test]
    fn another_architecture_has_its_own_programs_tests_and_host() {
        let Some(other) = [Arch::X86_64, Arch::Aarch64].into_iter().find(|a| *a != Arch::host())
        else {
            panic!("there are two")
        };
        let all = args(other, None);
        assert_eq!(all.targets().len(), 2 * CROSS_PROGRAMS.len());
        assert_eq!(all.targets()[..2], ["--test", CROSS_PROGRAMS[0]]);
        assert_eq!(all.choice(), ["--skip", CROSS_SKIPPED]);
        assert_eq!(all.host(), Some(CROSS_HOST));
        assert!(!all.is_full());
        assert_eq!(args(other, Some("exec")).targets(), ["--test", "*exec*"]);
    }

    #[test]
    fn signing_is_tested_when_it_is_named() {
        let signs = |only| args(Arch::host(), Some(only)).signs();
        assert!(signs("codesign") && signs("sign"));
        assert!(!signs("vm_exec"));
    }

    #[test]
    fn isolated_machines_are_those_of_the_programs_that_can_have_them() {
        let isolated = |only| Args { isolated: true, ..args(Arch::host(), only) }.targets();
        assert_eq!(isolated(None).len(), 2 + 2 * ISOLATED_PROGRAMS.len());
        assert_eq!(isolated(Some("exec")), ["--features", ISOLATED_FEATURE, "--test", "vm_exec"]);
    }

    #[test]
    fn own_architecture_builds_all_tests_or_the_named_programs() {
        let own = |only| args(Arch::host(), only).targets();
        assert_eq!(own(None), ["--tests"]);
        assert_eq!(own(Some("vm_exec")), ["--test", "vm_exec*"]);
        // It may be part of the name of a library, whose unit tests are a program too.
        assert_eq!(own(Some("exec")), ["--tests"]);
        assert_eq!(args(Arch::host(), None).host(), None);
    }
}
