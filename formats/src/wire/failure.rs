//! Why the agent could not do what the host asked.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::frame::MAX_NAME;
use crate::codec::{DecodeError, Put, Reader};

/// An operation of the agent that failed, and on what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The operation that failed.
    pub operation: Operation,
    /// The operand: a path, a user name, a device.
    pub subject: String,
    /// The error number of the guest's Linux; 0 if no system call failed.
    pub errno: u16,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, subject, errno } = self;
        match meaning(*errno) {
            Some(meaning) => {
                write!(f, "{operation} of {subject} failed: {meaning} (errno {errno})")
            }
            None => write!(f, "{operation} of {subject} failed with errno {errno}"),
        }
    }
}

impl Failure {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_byte_string(self.operation.as_str().as_bytes());
        out.put_byte_string(self.subject.as_bytes());
        out.put_u16(self.errno);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            operation: reader.string("operation", MAX_NAME)?.into(),
            subject: reader.string("subject", MAX_NAME)?,
            errno: reader.u16("errno")?,
        })
    }
}

macro_rules! operations {
    ($($variant:ident = $name:literal,)*) => {
        /// What the agent did when it failed: a system call, or a step of its own.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Operation {
            $(#[doc = concat!("`", $name, "`.")] $variant,)*
            /// An operation that this build does not know, by its name.
            Other(String),
        }

        impl Operation {
            /// The name on the wire and in messages.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Other(name) => name,
                }
            }

            fn known(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        #[cfg(test)]
        pub(super) const NAMES: &[&str] = &[$($name),*];
    };
}

operations! {
    Attach = "attach",
    Bind = "bind",
    Chdir = "chdir",
    Chmod = "chmod",
    Chown = "chown",
    Chroot = "chroot",
    ClockSettime = "clock_settime",
    Clone = "clone",
    Connect = "connect",
    Decode = "decode",
    Dup3 = "dup3",
    EpollCreate1 = "epoll_create1",
    EpollCtl = "epoll_ctl",
    EpollWait = "epoll_wait",
    Execve = "execve",
    Fchown = "fchown",
    Fcntl = "fcntl",
    Find = "find",
    FindGroup = "find group",
    FindUser = "find user",
    GetRandom = "getrandom",
    InotifyAddWatch = "inotify_add_watch",
    Ioctl = "ioctl",
    Kill = "kill",
    Link = "link",
    Listen = "listen",
    Mkdir = "mkdir",
    Mknod = "mknod",
    Mmap = "mmap",
    Mount = "mount",
    Open = "open",
    PidfdOpen = "pidfd_open",
    Pipe2 = "pipe2",
    Poll = "poll",
    Prctl = "prctl",
    Prepare = "prepare",
    Prlimit = "prlimit",
    Read = "read",
    ReadLink = "readlink",
    Recv = "recv",
    Send = "send",
    SetGid = "setgid",
    SetGroups = "setgroups",
    SetHostName = "sethostname",
    SetNs = "setns",
    SetSid = "setsid",
    SetUid = "setuid",
    SignalFd = "signalfd",
    SigProcMask = "sigprocmask",
    Start = "start",
    Stat = "stat",
    Symlink = "symlink",
    Unlink = "unlink",
    Unpack = "unpack",
    UtimensAt = "utimensat",
    Wait = "wait",
    Wait4 = "wait4",
    WaitForDevice = "wait for device",
    Write = "write",
}

impl From<&str> for Operation {
    fn from(name: &str) -> Self {
        Self::known(name).unwrap_or_else(|| Self::Other(name.into()))
    }
}

impl From<String> for Operation {
    fn from(name: String) -> Self {
        Self::known(&name).unwrap_or(Self::Other(name))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Describes an error number of Linux, on any host.
fn meaning(errno: u16) -> Option<&'static str> {
    Some(match errno {
        1 => "not permitted",
        2 => "no such file or directory",
        3 => "no such process",
        5 => "input/output error",
        7 => "argument list too long",
        8 => "exec format error",
        11 => "resource temporarily unavailable",
        12 => "out of memory",
        13 => "permission denied",
        16 => "device or resource busy",
        17 => "file exists",
        18 => "invalid cross-device link",
        19 => "no such device",
        20 => "not a directory",
        21 => "is a directory",
        22 => "invalid argument",
        23 | 24 => "too many open files",
        26 => "text file busy",
        27 => "file too large",
        28 => "no space left on device",
        30 => "read-only file system",
        32 => "broken pipe",
        36 => "file name too long",
        39 => "directory not empty",
        40 => "too many levels of symbolic links",
        95 => "operation not supported",
        98 => "address already in use",
        99 => "cannot assign requested address",
        104 => "connection reset",
        110 => "timed out",
        111 => "connection refused",
        122 => "disk quota exceeded",
        _ => return None,
    })
}
