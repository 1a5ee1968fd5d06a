//! The thread that puts guest pages in place when they are touched.
//!
//! Owns a machine's `userfaultfd` and the thread `sm-pager`, which is joined when the
//! [`Pager`] is dropped. It first puts those chunks in place that are known to be used first,
//! and looks after each whether somebody waits for another one. Invariant: the guest never
//! sees a page that its [`Chunks`] did not give. If they cannot give one, the machine is told
//! to stop before anybody who waits for the page is let go.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use supermachine_formats::pack::CHUNK_SIZE;
use vm_memory::MmapRegion;
use vmm_sys_util::eventfd::EventFd;

use super::uffd::Userfault;

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
        let worker = Worker {
            userfault,
            stretches,
            chunks,
            placed: HashSet::new(),
            stop: stop.try_clone()?,
        };
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
    userfault: Userfault,
    stretches: Vec<Stretch>,
    chunks: Box<dyn Chunks>,
    placed: HashSet<Place>,
    stop: EventFd,
}

impl Worker {
    fn work(mut self, on_loss: &OnLoss) {
        if let Err(error) = self.serve() {
            on_loss(&error);
        }
        // Nobody must wait for a page for ever; a machine that was told to stop does not run
        // with what it finds then.
        for stretch in &self.stretches {
            self.userfault.forget(&stretch.region);
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        for place in self.chunks.first_use() {
            self.place(place)?;
            self.serve_waiting()?;
            if self.is_stopped() {
                return Ok(());
            }
        }
        self.chunks.first_use_done();
        while self.wait()? {
            self.serve_waiting()?;
        }
        Ok(())
    }

    /// Puts in place what is waited for now.
    fn serve_waiting(&mut self) -> io::Result<()> {
        while let Some(address) = self.userfault.next_fault()? {
            let Some(place) = self.place_of(address) else {
                return Err(io::Error::other("a fault outside of the guest's memory"));
            };
            // Even if the chunk was put in place before: a page of it may have been given back
            // since, and who waits for it must not wait for ever.
            self.placed.insert(place);
            self.put(place)?;
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
    fn place(&mut self, place: Place) -> io::Result<()> {
        if self.placed.insert(place) { self.put(place) } else { Ok(()) }
    }

    /// Puts those pages of a chunk in place that are not there, wherever the chunk is mapped:
    /// a disk can stand in several slots.
    fn put(&mut self, place: Place) -> io::Result<()> {
        let (space, number) = place;
        let offset = u64::from(number) * CHUNK_SIZE;
        let Self { userfault, stretches, chunks, .. } = self;
        let is_there = |stretch: &&Stretch| {
            stretch.space == space && offset >= stretch.offset && offset < stretch.end()
        };
        let mut targets = stretches.iter().filter(is_there).peekable();
        if targets.peek().is_none() {
            return Ok(());
        }
        let content = chunks.chunk(place)?;
        for stretch in targets {
            let at = offset - stretch.offset;
            match content {
                Some(content) => userfault.put(&stretch.region, at, content)?,
                None => userfault.put_zeros(&stretch.region, at, CHUNK_SIZE)?,
            }
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.stop.read().is_ok()
    }

    /// Waits until somebody waits for a page; false once the machine ends.
    fn wait(&self) -> io::Result<bool> {
        let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut polled = [entry(self.userfault.as_raw_fd()), entry(self.stop.as_raw_fd())];
        // SAFETY: `polled` is an array of as many entries as are told.
        let answer = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) };
        if answer < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(true) } else { Err(error) };
        }
        Ok(polled[1].revents == 0)
    }
}
