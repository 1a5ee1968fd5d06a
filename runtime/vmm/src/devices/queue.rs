//! Split virtqueues, between the ring structure that the driver shares and the devices.
//!
//! Owns the checks that make a ring safe to use: a ring's memory is checked when the driver makes
//! it ready, and every chain is walked once, bounded by the queue's size, before a device sees it.
//! Also decides when used buffers are worth an interrupt. Notification thresholds (`EVENT_IDX`)
//! and indirect descriptors are not offered: the queues are short and served at once.
//!
//! Invariant: a [`DescriptorChain`] is within guest memory, its readable part first.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use supermachine_formats::snapshot::device as formats;
use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue as Ring, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use super::error::DeviceError;
use crate::memory::GuestMemory as Memory;

/// The driver broke the rules of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueViolation;

/// A queue that a device needs.
#[derive(Debug)]
pub(crate) struct QueueConfig {
    /// The most entries, a power of two.
    pub(crate) max_size: u16,
    /// Used descriptors, plus the KiB that the driver put into them, that may wait for the next
    /// interrupt. More than this raise one themselves.
    ///
    /// Useful where the driver only frees what a queue returns. No more than this many are ever
    /// unannounced, so the driver finds the others free. Bytes count because a driver may treat
    /// buffers that it has not freed as still in flight: a socket with more than half of its buffer
    /// in flight is not woken when it may send again.
    pub(crate) interrupt_threshold: u16,
}

/// A run of guest memory.
#[derive(Debug, Clone, Copy)]
struct Segment {
    address: GuestAddress,
    length: usize,
}

/// One checked descriptor chain. A device keeps one and reuses it.
#[derive(Debug, Default)]
pub(crate) struct DescriptorChain {
    head: u16,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

impl DescriptorChain {
    /// Bytes that the device may read.
    pub(crate) fn readable_length(&self) -> usize {
        length(&self.readable)
    }

    /// Bytes that the device may write.
    pub(crate) fn writable_length(&self) -> usize {
        length(&self.writable)
    }

    /// Copies from the readable part, from `offset` bytes into it.
    ///
    /// # Errors
    /// The part ends before `data` is full.
    pub(crate) fn read(
        &self,
        memory: &Memory,
        offset: usize,
        data: &mut [u8],
    ) -> Result<(), QueueViolation> {
        let mut rest = data;
        for_each_run(&self.readable, offset, rest.len(), |address, length| {
            let (now, later) =
                std::mem::take(&mut rest).split_at_mut_checked(length).ok_or(QueueViolation)?;
            rest = later;
            memory.read_slice(now, address).map_err(|_| QueueViolation)
        })
    }

    /// Copies to the writable part, from `offset` bytes into it.
    ///
    /// # Errors
    /// The part is too short for `data`.
    pub(crate) fn write(
        &self,
        memory: &Memory,
        offset: usize,
        data: &[u8],
    ) -> Result<(), QueueViolation> {
        let mut rest = data;
        for_each_run(&self.writable, offset, rest.len(), |address, length| {
            let (now, later) = rest.split_at_checked(length).ok_or(QueueViolation)?;
            rest = later;
            memory.write_slice(now, address).map_err(|_| QueueViolation)
        })
    }

    fn clear(&mut self, head: u16) {
        self.head = head;
        self.readable.clear();
        self.writable.clear();
    }
}

fn length(segments: &[Segment]) -> usize {
    // The walk bounds a chain's sum to 32 bits.
    segments.iter().map(|segment| segment.length).sum()
}

/// Visits the runs of memory that hold `length` bytes from `offset`.
fn for_each_run(
    segments: &[Segment],
    offset: usize,
    length: usize,
    mut visit: impl FnMut(GuestAddress, usize) -> Result<(), QueueViolation>,
) -> Result<(), QueueViolation> {
    let (mut skip, mut left) = (offset, length);
    for segment in segments {
        if left == 0 {
            break;
        }
        if skip >= segment.length {
            skip -= segment.length;
            continue;
        }
        let run = left.min(segment.length - skip);
        let start = segment.address.0.checked_add(skip as u64).ok_or(QueueViolation)?;
        visit(GuestAddress(start), run)?;
        skip = 0;
        left -= run;
    }
    if left == 0 { Ok(()) } else { Err(QueueViolation) }
}

#[derive(Debug)]
struct Queue {
    ring: Ring,
    config: &'static QueueConfig,
    /// Descriptors, plus the KiB in them, put into the used ring since the last interrupt.
    unannounced: u32,
}

/// All queues of one device, with the memory that they are in.
#[derive(Debug)]
pub(crate) struct Queues {
    memory: Arc<Memory>,
    list: Vec<Queue>,
}

impl Queues {
    /// The queues that a state describes.
    pub(crate) fn from_state(
        device: &'static str,
        states: &[formats::Queue],
        configs: &'static [QueueConfig],
        memory: Arc<Memory>,
    ) -> Result<Self, DeviceError> {
        if states.len() != configs.len() {
            let found = states.len() as u64;
            return Err(DeviceError::Field { device, field: "count of queues", found });
        }
        let mut list = Vec::with_capacity(configs.len());
        for (queue, (state, config)) in states.iter().zip(configs).enumerate() {
            let ring = ring_from_state(state, config, &memory).map_err(|(field, found)| {
                DeviceError::QueueField { device, queue, field, found }
            })?;
            // The state does not record how many are unannounced, so assume the most.
            list.push(Queue { ring, config, unannounced: u32::from(config.interrupt_threshold) });
        }
        Ok(Self { memory, list })
    }

    /// The guest's memory.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Takes the next chain that the driver offers. Returns `false` if there is none.
    ///
    /// # Errors
    /// The ring or the chain breaks the rules.
    pub(crate) fn pop(
        &mut self,
        index: usize,
        chain: &mut DescriptorChain,
    ) -> Result<bool, QueueViolation> {
        let Self { memory, list } = self;
        let queue = list.get_mut(index).filter(|queue| queue.ring.ready()).ok_or(QueueViolation)?;
        let memory: &Memory = memory;
        let size = usize::from(queue.ring.size());
        let mut entries = queue.ring.iter(memory).map_err(|_| QueueViolation)?;
        let Some(mut descriptors) = entries.next() else { return Ok(false) };
        chain.clear(descriptors.head_index());
        let (mut count, mut ended) = (0, false);
        for descriptor in descriptors.by_ref() {
            count += 1;
            let length = usize::try_from(descriptor.len()).map_err(|_| QueueViolation)?;
            let segment = Segment { address: descriptor.addr(), length };
            let access =
                if descriptor.is_write_only() { Permissions::Write } else { Permissions::Read };
            if count > size || !memory.check_range(segment.address, length, access) {
                return Err(QueueViolation);
            }
            if descriptor.is_write_only() {
                chain.writable.push(segment);
            } else if chain.writable.is_empty() {
                chain.readable.push(segment);
            } else {
                return Err(QueueViolation);
            }
            ended = !descriptor.has_next();
        }
        // A walk that stops before the last descriptor met a loop or an index outside of the table.
        if ended { Ok(true) } else { Err(QueueViolation) }
    }

    /// Leaves the last `count` chains that were taken to the driver's ring again.
    pub(crate) fn put_back(&mut self, index: usize, count: u16) {
        if let Some(queue) = self.list.get_mut(index) {
            let next = queue.ring.next_avail().wrapping_sub(count);
            queue.ring.set_next_avail(next);
        }
    }

    /// Returns a chain to the driver with `written` bytes in it.
    ///
    /// # Errors
    /// The ring cannot be written.
    pub(crate) fn push(
        &mut self,
        index: usize,
        chain: &DescriptorChain,
        written: usize,
    ) -> Result<(), QueueViolation> {
        let queue = self.list.get_mut(index).ok_or(QueueViolation)?;
        let written = u32::try_from(written).map_err(|_| QueueViolation)?;
        queue.ring.add_used(&*self.memory, chain.head, written).map_err(|_| QueueViolation)?;
        let descriptors = chain.readable.len() + chain.writable.len();
        let weight = descriptors.saturating_add(chain.readable_length() >> 10);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        queue.unannounced = queue.unannounced.saturating_add(weight);
        Ok(())
    }

    /// Whether the driver offers a chain.
    pub(crate) fn has_next(&self, index: usize) -> bool {
        self.list.get(index).is_some_and(|queue| {
            queue.ring.ready()
                && queue
                    .ring
                    .avail_idx(&*self.memory, Ordering::Acquire)
                    .is_ok_and(|next| next.0 != queue.ring.next_avail())
        })
    }

    /// The entries of a queue, which bound the work of one notification.
    pub(crate) fn size(&self, index: usize) -> u16 {
        self.list.get(index).map_or(0, |queue| queue.ring.size())
    }

    /// Whether used buffers are worth an interrupt now. If so, they count as announced.
    pub(crate) fn take_interrupt(&mut self) -> bool {
        let Self { memory, list } = self;
        if list.iter().all(|queue| queue.unannounced <= u32::from(queue.config.interrupt_threshold))
        {
            return false;
        }
        // The used index must be visible before the driver's flag is read: the driver writes
        // its flag before it looks at the index again.
        fence(Ordering::SeqCst);
        let mut wanted = false;
        for queue in list.iter_mut() {
            if queue.unannounced > u32::from(queue.config.interrupt_threshold) {
                let address = GuestAddress(queue.ring.avail_ring());
                let flags = memory.load::<u16>(address, Ordering::Relaxed).map_or(0, u16::from_le);
                if u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0 {
                    wanted = true;
                } else {
                    queue.unannounced = 0;
                }
            }
        }
        if wanted {
            // One interrupt makes the driver look at every queue.
            list.iter_mut().for_each(|queue| queue.unannounced = 0);
        }
        wanted
    }

    /// Resets all queues to their state before a driver finds them.
    pub(crate) fn reset(&mut self) {
        for queue in &mut self.list {
            queue.ring.reset();
            queue.unannounced = 0;
        }
    }

    /// The ring of a queue, for its registers.
    pub(crate) fn ring(&self, index: usize) -> Option<&Ring> {
        self.list.get(index).map(|queue| &queue.ring)
    }

    /// The ring of a queue that is not ready yet, for its registers.
    pub(crate) fn idle_ring_mut(&mut self, index: usize) -> Option<&mut Ring> {
        self.list.get_mut(index).map(|queue| &mut queue.ring).filter(|ring| !ring.ready())
    }

    /// Makes a queue ready, if its rings are within memory.
    pub(crate) fn set_ready(&mut self, index: usize) -> Result<(), QueueViolation> {
        let Some(queue) = self.list.get_mut(index) else { return Ok(()) };
        queue.ring.set_ready(true);
        if is_usable(&queue.ring, &self.memory) {
            return Ok(());
        }
        queue.ring.set_ready(false);
        Err(QueueViolation)
    }

    /// The queues' states, in their order.
    pub(crate) fn state(&self) -> Vec<formats::Queue> {
        self.list.iter().map(|queue| state_of_ring(&queue.ring)).collect()
    }
}

fn is_usable(ring: &Ring, memory: &Memory) -> bool {
    // The ring treats an available ring at zero as one that was never set.
    ring.avail_ring() != 0 && ring.is_valid(memory)
}

/// The state of a queue that no driver has found.
pub(crate) fn fresh_queue(config: &QueueConfig) -> formats::Queue {
    formats::Queue {
        max_size: config.max_size,
        size: config.max_size,
        ready: false,
        descriptors: 0,
        available: 0,
        used: 0,
        next_available: 0,
        next_used: 0,
        event_index: false,
    }
}

fn state_of_ring(ring: &Ring) -> formats::Queue {
    let state = ring.state();
    formats::Queue {
        max_size: state.max_size,
        size: state.size,
        ready: state.ready,
        descriptors: state.desc_table,
        available: state.avail_ring,
        used: state.used_ring,
        next_available: state.next_avail,
        next_used: state.next_used,
        event_index: state.event_idx_enabled,
    }
}

/// Restores a ring. An error is a field's name and value.
fn ring_from_state(
    state: &formats::Queue,
    config: &QueueConfig,
    memory: &Memory,
) -> Result<Ring, (&'static str, u64)> {
    if state.max_size != config.max_size {
        return Err(("largest size", state.max_size.into()));
    }
    if !state.size.is_power_of_two() || state.size > config.max_size {
        return Err(("size", state.size.into()));
    }
    if state.event_index {
        return Err(("event index", 1));
    }
    for (field, address, alignment) in [
        ("descriptor table", state.descriptors, 16),
        ("available ring", state.available, 2),
        ("used ring", state.used, 4),
    ] {
        if address % alignment != 0 {
            return Err((field, address));
        }
    }
    let ring = Ring::try_from(QueueState {
        max_size: state.max_size,
        next_avail: state.next_available,
        next_used: state.next_used,
        event_idx_enabled: false,
        size: state.size,
        ready: state.ready,
        desc_table: state.descriptors,
        avail_ring: state.available,
        used_ring: state.used,
    })
    .map_err(|_| ("address", state.descriptors))?;
    if state.ready && !is_usable(&ring, memory) {
        return Err(("address", state.descriptors));
    }
    Ok(ring)
}
