//! The thread that fills guest pages in when they are touched.
//!
//! Owns a machine's page faults and the thread `sm-pager`, which dropping the [`Pager`] joins.
//! The thread first fills in the chunks that are known to be used first. Threads `sm-pager<N>` help
//! it and then exit. After each chunk it serves the faults that came in meanwhile. Invariant: the
//! guest never sees a page that its [`Chunks`] did not supply. If they cannot supply one, the
//! machine is stopped before any thread that waits for the page resumes.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use supermachine_formats::pack::CHUNK_SIZE;
use vm_memory::MmapRegion;

use crate::os::{self, Userfault, Waker};

/// Another thread is worth its start only for this many chunks of first use.
const CHUNKS_PER_THREAD: usize = 8;

/// A chunk's address: its space (0 is memory, then the disks), and its number in the space.
pub type ChunkAddress = (usize, u32);

/// Supplies the chunks of a snapshot.
pub trait Chunks: Send + fmt::Debug {
    /// Reads a chunk; `None` if it is all zeros.
    ///
    /// # Errors
    /// The chunk is missing or damaged.
    fn chunk(&mut self, address: ChunkAddress) -> io::Result<Option<&[u8]>>;

    /// The chunks that a machine uses between its start and the end of its first command, in order.
    fn first_use(&self) -> Vec<ChunkAddress>;

    /// Called once, when those chunks are filled in.
    fn first_use_done(&mut self) {}

    /// A second supplier of the same chunks, for another thread; `None` if there is only this one.
    fn another(&self) -> Option<Box<dyn Chunks>> {
        None
    }
}

/// A mapped range of a space.
#[derive(Debug, Clone)]
pub(crate) struct MappedRange {
    pub(crate) space: usize,
    /// Its offset in the space, in bytes.
    pub(crate) offset: u64,
    pub(crate) region: Arc<MmapRegion>,
}

impl MappedRange {
    fn end(&self) -> u64 {
        self.offset + self.region.size() as u64
    }
}

/// Called on the pager's thread when the guest must stop.
pub(crate) type OnLoss = Box<dyn Fn(&io::Error) + Send>;

/// The pager of a machine.
#[derive(Debug)]
pub(crate) struct Pager {
    stop: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Pager {
    /// Starts to serve faults in the ranges. The machine must not run yet.
    ///
    /// # Errors
    /// The kernel refuses to watch a range, or the host has no threads left.
    pub(crate) fn start(
        userfault: Userfault,
        ranges: Vec<MappedRange>,
        chunks: Box<dyn Chunks>,
        on_loss: OnLoss,
    ) -> io::Result<Self> {
        for range in &ranges {
            userfault.watch(&range.region)?;
        }
        let stop = Waker::new()?;
        let memory = Watched { userfault, ranges, claimed: Mutex::default() };
        let worker = Worker { memory, chunks, stop: stop.try_clone()? };
        let thread =
            thread::Builder::new().name("sm-pager".into()).spawn(move || worker.work(&on_loss))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.stop.wake();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to clean up.
            let _ = thread.join();
        }
    }
}

struct Worker {
    memory: Watched,
    chunks: Box<dyn Chunks>,
    stop: Waker,
}

/// The watched ranges, and the chunks that were filled in.
struct Watched {
    userfault: Userfault,
    ranges: Vec<MappedRange>,
    claimed: Mutex<HashSet<ChunkAddress>>,
}

/// The chunks of first use, handed out to several threads one by one.
struct FirstUse {
    chunks: Vec<ChunkAddress>,
    next: AtomicUsize,
    /// Set to hand out no more.
    is_over: AtomicBool,
    /// The first error.
    error: Mutex<Option<io::Error>>,
}

impl Worker {
    fn work(mut self, on_loss: &OnLoss) {
        // A guest must not continue with pages that a broken thread did not supply.
        let served = panic::catch_unwind(AssertUnwindSafe(|| self.serve()));
        if let Err(error) =
            served.unwrap_or_else(|_| Err(io::Error::other("pager thread panicked")))
        {
            on_loss(&error);
        }
        // No thread may wait for a page forever. A machine that was stopped does not run with the
        // zeros that it reads from here on.
        for range in &self.memory.ranges {
            self.memory.userfault.forget(&range.region);
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        if !self.fill_first_use()? {
            return Ok(());
        }
        self.chunks.first_use_done();
        while self.wait()? {
            self.memory.serve_waiting(self.chunks.as_mut())?;
        }
        Ok(())
    }

    /// Fills in the chunks of first use on all processors at once, and serves faults meanwhile.
    /// Returns `false` if the pager is to stop.
    fn fill_first_use(&mut self) -> io::Result<bool> {
        let first_use = FirstUse::new(self.chunks.first_use());
        let helpers: Vec<_> =
            (1..first_use.threads()).map_while(|_| self.chunks.another()).collect();
        let (memory, stop) = (&self.memory, &self.stop);
        let chunks = self.chunks.as_mut();
        thread::scope(|scope| {
            for (number, mut chunks) in (1..).zip(helpers) {
                let first_use = &first_use;
                let thread = thread::Builder::new().name(format!("sm-pager{number}"));
                // If the thread does not start, the others do its work.
                let _ = thread.spawn_scoped(scope, move || {
                    first_use.run(|at| memory.fill_once(chunks.as_mut(), at).map(|()| true));
                });
            }
            first_use.run(|at| {
                memory.fill_once(chunks, at)?;
                memory.serve_waiting(chunks)?;
                Ok(!stop.take())
            });
        });
        match first_use.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(!first_use.is_over.into_inner()),
            Some(error) => Err(error),
        }
    }

    /// Waits for a page fault. Returns `false` once the pager is to stop.
    fn wait(&self) -> io::Result<bool> {
        os::wait_for_input(&self.memory.userfault, &self.stop)
    }
}

impl Watched {
    /// Serves the faults that are pending now.
    fn serve_waiting(&self, chunks: &mut dyn Chunks) -> io::Result<()> {
        while let Some(address) = self.userfault.next_fault()? {
            let Some(chunk) = self.chunk_at(address) else {
                return Err(io::Error::other("a fault outside of the guest's memory"));
            };
            // Even if the chunk was filled in before: the guest may have given a page of it back
            // since, and a thread that waits for it must not wait forever.
            self.claim(chunk);
            self.fill(chunks, chunk)?;
        }
        Ok(())
    }

    fn chunk_at(&self, address: u64) -> Option<ChunkAddress> {
        self.ranges.iter().find_map(|range| {
            let start = range.region.as_ptr() as u64;
            let offset = address.checked_sub(start)?;
            let within = offset < range.region.size() as u64;
            let chunk = (range.offset + offset) / CHUNK_SIZE;
            within.then_some(())?;
            Some((range.space, u32::try_from(chunk).ok()?))
        })
    }

    /// Fills a chunk in, unless that was done before.
    fn fill_once(&self, chunks: &mut dyn Chunks, chunk: ChunkAddress) -> io::Result<()> {
        if self.claim(chunk) { self.fill(chunks, chunk) } else { Ok(()) }
    }

    /// Claims a chunk. Returns `false` if another caller claimed it before.
    fn claim(&self, chunk: ChunkAddress) -> bool {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(chunk)
    }

    /// Fills in the missing pages of a chunk wherever it is mapped: a disk can be in several slots.
    fn fill(&self, chunks: &mut dyn Chunks, chunk: ChunkAddress) -> io::Result<()> {
        let (space, number) = chunk;
        let offset = u64::from(number) * CHUNK_SIZE;
        let is_there = |range: &&MappedRange| {
            range.space == space && offset >= range.offset && offset < range.end()
        };
        let mut targets = self.ranges.iter().filter(is_there).peekable();
        if targets.peek().is_none() {
            return Ok(());
        }
        let content = chunks.chunk(chunk)?;
        for range in targets {
            let at = offset - range.offset;
            match content {
                Some(content) => self.userfault.put(&range.region, at, content)?,
                None => self.userfault.put_zeros(&range.region, at, CHUNK_SIZE)?,
            }
        }
        Ok(())
    }
}

impl FirstUse {
    fn new(chunks: Vec<ChunkAddress>) -> Self {
        let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { chunks, next, is_over, error: Mutex::new(None) }
    }

    fn threads(&self) -> usize {
        os::threads_for(self.chunks.len(), CHUNKS_PER_THREAD)
    }

    /// Handles one chunk after the other until `act` returns `false`.
    fn run(&self, mut act: impl FnMut(ChunkAddress) -> io::Result<bool>) {
        // Relaxed: the counter only hands out indices, and the flag is only a hint.
        while !self.is_over.load(Ordering::Relaxed)
            && let Some(chunk) = self.chunks.get(self.next.fetch_add(1, Ordering::Relaxed))
        {
            match act(*chunk) {
                Ok(true) => {}
                Ok(false) => self.is_over.store(true, Ordering::Relaxed),
                Err(error) => {
                    self.is_over.store(true, Ordering::Relaxed);
                    let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(error);
                }
            }
        }
    }
}
