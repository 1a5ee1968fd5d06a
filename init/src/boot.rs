//! The first steps of PID 1: the kernel's file systems, settings, console, limits and loopback.
//!
//! Runs once, before anything is served, in the initramfs that holds only the agent.

use core::ffi::CStr;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::Failure;

use crate::failure::OrFailure;
use crate::sys::interface::Interface;
use crate::sys::{Errno, fd, mount, process, tree};

struct Mount {
    kind: &'static CStr,
    target: &'static CStr,
    options: u32,
    data: &'static CStr,
}

const SAFE: u32 = nr::MS_NOSUID | nr::MS_NOEXEC | nr::MS_NODEV;

/// In order: a target may be inside an earlier one.
const MOUNTS: [Mount; 7] = [
    Mount { kind: c"proc", target: c"/proc", options: SAFE, data: c"" },
    Mount { kind: c"sysfs", target: c"/sys", options: SAFE, data: c"" },
    Mount { kind: c"cgroup2", target: c"/sys/fs/cgroup", options: SAFE, data: c"nsdelegate" },
    Mount { kind: c"devtmpfs", target: c"/dev", options: nr::MS_NOSUID, data: c"mode=0755" },
    Mount {
        kind: c"devpts",
        target: c"/dev/pts",
        options: nr::MS_NOSUID | nr::MS_NOEXEC,
        data: c"mode=0620,ptmxmode=0666,gid=5",
    },
    // The writable layer takes half of the memory: a quarter remains when both are full.
    Mount { kind: c"tmpfs", target: c"/dev/shm", options: SAFE, data: c"mode=1777,size=25%" },
    Mount { kind: c"mqueue", target: c"/dev/mqueue", options: SAFE, data: c"" },
];

/// The links in /dev that programs expect.
const LINKS: [(&CStr, &CStr); 4] = [
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
];

/// The settings of a container host: low ports and pings for every user, and limits that suit
/// databases and file watchers at any memory size.
const SETTINGS: [(&CStr, &[u8]); 8] = [
    (c"/proc/sys/net/ipv4/ip_unprivileged_port_start", b"0"),
    (c"/proc/sys/net/ipv4/ping_group_range", b"0 2147483647"),
    (c"/proc/sys/net/core/somaxconn", b"4096"),
    (c"/proc/sys/vm/max_map_count", b"1048576"),
    (c"/proc/sys/fs/inotify/max_user_watches", b"1048576"),
    (c"/proc/sys/fs/inotify/max_user_instances", b"8192"),
    (c"/proc/sys/fs/inotify/max_queued_events", b"65536"),
    (c"/proc/sys/kernel/dmesg_restrict", b"0"),
];

/// Devices that every user may open: their effect is limited to the user's own namespaces.
const OPEN_DEVICES: [&CStr; 2] = [c"/dev/fuse", c"/dev/net/tun"];

/// Carries out all first steps.
pub(crate) fn prepare() -> Result<(), Failure> {
    for each in &MOUNTS {
        mount_one(each)?;
    }
    for (path, value) in SETTINGS {
        fd::set(path, value).or_failure("write", path.to_bytes())?;
    }
    for device in OPEN_DEVICES {
        tree::set_mode(device, 0o666).or_failure("chmod", device.to_bytes())?;
    }
    for (target, path) in LINKS {
        match mount::link(target, path) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).or_failure("symlink", path.to_bytes()),
        }
    }
    open_console()?;
    process::raise_own_limits().or_failure("prlimit", "agent")?;
    process::keep_reboot_to_us().or_failure("prctl", "agent")?;
    // The kernel gives it 127.0.0.1 and ::1 by itself.
    Interface::find(b"lo").and_then(|lo| lo.set_up(true)).or_failure("ioctl", "lo")
}

/// Mounts a file system. Some kernels are built without the optional ones.
fn mount_one(each: &Mount) -> Result<(), Failure> {
    let target = each.target.to_bytes();
    match mount::make_directory(each.target, 0o755) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).or_failure("mkdir", target),
    }
    match mount::mount(each.kind, each.target, each.kind, each.options, each.data) {
        // Busy: the kernel mounted it by itself (devtmpfs.mount=1).
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(Errno::NODEV) if each.kind == c"mqueue" => Ok(()),
        Err(errno) => Err(errno).or_failure("mount", target),
    }
}

/// Opens descriptors 0 to 2, so that no pipe gets one of these numbers.
fn open_console() -> Result<(), Failure> {
    let console = fd::open(c"/dev/console", nr::O_RDWR, 0)
        .or_else(|_| fd::open(c"/dev/null", nr::O_RDWR, 0))
        .or_failure("open", "/dev/null")?;
    fd::make_standard([&console; 3]).or_failure("dup3", "/dev/console")?;
    if console.number() < 3 {
        // It is one of the three, and must stay open.
        core::mem::forget(console);
    }
    Ok(())
}
