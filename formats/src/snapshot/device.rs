//! The state of a machine's devices: the content of each slot, and the serial port.
//!
//! Addresses and indices here come from the guest. The device that is built from them checks
//! them, not this module.

use alloc::string::String;
use alloc::vec::Vec;

use crate::codec::{DecodeError, Put, Reader};
use crate::record::{Field, record};

/// The content of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Slot {
    /// No device: the guest reads device id 0.
    Empty,
    /// A socket device.
    Vsock(Virtio, Vsock),
    /// A source of random bytes.
    Rng(Virtio),
    /// A disk mapped into guest memory.
    Pmem(Virtio, Pmem),
    /// A disk behind a request queue.
    Block(Virtio, Block),
    /// A network interface.
    Net(Virtio, Net),
    /// A folder of the host.
    Share(Virtio, Share),
    /// A writable disk that each start is given.
    Volume(Virtio, Volume),
}

record! {
    /// The transport's registers and the queues of one virtio device.
    pub struct Virtio {
        /// The features that the driver accepted.
        driver_features: u64,
        /// The selected half of the device's features.
        device_features_select: u32,
        /// The selected half of the driver's features.
        driver_features_select: u32,
        /// The selected queue.
        queue_select: u32,
        /// The device status register.
        status: u32,
        /// Interrupt causes that the driver has not acknowledged.
        interrupt_status: u32,
        /// The generation of the configuration space.
        config_generation: u32,
        /// The queues, in order.
        queues: Vec<Queue>,
    }

    /// One split virtqueue.
    pub struct Queue {
        /// The most entries that it can have.
        max_size: u16,
        /// The entries that it has.
        size: u16,
        /// Whether the driver has made it ready.
        ready: bool,
        /// Guest address of the descriptor table.
        descriptors: u64,
        /// Guest address of the driver's ring.
        available: u64,
        /// Guest address of the device's ring.
        used: u64,
        /// Index of the next entry to take from the driver's ring.
        next_available: u16,
        /// Index of the next entry to put on the device's ring.
        next_used: u16,
        /// Whether notification thresholds are in use.
        event_index: bool,
    }

    /// A socket device's connections.
    pub struct Vsock {
        /// The guest's context id.
        guest_cid: u64,
        /// The host port of the next connection. The guest may still know earlier ports.
        next_port: u32,
        /// The connections.
        connections: Vec<VsockConnection>,
    }

    /// One connection of a socket device.
    pub struct VsockConnection {
        /// The host's port.
        host_port: u32,
        /// The guest's port.
        guest_port: u32,
        /// The guest's buffer space, as last announced.
        peer_buffer: u32,
        /// Bytes that the guest has consumed, as last announced.
        peer_consumed: u32,
        /// Bytes sent to the guest.
        sent: u32,
        /// Bytes received from the guest and passed on.
        consumed: u32,
    }

    /// A disk mapped into guest memory.
    pub struct Pmem {
        /// Index of the disk in the snapshot's list.
        disk: u8,
        /// Guest address of its first byte.
        address: u64,
        /// Size of the window in bytes.
        size: u64,
    }

    /// A disk behind a request queue.
    pub struct Block {
        /// Index of the disk in the snapshot's list.
        disk: u8,
    }

    /// A network interface.
    pub struct Net {
        /// Its address.
        mac: [u8; 6],
        /// The largest packet that it takes, without the frame's header.
        mtu: u16,
    }

    /// A folder of the host, and what the guest knows of it.
    pub struct Share {
        /// The name by which the guest mounts it, padded with zeros.
        tag: [u8; 36],
        /// Where the guest mounts it.
        target: String,
        /// The files that the guest knows.
        nodes: Vec<ShareNode>,
        /// The files that the guest has open.
        handles: Vec<ShareHandle>,
    }

    /// A file of a folder of the host that the guest knows.
    pub struct ShareNode {
        /// The guest's name for it.
        id: u64,
        /// The node of the folder that it is in; 1 for the shared folder itself.
        parent: u64,
        /// Its name there; empty if it has none any more.
        name: Vec<u8>,
        /// References that the guest holds.
        lookups: u64,
    }

    /// A file of a folder of the host that the guest has open.
    pub struct ShareHandle {
        /// The guest's name for it.
        id: u64,
        /// The node of the file.
        node: u64,
        /// How it was opened, as in `open`.
        flags: u32,
        /// Whether it is a folder.
        is_folder: bool,
    }

    /// A writable disk that each start is given.
    pub struct Volume {
        /// The volume's name; empty for a disk without one.
        name: String,
        /// Where the guest mounts it.
        target: String,
    }

    /// The serial port's registers.
    pub struct Serial {
        /// Divisor latch, low and high byte.
        divisor: [u8; 2],
        /// Interrupt enable.
        interrupt_enable: u8,
        /// Interrupt identification.
        interrupt_identification: u8,
        /// Line control.
        line_control: u8,
        /// Line status.
        line_status: u8,
        /// Modem control.
        modem_control: u8,
        /// Modem status.
        modem_status: u8,
        /// Scratch.
        scratch: u8,
        /// Bytes received but not yet read by the guest.
        input: Vec<u8>,
    }
}

/// The kind of a volume: the virtio device id is that of a block device, which a disk of the snapshot has.
const VOLUME: u8 = 0x80 | 2;

impl Field for Slot {
    const MIN_SIZE: usize = 1;

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Empty => out.put_u8(0),
            Self::Vsock(virtio, vsock) => {
                out.put_u8(19);
                virtio.put(out);
                vsock.put(out);
            }
            Self::Rng(virtio) => {
                out.put_u8(4);
                virtio.put(out);
            }
            Self::Pmem(virtio, pmem) => {
                out.put_u8(27);
                virtio.put(out);
                pmem.put(out);
            }
            Self::Block(virtio, block) => {
                out.put_u8(2);
                virtio.put(out);
                block.put(out);
            }
            Self::Net(virtio, net) => {
                out.put_u8(1);
                virtio.put(out);
                net.put(out);
            }
            Self::Share(virtio, share) => {
                out.put_u8(26);
                virtio.put(out);
                share.put(out);
            }
            Self::Volume(virtio, volume) => {
                out.put_u8(VOLUME);
                virtio.put(out);
                volume.put(out);
            }
        }
    }

    /// Reads the kind, then the device.
    fn read(name: &'static str, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8(name)? {
            0 => Ok(Self::Empty),
            19 => Ok(Self::Vsock(Field::read("virtio", reader)?, Field::read("vsock", reader)?)),
            4 => Ok(Self::Rng(Field::read("virtio", reader)?)),
            27 => Ok(Self::Pmem(Field::read("virtio", reader)?, Field::read("pmem", reader)?)),
            2 => Ok(Self::Block(Field::read("virtio", reader)?, Field::read("block", reader)?)),
            1 => Ok(Self::Net(Field::read("virtio", reader)?, Field::read("net", reader)?)),
            26 => Ok(Self::Share(Field::read("virtio", reader)?, Field::read("share", reader)?)),
            VOLUME => {
                Ok(Self::Volume(Field::read("virtio", reader)?, Field::read("volume", reader)?))
            }
            value => Err(reader.illegal(name, value.into())),
        }
    }
}
