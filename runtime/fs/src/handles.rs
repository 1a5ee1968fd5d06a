//! The files that a guest has open: the only descriptors that last longer than a request.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use supermachine_formats::snapshot::device::ShareHandle;

use crate::os::Listing;

/// The share of this process's descriptors that the open files of one folder may take.
const PART: u64 = 4;
/// The fewest and the most files that a guest may have open.
const BOUNDS: (u64, u64) = (64, 4096);
/// Numbers from here on are not taken from a snapshot, so that there are always later ones.
const LAST_RECORDED: u64 = 1 << 62;
/// The most handles that are taken from a snapshot.
const MAX_RECORDED: usize = 4096;

/// An open file.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) node: u64,
    /// As the guest opened it.
    pub(crate) flags: u32,
    pub(crate) is_folder: bool,
    /// Empty before the first use of the handle of a snapshot.
    pub(crate) file: OnceLock<OwnedFd>,
    /// Held while a folder is read, which moves its place.
    pub(crate) listing: Mutex<Listing>,
}

impl Handle {
    /// A handle of an open file.
    pub(crate) fn new(node: u64, flags: u32, is_folder: bool, file: OwnedFd) -> Self {
        Self { node, flags, is_folder, file: OnceLock::from(file), listing: Mutex::default() }
    }
}

/// The open files of a guest.
#[derive(Debug)]
pub(crate) struct Handles {
    handles: HashMap<u64, Arc<Handle>>,
    last: u64,
    most: usize,
}

impl Handles {
    /// No open file. A guest may have a part of what this process may have.
    pub(crate) fn new() -> Self {
        let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / PART;
        let most = usize::try_from(allowed.clamp(BOUNDS.0, BOUNDS.1)).unwrap_or(usize::MAX);
        Self { handles: HashMap::new(), last: 0, most }
    }

    /// The open files of a snapshot's guest, which are opened when they are used.
    pub(crate) fn from_state(state: &[ShareHandle]) -> Self {
        let mut handles = Self::new();
        let usable = state.iter().filter(|handle| handle.id < LAST_RECORDED);
        for ShareHandle { id, node, flags, is_folder } in usable.take(MAX_RECORDED) {
            let handle = Handle {
                node: *node,
                flags: *flags,
                is_folder: *is_folder,
                file: OnceLock::new(),
                listing: Mutex::default(),
            };
            handles.handles.insert(*id, Arc::new(handle));
            handles.last = handles.last.max(*id);
        }
        handles
    }

    /// What a snapshot records.
    pub(crate) fn state(&self) -> Vec<ShareHandle> {
        let mut state: Vec<_> = self
            .handles
            .iter()
            .map(|(id, handle)| ShareHandle {
                id: *id,
                node: handle.node,
                flags: handle.flags,
                is_folder: handle.is_folder,
            })
            .collect();
        state.sort_by_key(|handle| handle.id);
        state
    }

    /// Whether another file may be opened.
    ///
    /// # Errors
    /// `ENFILE` if not.
    pub(crate) fn check_room(&self) -> Result<(), Errno> {
        if self.handles.len() < self.most { Ok(()) } else { Err(Errno::NFILE) }
    }

    /// Adds an open file.
    ///
    /// # Errors
    /// `ENFILE` if the guest has too many.
    pub(crate) fn add(&mut self, handle: Handle) -> Result<(u64, Arc<Handle>), Errno> {
        self.check_room()?;
        self.last += 1;
        let handle = Arc::new(handle);
        self.handles.insert(self.last, Arc::clone(&handle));
        Ok((self.last, handle))
    }

    /// An open file.
    ///
    /// # Errors
    /// `EBADF` if the guest has none of this number.
    pub(crate) fn get(&self, id: u64) -> Result<Arc<Handle>, Errno> {
        self.handles.get(&id).cloned().ok_or(Errno::BADF)
    }

    /// Takes an open file out. Returns it, and another one of the same node.
    pub(crate) fn remove(&mut self, id: u64) -> Option<(Arc<Handle>, Option<Arc<Handle>>)> {
        let closed = self.handles.remove(&id)?;
        let is_other =
            |handle: &&Arc<Handle>| handle.node == closed.node && handle.file.get().is_some();
        let other = self.handles.values().find(is_other).cloned();
        Some((closed, other))
    }

    /// Sets the most open files.
    #[cfg(test)]
    pub(crate) fn limit(&mut self, most: usize) {
        self.most = most;
    }
}
