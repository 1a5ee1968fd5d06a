//! Files of the host that machines use: none, as the hypervisor is a framework.

use super::page_map::PageMap;
use crate::os::unix::threads::processors;

/// A file of the host. There is none.
#[derive(Debug)]
pub(crate) enum DeviceFile {}

impl DeviceFile {
    pub(crate) fn open_ahead(&self) {
        match *self {}
    }
}

/// Counts the processors ahead, and checks the system's answers about pages, which takes a file.
pub(crate) fn open_ahead() {
    processors();
    // It fails again where it is used.
    let _ = PageMap::open();
}
