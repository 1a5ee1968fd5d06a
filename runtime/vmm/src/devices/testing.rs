//! A small guest driver for the devices' tests: brings a slot up over its registers and builds
//! queues in guest memory, well-formed or not.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use supermachine_formats::snapshot::device as formats;
use vm_memory::{Bytes, GuestAddress};

use super::{
    DeviceError, DiskFile, EventLoop, FileServer, FrameLink, FreezeGuard, Line, Resources, Slot,
    Streams, VolumeDisk, slot_from_state,
};
use crate::memory::GuestMemory as Memory;

pub(crate) const MEMORY_SIZE: u64 = 8 << 20;
/// Where buffers begin.
const HEAP: u64 = 0x10_0000;
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
pub(crate) const NEEDS_RESET: u32 = 0x40;
/// The device status at the end of a driver's set-up.
pub(crate) const RUNNING: u32 = 0xf;

/// A line that counts its edges.
#[derive(Debug, Default)]
pub(crate) struct CountingLine(AtomicUsize);

impl Line for CountingLine {
    fn raise(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A queue's driver side.
#[derive(Debug, Clone)]
pub(crate) struct DriverQueue {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    next_descriptor: u16,
    next_available: u16,
    next_used: u16,
}

/// A slot with the guest that drives it.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) memory: Arc<Memory>,
    pub(crate) slot: Slot,
    pub(crate) events: Arc<EventLoop>,
    pub(crate) queues: Vec<DriverQueue>,
    line: Arc<CountingLine>,
    heap: u64,
}

pub(crate) fn memory() -> Arc<Memory> {
    let size = usize::try_from(MEMORY_SIZE).unwrap();
    Arc::new(Memory::from_ranges(&[(GuestAddress(0), size)]).unwrap())
}

/// A disk with these bytes.
pub(crate) fn disk(bytes: &[u8]) -> DiskFile {
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    DiskFile { file: Some(Arc::new(file)), size: bytes.len() as u64 }
}

/// Restores a slot over fresh memory.
pub(crate) fn slot_of(state: &formats::Slot, disks: &[DiskFile]) -> Result<Slot, DeviceError> {
    let events = EventLoop::new().unwrap().device();
    let line = Arc::<CountingLine>::default();
    let (network, share, volume) = (None, None, None);
    let memory = memory();
    slot_from_state(state, &Resources { memory, line, disks, network, share, volume, events })
}

/// The error of a state that must be refused.
pub(crate) fn refusal(state: &formats::Slot, disks: &[DiskFile]) -> String {
    slot_of(state, disks).expect_err("the state is refused").to_string()
}

/// Holds a device that may be captured now; `None` if it may not.
pub(crate) fn freeze<'a>(events: &'a EventLoop, slot: &Slot) -> Option<FreezeGuard<'a>> {
    let held = events.hold();
    slot.is_quiet().then_some(held)
}

/// What may stand behind a device on the host.
type HostEnds = (Option<FrameLink>, Option<Arc<dyn FileServer>>, Option<Arc<VolumeDisk>>);

impl Guest {
    /// A guest in front of a device that it has not touched.
    pub(crate) fn new(state: &formats::Slot, disks: &[DiskFile]) -> Self {
        Self::over(memory(), state, disks)
    }

    /// The same over existing memory.
    pub(crate) fn over(memory: Arc<Memory>, state: &formats::Slot, disks: &[DiskFile]) -> Self {
        Self::with(memory, state, disks, None)
    }

    /// The same with a network.
    pub(crate) fn with(
        memory: Arc<Memory>,
        state: &formats::Slot,
        disks: &[DiskFile],
        network: Option<FrameLink>,
    ) -> Self {
        Self::between(memory, state, disks, (network, None, None))
    }

    /// The same with a folder of the host.
    pub(crate) fn sharing(state: &formats::Slot, share: Arc<dyn FileServer>) -> Self {
        Self::between(memory(), state, &[], (None, Some(share), None))
    }

    /// The same with a volume.
    pub(crate) fn storing(state: &formats::Slot, volume: VolumeDisk) -> Self {
        Self::between(memory(), state, &[], (None, None, Some(Arc::new(volume))))
    }

    /// The guest of `other` behind another device, which is restored with this state.
    pub(crate) fn restored(other: &Self, state: &formats::Slot, volume: VolumeDisk) -> Self {
        let ends = (None, None, Some(Arc::new(volume)));
        let guest = Self::between(Arc::clone(&other.memory), state, &[], ends);
        Self { queues: other.queues.clone(), heap: other.heap, ..guest }
    }

    fn between(
        memory: Arc<Memory>,
        state: &formats::Slot,
        disks: &[DiskFile],
        (network, share, volume): HostEnds,
    ) -> Self {
        let line = Arc::new(CountingLine::default());
        let events = Arc::new(EventLoop::new().unwrap());
        let resources = Resources {
            memory: Arc::clone(&memory),
            line: line.clone(),
            disks,
            network,
            share,
            volume,
            events: events.device(),
        };
        let slot = slot_from_state(state, &resources).unwrap();
        Self { memory, slot, events, queues: Vec::new(), line, heap: HEAP }
    }

    /// The handle of the socket device.
    pub(crate) fn streams(&self) -> Streams {
        Streams::of(&self.slot, &self.events).expect("a socket device")
    }

    /// A guest whose driver runs the device.
    pub(crate) fn running(state: &formats::Slot, disks: &[DiskFile]) -> Self {
        let mut guest = Self::new(state, disks);
        guest.bring_up();
        guest
    }

    /// Does what a driver does at its probe.
    pub(crate) fn bring_up(&mut self) {
        self.negotiate();
        self.add_queues();
        self.set(0x70, RUNNING);
        assert_eq!(self.get(0x70), RUNNING);
    }

    pub(crate) fn negotiate(&mut self) {
        self.set(0x70, 0);
        self.set(0x70, 1);
        self.set(0x70, 3);
        for select in [0, 1] {
            self.set(0x14, select);
            self.set(0x24, select);
            let offered = self.get(0x10);
            self.set(0x20, offered);
        }
        self.set(0x70, 0xb);
        assert_eq!(self.get(0x70), 0xb);
    }

    pub(crate) fn add_queues(&mut self) {
        self.queues.clear();
        for index in 0.. {
            self.set(0x30, index);
            let Ok(size @ 1..) = u16::try_from(self.get(0x34)) else { break };
            let base = 0x1_0000 + u64::from(index) * 0x8000;
            self.memory.write_slice(&[0; 0x8000], GuestAddress(base)).unwrap();
            let (descriptors, available, used) = (base, base + 0x4000, base + 0x6000);
            self.set(0x38, size.into());
            for (register, address) in [(0x80, descriptors), (0x90, available), (0xa0, used)] {
                self.set(register, u32::try_from(address).unwrap());
                self.set(register + 4, 0);
            }
            self.set(0x44, 1);
            assert_eq!(self.get(0x44), 1);
            let (next_descriptor, next_available, next_used) = (0, 0, 0);
            self.queues.push(DriverQueue {
                size,
                descriptors,
                available,
                used,
                next_descriptor,
                next_available,
                next_used,
            });
        }
    }

    pub(crate) fn get(&self, register: u64) -> u32 {
        let mut bytes = [0xff; 4];
        self.slot.read(register, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn set(&self, register: u64, value: u32) {
        self.slot.write(register, &value.to_le_bytes());
    }

    pub(crate) fn notify(&self, queue: usize) {
        self.set(0x50, u32::try_from(queue).unwrap());
    }

    /// Interrupts so far.
    pub(crate) fn interrupts(&self) -> usize {
        self.line.0.load(Ordering::SeqCst)
    }

    pub(crate) fn allocate(&mut self, length: usize) -> u64 {
        let address = self.heap;
        self.heap += (length as u64 + 15) & !15;
        assert!(self.heap < MEMORY_SIZE);
        address
    }

    /// Lets later buffers take the place of those so far.
    pub(crate) fn forget_buffers(&mut self) {
        self.heap = HEAP;
    }

    /// A buffer in guest memory with these bytes.
    pub(crate) fn place(&mut self, bytes: &[u8]) -> u64 {
        let address = self.allocate(bytes.len());
        self.store(address, bytes);
        address
    }

    pub(crate) fn store(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub(crate) fn load(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Writes one descriptor.
    pub(crate) fn describe(
        &self,
        queue: usize,
        index: u16,
        (address, length): (u64, u32),
        flags: u16,
        next: u16,
    ) {
        let mut bytes = Vec::new();
        bytes.extend(address.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.store(self.queues[queue].descriptors + u64::from(index) * 16, &bytes);
    }

    /// Puts a head into the available ring and publishes it.
    pub(crate) fn offer(&mut self, queue: usize, head: u16) {
        let ring = &mut self.queues[queue];
        let (available, place) = (ring.available, ring.next_available % ring.size);
        ring.next_available = ring.next_available.wrapping_add(1);
        let next = ring.next_available;
        self.store(available + 4 + u64::from(place) * 2, &head.to_le_bytes());
        self.store(available + 2, &next.to_le_bytes());
    }

    /// Offers a well-formed chain of (address, length, device may write). Returns its head.
    pub(crate) fn add(&mut self, queue: usize, buffers: &[(u64, usize, bool)]) -> u16 {
        let size = self.queues[queue].size;
        let head = self.queues[queue].next_descriptor;
        for (position, &(address, length, write)) in buffers.iter().enumerate() {
            let index = self.queues[queue].next_descriptor;
            let next = (index + 1) % size;
            self.queues[queue].next_descriptor = next;
            let last = position + 1 == buffers.len();
            let flags = if write { WRITE } else { 0 } | if last { 0 } else { NEXT };
            let length = u32::try_from(length).unwrap();
            self.describe(queue, index, (address, length), flags, next);
        }
        self.offer(queue, head);
        head
    }

    /// The next used element: head and bytes written.
    pub(crate) fn take_used(&mut self, queue: usize) -> Option<(u32, u32)> {
        let ring = &mut self.queues[queue];
        let (used, next, size) = (ring.used, ring.next_used, ring.size);
        let index = self.load(used + 2, 2);
        if u16::from_le_bytes([index[0], index[1]]) == next {
            return None;
        }
        self.queues[queue].next_used = next.wrapping_add(1);
        let element = self.load(used + 4 + u64::from(next % size) * 8, 8);
        let (head, length) = element.split_at(4);
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        Some((word(head), word(length)))
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.get(0x70) & NEEDS_RESET != 0
    }
}

/// Offers a chain on a queue.
pub(crate) type HostileChain = fn(&mut Guest, usize);

/// The chains that no driver may offer, each with a name. The first descriptor's index is 0.
pub(crate) const HOSTILE_CHAINS: [(&str, HostileChain); 9] = [
    ("a loop of descriptors", |guest, queue| {
        guest.describe(queue, 0, (0x10_0000, 64), NEXT, 1);
        guest.describe(queue, 1, (0x10_0000, 64), NEXT, 0);
        guest.offer(queue, 0);
    }),
    ("a loop of writable descriptors", |guest, queue| {
        guest.describe(queue, 0, (0x10_0000, 64), NEXT | WRITE, 0);
        guest.offer(queue, 0);
    }),
    ("a head out of the table", |guest, queue| guest.offer(queue, 0xffff)),
    ("a next out of the table", |guest, queue| {
        guest.describe(queue, 0, (0x10_0000, 64), NEXT, 0xfff0);
        guest.offer(queue, 0);
    }),
    ("an address behind memory", |guest, queue| {
        guest.describe(queue, 0, (MEMORY_SIZE - 8, 64), WRITE, 0);
        guest.offer(queue, 0);
    }),
    ("an address that overflows", |guest, queue| {
        guest.describe(queue, 0, (u64::MAX - 8, u32::MAX), 0, 0);
        guest.offer(queue, 0);
    }),
    ("a length beyond memory", |guest, queue| {
        guest.describe(queue, 0, (0, u32::MAX), WRITE, 0);
        guest.offer(queue, 0);
    }),
    ("a readable descriptor behind a writable one", |guest, queue| {
        guest.describe(queue, 0, (0x10_0000, 64), WRITE | NEXT, 1);
        guest.describe(queue, 1, (0x10_0000, 64), 0, 0);
        guest.offer(queue, 0);
    }),
    ("an available index that jumps", |guest, queue| {
        let available = guest.queues[queue].available;
        guest.store(available + 2, &0x4000_u16.to_le_bytes());
    }),
];

/// Each hostile chain stops the device until it is reset, after which it works again.
pub(crate) fn assert_hostile_chains_stop(
    state: &formats::Slot,
    disks: &[DiskFile],
    queue: usize,
    works: impl Fn(&mut Guest),
) {
    for (name, build) in HOSTILE_CHAINS {
        let mut guest = Guest::running(state, disks);
        build(&mut guest, queue);
        guest.notify(queue);
        assert!(guest.is_broken(), "{name}");
        assert_eq!(guest.get(0x60) & 2, 2, "{name}");
        assert_eq!(guest.interrupts(), 1, "{name}");
        guest.notify(queue);
        assert_eq!(guest.interrupts(), 1, "{name}: it does nothing more");
        guest.bring_up();
        works(&mut guest);
        assert!(!guest.is_broken(), "{name}");
    }
}

/// The transport's state within a slot's.
pub(crate) fn transport_of(state: &mut formats::Slot) -> &mut formats::Virtio {
    match state {
        formats::Slot::Vsock(transport, _)
        | formats::Slot::Rng(transport)
        | formats::Slot::Pmem(transport, _)
        | formats::Slot::Block(transport, _)
        | formats::Slot::Net(transport, _) => transport,
        _ => panic!("the slot is empty"),
    }
}

/// A reproducible source of numbers.
#[derive(Debug)]
pub(crate) struct Xorshift(pub(crate) u64);

impl Xorshift {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
