//! A network interface (virtio device 1): one queue of frames each way.
//!
//! Moves Ethernet frames between the driver's buffers and a [`FrameLink`], and knows nothing of what
//! is in them. Checksums of TCP and UDP are left to the link's other end: it ignores them in frames of
//! the guest, and the guest trusts them. Packets may be large, so segmentation is not offered.
//!
//! Invariant: a frame that the link or the driver cannot take now waits where it is, in the driver's
//! ring or in the link; at most one is in between, and no state keeps it.

#[cfg(test)]
mod tests;

use std::io::ErrorKind;

use supermachine_formats::snapshot::device as formats;
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU, VIRTIO_NET_HDR_F_DATA_VALID,
};

use super::device::{Device, Resources};
use super::error::DeviceError;
use super::event_loop::{DeviceEvents, Source};
use super::frame_link::FrameLink;
use super::mmio::fresh_transport;
use super::queue::{DescriptorChain, QueueConfig, QueueViolation, Queues};
use crate::os::{Interest, Readiness};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Flags, kind and sizes of segments, checksum, count of buffers.
const HEADER: usize = 12;
/// Two addresses and a type.
const FRAME_HEADER: usize = 14;
/// What every host on IPv6 takes.
const MIN_MTU: u16 = 1280;
/// The largest packet that IPv4 has, in whole words.
const MAX_MTU: u16 = 65_520;
const MAX_FRAME: usize = FRAME_HEADER + MAX_MTU as usize;
/// Every machine's: each is alone on its link. Locally administered.
const MAC: [u8; 6] = [0x02, 0x73, 0x6d, 0, 0, 2];

/// An interface that no driver has found yet.
pub(crate) fn fresh_net() -> formats::Slot {
    formats::Slot::Net(fresh_transport::<Net>(), formats::Net { mac: MAC, mtu: MAX_MTU })
}

/// A network interface.
#[derive(Debug)]
pub(crate) struct Net {
    mac: [u8; 6],
    mtu: u16,
    config: [u8; 12],
    link: Option<FrameLink>,
    events: DeviceEvents,
    source: Option<Source>,
    /// The chain to send, or those to receive into.
    chains: Vec<DescriptorChain>,
    /// A header with the frame that is being received; allocated with the first.
    buffer: Vec<u8>,
    /// The frame that is being sent; allocated with the first.
    outgoing: Vec<u8>,
    /// Bytes of the received frame in `buffer` that waits for the driver's buffers.
    received: Option<usize>,
    /// Whether the link had nothing when it was last read. An event follows when it has.
    is_drained: bool,
    /// Whether the link had no room, or was not tried yet. An event follows when it has.
    is_full: bool,
}

impl Net {
    /// Passes frames of the link on to the driver.
    fn receive(&mut self, queues: &mut Queues) -> Result<(), QueueViolation> {
        for _ in 0..queues.size(RECEIVE) {
            if self.received.is_none() {
                self.received = self.fetch();
            }
            let Some(length) = self.received else {
                if self.is_drained {
                    return Ok(());
                }
                continue;
            };
            if !self.deliver(queues, length)? {
                // The driver notifies when it adds buffers.
                return Ok(());
            }
            self.received = None;
        }
        // There may be more: have the event come again, so that others get their turn.
        self.watch(if self.is_full { Interest::InputAndRoom } else { Interest::Input });
        Ok(())
    }

    /// Reads a frame from the link. Drops what is too short for one.
    fn fetch(&mut self) -> Option<usize> {
        self.is_drained = true;
        let link = self.link.as_ref()?;
        self.buffer.resize(HEADER + MAX_FRAME, 0);
        let room = self.buffer.get_mut(HEADER..)?;
        let received = link.receive(room);
        self.is_drained = received.is_err();
        received.ok().filter(|length| *length >= FRAME_HEADER)
    }

    /// Puts the frame in `buffer` into the driver's buffers. Returns `false` if they are too few.
    fn deliver(&mut self, queues: &mut Queues, length: usize) -> Result<bool, QueueViolation> {
        let (mut count, mut room) = (0_u16, 0);
        while room < HEADER + length {
            if self.chains.len() == usize::from(count) {
                self.chains.push(DescriptorChain::default());
            }
            let chain = self.chains.get_mut(usize::from(count)).ok_or(QueueViolation)?;
            if count == queues.size(RECEIVE) || !queues.pop(RECEIVE, chain)? {
                queues.put_back(RECEIVE, count);
                return Ok(false);
            }
            if chain.writable_length() == 0 {
                return Err(QueueViolation);
            }
            room += chain.writable_length();
            count += 1;
        }
        let flags = u8::try_from(VIRTIO_NET_HDR_F_DATA_VALID).map_err(|_| QueueViolation)?;
        let [low, high] = count.to_le_bytes();
        let header = [flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, low, high];
        self.buffer.get_mut(..HEADER).ok_or(QueueViolation)?.copy_from_slice(&header);
        let mut rest = self.buffer.get(..HEADER + length).ok_or(QueueViolation)?;
        for chain in self.chains.iter().take(count.into()) {
            let (now, later) = rest.split_at(rest.len().min(chain.writable_length()));
            chain.write(queues.memory(), 0, now)?;
            queues.push(RECEIVE, chain, now.len())?;
            rest = later;
        }
        Ok(true)
    }

    /// Passes the driver's frames on to the link.
    fn transmit(&mut self, queues: &mut Queues) -> Result<(), QueueViolation> {
        if self.is_full {
            return Ok(());
        }
        for _ in 0..queues.size(TRANSMIT) {
            if self.chains.is_empty() {
                self.chains.push(DescriptorChain::default());
            }
            let Self { chains, link, outgoing, .. } = self;
            let chain = chains.first_mut().ok_or(QueueViolation)?;
            if !queues.pop(TRANSMIT, chain)? {
                return Ok(());
            }
            let length = chain.readable_length();
            // Others are no frames, and are dropped.
            if let Some(link) = link
                && (HEADER + FRAME_HEADER..=HEADER + MAX_FRAME).contains(&length)
            {
                outgoing.resize(MAX_FRAME, 0);
                let frame = outgoing.get_mut(..length - HEADER).ok_or(QueueViolation)?;
                chain.read(queues.memory(), HEADER, frame)?;
                let sent = link.send(frame);
                if sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
                    queues.put_back(TRANSMIT, 1);
                    self.is_full = true;
                    self.watch(Interest::InputAndRoom);
                    return Ok(());
                }
            }
            if let Some(chain) = self.chains.first() {
                queues.push(TRANSMIT, chain, 0)?;
            }
        }
        Ok(())
    }

    /// Sets what events the link has. If it cannot be watched, the interface stops, like a cable
    /// that is pulled.
    fn watch(&self, interest: Interest) {
        if let (Some(source), Some(link)) = (&self.source, &self.link) {
            let _ = source.set_interest(link, interest);
        }
    }
}

impl Device for Net {
    const NAME: &'static str = "net";
    const ID: u32 = 1;
    /// To the guest, from the guest. A driver that limits the bytes in flight sends nothing more until
    /// it hears that a frame was sent, so no interrupt waits.
    const QUEUES: &'static [QueueConfig] = &[
        QueueConfig { max_size: 256, interrupt_threshold: 0 },
        QueueConfig { max_size: 256, interrupt_threshold: 0 },
    ];
    /// Without them, large frames find no room and checksums are missed.
    const REQUIRED: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF | 1 << VIRTIO_NET_F_GUEST_CSUM;

    type State = formats::Net;

    fn split(slot: &formats::Slot) -> Option<(&formats::Virtio, &formats::Net)> {
        match slot {
            formats::Slot::Net(transport, state) => Some((transport, state)),
            _ => None,
        }
    }

    fn from_state(state: &formats::Net, resources: &Resources<'_>) -> Result<Self, DeviceError> {
        let formats::Net { mac, mtu } = *state;
        let illegal = |field, found| DeviceError::Field { device: Self::NAME, field, found };
        let [first, ..] = mac;
        if first & 1 != 0 {
            return Err(illegal("address", first.into()));
        }
        if !(MIN_MTU..=MAX_MTU).contains(&mtu) {
            return Err(illegal("mtu", mtu.into()));
        }
        // Address, status and pairs of queues (not offered), largest packet.
        let mut config = [0; 12];
        config.iter_mut().zip(mac).for_each(|(to, from)| *to = from);
        config.iter_mut().skip(10).zip(mtu.to_le_bytes()).for_each(|(to, from)| *to = from);
        Ok(Self {
            mac,
            mtu,
            config,
            link: resources.network.clone(),
            events: resources.events.clone(),
            source: None,
            chains: Vec::new(),
            buffer: Vec::new(),
            outgoing: Vec::new(),
            received: None,
            is_drained: false,
            // The first event has the device look at what the driver had sent before its capture.
            is_full: resources.network.is_some(),
        })
    }

    fn begin(&mut self) -> Result<(), DeviceError> {
        let Some(link) = &self.link else { return Ok(()) };
        let source = self.events.register(link, 0, Interest::InputAndRoom);
        let source = source.and_then(|source| self.events.start().map(|()| source));
        let refused =
            |source| DeviceError::Host { device: Self::NAME, operation: "watch the link", source };
        self.source = Some(source.map_err(refused)?);
        Ok(())
    }

    fn state(&self, transport: formats::Virtio) -> formats::Slot {
        formats::Slot::Net(transport, formats::Net { mac: self.mac, mtu: self.mtu })
    }

    fn features(&self) -> u64 {
        Self::REQUIRED | 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_MTU
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notify(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueViolation> {
        match index {
            RECEIVE if self.received.is_some() || !self.is_drained => self.receive(queues),
            TRANSMIT => self.transmit(queues),
            // Events announce what the link has.
            _ => Ok(()),
        }
    }

    fn ready(
        &mut self,
        _: u64,
        readiness: Readiness,
        queues: &mut Queues,
    ) -> Result<(), QueueViolation> {
        if self.is_full && readiness.writable {
            self.is_full = false;
            self.watch(Interest::Input);
            self.transmit(queues)?;
        }
        self.receive(queues)
    }

    fn reset(&mut self) {
        self.received = None;
        self.is_drained = false;
        self.is_full = false;
        self.watch(Interest::Input);
    }

    fn hang_up(&mut self) {
        self.source = None;
        self.link = None;
    }
}
