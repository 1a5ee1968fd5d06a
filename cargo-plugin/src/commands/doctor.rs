//! `supermachine doctor`: checks the host, and says how to fix what is missing.
//!
//! Checks only read; none changes the host.

mod build;
mod check;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use serde::Serialize;
use supermachine::host::Speed;
use supermachine::image::default_cache;
use supermachine_formats::snapshot::arch::{Baseline, Features};
use supermachine_kernel::Assets;
use supermachine_vmm::HypervisorError;

use crate::error::Error;
use crate::globals::Globals;
use crate::{format, store};
use check::{Check, Status};

/// With less free space, a bake of a typical image may fail.
const LITTLE_SPACE: u64 = 2_000_000_000;
/// With less memory, a machine of the default size may fail.
const LITTLE_MEMORY: u64 = 512 << 20;

/// Check this host, and say how to fix what is missing
///
/// Exits with 0 if machines can run here, and with 1 if not.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Whether machines can run.
    usable: bool,
    checks: Vec<Check>,
}

/// Prints the checks. The status is 1 if machines cannot run.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let mut checks = vec![cpu(), baselines(supermachine::host::missing_features)];
    checks.extend(hypervisor(supermachine::host::probe()));
    checks.push(assets());
    checks.push(folder("store", store::dir(globals.store.as_deref()).ok().as_deref()));
    checks.push(folder("cache", default_cache().ok().as_deref()));
    checks.extend(build::credentials(store::docker_config().as_deref(), store::is_program));
    checks.extend(build::lock(Path::new("")));
    checks.push(memory(fs::read_to_string("/proc/meminfo").ok().as_deref()));
    let usable = checks.iter().all(|check| check.status != Status::Failed);
    let report = Report { usable, checks };
    let text = if args.json { format::json(&report) } else { report.text() };
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(u8::from(!usable))
}

impl Report {
    fn text(&self) -> String {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        let mut out = String::new();
        for check in &self.checks {
            let (mark, name) = (check.status.mark(), check.name);
            out += &format!("{mark:7}  {name:width$}  {}\n", check.found);
            if let Some(remedy) = &check.remedy {
                out += &format!("{:7}  {:width$}  fix: {remedy}\n", "", "");
            }
        }
        out += match self.usable {
            true => "\nmachines can run here\n",
            false => "\nmachines cannot run here\n",
        };
        out
    }
}

/// The processor's virtualization flags. Only the probe shows whether virtualization works.
fn cpu() -> Check {
    const NAME: &str = "processor";
    let Ok(text) = fs::read_to_string("/proc/cpuinfo") else {
        return Check::warning(
            NAME,
            "cannot read its features",
            "mount /proc, if this is a container",
        );
    };
    let field = |wanted: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == wanted)
            .map(|(_, value)| value.trim().to_owned())
    };
    if let (Some(implementer), Some(part)) = (field("CPU implementer"), field("CPU part")) {
        // An arm64 kernel does not show whether it was started with the right to run guests.
        return Check::ok(NAME, format!("arm64, implementer {implementer}, part {part}"));
    }
    let model = field("model name").unwrap_or_else(|| "unknown model".to_owned());
    let flags = field("flags").unwrap_or_default();
    virtualization(&model, &flags)
}

fn virtualization(model: &str, flags: &str) -> Check {
    const NAME: &str = "processor";
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    let (kind, nested_paging) = match (has("vmx"), has("svm")) {
        (true, _) => ("Intel VT-x", "ept"),
        (_, true) => ("AMD-V", "npt"),
        _ => {
            return Check::warning(
                NAME,
                format!("{model}, without hardware virtualization (neither vmx nor svm)"),
                "enable virtualization in the firmware or, in a virtual machine, nested \
                 virtualization on its host",
            );
        }
    };
    if has(nested_paging) {
        Check::ok(NAME, format!("{model}, {kind} with nested paging"))
    } else {
        Check::warning(
            NAME,
            format!("{model}, {kind} without nested paging ({nested_paging})"),
            "machines run slowly; load the kvm module with nested paging enabled",
        )
    }
}

/// The CPU baselines that this host can bake for and run.
fn baselines(missing: impl Fn(Baseline) -> Features) -> Check {
    const NAME: &str = "baselines";
    let all = Baseline::all(supermachine::host::architecture()).iter().copied();
    let lacks: Vec<_> = all
        .clone()
        .map(|baseline| (baseline, missing(baseline)))
        .filter(|(_, features)| !features.0.is_empty())
        .collect();
    let supported = all.filter(|one| lacks.iter().all(|(other, _)| one != other));
    let supported: Vec<_> = supported.map(Baseline::name).collect();
    let Some((lowest, features)) = lacks.first() else {
        return Check::ok(NAME, format!("{}: can be baked and run", supported.join(", ")));
    };
    Check::warning(
        NAME,
        format!("{} can be baked and run; for {lowest} it lacks {features}", supported.join(", ")),
        format!("bake with --cpu {}", supported.first().unwrap_or(&Baseline::Host.name())),
    )
}

/// Checks that the hypervisor opens, and runs guest code at full speed.
fn hypervisor(probed: Result<Speed, HypervisorError>) -> Vec<Check> {
    const NAME: &str = "hypervisor";
    let error = match probed {
        Ok(speed) => return vec![Check::ok(NAME, "opens and runs guest code"), self::speed(speed)],
        Err(error) => error,
    };
    let found = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    vec![match error {
        HypervisorError::Missing { path, source } => Check::failed(
            NAME,
            format!("{} cannot be opened: {source}", path.display()),
            "load the module (modprobe kvm_intel or kvm_amd); in a container, pass the device \
             (docker run --device /dev/kvm); in a cloud, choose a machine with nested \
             virtualization or a bare-metal one",
        ),
        HypervisorError::Permission { path, .. } => Check::failed(
            NAME,
            format!("this user may not open {}", path.display()),
            format!(
                "add the user to the group of {} (usermod -aG kvm $USER) and log in again",
                path.display()
            ),
        ),
        HypervisorError::Unsupported => {
            Check::failed(NAME, found, "use an x86_64 Linux host with KVM")
        }
        HypervisorError::Capability { .. } => {
            Check::failed(NAME, found, "upgrade the host's kernel")
        }
        _ => Check::failed(
            NAME,
            found,
            "look at the host kernel's messages (dmesg); stop other hypervisors that use the \
             processor's virtualization",
        ),
    }]
}

fn speed(speed: Speed) -> Check {
    const NAME: &str = "speed";
    let nanoseconds = speed.picoseconds_per_iteration as f64 / 1000.0;
    let found = format!("{nanoseconds:.1} ns for two instructions of a guest's kernel");
    if speed.is_usable() {
        Check::ok(NAME, found)
    } else {
        Check::failed(
            NAME,
            format!("{found}: the host interprets them"),
            "use a host with hardware virtualization, or with real nested virtualization",
        )
    }
}

fn assets() -> Check {
    const NAME: &str = "guest kernel";
    match Assets::locate() {
        Ok(assets) => Check::ok(NAME, assets.kernel_path().display().to_string()),
        Err(error) => Check::failed(
            NAME,
            format!("kernel or agent missing: {error}"),
            "build them, or set SUPERMACHINE_ASSETS to a folder with `vmlinux` and `init`",
        ),
    }
}

/// Checks that a folder, or its nearest existing parent, is writable and has free space.
fn folder(name: &'static str, dir: Option<&Path>) -> Check {
    let Some(dir) = dir else {
        return Check::failed(name, "its path is unknown", "set HOME to an absolute path");
    };
    let existing = dir.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let shown = dir.display();
    if !existing.is_dir() {
        return Check::failed(
            name,
            format!("{shown}: {} is not a folder", existing.display()),
            "choose another folder",
        );
    }
    if access(existing, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Check::failed(
            name,
            format!("{shown}: {} is not writable", existing.display()),
            format!("make {} writable for this user, or choose another folder", existing.display()),
        );
    }
    let Ok(stat) = statvfs(existing) else {
        return Check::warning(
            name,
            format!("{shown}, free space unknown"),
            "make sure that there is some",
        );
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let found = format!("{shown}, {} free", format::bytes(free));
    if free < LITTLE_SPACE {
        let wanted = format::bytes(LITTLE_SPACE);
        Check::warning(name, found, format!("free some: bakes need up to {wanted}"))
    } else {
        Check::ok(name, found)
    }
}

fn memory(meminfo: Option<&str>) -> Check {
    const NAME: &str = "memory";
    let available = meminfo.and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    match available {
        None => Check::warning(NAME, "available memory unknown", "make sure that there is some"),
        Some(free) if free < LITTLE_MEMORY => Check::warning(
            NAME,
            format!("{} available", format::bytes(free)),
            "stop other programs, or bake with a smaller --memory",
        ),
        Some(free) => Check::ok(NAME, format!("{} available", format::bytes(free))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_found() -> io::Error {
        io::ErrorKind::NotFound.into()
    }

    #[test]
    fn processor_flags_decide_the_status() {
        assert_eq!(virtualization("X", "fpu vmx ept").status, Status::Ok);
        assert_eq!(virtualization("X", "fpu svm npt").status, Status::Ok);
        assert_eq!(virtualization("X", "fpu vmx npt").status, Status::Warning);
        let none = virtualization("X", "fpu vmxx");
        assert_eq!(none.status, Status::Warning);
        assert!(none.remedy.unwrap().contains("firmware"));
    }

    #[test]
    fn missing_baseline_lists_the_missing_features() {
        let all = baselines(|_| Features::default());
        assert_eq!(all.status, Status::Ok);
        assert_eq!(all.found, "x86-64-v2, x86-64-v3, host: can be baked and run");
        let old = baselines(|baseline| {
            let required = baseline.required().into_iter().filter(|word| word.function == 7);
            Features(required.flat_map(|word| word.names()).collect())
        });
        assert_eq!(old.status, Status::Warning);
        assert!(old.found.starts_with("x86-64-v2, host can be baked and run; for x86-64-v3"));
        assert!(old.found.ends_with("lacks fsgsbase, bmi1, avx2, smep, bmi2"), "{}", old.found);
        assert_eq!(old.remedy.unwrap(), "bake with --cpu x86-64-v2");
    }

    #[test]
    fn every_hypervisor_error_fails_with_a_remedy() {
        let faults = [
            HypervisorError::Missing { path: "/dev/kvm".into(), source: not_found() },
            HypervisorError::Permission { path: "/dev/kvm".into(), source: not_found() },
            HypervisorError::Unsupported,
            HypervisorError::Capability { capability: "KVM_CAP_X" },
            HypervisorError::Call { call: "KVM_RUN", source: not_found() },
        ];
        for fault in faults {
            let checks = hypervisor(Err(fault));
            assert!(checks.iter().all(|check| check.status == Status::Failed), "{checks:?}");
            assert!(checks.iter().all(|check| check.remedy.is_some()), "{checks:?}");
        }
    }

    #[test]
    fn interpreted_guest_code_fails_the_speed_check() {
        let judged = |picoseconds_per_iteration| speed(Speed { picoseconds_per_iteration }).status;
        assert_eq!(judged(2_000), Status::Ok);
        assert_eq!(judged(2_000_000), Status::Failed);
    }

    #[test]
    fn missing_folder_is_checked_by_its_nearest_parent() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("not/there/yet");
        assert_ne!(folder("store", Some(&deep)).status, Status::Failed);
        assert!(!deep.exists());
        fs::write(dir.path().join("file"), "").unwrap();
        let below_a_file = dir.path().join("file/store");
        assert_eq!(folder("store", Some(&below_a_file)).status, Status::Failed);
        assert_eq!(folder("store", None).status, Status::Failed);
    }

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(memory(Some("MemFree: 1 kB\nMemAvailable:  9000000 kB\n")).status, Status::Ok);
        assert_eq!(memory(Some("MemAvailable: 1000 kB\n")).status, Status::Warning);
        assert_eq!(memory(Some("nonsense")).status, Status::Warning);
    }
}
