//! The choice of host: this machine if its hypervisor is usable, else the emulated one.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use supermachine::host::{Speed, probe};
use supermachine_kernel::Arch;

use super::kind::Kind;
use crate::assets;
use crate::error::{self, Error};

/// A hypervisor that interprets instructions needs a quarter of a second for the probe.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// Returns the kind of host that is asked for, or picks one.
pub(crate) fn pick(arch: Arch, asked: Option<Kind>) -> Result<Kind, Error> {
    if arch != Arch::host() {
        return foreign(arch, asked);
    }
    if let Some(kind) = asked {
        return Ok(kind);
    }
    let reason = match measure() {
        Ok(speed) if speed.is_usable() => return Ok(Kind::Native),
        Ok(speed) => slow(speed),
        Err(error) => error::chain(&error),
    };
    eprintln!("using the emulated host: {reason}");
    Ok(Kind::Emulated)
}

/// The host of another architecture, which is emulated.
fn foreign(arch: Arch, asked: Option<Kind>) -> Result<Kind, Error> {
    assets::require_buildable(arch)?;
    match asked {
        None => Ok(Kind::Emulated),
        Some(Kind::Native) => Err(Error::Unexpected {
            what: "host",
            expected: format!("an emulated one for {}", arch.name()),
            found: Kind::Native.name().into(),
        }),
        Some(kind) => Ok(kind),
    }
}

/// Fails if the host is unusable, so that its tests are not skipped. An emulated host runs on any
/// machine.
pub(crate) fn require(kind: Kind) -> Result<(), Error> {
    if kind == Kind::Native {
        let speed = measure()?;
        if !speed.is_usable() {
            eprintln!("{}", slow(speed));
        }
    }
    Ok(())
}

/// Runs a few guest instructions: that /dev/kvm opens proves little.
fn measure() -> Result<Speed, Error> {
    let (sender, answer) = mpsc::channel();
    // On a separate thread, because a broken hypervisor may never return. That thread lives until
    // this process exits.
    thread::spawn(move || sender.send(probe()));
    match answer.recv_timeout(PROBE_LIMIT) {
        Ok(Ok(speed)) => Ok(speed),
        Ok(Err(source)) => Err(Error::Hypervisor { source }),
        Err(_) => Err(Error::Unexpected {
            what: "this machine's hypervisor",
            expected: "to run a few instructions".into(),
            found: format!("no answer within {} s", PROBE_LIMIT.as_secs()),
        }),
    }
}

fn slow(speed: Speed) -> String {
    let ns = speed.picoseconds_per_iteration / 1000;
    format!("this machine's hypervisor interprets guest kernels, at {ns} ns for two instructions")
}
