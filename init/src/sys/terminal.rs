//! Pseudo-terminals: our end, the program's, and the size of the window.

use linux_raw_sys::general as nr;
use linux_raw_sys::ioctl::{TIOCGPTPEER, TIOCSPTLCK, TIOCSWINSZ};

use super::fd::{Fd, ioctl, open};
use super::{Result, call, flags};

#[repr(C)]
struct Size {
    rows: u16,
    columns: u16,
    /// In pixels; nobody asks for them.
    width: u16,
    height: u16,
}

/// A new terminal's end for us. Reading and writing does not wait.
pub(crate) fn make() -> Result<Fd> {
    let terminal = open(c"/dev/ptmx", nr::O_RDWR | nr::O_NONBLOCK, 0)?;
    let mut locked = 0_i32;
    ioctl(&terminal, TIOCSPTLCK, &mut locked)?;
    Ok(terminal)
}

/// The end for a program. It needs no name for it, and so no file system in sight.
pub(crate) fn peer(terminal: &Fd) -> Result<Fd> {
    let how = flags(nr::O_RDWR | nr::O_NOCTTY | nr::O_CLOEXEC);
    // SAFETY: the request takes a number and returns a descriptor.
    unsafe { call(nr::__NR_ioctl, [terminal.register(), flags(TIOCGPTPEER), how, 0, 0, 0]) }
        .map(Fd::adopt)
}

/// Sets the window size. The kernel signals the foreground programs.
pub(crate) fn resize(terminal: &Fd, rows: u16, columns: u16) -> Result<()> {
    ioctl(terminal, TIOCSWINSZ, &mut Size { rows, columns, width: 0, height: 0 })
}
