//! The measurements that `cargo xtask bench` takes, one JSON object a line.
//!
//! Run by hand: `bench EXEC IMAGE… [--only GROUP…]`, where EXEC is the built example `exec` and each
//! IMAGE a source that can be baked, with `/bin/true` in it. The store is made anew. The groups are
//! `bakes`, `sizes`, `process`, `machines`, `pools`, `ports`, `first-starts`, `live` and `forks`.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod forks;
mod machines;
mod packs;
mod pools;
mod ports;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use supermachine_baker::{Observer, OciImageBuilder, Store, oci};

const RUNS: usize = 10;
const BAKES: usize = 3;
const MEMORY_MIB: u64 = 128;

const GROUPS: [&str; 9] =
    ["bakes", "sizes", "process", "machines", "pools", "ports", "first-starts", "live", "forks"];

/// What to measure, with what.
struct Bench {
    exec: PathBuf,
    images: Vec<String>,
    /// Empty for all groups.
    only: Vec<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let bench = Bench::from_arguments(std::env::args().skip(1))?;
    let folder = tempfile::tempdir()?;
    let (Some(first), Some(last)) = (bench.images.first(), bench.images.last()) else {
        return Err("no image to bake".into());
    };
    if bench.has("bakes") {
        measure_bakes(&folder.path().join("bakes"), first)?;
    }
    let store = Store::open(folder.path().join("store"))?;
    let needs_all = bench.has("sizes") || bench.has("first-starts");
    for image in bench.images.iter().take(if needs_all { usize::MAX } else { 1 }) {
        builder(image)?.bake(&store)?;
    }
    if bench.has("sizes") {
        store.names()?.iter().try_for_each(|name| report_sizes(&store, name))?;
    }
    let (first, last) = (short(first), short(last));
    let run = |group: &str| -> Result<(), Box<dyn Error>> {
        match group {
            "process" => machines::measure_process(&bench.exec, &store, first),
            "machines" => machines::measure(&store.image(first)?),
            "pools" => pools::measure(&store.image(first)?),
            "ports" => ports::measure(&store.image(first)?),
            "first-starts" => packs::measure_first_starts(&store.image(last)?, folder.path()),
            "live" => packs::measure_live(&store.image(first)?),
            "forks" => forks::measure(&store.image(first)?),
            _ => Ok(()),
        }
    };
    GROUPS.iter().filter(|group| bench.has(group)).try_for_each(|group| run(group))
}

impl Bench {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let usage = "usage: bench EXEC IMAGE… [--only GROUP…]";
        let exec = arguments.next().map(PathBuf::from).ok_or(usage)?;
        let images = arguments.by_ref().take_while(|word| word != "--only").collect();
        let only: Vec<String> = arguments.collect();
        match only.iter().find(|group| !GROUPS.contains(&group.as_str())) {
            None => Ok(Self { exec, images, only }),
            Some(unknown) => {
                Err(format!("{unknown} is no group: take {}", GROUPS.join(", ")).into())
            }
        }
    }

    fn has(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == group)
    }
}

/// The last part of an image's name, which is that of its snapshot.
fn short(image: &str) -> &str {
    image.rsplit('/').next().unwrap_or(image)
}

fn builder(image: &str) -> Result<OciImageBuilder, Box<dyn Error>> {
    Ok(OciImageBuilder::new(image)?.name(short(image)).memory_mib(MEMORY_MIB))
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
fn measure_bakes(folder: &Path, image: &str) -> Result<(), Box<dyn Error>> {
    let (mut base, mut whole) = (Vec::new(), Vec::new());
    for run in 0..BAKES {
        let cache = supermachine::image::default_cache()?;
        let store = Store::open_with_cache(folder.join(run.to_string()), cache)?;
        let steps = Arc::new(Steps(Mutex::default()));
        let begin = Instant::now();
        builder(image)?.observer(Arc::clone(&steps) as Arc<dyn Observer>).bake(&store)?;
        whole.push(ms(begin.elapsed()));
        let steps = steps.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut from_base = steps.iter().skip_while(|(name, _)| name != "base");
        if let (Some((_, begin)), Some((_, end))) = (from_base.next(), from_base.next()) {
            base.push(ms(*end - *begin));
        }
    }
    report(&format!("{}: base boot", short(image)), "ms", &base);
    report(&format!("{}: bake, base included", short(image)), "ms", &whole);
    Ok(())
}

/// What a snapshot takes in a store that holds all of them.
fn report_sizes(store: &Store, name: &str) -> Result<(), Box<dyn Error>> {
    let footprint = store.footprint(name)?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (kind, sizes) in [("own", footprint.own), ("shared", footprint.shared)] {
        report(&format!("{name}: {kind} description"), "MiB", &[mib(sizes.description)]);
        report(&format!("{name}: {kind} memory"), "MiB", &[mib(sizes.memory)]);
        report(&format!("{name}: {kind} disks"), "MiB", &[mib(sizes.disks)]);
    }
    Ok(())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn report(name: &str, unit: &str, runs: &[f64]) {
    println!("{}", serde_json::json!({ "name": name, "unit": unit, "runs": runs }));
}
