//! Pseudo-terminals: our end, the program's, and the size of the window.

use linux_raw_sys::general as nr;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::Result;
use super::fd::{Fd, open};

/// A new terminal's end for us. Reading and writing does not wait.
pub(crate) fn make() -> Result<Fd> {
    let terminal = open(c"/dev/ptmx", nr::O_RDWR | nr::O_NONBLOCK, 0)?;
    rustix::pty::unlockpt(&terminal)?;
    Ok(terminal)
}

/// The end for a program. It needs no name for it, and so no file system in sight.
pub(crate) fn peer(terminal: &Fd) -> Result<Fd> {
    let how = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    rustix::pty::ioctl_tiocgptpeer(terminal, how).map(Fd::from)
}

/// Sets the window size. The kernel signals the foreground programs.
pub(crate) fn resize(terminal: &Fd, rows: u16, columns: u16) -> Result<()> {
    // Nobody asks for the size in pixels.
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}
