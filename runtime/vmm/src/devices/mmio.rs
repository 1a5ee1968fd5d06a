//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2.2).
//!
//! Owns a device's registers, the order in which a driver may bring it up, and its interrupt.
//! What the queues mean is the device's business. The transport ignores what the driver writes out
//! of order. A driver that breaks the rules of a ring gets `DEVICE_NEEDS_RESET`.
//!
//! Invariant: one lock per slot guards registers, queues and device together.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use supermachine_formats::snapshot::device as formats;
use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_mmio as register;
use virtio_bindings::bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use virtio_queue::QueueT;

use super::bus::BusDevice;
use super::device::{Device, Resources};
use super::error::DeviceError;
use super::event_loop::{DeviceEvents, EventHandler};
use super::line::Line;
use super::queue::{QueueViolation, Queues, fresh_queue};
use crate::os::Readiness;

/// `virt`, little-endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// `supm`, little-endian.
const VENDOR: u32 = 0x6d70_7573;
/// What the length and base of a shared memory region read where there is none.
const NO_REGION: u32 = u32::MAX;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

/// One of a machine's slots: an address window with a device behind it, or none.
pub(crate) type Slot = Arc<dyn Window>;

/// A slot's window, whatever the device behind it.
pub(crate) trait Window: BusDevice {
    /// The state of transport and device. The vCPUs must be paused.
    fn state(&self) -> formats::Slot;

    /// Replaces transport and device by those that a state describes. Nothing of the former
    /// stays. The vCPUs must be paused, and the event loop held.
    ///
    /// # Errors
    /// The state is of another kind of device or illegal, or the host lacks something that the
    /// device needs. The slot is unchanged then.
    fn reset(&self, state: &formats::Slot, resources: Resources<'_>) -> Result<(), DeviceError>;

    /// Whether the state holds everything that is in flight.
    fn is_quiet(&self) -> bool;

    /// Releases the host's callers: the guest will never run again.
    fn hang_up(&self);

    /// The slot as its own type, for the handle of a device that has one.
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// A slot without a device: a transport whose device id is zero.
#[derive(Debug)]
pub(crate) struct EmptySlot;

/// A device with its registers.
#[derive(Debug)]
pub(crate) struct Mmio<D> {
    transport: Mutex<Transport<D>>,
    events: DeviceEvents,
}

impl<D: Device> Mmio<D> {
    /// Restores a slot.
    ///
    /// # Errors
    /// The state is of another kind of device or illegal, or the host lacks something that the
    /// device needs.
    pub(crate) fn from_state(
        state: &formats::Slot,
        resources: &Resources<'_>,
    ) -> Result<Arc<Self>, DeviceError> {
        let transport = Mutex::new(Transport::from_state(state, resources)?);
        let slot = Arc::new(Self { transport, events: resources.events.clone() });
        let handler: Arc<dyn EventHandler> = slot.clone();
        slot.events.set_handler(Arc::downgrade(&handler));
        slot.lock().device.begin()?;
        Ok(slot)
    }

    /// Works on the device and its queues, if a driver runs it, and raises the interrupt that
    /// follows. `None` if no driver runs it or the driver broke a ring.
    pub(crate) fn serve<R>(
        &self,
        work: impl FnOnce(&mut D, &mut Queues) -> Result<R, QueueViolation>,
    ) -> Option<R> {
        self.lock().serve(work)
    }

    /// Works on the device alone, whether a driver runs it or not.
    pub(crate) fn with_device<R>(&self, work: impl FnOnce(&mut D) -> R) -> R {
        work(&mut self.lock().device)
    }

    fn lock(&self) -> MutexGuard<'_, Transport<D>> {
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Device> BusDevice for Mmio<D> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.lock().read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.lock().write(offset, data);
    }
}

impl<D: Device> Window for Mmio<D> {
    fn state(&self) -> formats::Slot {
        let transport = self.lock();
        transport.device.state(transport.state())
    }

    fn reset(
        &self,
        state: &formats::Slot,
        mut resources: Resources<'_>,
    ) -> Result<(), DeviceError> {
        resources.events = self.events.clone();
        let mut transport = Transport::<D>::from_state(state, &resources)?;
        transport.device.begin()?;
        let former = std::mem::replace(&mut *self.lock(), transport);
        // Not under the lock.
        drop(former);
        Ok(())
    }

    fn is_quiet(&self) -> bool {
        self.with_device(D::is_quiet)
    }

    fn hang_up(&self) {
        self.with_device(D::hang_up);
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl<D: Device> EventHandler for Mmio<D> {
    fn ready(&self, token: u64, readiness: Readiness) {
        // Without a driver there is nothing to serve.
        self.serve(|device, queues| device.ready(token, readiness, queues));
    }
}

impl BusDevice for EmptySlot {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = match register_at(offset) {
                Some(register::VIRTIO_MMIO_MAGIC_VALUE) => MAGIC,
                Some(register::VIRTIO_MMIO_VERSION) => VERSION,
                _ => 0,
            }
            .to_le_bytes();
        }
    }

    fn write(&self, _: u64, _: &[u8]) {}
}

impl Window for EmptySlot {
    fn state(&self) -> formats::Slot {
        formats::Slot::Empty
    }

    fn reset(&self, state: &formats::Slot, _: Resources<'_>) -> Result<(), DeviceError> {
        if *state == formats::Slot::Empty { Ok(()) } else { Err(DeviceError::UnknownKind) }
    }

    fn is_quiet(&self) -> bool {
        true
    }

    fn hang_up(&self) {}

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// The state of a device's transport before a driver has found it.
pub(crate) fn fresh_transport<D: Device>() -> formats::Virtio {
    formats::Virtio {
        driver_features: 0,
        device_features_select: 0,
        driver_features_select: 0,
        queue_select: 0,
        status: 0,
        interrupt_status: 0,
        config_generation: 0,
        queues: D::QUEUES.iter().map(fresh_queue).collect(),
    }
}

/// The register at an offset; `None` in the configuration space.
fn register_at(offset: u64) -> Option<u32> {
    u32::try_from(offset).ok().filter(|register| *register < register::VIRTIO_MMIO_CONFIG)
}

#[derive(Debug)]
struct Transport<D> {
    device: D,
    queues: Queues,
    line: Arc<dyn Line>,
    driver_features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    status: u32,
    interrupt_status: u32,
    config_generation: u32,
}

impl<D: Device> Transport<D> {
    fn from_state(slot: &formats::Slot, resources: &Resources<'_>) -> Result<Self, DeviceError> {
        let (state, own) = D::split(slot).ok_or(DeviceError::UnknownKind)?;
        let device = D::from_state(own, resources)?;
        let illegal = |field, found| DeviceError::Field { device: D::NAME, field, found };
        let memory = Arc::clone(&resources.memory);
        let queues = Queues::from_state(D::NAME, &state.queues, D::QUEUES, memory)?;
        if state.driver_features & !(device.features() | VERSION_1) != 0 {
            return Err(illegal("driver features", state.driver_features));
        }
        let negotiated = state.status & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        let required = D::REQUIRED | VERSION_1;
        if !is_status(state.status) || (negotiated && state.driver_features & required != required)
        {
            return Err(illegal("status", state.status.into()));
        }
        if !negotiated && state.queues.iter().any(|queue| queue.ready) {
            return Err(illegal("status", state.status.into()));
        }
        if state.interrupt_status & !(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG) != 0 {
            return Err(illegal("interrupt status", state.interrupt_status.into()));
        }
        let mut transport = Self {
            device,
            queues,
            line: Arc::clone(&resources.line),
            driver_features: state.driver_features,
            device_features_select: state.device_features_select,
            driver_features_select: state.driver_features_select,
            queue_select: state.queue_select,
            status: state.status,
            interrupt_status: state.interrupt_status,
            config_generation: state.config_generation,
        };
        let is_running = transport.is_running();
        transport.device.check(state, is_running)?;
        Ok(transport)
    }

    fn serve<R>(
        &mut self,
        work: impl FnOnce(&mut D, &mut Queues) -> Result<R, QueueViolation>,
    ) -> Option<R> {
        if !self.is_running() {
            return None;
        }
        match work(&mut self.device, &mut self.queues) {
            Ok(result) => {
                if self.queues.take_interrupt() {
                    self.interrupt_status |= VIRTIO_MMIO_INT_VRING;
                    self.line.raise();
                }
                Some(result)
            }
            Err(QueueViolation) => {
                self.break_down();
                None
            }
        }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match register_at(offset) {
            Some(register) => {
                if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
                    *data = self.read_register(register).to_le_bytes();
                }
            }
            None => {
                let start = offset.saturating_sub(register::VIRTIO_MMIO_CONFIG.into());
                let config = usize::try_from(start)
                    .ok()
                    .and_then(|start| self.device.config().get(start..))
                    .unwrap_or_default();
                data.iter_mut().zip(config).for_each(|(to, from)| *to = *from);
            }
        }
    }

    fn read_register(&self, register: u32) -> u32 {
        let selected = || self.queues.ring(self.selected_queue());
        match register {
            register::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            register::VIRTIO_MMIO_VERSION => VERSION,
            register::VIRTIO_MMIO_DEVICE_ID => D::ID,
            register::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            register::VIRTIO_MMIO_DEVICE_FEATURES => {
                half(self.offered_features(), self.device_features_select)
            }
            register::VIRTIO_MMIO_QUEUE_NUM_MAX => {
                selected().map_or(0, |ring| ring.max_size().into())
            }
            register::VIRTIO_MMIO_QUEUE_READY => selected().is_some_and(QueueT::ready).into(),
            register::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt_status,
            register::VIRTIO_MMIO_STATUS => self.status,
            register::VIRTIO_MMIO_SHM_LEN_LOW
            | register::VIRTIO_MMIO_SHM_LEN_HIGH
            | register::VIRTIO_MMIO_SHM_BASE_LOW
            | register::VIRTIO_MMIO_SHM_BASE_HIGH => NO_REGION,
            register::VIRTIO_MMIO_CONFIG_GENERATION => self.config_generation,
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (Some(register), Ok(bytes)) = (register_at(offset), <[u8; 4]>::try_from(data)) else {
            return;
        };
        let value = u32::from_le_bytes(bytes);
        match register {
            register::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_select = value,
            register::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_select = value,
            register::VIRTIO_MMIO_DRIVER_FEATURES => self.write_driver_features(value),
            register::VIRTIO_MMIO_QUEUE_SEL => self.queue_select = value,
            register::VIRTIO_MMIO_QUEUE_NOTIFY => self.notify(value),
            register::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt_status &= !value,
            register::VIRTIO_MMIO_STATUS => self.write_status(value),
            register::VIRTIO_MMIO_QUEUE_NUM..=register::VIRTIO_MMIO_QUEUE_USED_HIGH => {
                self.write_queue(register, value);
            }
            _ => {}
        }
    }

    fn write_driver_features(&mut self, value: u32) {
        let settled = self.status & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        if settled || self.status & VIRTIO_CONFIG_S_DRIVER == 0 {
            return;
        }
        let shift = match self.driver_features_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        let kept = self.driver_features & !(u64::from(u32::MAX) << shift);
        self.driver_features = kept | (u64::from(value) << shift);
    }

    fn write_queue(&mut self, register: u32, value: u32) {
        let negotiated = self.status & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        if !negotiated || self.status & VIRTIO_CONFIG_S_NEEDS_RESET != 0 {
            return;
        }
        let index = self.selected_queue();
        if register == register::VIRTIO_MMIO_QUEUE_READY {
            // A queue once ready stays so until the device is reset.
            let fresh = self.queues.idle_ring_mut(index).is_some();
            if value == 1 && fresh && self.queues.set_ready(index).is_err() {
                self.break_down();
            }
            return;
        }
        let Some(ring) = self.queues.idle_ring_mut(index) else { return };
        match register {
            register::VIRTIO_MMIO_QUEUE_NUM => {
                if let Ok(size) = u16::try_from(value) {
                    ring.set_size(size);
                }
            }
            register::VIRTIO_MMIO_QUEUE_DESC_LOW => ring.set_desc_table_address(Some(value), None),
            register::VIRTIO_MMIO_QUEUE_DESC_HIGH => ring.set_desc_table_address(None, Some(value)),
            register::VIRTIO_MMIO_QUEUE_AVAIL_LOW => ring.set_avail_ring_address(Some(value), None),
            register::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => {
                ring.set_avail_ring_address(None, Some(value));
            }
            register::VIRTIO_MMIO_QUEUE_USED_LOW => ring.set_used_ring_address(Some(value), None),
            register::VIRTIO_MMIO_QUEUE_USED_HIGH => ring.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn write_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        // The driver only adds bits, and only the device sets or keeps NEEDS_RESET.
        let needs_reset = self.status & VIRTIO_CONFIG_S_NEEDS_RESET;
        let mut next = (value & !VIRTIO_CONFIG_S_NEEDS_RESET) | needs_reset;
        if self.status & !next != 0 {
            return;
        }
        let required = D::REQUIRED | VERSION_1;
        let unsupported = self.driver_features & !self.offered_features() != 0
            || self.driver_features & required != required;
        let settles = (next & !self.status) & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        if settles && unsupported {
            next &= !(VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
        }
        if is_status(next) {
            self.status = next;
        }
    }

    fn notify(&mut self, queue: u32) {
        let Ok(index) = usize::try_from(queue) else { return };
        if self.queues.ring(index).is_some_and(QueueT::ready) {
            self.serve(|device, queues| device.notify(index, queues));
        }
    }

    /// Stops the device until the driver resets it, and interrupts the driver.
    fn break_down(&mut self) {
        self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
        self.interrupt_status |= VIRTIO_MMIO_INT_CONFIG;
        self.device.reset();
        self.line.raise();
    }

    fn reset(&mut self) {
        self.device.reset();
        self.queues.reset();
        self.driver_features = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        self.status = 0;
        self.interrupt_status = 0;
    }

    fn state(&self) -> formats::Virtio {
        formats::Virtio {
            driver_features: self.driver_features,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            queue_select: self.queue_select,
            status: self.status,
            interrupt_status: self.interrupt_status,
            config_generation: self.config_generation,
            queues: self.queues.state(),
        }
    }

    fn is_running(&self) -> bool {
        let stopped = VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED;
        self.status & VIRTIO_CONFIG_S_DRIVER_OK != 0 && self.status & stopped == 0
    }

    fn offered_features(&self) -> u64 {
        self.device.features() | VERSION_1
    }

    fn selected_queue(&self) -> usize {
        usize::try_from(self.queue_select).unwrap_or(usize::MAX)
    }
}

/// Whether a status register can hold this: known bits, each with those that come before it.
fn is_status(status: u32) -> bool {
    let steps = [
        VIRTIO_CONFIG_S_ACKNOWLEDGE,
        VIRTIO_CONFIG_S_DRIVER,
        VIRTIO_CONFIG_S_FEATURES_OK,
        VIRTIO_CONFIG_S_DRIVER_OK,
    ];
    let progress = status & !(VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED);
    let mut reached = 0;
    progress == 0
        || steps.iter().any(|step| {
            reached |= step;
            reached == progress
        })
}

/// The half of a feature word that a selector shows.
fn half(features: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}
