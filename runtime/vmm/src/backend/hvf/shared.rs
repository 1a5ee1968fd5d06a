//! What a VM and its vCPUs share, on all of their threads.

use std::sync::{Arc, OnceLock};

use supermachine_formats::snapshot::arch::aarch64::SystemRegister;

use super::gic::Controller;
use super::instance::Instance;
use super::presence::Peers;
use super::timer::SharedOffset;

/// The VM without its vCPUs, which keep it alive.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) controller: Controller,
    pub(super) peers: Peers,
    pub(super) offset: SharedOffset,
    pub(super) frequency_hz: u32,
    /// The identification registers that the guest sees.
    pub(super) shown: OnceLock<Arc<[SystemRegister]>>,
    pub(super) instance: Instance,
}
