//! The device of a folder of the host.
//!
//! A request is copied when the driver hands it over, and the answer when it is there, both under the
//! slot's lock: what the guest changes meanwhile has no effect, and a machine may be reset at any time.
//!
//! Invariant: the driver's rings hold no request that waits while no request is in flight. So a state without
//! requests in flight holds everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use supermachine_formats::snapshot::device as formats;

use super::super::device::{Device, Resources};
use super::super::error::DeviceError;
use super::super::event_loop::DeviceEvents;
use super::super::file_server::{FileServer, Known};
use super::super::mmio::fresh_transport;
use super::super::queue::{DescriptorChain, QueueConfig, QueueViolation, Queues};
use super::super::workers::{Job, Serve, Workers};
use crate::os::Readiness;

/// The longest request: a write of 1 MiB with what is in front of it.
const MAX_REQUEST: usize = (1 << 20) + (4 << 10);
/// The most room for an answer that counts.
const MAX_ROOM: usize = (1 << 20) + (4 << 10);
/// Requests that are worked on at once. Others wait in the ring.
const MAX_IN_FLIGHT: usize = 16;

/// The threads that ask for answers.
const THREAD_NAME: &str = "sm-share";

impl Serve for dyn FileServer {
    fn serve(&self, request: &[u8], room: usize) -> Vec<u8> {
        self.answer(request, room)
    }
}

/// A folder that no driver has found yet.
pub(crate) fn fresh_share(tag: &str, target: &str) -> formats::Slot {
    let mut padded = [0; 36];
    padded.iter_mut().zip(tag.bytes()).for_each(|(to, from)| *to = from);
    let (nodes, handles) = (Vec::new(), Vec::new());
    let state = formats::Share { tag: padded, target: target.into(), nodes, handles };
    formats::Slot::Share(fresh_transport::<Share>(), state)
}

/// A folder of the host.
#[derive(Debug)]
pub(crate) struct Share {
    tag: [u8; 36],
    target: String,
    config: [u8; 40],
    /// `None` once the guest never runs again.
    server: Option<Arc<dyn FileServer>>,
    events: DeviceEvents,
    /// Starts with the first request.
    workers: Option<Workers<dyn FileServer>>,
    last_ticket: u64,
    /// The requests that are worked on, with their queues.
    in_flight: BTreeMap<u64, (usize, DescriptorChain)>,
}

impl Share {
    /// Takes requests of the driver, as many as may be worked on.
    fn take(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueViolation> {
        let Some(server) = &self.server else { return Ok(()) };
        while self.in_flight.len() < MAX_IN_FLIGHT {
            let mut chain = DescriptorChain::default();
            if !queues.pop(index, &mut chain)? {
                break;
            }
            let length = chain.readable_length();
            if length > MAX_REQUEST {
                return Err(QueueViolation);
            }
            let mut request = vec![0; length];
            chain.read(queues.memory(), 0, &mut request)?;
            if self.workers.is_none() {
                // A host without threads is like a folder that is gone: the driver waits until a reset.
                let started = Workers::start(THREAD_NAME, Arc::clone(server), self.events.clone());
                self.workers = Some(started.map_err(|_| QueueViolation)?);
            }
            self.last_ticket += 1;
            let room = chain.writable_length().min(MAX_ROOM);
            if let Some(workers) = &self.workers {
                workers.add(Job { ticket: self.last_ticket, request, room });
            }
            self.in_flight.insert(self.last_ticket, (index, chain));
        }
        Ok(())
    }

    /// Hands the answers over that are there.
    fn hand_over(&mut self, queues: &mut Queues) -> Result<(), QueueViolation> {
        let done = self.workers.as_ref().map(Workers::take_done).unwrap_or_default();
        for (ticket, answer) in done {
            // Requests from before a reset are not known any more.
            let Some((index, chain)) = self.in_flight.remove(&ticket) else { continue };
            let length = answer.len().min(chain.writable_length());
            let answer = answer.get(..length).ok_or(QueueViolation)?;
            chain.write(queues.memory(), 0, answer)?;
            queues.push(index, &chain, length)?;
        }
        Ok(())
    }
}

impl Device for Share {
    const NAME: &'static str = "share";
    const ID: u32 = 26;
    /// Requests that want no answer, and the others.
    const QUEUES: &'static [QueueConfig] = &[
        QueueConfig { max_size: 128, interrupt_threshold: 0 },
        QueueConfig { max_size: 512, interrupt_threshold: 0 },
    ];

    type State = formats::Share;

    fn split(slot: &formats::Slot) -> Option<(&formats::Virtio, &formats::Share)> {
        match slot {
            formats::Slot::Share(transport, state) => Some((transport, state)),
            _ => None,
        }
    }

    fn from_state(state: &formats::Share, resources: &Resources<'_>) -> Result<Self, DeviceError> {
        let Some(server) = resources.share.clone() else {
            return Err(DeviceError::NoFolder { target: state.target.clone() });
        };
        // Tag, and queues of requests.
        let mut config = [0; 40];
        let words = state.tag.into_iter().chain(1_u32.to_le_bytes());
        config.iter_mut().zip(words).for_each(|(to, from)| *to = from);
        Ok(Self {
            tag: state.tag,
            target: state.target.clone(),
            config,
            server: Some(server),
            events: resources.events.clone(),
            workers: None,
            last_ticket: 0,
            in_flight: BTreeMap::new(),
        })
    }

    fn state(&self, transport: formats::Virtio) -> formats::Slot {
        let known = self.server.as_ref().map(|server| server.known());
        let Known { nodes, handles } = known.unwrap_or_default();
        let (tag, target) = (self.tag, self.target.clone());
        formats::Slot::Share(transport, formats::Share { tag, target, nodes, handles })
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notify(&mut self, index: usize, queues: &mut Queues) -> Result<(), QueueViolation> {
        self.take(index, queues)
    }

    fn ready(&mut self, _: u64, _: Readiness, queues: &mut Queues) -> Result<(), QueueViolation> {
        self.hand_over(queues)?;
        for index in 0..Self::QUEUES.len() {
            if queues.has_next(index) {
                self.take(index, queues)?;
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.workers = None;
        self.in_flight.clear();
    }

    fn is_quiet(&mut self) -> bool {
        self.in_flight.is_empty()
    }

    fn hang_up(&mut self) {
        self.reset();
        self.server = None;
    }
}
