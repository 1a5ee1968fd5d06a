//! Expanding a pack into files, on all processors at once.
//!
//! Every chunk is checked before it is written. The first error ends the work.

use std::fs::File;
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use supermachine_formats::pack::CHUNK_SIZE;

use super::cache::Making;
use crate::Error;
use crate::pack::ChunkReader;

/// A processor more is not worth its thread for fewer chunks than this.
const CHUNKS_A_THREAD: usize = 16;
/// How many chunks a thread takes at a time.
const PORTION: usize = 8;

/// Chunks that belong into one file.
#[derive(Debug)]
pub(super) struct Task<'a> {
    pub(super) making: &'a Making,
    /// Each chunk's place in the file, counted in chunks, and its number.
    pub(super) chunks: Vec<(u32, u32)>,
}

struct Job<'a> {
    file: &'a File,
    making: &'a Making,
    place: u32,
    number: u32,
}

/// Expands all chunks of all tasks.
pub(super) fn expand(reader: &ChunkReader, tasks: &[Task<'_>]) -> Result<(), Error> {
    let mut jobs: Vec<Job<'_>> = tasks
        .iter()
        .flat_map(|task| {
            let Task { making, chunks } = task;
            let job = |(place, number): &(u32, u32)| Job {
                file: &making.file,
                making,
                place: *place,
                number: *number,
            };
            chunks.iter().map(job)
        })
        .collect();
    // In the order in which they are stored, so that the pack is read from front to back.
    jobs.sort_by_key(|job| job.number);
    let work = Work { jobs, next: AtomicUsize::new(0), failed: AtomicBool::new(false) };
    let first_error = Mutex::new(None);
    let run = |reader: Result<ChunkReader, _>| {
        if let Err(error) = reader.map_err(Error::from).and_then(|reader| work.run(reader)) {
            work.failed.store(true, Ordering::Relaxed);
            let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error);
        }
    };
    thread::scope(|scope| {
        for number in 1..threads(work.jobs.len()) {
            let reader = reader.another();
            let run = &run;
            let thread = thread::Builder::new().name(format!("sm-expand{number}"));
            // Without it the others do its work.
            let _ = thread.spawn_scoped(scope, move || run(reader));
        }
        run(reader.another());
    });
    let error = first_error.into_inner().unwrap_or_else(PoisonError::into_inner);
    error.map_or(Ok(()), Err)
}

struct Work<'a> {
    jobs: Vec<Job<'a>>,
    next: AtomicUsize,
    /// Only a hint to stop: the error itself is behind a lock.
    failed: AtomicBool,
}

impl Work<'_> {
    fn run(&self, mut reader: ChunkReader) -> Result<(), Error> {
        loop {
            // The counter hands out portions; nothing else is read because of it.
            let from = self.next.fetch_add(PORTION, Ordering::Relaxed);
            let portion = self.jobs.iter().skip(from).take(PORTION);
            if from >= self.jobs.len() || self.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            for job in portion {
                let content = reader.read(job.number)?;
                job.file
                    .write_all_at(content, u64::from(job.place) * CHUNK_SIZE)
                    .map_err(job.making.io("write"))?;
            }
        }
    }
}

fn threads(jobs: usize) -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    processors.min(jobs.div_ceil(CHUNKS_A_THREAD)).max(1)
}
