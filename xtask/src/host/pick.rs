//! The choice of host: this machine if its hypervisor is usable, else the emulated one.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use supermachine::host::{Speed, probe};

use super::kind::Kind;
use crate::error::{self, Error};

/// A hypervisor that interprets instructions needs a quarter of a second for the probe.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// Picks the host for this machine.
pub(crate) fn pick() -> Kind {
    let reason = match measure() {
        Ok(speed) if speed.is_usable() => return Kind::Native,
        Ok(speed) => slow(speed),
        Err(error) => error::chain(&error),
    };
    eprintln!("using the emulated host: {reason}");
    Kind::Emulated
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
