//! TCP connections over the network, in a machine that was restored without their other ends.
//!
//! Each process that holds one learns at once that it is reset, rather than wait for data that never
//! comes. The sockets are those in the processes' own tables of descriptors; what a process keeps
//! elsewhere, such as in flight to another process, is not found, and is reset when it next sends.

use alloc::ffi::CString;

use crate::sys::namespace;
use crate::sys::tcp::{self, is_remote};
use crate::sys::tree;

const SOCKET: &[u8] = b"socket:";

/// Resets all connections that leave the machine. A process that ends meanwhile needs nothing.
pub(crate) fn reset_all() {
    for process in tree::names(c"/proc").unwrap_or_default() {
        if let Some(pid) = number(&process) {
            reset_of(&process, pid);
        }
    }
}

fn reset_of(process: &[u8], pid: u32) {
    let Some(folder) = path(&[b"/proc/", process, b"/fd"]) else { return };
    let mut handle = None;
    for name in tree::names(&folder).unwrap_or_default() {
        let Some(descriptor) = number(&name) else { continue };
        let link = path(&[folder.to_bytes(), b"/", &name]);
        let target = link.and_then(|link| tree::link_target(&link).ok()).unwrap_or_default();
        if !target.starts_with(SOCKET) {
            continue;
        }
        if handle.is_none() {
            handle = namespace::of(pid).ok();
        }
        let socket = handle.as_ref().and_then(|handle| tcp::borrowed(handle, descriptor).ok());
        if let Some(socket) = socket.filter(is_remote) {
            // Another thread of the process may have closed it.
            let _ = rustix::net::connect_unspec(&socket);
        }
    }
}

fn path(parts: &[&[u8]]) -> Option<CString> {
    CString::new(parts.concat()).ok()
}

fn number(name: &[u8]) -> Option<u32> {
    core::str::from_utf8(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_numbers_are_processes() {
        assert_eq!(number(b"17"), Some(17));
        for name in [&b"self"[..], b"1a", b"", b"-1", b"\xff"] {
            assert_eq!(number(name), None);
        }
    }
}
