//! Control groups: one for each command, so that all of its processes can be killed at once,
//! those in sessions of their own as well.
//!
//! They are children of one group without limits. A group that is empty when its command exits is
//! reused: creating a group costs more than starting a process. A group with live processes is left
//! to them, and checked again when a group is needed.
//!
//! An entrypoint that is PID 1 has a group beside them, which may have limits: an init distributes
//! the controllers to services. Paths work only at the start; later the agent may use the entrypoint's
//! mounts.

use alloc::ffi::CString;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ffi::CStr;

use linux_raw_sys::general as nr;

use crate::sys::fd::{self, Fd};
use crate::sys::{Errno, Result, mount};

/// The controllers that a container host delegates.
const CONTROLLERS: [&[u8]; 6] = [b"+cpu", b"+cpuset", b"+io", b"+memory", b"+pids", b"+hugetlb"];
const ROOT: &CStr = c"/sys/fs/cgroup";

/// The groups that no command uses.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups(Rc<RefCell<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// The directory of all groups, and that of the commands'. `None` if control groups are not
    /// available.
    directories: Option<(Fd, Fd)>,
    made: u32,
    empty: Vec<Handle>,
    /// Groups whose commands have exited but had live processes when last checked.
    left: Vec<Handle>,
}

#[derive(Debug)]
struct Handle {
    directory: Fd,
    /// `cgroup.events`.
    events: Fd,
}

/// A command's group. Dropping it returns it to the pool, and kills no process.
#[derive(Debug)]
pub(crate) struct Group {
    handle: Option<Handle>,
    /// `None` if it does not belong to the pool.
    home: Option<Groups>,
}

impl Groups {
    /// Delegates the controllers, and creates the first group ahead of the first command.
    pub(crate) fn prepare() -> Result<Self> {
        for controller in CONTROLLERS {
            match fd::set(c"/sys/fs/cgroup/cgroup.subtree_control", controller) {
                // The kernel may be built without it.
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        let root = fd::open(ROOT, nr::O_RDONLY | nr::O_DIRECTORY, 0)?;
        let commands = make(&root, c"commands")?;
        let groups = Self::default();
        groups.0.borrow_mut().directories = Some((root, commands));
        drop(groups.take());
        Ok(groups)
    }

    /// Returns an empty group. Returns `None` if none can be created: the command then runs in the
    /// agent's group.
    pub(crate) fn take(&self) -> Option<Group> {
        let mut waiting = self.0.borrow_mut();
        let handle = waiting.next().or_else(|| {
            let number = waiting.made.checked_add(1)?;
            let (_, commands) = waiting.directories.as_ref()?;
            let handle = Handle::make(commands, &CString::new(format!("{number}")).ok()?).ok();
            waiting.made = number;
            handle
        })?;
        Some(Group { handle: Some(handle), home: Some(self.clone()) })
    }

    /// Returns the group for an entrypoint that is PID 1, as [`take`](Self::take) does.
    pub(crate) fn take_first(&self) -> Option<Group> {
        let waiting = self.0.borrow();
        let (root, _) = waiting.directories.as_ref()?;
        let handle = Handle::make(root, c"entrypoint").ok()?;
        Some(Group { handle: Some(handle), home: None })
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
    fn make(parent: &Fd, name: &CStr) -> Result<Self> {
        let directory = make(parent, name)?;
        let events = fd::open_at(&directory, c"cgroup.events", nr::O_RDONLY)?;
        Ok(Self { directory, events })
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
        let Some(handle) = &self.handle else { return Err(Errno::NOENT) };
        let kill = fd::open_at(&handle.directory, c"cgroup.kill", nr::O_WRONLY)?;
        fd::write(&kill, b"1").map(drop)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let (Some(handle), Some(home)) = (self.handle.take(), &self.home) else { return };
        let mut waiting = home.0.borrow_mut();
        if handle.is_empty() {
            waiting.empty.push(handle);
        } else {
            waiting.left.push(handle);
        }
    }
}

fn make(parent: &Fd, name: &CStr) -> Result<Fd> {
    match mount::make_directory_at(parent, name, 0o755) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    fd::open_at(parent, name, nr::O_RDONLY | nr::O_DIRECTORY)
}
