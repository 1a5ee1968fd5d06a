//! What forks of a running machine cost.

use std::error::Error;
use std::time::Instant;

use supermachine::{Image, VmConfig};

use crate::machines::{proportional_kib, run_script, run_true};
use crate::{RUNS, ms, report};

/// What the guest has written when it forks.
const DIRTY: &str = "dd if=/dev/urandom of=/dev/shm/x bs=1M count=4 2>&1";
const MANY: usize = 20;

pub(crate) fn measure(image: &Image) -> Result<(), Box<dyn Error>> {
    let vm = image.start(&VmConfig::new())?;
    run_script(&vm, DIRTY)?;
    let (mut forked, mut firsts) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let begin = Instant::now();
        let forks = vm.fork(1)?;
        forked.push(ms(begin.elapsed()));
        forks.iter().try_for_each(run_true)?;
        firsts.push(ms(begin.elapsed()));
    }
    report("fork(1), 4 MiB written", "ms", &forked);
    report("fork(1), 4 MiB written, and first /bin/true", "ms", &firsts);
    let before = proportional_kib()?;
    let begin = Instant::now();
    let forks = vm.fork(MANY)?;
    report("fork(20), each", "ms", &[ms(begin.elapsed()) / MANY as f64]);
    forks.iter().try_for_each(run_true)?;
    report("fork(20) and first /bin/true, each", "ms", &[ms(begin.elapsed()) / MANY as f64]);
    let each = (proportional_kib()? - before) / MANY as f64;
    report("fork(20): memory (PSS) of each", "MiB", &[each / 1024.0]);
    Ok(())
}
