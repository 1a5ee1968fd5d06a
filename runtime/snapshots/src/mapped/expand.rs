//! Expanding a pack into files, on all processors.
//!
//! Every chunk is checked before it is written. The first error stops the work.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use supermachine_formats::pack::{CHUNK_SIZE, Extent, Layer, ZERO};

use super::cache::FileInProgress;
use crate::error::Error;
use crate::pack::ChunkReader;
use supermachine_vmm::threads_for;

/// The fewest chunks that are worth another thread.
const CHUNKS_A_THREAD: usize = 16;
/// The chunks that a thread takes at a time.
const PORTION: u64 = 8;

/// The chunks of one file.
#[derive(Debug)]
pub(super) struct Task<'a> {
    pub(super) making: &'a FileInProgress,
    /// Their extents in the file.
    pub(super) chunks: &'a Layer,
}

/// Chunks that are contiguous in a file and in the pack.
struct Job<'a> {
    file: &'a File,
    making: &'a FileInProgress,
    extent: Extent,
    /// The number of chunks in earlier jobs.
    before: u64,
}

/// Expands all chunks of all tasks.
pub(super) fn expand(reader: &ChunkReader, tasks: &[Task<'_>]) -> Result<(), Error> {
    let work = Work::new(tasks);
    let first_error = Mutex::new(None);
    let run = |reader: Result<ChunkReader, _>| {
        if let Err(error) = reader.map_err(Error::from).and_then(|reader| work.run(reader)) {
            work.failed.store(true, Ordering::Relaxed);
            let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error);
        }
    };
    thread::scope(|scope| {
        let chunks = usize::try_from(work.count).unwrap_or(usize::MAX);
        for number in 1..threads_for(chunks, CHUNKS_A_THREAD) {
            let reader = reader.another();
            let run = &run;
            let thread = thread::Builder::new().name(format!("sm-expand{number}"));
            // Without this thread, the others do the work.
            let _ = thread.spawn_scoped(scope, move || run(reader));
        }
        run(reader.another());
    });
    let error = first_error.into_inner().unwrap_or_else(PoisonError::into_inner);
    error.map_or(Ok(()), Err)
}

struct Work<'a> {
    jobs: Vec<Job<'a>>,
    /// The number of chunks in all jobs.
    count: u64,
    next: AtomicU64,
    /// Only a hint to stop: a lock guards the error itself.
    failed: AtomicBool,
}

impl<'a> Work<'a> {
    fn new(tasks: &[Task<'a>]) -> Self {
        let jobs_of = |task: &Task<'a>| {
            let making = task.making;
            let stored = task.chunks.extents.iter().filter(|extent| extent.chunk != ZERO);
            let job =
                |extent: &Extent| Job { file: &making.file, making, extent: *extent, before: 0 };
            stored.map(job).collect::<Vec<_>>()
        };
        let mut jobs: Vec<Job<'a>> = tasks.iter().flat_map(jobs_of).collect();
        // In the order of the pack, which is then read sequentially.
        jobs.sort_by_key(|job| job.extent.chunk);
        let mut count = 0;
        for job in &mut jobs {
            job.before = count;
            count += u64::from(job.extent.count);
        }
        Self { jobs, count, next: AtomicU64::new(0), failed: AtomicBool::new(false) }
    }

    fn run(&self, mut reader: ChunkReader) -> Result<(), Error> {
        loop {
            // The counter only distributes portions; no other data depends on it.
            let from = self.next.fetch_add(PORTION, Ordering::Relaxed);
            if from >= self.count || self.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            for (job, step) in self.portion(from) {
                let Extent { first, chunk, .. } = job.extent;
                let content = reader.read(chunk + step)?;
                job.file
                    .write_all_at(content, u64::from(first + step) * CHUNK_SIZE)
                    .map_err(job.making.io("write"))?;
            }
        }
    }

    /// The chunks from the overall number `from` on: each with its job and its index there.
    fn portion(&self, from: u64) -> impl Iterator<Item = (&Job<'a>, u32)> {
        let after = self.jobs.partition_point(|job| job.before <= from);
        let jobs = self.jobs.iter().skip(after.saturating_sub(1));
        jobs.flat_map(move |job| {
            // Only the first job starts in the middle, below its count of chunks.
            let begin = u32::try_from(from.saturating_sub(job.before)).unwrap_or(u32::MAX);
            (begin..job.extent.count).map(move |step| (job, step))
        })
        .take(PORTION as usize)
    }
}
