//! Files of the host that machines use: none, as the hypervisor is a framework.

use crate::os::unix::threads::processors;

/// A file of the host. There is none.
#[derive(Debug)]
pub(crate) enum DeviceFile {}

impl DeviceFile {
    pub(crate) fn open_ahead(&self) {
        match *self {}
    }
}

/// Counts the processors ahead, which reads the system's state.
pub(crate) fn open_ahead() {
    processors();
}
