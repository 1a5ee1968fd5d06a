//! Guest assets: the kernel and the agent, built once for each set of inputs.
//!
//! The crate `supermachine-kernel` says what goes in and where the result belongs.

mod agent;
mod kernel;

use supermachine_kernel::{agent_dir, kernel_dir};

use crate::cache;
use crate::error::Error;

/// Builds the assets that are missing.
pub(crate) fn ensure() -> Result<(), Error> {
    cache::folder(&kernel_dir(), kernel::build)?;
    cache::folder(&agent_dir(), agent::build)?;
    Ok(())
}

/// `cargo xtask assets`
pub(crate) fn exec() -> Result<u8, Error> {
    ensure()?;
    println!("kernel: {}", kernel_dir().display());
    println!("agent: {}", agent_dir().display());
    Ok(0)
}
