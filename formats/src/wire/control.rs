//! Messages of the control stream: the resume and its reply.

use alloc::string::String;
use alloc::vec::Vec;

use super::failure::Failure;
use super::field::read_path;
use super::frame::{ENTROPY_SIZE, MAX_NAME, Message, unknown_kind};
use crate::codec::{DecodeError, Put, Reader};

/// Host to agent on the control stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// The first message after every restore. The agent handles it before it answers requests.
    Resume(Resume),
    /// The time of day, after a pause of the machine, a sleep of the host or a step of its clock. The
    /// agent sends no reply.
    Clock {
        /// The wall clock, in nanoseconds since 1970-01-01 UTC.
        realtime_ns: u64,
    },
}

/// What a restored machine needs to continue.
#[derive(Clone, PartialEq, Eq)]
pub struct Resume {
    /// The wall clock, in nanoseconds since 1970-01-01 UTC.
    pub realtime_ns: u64,
    /// Fresh random bytes for the guest kernel's generator and for unique ids.
    pub entropy: [u8; ENTROPY_SIZE],
    /// A new host name; `None` keeps the old one.
    pub hostname: Option<String>,
    /// What the guest's interface is set up with; `None` without a network.
    pub network: Option<Network>,
    /// The folders of the host that the agent mounts; at most [`MAX_SHARES`].
    pub shares: Vec<Share>,
    /// The disks that the agent mounts; at most [`MAX_VOLUMES`].
    pub volumes: Vec<Volume>,
}

/// The most folders of the host that a machine has.
pub const MAX_SHARES: usize = 8;
/// The most disks that a start gives to a machine.
pub const MAX_VOLUMES: usize = 4;
/// The least bytes of a volume.
const MIN_VOLUME: usize = 6;
/// The most bytes of a [`Share::tag`].
const MAX_TAG: usize = 36;
/// The least bytes of a share.
const MIN_SHARE: usize = 10;

/// A folder of the host that the agent mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The slot of its device.
    pub slot: u8,
    /// The device's own name.
    pub tag: String,
    /// Where to mount it.
    pub target: Vec<u8>,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

impl Share {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(self.slot);
        out.put_byte_string(self.tag.as_bytes());
        out.put_byte_string(&self.target);
        out.put_bool(self.read_only);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let slot = reader.u8("slot")?;
        let tag = reader.string("tag", MAX_TAG)?;
        if tag.is_empty() || tag.contains('\0') {
            return Err(reader.illegal("tag", 0));
        }
        let (target, read_only) = (read_path(reader, "target")?, reader.bool("read only")?);
        Ok(Self { slot, tag, target, read_only })
    }
}

/// A disk with an ext4 file system that the agent mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The slot of its device.
    pub slot: u8,
    /// Where to mount it.
    pub target: Vec<u8>,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

impl Volume {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(self.slot);
        out.put_byte_string(&self.target);
        out.put_bool(self.read_only);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (slot, target) = (reader.u8("slot")?, read_path(reader, "target")?);
        Ok(Self { slot, target, read_only: reader.bool("read only")? })
    }
}

/// What a guest's interface is set up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The slot of the interface.
    pub slot: u8,
    /// The largest packet.
    pub mtu: u16,
    /// The guest's address.
    pub ipv4: [u8; 4],
    /// The length of the network's prefix, at most 32.
    pub ipv4_prefix: u8,
    /// The router, and the name server.
    pub ipv4_gateway: [u8; 4],
    /// The guest's address.
    pub ipv6: [u8; 16],
    /// The length of the network's prefix, at most 128.
    pub ipv6_prefix: u8,
    /// The router.
    pub ipv6_gateway: [u8; 16],
}

impl Network {
    /// Appends the fields.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(self.slot);
        out.put_u16(self.mtu);
        out.put(&self.ipv4);
        out.put_u8(self.ipv4_prefix);
        out.put(&self.ipv4_gateway);
        out.put(&self.ipv6);
        out.put_u8(self.ipv6_prefix);
        out.put(&self.ipv6_gateway);
    }

    /// Reads the fields.
    ///
    /// # Errors
    /// The input is truncated, or a prefix is longer than its address.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let prefix = |reader: &mut Reader<'_>, name, most| match reader.u8(name)? {
            length if length <= most => Ok(length),
            length => Err(reader.illegal(name, length.into())),
        };
        Ok(Self {
            slot: reader.u8("slot")?,
            mtu: reader.u16("mtu")?,
            ipv4: reader.array("ipv4")?,
            ipv4_prefix: prefix(reader, "ipv4 prefix", 32)?,
            ipv4_gateway: reader.array("ipv4 gateway")?,
            ipv6: reader.array("ipv6")?,
            ipv6_prefix: prefix(reader, "ipv6 prefix", 128)?,
            ipv6_gateway: reader.array("ipv6 gateway")?,
        })
    }
}

impl core::fmt::Debug for Resume {
    /// Omits the entropy, so that no log contains it.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Resume")
            .field("realtime_ns", &self.realtime_ns)
            .field("hostname", &self.hostname)
            .field("network", &self.network)
            .field("shares", &self.shares)
            .field("volumes", &self.volumes)
            .finish_non_exhaustive()
    }
}

/// Agent to host on the control stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The agent is up. Sent once, at boot.
    Hello {
        /// The agent's [`VERSION`](super::VERSION).
        version: u16,
    },
    /// [`Control::Resume`] succeeded.
    Resumed,
    /// A step of [`Control::Resume`] failed. The agent refuses every request.
    ResumeFailed(Failure),
}

impl Message for Control {
    fn kind(&self) -> u16 {
        match self {
            Self::Resume(resume) if !resume.volumes.is_empty() => 0x04,
            Self::Resume(resume) if resume.shares.is_empty() => 0x01,
            Self::Resume(_) => 0x03,
            Self::Clock { .. } => 0x02,
        }
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Resume(resume) => {
                out.put_u64(resume.realtime_ns);
                out.put(&resume.entropy);
                out.put_option(resume.hostname.as_ref(), |out, name| {
                    out.put_byte_string(name.as_bytes());
                });
                if !(resume.shares.is_empty() && resume.volumes.is_empty()) {
                    out.put_option(resume.network.as_ref(), |out, network| network.put(out));
                    out.put_list(&resume.shares, |out, share| share.put(out));
                    if !resume.volumes.is_empty() {
                        out.put_list(&resume.volumes, |out, volume| volume.put(out));
                    }
                } else if let Some(network) = &resume.network {
                    // Absent at the end, so that agents from before there were networks take the rest.
                    network.put(out);
                }
            }
            Self::Clock { realtime_ns } => out.put_u64(*realtime_ns),
        }
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = match kind {
            0x01 => {
                let resume = read_resume(&mut reader)?;
                let is_last = reader.remaining() == 0;
                let network = if is_last { None } else { Some(Network::read(&mut reader)?) };
                Self::Resume(Resume { network, ..resume })
            }
            0x02 => Self::Clock { realtime_ns: reader.u64("realtime")? },
            0x03 => {
                let resume = read_resume(&mut reader)?;
                let network = reader.option("network", Network::read)?;
                let shares = reader.list("shares", MAX_SHARES, MIN_SHARE, Share::read)?;
                if shares.is_empty() {
                    return Err(reader.illegal("shares", 0));
                }
                Self::Resume(Resume { network, shares, ..resume })
            }
            0x04 => {
                let resume = read_resume(&mut reader)?;
                let network = reader.option("network", Network::read)?;
                let shares = reader.list("shares", MAX_SHARES, MIN_SHARE, Share::read)?;
                let volumes = reader.list("volumes", MAX_VOLUMES, MIN_VOLUME, Volume::read)?;
                if volumes.is_empty() {
                    return Err(reader.illegal("volumes", 0));
                }
                Self::Resume(Resume { network, shares, volumes, ..resume })
            }
            _ => return Err(unknown_kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
}

/// Reads what every resume has.
fn read_resume(reader: &mut Reader<'_>) -> Result<Resume, DecodeError> {
    Ok(Resume {
        realtime_ns: reader.u64("realtime")?,
        entropy: reader.array("entropy")?,
        hostname: reader.option("hostname", |r| r.string("hostname", MAX_NAME))?,
        network: None,
        shares: Vec::new(),
        volumes: Vec::new(),
    })
}

impl Message for Event {
    fn kind(&self) -> u16 {
        match self {
            Self::Hello { .. } => 0x11,
            Self::Resumed => 0x12,
            Self::ResumeFailed(_) => 0x13,
        }
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { version } => out.put_u16(*version),
            Self::Resumed => {}
            Self::ResumeFailed(failure) => failure.put(out),
        }
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = match kind {
            0x11 => Self::Hello { version: reader.u16("version")? },
            0x12 => Self::Resumed,
            0x13 => Self::ResumeFailed(Failure::read(&mut reader)?),
            _ => return Err(unknown_kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
}
