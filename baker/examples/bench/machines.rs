//! What starts, commands and idle machines cost.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use supermachine::{ExecOutcome, Image, Vm, VmConfig};
use supermachine_baker::Store;

use crate::{RUNS, ms, report};

const IDLE_MACHINES: usize = 10;
/// Commands before those whose round trips are measured.
const WARM_UPS: usize = 10;
/// Measured commands of each machine: in a single one, work of the guest's own may happen to fall.
const ROUND_TRIPS: usize = 20;

/// From the start of a process to the first byte that its first command writes.
pub(crate) fn measure_process(
    exec: &Path,
    store: &Store,
    name: &str,
) -> Result<(), Box<dyn Error>> {
    let mut runs = Vec::new();
    for run in 0..=RUNS {
        let begin = Instant::now();
        let mut child = Command::new(exec)
            .arg(store.dir())
            .arg(name)
            .args(["/bin/echo", "x"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut byte = [0];
        child.stdout.as_mut().ok_or("no output")?.read_exact(&mut byte)?;
        // The first run warms the caches.
        if run > 0 {
            runs.push(ms(begin.elapsed()));
        }
        child.wait()?;
    }
    report("process start to first output", "ms", &runs);
    Ok(())
}

pub(crate) fn measure(image: &Image) -> Result<(), Box<dyn Error>> {
    let mut steps: Vec<(&'static str, Vec<f64>)> = Vec::new();
    let (mut starts, mut firsts, mut execs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let begin = Instant::now();
        let vm = image.start(&VmConfig::new())?;
        starts.push(ms(begin.elapsed()));
        run_true(&vm)?;
        firsts.push(ms(begin.elapsed()));
        for (index, (name, duration)) in vm.timings().steps().iter().enumerate() {
            if steps.len() <= index {
                steps.push((name, Vec::new()));
            }
            if let Some((_, runs)) = steps.get_mut(index) {
                runs.push(ms(*duration));
            }
        }
        (0..WARM_UPS).try_for_each(|_| run_true(&vm))?;
        for _ in 0..ROUND_TRIPS {
            let begin = Instant::now();
            run_true(&vm)?;
            execs.push(ms(begin.elapsed()));
        }
        vm.stop()?;
    }
    report("start()", "ms", &starts);
    for (name, runs) in &steps {
        report(&format!("start(): {name}"), "ms", runs);
    }
    report("start() and first /bin/true", "ms", &firsts);
    report("/bin/true, round trip", "ms", &execs);
    measure_memory(image)
}

pub(crate) fn run_true(vm: &Vm) -> Result<(), Box<dyn Error>> {
    succeeded(&vm.exec(["/bin/true"])?)
}

pub(crate) fn run_script(vm: &Vm, script: &str) -> Result<(), Box<dyn Error>> {
    succeeded(&vm.exec(["sh", "-c", script])?)
}

fn succeeded(outcome: &ExecOutcome) -> Result<(), Box<dyn Error>> {
    if outcome.success() { Ok(()) } else { Err(outcome.status.to_string().into()) }
}

/// What each of several idle machines adds to the process.
fn measure_memory(image: &Image) -> Result<(), Box<dyn Error>> {
    let mut machines = vec![started(image)?];
    let before = (proportional_kib()?, Holdings::count()?);
    for _ in 0..IDLE_MACHINES {
        machines.push(started(image)?);
    }
    let after = (proportional_kib()?, Holdings::count()?);
    let each = |before: f64, after: f64| (after - before) / IDLE_MACHINES as f64;
    report("memory (PSS) of an idle machine", "MiB", &[each(before.0, after.0) / 1024.0]);
    let (before, after) = (before.1, after.1);
    report("mappings of an idle machine", "", &[each(before.mappings, after.mappings)]);
    report("descriptors of an idle machine", "", &[each(before.descriptors, after.descriptors)]);
    report("threads of an idle machine", "", &[each(before.threads, after.threads)]);
    Ok(())
}

/// What the process holds.
struct Holdings {
    mappings: f64,
    descriptors: f64,
    threads: f64,
}

impl Holdings {
    fn count() -> Result<Self, Box<dyn Error>> {
        let entries = |folder: &str| Ok::<_, std::io::Error>(fs::read_dir(folder)?.count() as f64);
        Ok(Self {
            mappings: fs::read_to_string("/proc/self/maps")?.lines().count() as f64,
            descriptors: entries("/proc/self/fd")?,
            threads: entries("/proc/self/task")?,
        })
    }
}

fn started(image: &Image) -> Result<Vm, Box<dyn Error>> {
    let vm = image.start(&VmConfig::new())?;
    run_true(&vm)?;
    Ok(vm)
}

pub(crate) fn proportional_kib() -> Result<f64, Box<dyn Error>> {
    let maps = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = maps.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()).ok_or("no Pss line")?;
    Ok(number.parse()?)
}
