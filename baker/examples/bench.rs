//! The measurements that `cargo xtask bench` takes, one JSON object a line.
//!
//! Run by hand: `bench EXEC IMAGE…`, where EXEC is the built example `exec` and each IMAGE a
//! source that can be baked; the first must have `/bin/true`. The store is made anew.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use supermachine::{Image, Vm, VmConfig};
use supermachine_baker::{Observer, OciImageBuilder, Store, oci};

const RUNS: usize = 10;
const BAKES: usize = 3;
const MEMORY_MIB: u64 = 128;
const IDLE_MACHINES: usize = 10;
/// Commands before the one whose round trip is measured.
const WARM_UPS: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let exec = arguments.next().map(PathBuf::from).ok_or("usage: bench EXEC IMAGE…")?;
    let images: Vec<String> = arguments.filter_map(|image| image.into_string().ok()).collect();
    let folder = tempfile::tempdir()?;
    for (index, image) in images.iter().enumerate() {
        let name = format!("image{index}");
        let store = bake(folder.path(), image, &name)?;
        report_store(&store, image, &name)?;
        if index == 0 {
            measure_process(&exec, &store, &name)?;
            measure_machines(&Image::from_store(store.dir(), &name)?)?;
        }
    }
    Ok(())
}

/// When each step of a bake began.
struct Steps(Mutex<Vec<(String, Instant)>>);

impl Observer for Steps {
    fn step(&self, step: &str) {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        steps.push((step.to_owned(), Instant::now()));
    }

    fn fetch(&self, _: oci::Event<'_>) {}
}

/// Bakes an image into empty stores, so that each bake makes its base too.
fn bake(folder: &Path, image: &str, name: &str) -> Result<Store, Box<dyn Error>> {
    let (mut base, mut whole) = (Vec::new(), Vec::new());
    let mut last = None;
    for run in 0..BAKES {
        let store = Store::open_with_cache(
            folder.join(format!("{name}-{run}")),
            supermachine::image::default_cache()?,
        )?;
        let steps = Arc::new(Steps(Mutex::default()));
        let begin = Instant::now();
        OciImageBuilder::new(image)?
            .name(name)
            .memory_mib(MEMORY_MIB)
            .observer(Arc::clone(&steps) as Arc<dyn Observer>)
            .bake(&store)?;
        whole.push(ms(begin.elapsed()));
        let steps = steps.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut from_base = steps.iter().skip_while(|(name, _)| name != "base");
        if let (Some((_, begin)), Some((_, end))) = (from_base.next(), from_base.next()) {
            base.push(ms(*end - *begin));
        }
        last = Some(store);
    }
    report(&format!("{image}: base boot"), "ms", &base);
    report(&format!("{image}: bake, base included"), "ms", &whole);
    last.ok_or_else(|| "no bake was made".into())
}

fn report_store(store: &Store, image: &str, name: &str) -> Result<(), Box<dyn Error>> {
    let footprint = store.footprint(name)?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (kind, sizes) in [("own", footprint.own), ("shared", footprint.shared)] {
        report(&format!("{image}: {kind} description"), "MiB", &[mib(sizes.description)]);
        report(&format!("{image}: {kind} memory"), "MiB", &[mib(sizes.memory)]);
        report(&format!("{image}: {kind} disks"), "MiB", &[mib(sizes.disks)]);
    }
    Ok(())
}

/// From the start of a process to the first byte that its first command writes.
fn measure_process(exec: &Path, store: &Store, name: &str) -> Result<(), Box<dyn Error>> {
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

fn measure_machines(image: &Image) -> Result<(), Box<dyn Error>> {
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
        let begin = Instant::now();
        run_true(&vm)?;
        execs.push(ms(begin.elapsed()));
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

fn run_true(vm: &Vm) -> Result<(), Box<dyn Error>> {
    let outcome = vm.exec(["/bin/true"])?;
    if outcome.success() { Ok(()) } else { Err(outcome.status.to_string().into()) }
}

/// What each of several idle machines adds to the process.
fn measure_memory(image: &Image) -> Result<(), Box<dyn Error>> {
    let mut machines = vec![started(image)?];
    let before = proportional_kib()?;
    for _ in 0..IDLE_MACHINES {
        machines.push(started(image)?);
    }
    let each = (proportional_kib()? - before) / IDLE_MACHINES as f64;
    report("memory (PSS) of an idle machine", "MiB", &[each / 1024.0]);
    Ok(())
}

fn started(image: &Image) -> Result<Vm, Box<dyn Error>> {
    let vm = image.start(&VmConfig::new())?;
    run_true(&vm)?;
    Ok(vm)
}

fn proportional_kib() -> Result<f64, Box<dyn Error>> {
    let maps = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = maps.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()).ok_or("no Pss line")?;
    Ok(number.parse()?)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn report(name: &str, unit: &str, runs: &[f64]) {
    println!("{}", serde_json::json!({ "name": name, "unit": unit, "runs": runs }));
}
