//! What pools cost: taking a warm machine, a whole turn, and putting a machine back.

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use supermachine::{Image, Pool};

use crate::machines::{run_script, run_true};
use crate::{RUNS, ms, report};

/// Turns that one run is the mean of.
const TURNS: u32 = 20;
/// What a user leaves behind.
const DIRTY: &str = "dd if=/dev/urandom of=/dev/shm/x bs=1M count=4 2>&1";

pub(crate) fn measure(image: &Image) -> Result<(), Box<dyn Error>> {
    let pool = image.pool().min(1).max(1).build()?;
    measure_acquire(&pool)?;
    measure_turns(&pool)?;
    for (kind, script) in [("/bin/true", "true"), ("4 MiB written", DIRTY)] {
        measure_reset(&pool, kind, script)?;
    }
    Ok(())
}

fn measure_acquire(pool: &Pool) -> Result<(), Box<dyn Error>> {
    let (mut acquires, mut firsts) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        wait_for_warm(pool);
        let begin = Instant::now();
        let vm = pool.acquire()?;
        acquires.push(ms(begin.elapsed()));
        run_true(&vm)?;
        firsts.push(ms(begin.elapsed()));
    }
    report("pool: acquire() of a warm machine", "ms", &acquires);
    report("pool: the same and its first /bin/true", "ms", &firsts);
    Ok(())
}

/// Acquires, runs and gives back without a pause: all of it counts.
fn measure_turns(pool: &Pool) -> Result<(), Box<dyn Error>> {
    let mut turns = Vec::new();
    for _ in 0..RUNS {
        let begin = Instant::now();
        for _ in 0..TURNS {
            run_true(&*pool.acquire()?)?;
        }
        turns.push(ms(begin.elapsed() / TURNS));
    }
    report("pool: acquire, /bin/true and release, sustained", "ms", &turns);
    Ok(())
}

fn measure_reset(pool: &Pool, kind: &str, script: &str) -> Result<(), Box<dyn Error>> {
    let (mut releases, mut resets) = (Vec::new(), Vec::new());
    let mut steps: Vec<(&'static str, Vec<f64>)> = Vec::new();
    for _ in 0..RUNS {
        let vm = pool.acquire()?;
        run_script(&vm, script)?;
        let begin = Instant::now();
        drop(vm);
        releases.push(ms(begin.elapsed()));
        // The timings of a machine that was reset are those of its reset.
        let vm = pool.acquire()?;
        resets.push(ms(vm.timings().total()));
        for (index, (name, duration)) in vm.timings().steps().iter().enumerate() {
            if steps.len() <= index {
                steps.push((name, Vec::new()));
            }
            if let Some((_, runs)) = steps.get_mut(index) {
                runs.push(ms(*duration));
            }
        }
    }
    report(&format!("pool: release after {kind}"), "ms", &releases);
    report(&format!("pool: reset after {kind}"), "ms", &resets);
    for (name, runs) in &steps {
        report(&format!("pool: reset after {kind}: {name}"), "ms", runs);
    }
    Ok(())
}

fn wait_for_warm(pool: &Pool) {
    while pool.stats().idle == 0 {
        thread::sleep(Duration::from_millis(1));
    }
}
