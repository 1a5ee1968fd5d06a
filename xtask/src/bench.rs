//! Benchmarks: a bench program runs in the measuring host, with all of its files in memory.
//!
//! The program prints one JSON object a line, [`Measure`]; other lines pass through. The
//! result is a table, and a file that later runs can be compared with.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use supermachine_kernel::Arch;

use crate::assets;
use crate::command;
use crate::error::Error;
use crate::host::{self, Kind};
use crate::images;
use crate::registry;
use crate::workspace;

/// The host's memory, which holds all files.
const MEMORY_MIB: u32 = 8192;
/// The folder of all files in the host, laid out as a cache folder.
const FOLDER: &str = "/dev/shm/bench";

/// The images to bake. Commands are measured in the first, first starts of the last.
const IMAGES: [&str; 4] = ["busybox", "redis", "python3", "nginx"];

/// The target of the measuring host.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// `cargo xtask bench`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Host to measure in; only the measuring one gives absolute times
    #[arg(long, value_enum, default_value_t = Kind::Measuring)]
    host: Kind,
    /// Measure only these: bakes, sizes, process, machines, pools, ports, first-starts, live,
    /// forks
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    only: Vec<String>,
}

/// One measured quantity.
#[derive(Debug, Deserialize, Serialize)]
struct Measure {
    name: String,
    unit: String,
    /// One value for each run.
    runs: Vec<f64>,
}

impl Measure {
    /// The least, the median and the greatest value.
    fn spread(&self) -> [f64; 3] {
        let mut runs = self.runs.clone();
        runs.sort_by(f64::total_cmp);
        [0, runs.len() / 2, runs.len().wrapping_sub(1)]
            .map(|index| runs.get(index).copied().unwrap_or(f64::NAN))
    }
}

/// Builds, runs and prints the bench.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    host::require(args.host)?;
    assets::ensure(Arch::host())?;
    images::ensure(Arch::host(), &IMAGES)?;
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "--package", "supermachine-baker", "--example", "bench"]);
    command::run(&mut cargo)?;
    let bench = workspace::target().join("release/examples/bench");
    let exec = static_exec()?;
    let us = workspace::this_program()?;
    let (kernel, agent) = (Arch::host().kernel_dir(), Arch::host().agent_dir());
    let files = [
        (kernel.clone(), cached(&kernel)),
        (agent.clone(), cached(&agent)),
        (registry::storage(Arch::host()), PathBuf::from("supermachine/dev/registry/storage")),
        (bench, PathBuf::from("bench")),
        (exec, PathBuf::from("exec")),
        (us.clone(), PathBuf::from("xtask")),
    ];
    let only = match args.only.is_empty() {
        true => String::new(),
        false => format!(" --only {}", args.only.join(" ")),
    };
    let script = format!(
        "{}export XDG_CACHE_HOME={FOLDER} XDG_DATA_HOME={FOLDER}/data TMPDIR={FOLDER}\n\
         exec ./xtask registry -- sh -c 'for image; do \
         set -- \"$@\" \"$SUPERMACHINE_TEST_REGISTRY/$image\"; shift; done; \
         exec ./bench ./exec \"$@\"{only}' bench {}",
        copying(&files),
        IMAGES.join(" ")
    );
    let mut command = Command::new(us);
    command.args(["host", "--host", args.host.name(), "--memory", &MEMORY_MIB.to_string(), "--"]);
    command.args(["sh", "-euc", &script, "bench"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command::die_with_us(&mut command);
    let mut child = command.spawn().map_err(|e| command::start(&command, e))?;
    let said = child.stdout.take().map(BufReader::new);
    let all =
        said.map_or(Ok(Vec::new()), measures).map_err(Error::system("read from the bench"))?;
    let status = child.wait().map_err(Error::system("wait for the bench"))?;
    print(&all);
    save(&all)?;
    Ok(host::shell_status(status))
}

/// Builds the restore-only program without shared libraries: loading those from outside the host's
/// memory would distort the times.
fn static_exec() -> Result<PathBuf, Error> {
    let target = workspace::target().join("static");
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "--package", "supermachine-examples", "--example", "exec"]);
    // With an explicit target, the flag does not apply to build scripts.
    cargo.args(["--target", TRIPLE]).arg("--target-dir").arg(&target);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    // With link-time optimisation, a static program calls address 0 in its C library.
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
    command::run(&mut cargo)?;
    Ok(target.join(TRIPLE).join("release/examples/exec"))
}

/// The place of an asset's folder below a cache folder.
fn cached(folder: &Path) -> PathBuf {
    Path::new("supermachine/assets").join(folder.file_name().unwrap_or_default())
}

/// Shell commands that copy files and folders into the host's memory.
fn copying(files: &[(PathBuf, PathBuf)]) -> String {
    let mut script = String::new();
    for (from, to) in files {
        let to = Path::new(FOLDER).join(to);
        let parent = to.parent().unwrap_or(Path::new(FOLDER)).display().to_string();
        script += &format!("mkdir -p '{parent}'; cp -r '{}' '{}'\n", from.display(), to.display());
    }
    script + &format!("cd {FOLDER}\n")
}

/// Collects the measures from the bench's output, and prints each as it arrives: a run takes minutes.
fn measures(said: impl BufRead) -> std::io::Result<Vec<Measure>> {
    let mut measures = Vec::new();
    for line in said.lines() {
        let line = line?;
        match serde_json::from_str::<Measure>(&line) {
            Ok(measure) => {
                let [_, median, _] = measure.spread();
                println!("measured: {}: {median:.3} {}", measure.name, measure.unit);
                measures.push(measure);
            }
            Err(_) => println!("{line}"),
        }
    }
    Ok(measures)
}

fn print(measures: &[Measure]) {
    println!("{:44} {:>12} {:>12} {:>12}  unit", "measure", "min", "median", "max");
    for measure in measures {
        let [min, median, max] = measure.spread();
        println!("{:44} {min:12.3} {median:12.3} {max:12.3}  {}", measure.name, measure.unit);
    }
}

fn save(measures: &[Measure]) -> Result<(), Error> {
    let path = workspace::target().join("bench.json");
    let text = serde_json::to_vec_pretty(measures).map_err(std::io::Error::from);
    text.and_then(|text| fs::write(&path, text)).map_err(Error::file("write", &path))?;
    println!("{}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_skips_other_lines() {
        let found =
            measures(&b"hello\n{\"name\":\"start\",\"unit\":\"vms\",\"runs\":[2.0,1.0]}\n{}\n"[..])
                .unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found.first().unwrap().runs, [2.0, 1.0]);
    }
}
