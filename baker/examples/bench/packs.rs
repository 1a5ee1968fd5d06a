//! What starts from a pack that was never expanded cost, and snapshots of running machines.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use supermachine::{Image, RestoreMode, VmConfig};

use crate::machines::{run_script, run_true};
use crate::{RUNS, ms, report};

/// What the guest has written when it is captured.
const DIRTY: &str = "dd if=/dev/urandom of=/dev/shm/x bs=1M count=16 2>&1";

/// Starts with an empty cache, and with everything in it, in turns.
pub(crate) fn measure_first_starts(image: &Image, folder: &Path) -> Result<(), Box<dyn Error>> {
    image.mapped()?;
    let (mut cold, mut warm) = (Runs::default(), Runs::default());
    for _ in 0..RUNS {
        let cache = tempfile::tempdir_in(folder)?;
        cold.add(
            Image::open(image.source().clone(), image.digest(), cache.path()),
            RestoreMode::OnDemand,
        )?;
        let opened = Image::open(image.source().clone(), image.digest(), &default_cache()?);
        warm.add(opened, RestoreMode::Mapped)?;
    }
    cold.report("never expanded");
    warm.report("expanded");
    Ok(())
}

fn default_cache() -> Result<std::path::PathBuf, Box<dyn Error>> {
    Ok(supermachine::image::default_cache()?)
}

#[derive(Default)]
struct Runs {
    starts: Vec<f64>,
    outputs: Vec<f64>,
}

impl Runs {
    fn add(
        &mut self,
        image: Result<Image, supermachine::Error>,
        mode: RestoreMode,
    ) -> Result<(), Box<dyn Error>> {
        let image = image?;
        let begin = Instant::now();
        let vm = image.start(&VmConfig::new())?;
        self.starts.push(ms(begin.elapsed()));
        run_true(&vm)?;
        self.outputs.push(ms(begin.elapsed()));
        if vm.timings().restore_mode() != mode {
            return Err(
                format!("started in another mode: {:?}", vm.timings().restore_mode()).into()
            );
        }
        Ok(())
    }

    fn report(&self, kind: &str) {
        report(&format!("{kind}: start()"), "ms", &self.starts);
        report(&format!("{kind}: start() and first /bin/true"), "ms", &self.outputs);
    }
}

/// How long a guest stands still for a snapshot with 16 MiB written.
pub(crate) fn measure_live(image: &Image) -> Result<(), Box<dyn Error>> {
    let vm = image.start(&VmConfig::new())?;
    run_script(&vm, DIRTY)?;
    let (mut stopped, mut took) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let taken = vm.snapshot("live")?;
        stopped.push(ms(taken.stopped.total()));
        took.push(ms(taken.took));
    }
    report("snapshot of 16 MiB written: stopped", "ms", &stopped);
    report("snapshot of 16 MiB written: in all", "ms", &took);
    Ok(())
}
