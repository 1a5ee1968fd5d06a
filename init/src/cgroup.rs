//! Control groups: one for each command, so that all of its processes can be killed at once,
//! those in sessions of their own as well.
//!
//! They are children of one group without limits. A group that is empty when its command exits is
//! reused: creating a group costs more than starting a process. A group with live processes is left
//! to them, and checked again when a group is needed.

use alloc::ffi::CString;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use linux_raw_sys::general as nr;

use crate::sys::fd::{self, Fd};
use crate::sys::{Errno, Result, mount};

/// The controllers that a container host delegates.
const CONTROLLERS: [&[u8]; 6] = [b"+cpu", b"+cpuset", b"+io", b"+memory", b"+pids", b"+hugetlb"];
const COMMANDS: &str = "/sys/fs/cgroup/commands";

/// The groups that no command uses.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups(Rc<RefCell<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// Whether control groups are available.
    is_ready: bool,
    made: u32,
    empty: Vec<Handle>,
    /// Groups whose commands have exited but had live processes when last checked.
    left: Vec<Handle>,
}

#[derive(Debug)]
struct Handle {
    number: u32,
    directory: Fd,
    /// `cgroup.events`.
    events: Fd,
}

/// A command's group. Dropping it returns it to the pool, and kills no process.
#[derive(Debug)]
pub(crate) struct Group {
    handle: Option<Handle>,
    home: Groups,
}

impl Groups {
    /// Delegates the controllers, and creates the first group ahead of the first command.
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

    /// Returns an empty group. Returns `None` if none can be created: the command then runs in the
    /// agent's group.
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

    /// Whether it holds no process. `false` if that cannot be read.
    fn is_empty(&self) -> bool {
        let mut text = [0; 64];
        let count = fd::read_at_start(&self.events, &mut text).unwrap_or(0);
        text.get(..count).is_some_and(|text| text.starts_with(b"populated 0"))
    }
}

impl Group {
    /// The directory to start a process in.
    pub(crate) fn directory(&self) -> Option<&Fd> {
        Some(&self.handle.as_ref()?.directory)
    }

    /// Takes it out of use for good.
    pub(crate) fn abandon(mut self) {
        self.handle = None;
    }

    /// Whether it holds no process.
    pub(crate) fn is_empty(&self) -> bool {
        self.handle.as_ref().is_none_or(Handle::is_empty)
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
