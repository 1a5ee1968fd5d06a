//! Control groups: one for each command, so that all of its processes can be killed at once,
//! those in sessions of their own as well.
//!
//! They lie below one group that holds the controllers, which has no limits. A group that is
//! empty once its command has ended serves the next command: making one costs more than a start.
//! One in which processes live on is left to them, and looked at again when a group is needed.

use alloc::ffi::CString;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use linux_raw_sys::general as nr;

use crate::sys::fd::{self, Fd};
use crate::sys::{Errno, Result, mount};

/// What a container host hands to the groups below its own.
const CONTROLLERS: [&[u8]; 6] = [b"+cpu", b"+cpuset", b"+io", b"+memory", b"+pids", b"+hugetlb"];
const COMMANDS: &str = "/sys/fs/cgroup/commands";

/// The groups that wait for a command.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups(Rc<RefCell<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// Whether there are control groups at all.
    is_ready: bool,
    made: u32,
    empty: Vec<Handle>,
    /// Their commands have ended; processes that they started live on.
    left: Vec<Handle>,
}

#[derive(Debug)]
struct Handle {
    number: u32,
    directory: Fd,
    /// `cgroup.events`.
    events: Fd,
}

/// A command's group. Dropping it gives it back; it kills nothing.
#[derive(Debug)]
pub(crate) struct Group {
    handle: Option<Handle>,
    home: Groups,
}

impl Groups {
    /// Hands the controllers down and makes the first group, so that the first command finds it.
    pub(crate) fn prepare() -> Result<Self> {
        for controller in CONTROLLERS {
            match fd::set(c"/sys/fs/cgroup/cgroup.subtree_control", controller) {
                // The kernel may be built without it.
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        mount::make_directory(&path("")?, 0o755)?;
        let groups = Self::default();
        groups.0.borrow_mut().is_ready = true;
        drop(groups.take());
        Ok(groups)
    }

    /// An empty group; `None` where there is none to be had: then a command shares ours.
    pub(crate) fn take(&self) -> Option<Group> {
        let mut waiting = self.0.borrow_mut();
        if !waiting.is_ready {
            return None;
        }
        let handle = waiting.next().or_else(|| {
            waiting.made = waiting.made.checked_add(1)?;
            Handle::make(waiting.made).ok()
        })?;
        Some(Group { handle: Some(handle), home: self.clone() })
    }
}

impl Waiting {
    fn next(&mut self) -> Option<Handle> {
        if self.empty.is_empty() {
            let (empty, left) = self.left.drain(..).partition(Handle::is_empty);
            (self.empty, self.left) = (empty, left);
        }
        self.empty.pop()
    }
}

impl Handle {
    fn make(number: u32) -> Result<Self> {
        let name = |file: &str| path(&format!("/{number}{file}"));
        match mount::make_directory(&name("")?, 0o755) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        let directory = fd::open(&name("")?, nr::O_RDONLY | nr::O_DIRECTORY, 0)?;
        let events = fd::open(&name("/cgroup.events")?, nr::O_RDONLY, 0)?;
        Ok(Self { number, directory, events })
    }

    /// Whether no process is in it. One that cannot be asked is not used again.
    fn is_empty(&self) -> bool {
        let mut text = [0; 64];
        let count = fd::read_at_start(&self.events, &mut text).unwrap_or(0);
        text.get(..count).is_some_and(|text| text.starts_with(b"populated 0"))
    }
}

impl Group {
    /// What a process is started in it by.
    pub(crate) fn directory(&self) -> Option<&Fd> {
        Some(&self.handle.as_ref()?.directory)
    }

    /// Never uses it again.
    pub(crate) fn abandon(mut self) {
        self.handle = None;
    }

    /// Kills every process in it.
    pub(crate) fn kill(&self) -> Result<()> {
        let Some(handle) = &self.handle else { return Err(Errno::ENOENT) };
        fd::set(&path(&format!("/{}/cgroup.kill", handle.number))?, b"1")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        let mut waiting = self.home.0.borrow_mut();
        if handle.is_empty() {
            waiting.empty.push(handle);
        } else {
            waiting.left.push(handle);
        }
    }
}

fn path(below: &str) -> Result<CString> {
    CString::new(format!("{COMMANDS}{below}")).map_err(|_| Errno::EINVAL)
}
