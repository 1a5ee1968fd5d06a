//! The process at the other end of a socket, and descriptors that pass between processes.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// The process at the other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
}

/// The process that connected, or that listened, when the connection was made.
pub(crate) fn peer(socket: &UnixStream) -> io::Result<Peer> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let place = (&raw mut found).cast();
    // SAFETY: the kernel writes at most `length` bytes to `found`, which has as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            place,
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Peer { pid: found.pid.unsigned_abs(), uid: found.uid })
}

/// Closes all descriptors but those for standard input, output and error.
///
/// # Safety
/// No other code of the process owns a descriptor.
pub(crate) unsafe fn close_inherited() {
    // SAFETY: the caller promises that no code owns one. A kernel without the call leaves them
    // open, which the process can do no harm with.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Makes all descriptors but standard input, output and error close in programs that this process
/// starts. It closes none of them here.
///
/// For a process that starts a long-lived one, which would otherwise keep descriptors open by
/// accident, such as the end of a pipe that another process waits for.
///
/// # Errors
/// The kernel is older than Linux 5.11.
pub fn inherit_nothing() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: it sets a flag of descriptors, and no owner of one relies on its absence.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a peer is trusted: this process's user, or root.
pub(crate) fn is_trusted(peer: Peer) -> bool {
    // SAFETY: no memory is involved, and it cannot fail.
    let own = unsafe { libc::geteuid() };
    peer.uid == own || peer.uid == 0
}

/// Receives bytes, and a descriptor if one comes along, with close-on-exec set.
pub(crate) fn receive_with_descriptor(
    socket: &UnixStream,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    const SPACE: usize = 64;
    // Aligned for the kernel's header.
    let mut control = [0_u64; SPACE / size_of::<u64>()];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a message header of zeros is one with no parts.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = SPACE as _;
    // SAFETY: the header describes `buffer` and `control`, which live on and are writable.
    let count =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    Ok((count, take_descriptor(&message)))
}

/// The first descriptor of a message; closes the others.
fn take_descriptor(message: &libc::msghdr) -> Option<OwnedFd> {
    let mut first = None;
    // SAFETY: the kernel has filled the header and the control bytes that it points to.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so it points to a whole header within the control bytes.
        let found = unsafe { header.read_unaligned() };
        if (found.cmsg_level, found.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: no memory is involved.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (found.cmsg_len as usize).saturating_sub(empty) / size_of::<RawFd>();
            // SAFETY: as above; the data follows the header.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for index in 0..count {
                // SAFETY: the header's length covers so many descriptors.
                let place = unsafe { data.add(index) };
                // SAFETY: as above; they need not be aligned.
                let fd = unsafe { place.read_unaligned() };
                // SAFETY: the kernel just made it for this process, and no other code knows it.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                first.get_or_insert(fd);
            }
        }
        // SAFETY: the header is one of this message's.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    first
}
