//! Why a device cannot be restored.

use std::io;

/// A state that no device of this machine can be in, or a device that could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// This version knows no device of the slot's kind, or the slot holds another kind.
    #[error("virtio slot is of an unknown kind")]
    UnknownKind,
    /// A field's value is out of bounds.
    #[error("virtio {device} state: {field} is {found:#x}")]
    Field {
        /// The kind of device.
        device: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// A queue's field is out of bounds.
    #[error("virtio {device} state: {field} of queue {queue} is {found:#x}")]
    QueueField {
        /// The kind of device.
        device: &'static str,
        /// The queue's number.
        queue: usize,
        /// The field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// The snapshot's guest has a folder of the host, and the start gives none in its place.
    #[error(
        "the snapshot has a folder of the host at {target:?}: give the machine one there when it starts"
    )]
    NoFolder {
        /// Where the guest has it.
        target: String,
    },
    /// The snapshot's guest has a volume, and the start gives no disk in its place.
    #[error("{}", no_volume(name, target))]
    NoVolume {
        /// The volume's name; empty for a disk without one.
        name: String,
        /// Where the guest has it.
        target: String,
    },
    /// The host refused what the device needs.
    #[error("cannot {operation} for virtio {device}")]
    Host {
        /// The kind of device.
        device: &'static str,
        /// What the device tried, as a verb phrase.
        operation: &'static str,
        /// The host's error.
        source: io::Error,
    },
}

fn no_volume(name: &str, target: &str) -> String {
    let what = if name.is_empty() { "a disk".to_owned() } else { format!("volume {name:?}") };
    format!("the snapshot has {what} at {target:?}: give the machine one there when it starts")
}
