//! Guest assets: the kernel and the agent, built once for each set of inputs.
//!
//! The crate `supermachine-kernel` says what goes in and where the result belongs. Those of the other
//! architecture are cross-built with Debian's compilers.

mod agent;
mod kernel;

use supermachine_kernel::Arch;

use crate::cache;
use crate::error::Error;

/// Options of `cargo xtask assets`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Build for guests of this architecture [default: the machine's own]
    #[arg(long, value_name = "ARCH", value_parser = arch)]
    arch: Option<Arch>,
}

/// Parses the name of an architecture on the command line.
pub(crate) fn arch(name: &str) -> Result<Arch, String> {
    let known = Arch::ALL.into_iter().find(|arch| arch.name() == name);
    known.ok_or_else(|| format!("use {}", Arch::ALL.map(Arch::name).join(" or ")))
}

/// Refuses an architecture that nothing is built for here.
pub(crate) fn require_buildable(arch: Arch) -> Result<(), Error> {
    if arch == Arch::host() || arch == Arch::Aarch64 {
        return Ok(());
    }
    Err(Error::Unexpected {
        what: "--arch",
        expected: format!("{}: only arm64 is cross-built", Arch::host().name()),
        found: arch.name().into(),
    })
}

/// Builds the assets of an architecture that are missing.
pub(crate) fn ensure(arch: Arch) -> Result<(), Error> {
    cache::folder(&arch.kernel_dir(), |folder| kernel::build(arch, folder))?;
    cache::folder(&arch.agent_dir(), |folder| agent::build(arch, folder))?;
    Ok(())
}

/// `cargo xtask assets`
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let arch = args.arch.unwrap_or(Arch::host());
    require_buildable(arch)?;
    ensure(arch)?;
    println!("kernel: {}", arch.kernel_dir().display());
    println!("agent: {}", arch.agent_dir().display());
    Ok(0)
}
