//! The thread that puts guest pages in place when they are touched.
//!
//! Owns a machine's `userfaultfd` and the thread `sm-pager`, which is joined when the
//! [`Pager`] is dropped. It first puts those chunks in place that are known to be used first, with
//! the help of threads `sm-pager<N>` that end then, and looks after each whether somebody waits for
//! another one. Invariant: the guest never sees a page that its [`Chunks`] did not give. If they
//! cannot give one, the machine is told to stop before anybody who waits for the page is let go.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use supermachine_formats::pack::CHUNK_SIZE;
use vm_memory::MmapRegion;
use vmm_sys_util::eventfd::EventFd;

use super::sys;
use super::uffd::Userfault;

/// A thread more is not worth its start for fewer places of first use than this.
const PLACES_A_THREAD: usize = 8;

/// Where a chunk belongs: the space, 0 the memory, then the disks; and its place there.
pub type Place = (usize, u32);

/// Gives the chunks of a snapshot.
pub trait Chunks: Send + fmt::Debug {
    /// The chunk of a place; none if it is zeros.
    ///
    /// # Errors
    /// It is missing or damaged.
    fn chunk(&mut self, place: Place) -> io::Result<Option<&[u8]>>;

    /// The places that are used between a start and the end of the first command, in order.
    fn first_use(&self) -> Vec<Place>;

    /// Called once when those are in place.
    fn first_use_done(&mut self) {}

    /// Another one that gives the same, for another thread; none if there is only this one.
    fn another(&self) -> Option<Box<dyn Chunks>> {
        None
    }
}

/// A stretch of a space, as it is mapped.
#[derive(Debug, Clone)]
pub(crate) struct Stretch {
    pub(crate) space: usize,
    /// Where in the space it begins, in bytes.
    pub(crate) offset: u64,
    pub(crate) region: Arc<MmapRegion>,
}

impl Stretch {
    fn end(&self) -> u64 {
        self.offset + self.region.size() as u64
    }
}

/// Told, on the pager's thread, that the guest must not go on.
pub(crate) type OnLoss = Box<dyn Fn(&io::Error) + Send>;

/// The pager of a machine.
#[derive(Debug)]
pub(crate) struct Pager {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Pager {
    /// Begins to watch the stretches. The machine must not run yet.
    ///
    /// # Errors
    /// The kernel's own, or no thread.
    pub(crate) fn start(
        userfault: Userfault,
        stretches: Vec<Stretch>,
        chunks: Box<dyn Chunks>,
        on_loss: OnLoss,
    ) -> io::Result<Self> {
        for stretch in &stretches {
            userfault.watch(&stretch.region)?;
        }
        let stop = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let memory = Watched { userfault, stretches, placed: Mutex::default() };
        let worker = Worker { memory, chunks, stop: stop.try_clone()? };
        let thread =
            thread::Builder::new().name("sm-pager".into()).spawn(move || worker.work(&on_loss))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        // A full counter has been written to before, which is all that is wanted.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to clean up.
            let _ = thread.join();
        }
    }
}

struct Worker {
    memory: Watched,
    chunks: Box<dyn Chunks>,
    stop: EventFd,
}

/// What is watched, and what has been put in place of it.
struct Watched {
    userfault: Userfault,
    stretches: Vec<Stretch>,
    placed: Mutex<HashSet<Place>>,
}

/// What is used first, handed out to several threads one by one.
struct FirstUse {
    places: Vec<Place>,
    next: AtomicUsize,
    /// Whether to hand out no more.
    is_over: AtomicBool,
    /// The first one.
    error: Mutex<Option<io::Error>>,
}

impl Worker {
    fn work(mut self, on_loss: &OnLoss) {
        // A guest must not go on with pages that a broken thread did not give.
        let served = panic::catch_unwind(AssertUnwindSafe(|| self.serve()));
        if let Err(error) = served.unwrap_or_else(|_| Err(io::Error::other("a bug in the pager"))) {
            on_loss(&error);
        }
        // Nobody must wait for a page for ever; a machine that was told to stop does not run
        // with what it finds then.
        for stretch in &self.memory.stretches {
            self.memory.userfault.forget(&stretch.region);
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        if !self.place_first_use()? {
            return Ok(());
        }
        self.chunks.first_use_done();
        while self.wait()? {
            self.memory.serve_waiting(self.chunks.as_mut())?;
        }
        Ok(())
    }

    /// Puts in place what is used first, on all processors at once, and meanwhile what is waited
    /// for. False: the machine ends.
    fn place_first_use(&mut self) -> io::Result<bool> {
        let first_use = FirstUse::new(self.chunks.first_use());
        let helpers: Vec<_> =
            (1..first_use.threads()).map_while(|_| self.chunks.another()).collect();
        let (memory, stop) = (&self.memory, &self.stop);
        let chunks = self.chunks.as_mut();
        thread::scope(|scope| {
            for (number, mut chunks) in (1..).zip(helpers) {
                let first_use = &first_use;
                let thread = thread::Builder::new().name(format!("sm-pager{number}"));
                // Without it the others do its work.
                let _ = thread.spawn_scoped(scope, move || {
                    first_use.run(|place| memory.place(chunks.as_mut(), place).map(|()| true));
                });
            }
            first_use.run(|place| {
                memory.place(chunks, place)?;
                memory.serve_waiting(chunks)?;
                Ok(stop.read().is_err())
            });
        });
        match first_use.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(!first_use.is_over.into_inner()),
            Some(error) => Err(error),
        }
    }

    /// Waits until somebody waits for a page; false once the machine ends.
    fn wait(&self) -> io::Result<bool> {
        let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let userfault = &self.memory.userfault;
        let mut polled = [entry(userfault.as_raw_fd()), entry(self.stop.as_raw_fd())];
        // SAFETY: `polled` is an array of as many entries as are told.
        let answer = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) };
        if answer < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(true) } else { Err(error) };
        }
        Ok(polled[1].revents == 0)
    }
}

impl Watched {
    /// Puts in place what is waited for now.
    fn serve_waiting(&self, chunks: &mut dyn Chunks) -> io::Result<()> {
        while let Some(address) = self.userfault.next_fault()? {
            let Some(place) = self.place_of(address) else {
                return Err(io::Error::other("a fault outside of the guest's memory"));
            };
            // Even if the chunk was put in place before: a page of it may have been given back
            // since, and who waits for it must not wait for ever.
            self.is_new(place);
            self.put(chunks, place)?;
        }
        Ok(())
    }

    fn place_of(&self, address: u64) -> Option<Place> {
        self.stretches.iter().find_map(|stretch| {
            let start = stretch.region.as_ptr() as u64;
            let offset = address.checked_sub(start)?;
            let within = offset < stretch.region.size() as u64;
            let chunk = (stretch.offset + offset) / CHUNK_SIZE;
            within.then_some(())?;
            Some((stretch.space, u32::try_from(chunk).ok()?))
        })
    }

    /// Puts a chunk in place, unless it was before.
    fn place(&self, chunks: &mut dyn Chunks, place: Place) -> io::Result<()> {
        if self.is_new(place) { self.put(chunks, place) } else { Ok(()) }
    }

    /// Whether nobody has put a chunk in place or is about to; now somebody is.
    fn is_new(&self, place: Place) -> bool {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner).insert(place)
    }

    /// Puts those pages of a chunk in place that are not there, wherever the chunk is mapped:
    /// a disk can stand in several slots.
    fn put(&self, chunks: &mut dyn Chunks, place: Place) -> io::Result<()> {
        let (space, number) = place;
        let offset = u64::from(number) * CHUNK_SIZE;
        let is_there = |stretch: &&Stretch| {
            stretch.space == space && offset >= stretch.offset && offset < stretch.end()
        };
        let mut targets = self.stretches.iter().filter(is_there).peekable();
        if targets.peek().is_none() {
            return Ok(());
        }
        let content = chunks.chunk(place)?;
        for stretch in targets {
            let at = offset - stretch.offset;
            match content {
                Some(content) => self.userfault.put(&stretch.region, at, content)?,
                None => self.userfault.put_zeros(&stretch.region, at, CHUNK_SIZE)?,
            }
        }
        Ok(())
    }
}

impl FirstUse {
    fn new(places: Vec<Place>) -> Self {
        let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { places, next, is_over, error: Mutex::new(None) }
    }

    fn threads(&self) -> usize {
        sys::threads_for(self.places.len(), PLACES_A_THREAD)
    }

    /// Does something with one place after the other, for as long as that gives true.
    fn run(&self, mut act: impl FnMut(Place) -> io::Result<bool>) {
        // The counter hands out places, and the flag is only a hint: nothing is read because of
        // them.
        while !self.is_over.load(Ordering::Relaxed)
            && let Some(place) = self.places.get(self.next.fetch_add(1, Ordering::Relaxed))
        {
            match act(*place) {
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
