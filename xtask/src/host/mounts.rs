//! The mounts of an emulated host, as PID 1 makes them.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Folders that a root of another architecture has of its own.
const OWN: [&str; 15] = [
    "bin",
    "boot",
    "dev",
    "etc",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "lost+found",
    "proc",
    "run",
    "sbin",
    "sys",
    "usr",
    "var",
];

/// Makes `root` the root of this process and of those that it starts: the programs and settings in
/// it, and all other folders of the machine that emulates this one.
///
/// It becomes a mount over the old root: in a mere changed root, no process could make a user
/// namespace.
pub(super) fn enter(root: &Path) -> io::Result<()> {
    move_or_bind(root, root, libc::MS_BIND)?;
    for entry in fs::read_dir("/")? {
        let entry = entry?;
        let name = entry.file_name();
        // Links lead to folders that have a place of their own.
        if OWN.iter().any(|own| name == **own) || !entry.file_type()?.is_dir() {
            continue;
        }
        let target = root.join(&name);
        fs::create_dir_all(&target)?;
        move_or_bind(&entry.path(), &target, libc::MS_BIND)?;
    }
    std::env::set_current_dir(root)?;
    move_or_bind(Path::new("."), Path::new("/"), libc::MS_MOVE)?;
    // SAFETY: chroot takes a NUL-terminated string.
    checked(unsafe { libc::chroot(c".".as_ptr()) }, "change the root")?;
    std::env::set_current_dir("/")
}

/// Mounts what a Linux machine has.
pub(super) fn system() -> io::Result<()> {
    mount(c"proc", c"/proc", c"")?;
    mount(c"sysfs", c"/sys", c"")?;
    mount(c"cgroup2", c"/sys/fs/cgroup", c"")?;
    mount(c"devtmpfs", c"/dev", c"")?;
    fs::create_dir_all("/dev/pts")?;
    fs::create_dir_all("/dev/shm")?;
    mount(c"devpts", c"/dev/pts", c"ptmxmode=0666")?;
    mount(c"tmpfs", c"/dev/shm", c"mode=1777,size=90%")?;
    for (link, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        std::os::unix::fs::symlink(format!("/proc/self/fd{target}"), format!("/dev/{link}"))?;
    }
    Ok(())
}

/// Describes the failure of a system call.
pub(super) fn checked(done: i32, op: &str) -> io::Result<()> {
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(io::Error::new(error.kind(), format!("{op}: {error}")))
}

fn mount(kind: &CStr, target: &CStr, options: &CStr) -> io::Result<()> {
    // SAFETY: all four pointers are to NUL-terminated strings that outlive the call.
    let done = unsafe {
        libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast())
    };
    checked(done, &format!("mount {}", target.to_string_lossy()))
}

fn move_or_bind(from: &Path, to: &Path, flags: libc::c_ulong) -> io::Result<()> {
    let [source, target] = [from, to].map(|path| CString::new(path.as_os_str().as_bytes()));
    let (source, target) = (source?, target?);
    let none = c"".as_ptr();
    // SAFETY: all four pointers are to NUL-terminated strings that outlive the call.
    let done = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), none, flags, none.cast()) };
    checked(done, &format!("mount {} on {}", from.display(), to.display()))
}
