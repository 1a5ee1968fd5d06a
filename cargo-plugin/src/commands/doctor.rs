//! `supermachine doctor`: what this host can do, what is missing, and how to mend it.
//!
//! Every check looks, and changes nothing.

mod build;

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
use crate::{Globals, format, store};

/// Below this, a bake of a usual image may not fit.
const LITTLE_SPACE: u64 = 2_000_000_000;
/// Below this, a machine of the usual size may not fit.
const LITTLE_MEMORY: u64 = 512 << 20;

/// Check what this host can do, and how to mend what is missing
///
/// The exit status is 0 if machines can run here, and 1 if not.
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

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Machines run, but something will not work or not well.
    Warning,
    /// Machines cannot run.
    Failed,
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
                out += &format!("{:7}  {:width$}  to mend it: {remedy}\n", "", "");
            }
        }
        out += match self.usable {
            true => "\nmachines can run here\n",
            false => "\nmachines cannot run here\n",
        };
        out
    }
}

impl Status {
    fn mark(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
        }
    }
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), remedy: None }
    }

    fn warning(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn failed(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Failed, ..Self::warning(name, found, remedy) }
    }
}

/// What the processor says of virtualization. Whether it really works, the probe finds out.
fn cpu() -> Check {
    const NAME: &str = "processor";
    let Ok(text) = fs::read_to_string("/proc/cpuinfo") else {
        return Check::warning(
            NAME,
            "its features cannot be read",
            "mount /proc, if this is a container",
        );
    };
    let field = |wanted: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == wanted)
            .map(|(_, value)| value.trim().to_owned())
    };
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
                "switch virtualization on in the firmware or, in a virtual machine, nested \
                 virtualization in its host",
            );
        }
    };
    if has(nested_paging) {
        Check::ok(NAME, format!("{model}, {kind} with nested paging"))
    } else {
        Check::warning(
            NAME,
            format!("{model}, {kind} without nested paging ({nested_paging})"),
            "machines run, but slowly; load the kvm module with nested paging switched on",
        )
    }
}

/// Which CPU baselines this host's processor has: those it can bake for and run.
fn baselines(missing: impl Fn(Baseline) -> Features) -> Check {
    const NAME: &str = "baselines";
    let lacks: Vec<_> = Baseline::ALL
        .into_iter()
        .map(|baseline| (baseline, missing(baseline)))
        .filter(|(_, features)| !features.0.is_empty())
        .collect();
    let had = Baseline::ALL.into_iter().filter(|one| lacks.iter().all(|(other, _)| one != other));
    let had: Vec<_> = had.map(Baseline::name).collect();
    let Some((lowest, features)) = lacks.first() else {
        return Check::ok(NAME, format!("{}: can be baked and run", had.join(", ")));
    };
    Check::warning(
        NAME,
        format!("{} can be baked and run; for {lowest} it lacks {features}", had.join(", ")),
        format!("bake with --cpu {}", had.first().unwrap_or(&Baseline::Host.name())),
    )
}

/// That the hypervisor opens, and that it runs guest code at speed.
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
            "load the module (modprobe kvm_intel or kvm_amd); in a container, pass the device in \
             (docker run --device /dev/kvm); in a cloud, take a machine with nested \
             virtualization or a bare-metal one",
        ),
        HypervisorError::Permission { path, .. } => Check::failed(
            NAME,
            format!("{} may not be opened by this user", path.display()),
            format!(
                "add the user to the group of {} (usermod -aG kvm $USER) and log in anew",
                path.display()
            ),
        ),
        HypervisorError::Unsupported => {
            Check::failed(NAME, found, "run it on Linux with KVM on x86_64")
        }
        HypervisorError::Capability { .. } => {
            Check::failed(NAME, found, "run a newer kernel on the host")
        }
        _ => Check::failed(
            NAME,
            found,
            "see the host kernel's messages (dmesg); other hypervisors must not hold the \
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
            format!("{found}: they are interpreted"),
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
            "build them, or let SUPERMACHINE_ASSETS name a folder with `vmlinux` and `init`",
        ),
    }
}

/// That a folder, or the nearest one above it that exists, can be written and has room.
fn folder(name: &'static str, dir: Option<&Path>) -> Check {
    let Some(dir) = dir else {
        return Check::failed(name, "no folder is known", "set HOME to an absolute path");
    };
    let existing = dir.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let shown = dir.display();
    if !existing.is_dir() {
        return Check::failed(
            name,
            format!("{shown}: {} is not a folder", existing.display()),
            "name another folder",
        );
    }
    if access(existing, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Check::failed(
            name,
            format!("{shown}: {} cannot be written", existing.display()),
            format!(
                "give this user the right to write {}, or name another folder",
                existing.display()
            ),
        );
    }
    let Ok(stat) = statvfs(existing) else {
        return Check::warning(
            name,
            format!("{shown}, free space unknown"),
            "see that there is some",
        );
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let found = format!("{shown}, {} free", format::bytes(free));
    if free < LITTLE_SPACE {
        let wanted = format::bytes(LITTLE_SPACE);
        Check::warning(name, found, format!("make room: bakes need up to {wanted}"))
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
        None => Check::warning(NAME, "available memory unknown", "see that there is some"),
        Some(free) if free < LITTLE_MEMORY => Check::warning(
            NAME,
            format!("{} available", format::bytes(free)),
            "end other programs, or bake with a smaller --memory",
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
    fn processor_is_judged_by_its_flags() {
        assert_eq!(virtualization("X", "fpu vmx ept").status, Status::Ok);
        assert_eq!(virtualization("X", "fpu svm npt").status, Status::Ok);
        assert_eq!(virtualization("X", "fpu vmx npt").status, Status::Warning);
        let none = virtualization("X", "fpu vmxx");
        assert_eq!(none.status, Status::Warning);
        assert!(none.remedy.unwrap().contains("firmware"));
    }

    #[test]
    fn baseline_that_the_processor_lacks_is_told_with_what_is_missing() {
        let all = baselines(|_| Features::default());
        assert_eq!(all.status, Status::Ok);
        assert_eq!(all.found, "x86-64-v2, x86-64-v3, host: can be baked and run");
        let old = baselines(|baseline| {
            let required = baseline.required();
            Features(required.into_iter().filter(|word| word.function == 7).collect())
        });
        assert_eq!(old.status, Status::Warning);
        assert!(old.found.starts_with("x86-64-v2, host can be baked and run; for x86-64-v3"));
        assert!(old.found.ends_with("lacks fsgsbase, bmi1, avx2, smep, bmi2"), "{}", old.found);
        assert_eq!(old.remedy.unwrap(), "bake with --cpu x86-64-v2");
    }

    #[test]
    fn every_fault_of_the_hypervisor_fails_with_a_remedy() {
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
    fn folder_is_judged_by_the_nearest_one_that_exists() {
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
