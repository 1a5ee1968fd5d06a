//! The process at the other end of a socket, and descriptors that pass between processes.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use super::system;

/// The most descriptors that pass with one message.
pub(crate) const MAX_DESCRIPTORS: usize = 64;
/// Room for their control message, aligned for the kernel's header: 16 bytes, then 4 for each.
type Control = [u64; 2 + MAX_DESCRIPTORS / 2];

/// The process at the other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
}

/// The process that connected, or that listened, when the connection was made.
pub(crate) fn peer(socket: &UnixStream) -> io::Result<Peer> {
    system::peer_ids(socket).map(|(pid, uid)| Peer { pid, uid })
}

/// Whether a peer is trusted: this process's user, or root.
pub(crate) fn is_trusted(peer: Peer) -> bool {
    // SAFETY: no memory is involved, and it cannot fail.
    let own = unsafe { libc::geteuid() };
    peer.uid == own || peer.uid == 0
}

/// Sends a few bytes, all of them, with at most [`MAX_DESCRIPTORS`] descriptors.
pub(crate) fn send_with_descriptors(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let size = u32::try_from(size_of_val(descriptors)).unwrap_or(u32::MAX);
    // SAFETY: no memory is involved.
    let space = unsafe { libc::CMSG_SPACE(size) };
    // SAFETY: as above.
    let length = unsafe { libc::CMSG_LEN(size) };
    let mut control: Control = [0; _];
    if space as usize > size_of::<Control>() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut message = message(&mut part, &mut control);
    message.msg_controllen = space as _;
    // SAFETY: the message has room for one header.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    let rights = libc::cmsghdr {
        cmsg_len: length as _,
        cmsg_level: libc::SOL_SOCKET,
        cmsg_type: libc::SCM_RIGHTS,
    };
    // SAFETY: the header is within `control`, which is aligned for it.
    unsafe { header.write(rights) };
    // SAFETY: the header is one of this message's.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: `control` has room for `size` bytes behind the header, as was checked, and a
    // borrowed descriptor has the representation of its number.
    unsafe { data.copy_from_nonoverlapping(descriptors.as_ptr().cast(), size as usize) };
    loop {
        // SAFETY: the header describes `bytes`, which is only read, and `control`.
        let count =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        return match usize::try_from(count) {
            Ok(count) if count == bytes.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => Err(error),
            },
        };
    }
}

/// Receives bytes, and the descriptors that come along, with close-on-exec set.
pub(crate) fn receive_with_descriptors(
    socket: &UnixStream,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control: Control = [0; _];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut message = message(&mut part, &mut control);
    loop {
        // SAFETY: the header describes `buffer` and `control`, which live on and are writable.
        let count =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, system::RECEIVE_FLAGS) };
        return match usize::try_from(count) {
            Ok(count) => {
                let descriptors = take_descriptors(&message);
                descriptors.iter().try_for_each(system::close_on_exec)?;
                Ok((count, descriptors))
            }
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => Err(error),
            },
        };
    }
}

/// A message of one part, with control bytes.
fn message(part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: a message header of zeros is one with no parts.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    message
}

/// The descriptors of a message.
fn take_descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
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
                descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: the header is one of this message's.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    descriptors
}
