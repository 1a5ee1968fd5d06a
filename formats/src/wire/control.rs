//! Messages of the control stream: the resume and its reply.

use alloc::string::String;
use alloc::vec::Vec;

use super::failure::Failure;
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
            Self::Resume(_) => 0x01,
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
                // Absent at the end, so that agents from before there were networks take the rest.
                if let Some(network) = &resume.network {
                    network.put(out);
                }
            }
            Self::Clock { realtime_ns } => out.put_u64(*realtime_ns),
        }
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = match kind {
            0x01 => Self::Resume(Resume {
                realtime_ns: reader.u64("realtime")?,
                entropy: reader.array("entropy")?,
                hostname: reader.option("hostname", |r| r.string("hostname", MAX_NAME))?,
                network: if reader.remaining() == 0 {
                    None
                } else {
                    Some(Network::read(&mut reader)?)
                },
            }),
            0x02 => Self::Clock { realtime_ns: reader.u64("realtime")? },
            _ => return Err(unknown_kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
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
