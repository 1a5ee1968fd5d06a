//! Picking the host: this machine if its hypervisor serves, else the emulated one.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use supermachine::host::{Speed, probe};

use super::kind::Kind;
use crate::error::{self, Error};

/// A hypervisor that interprets the probe's instructions takes a quarter of a second.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// The host that fits this machine.
pub(crate) fn pick() -> Kind {
    let reason = match measure() {
        Ok(speed) if speed.is_usable() => return Kind::Native,
        Ok(speed) => slow(speed),
        Err(error) => error::chain(&error),
    };
    eprintln!("using the emulated host: {reason}");
    Kind::Emulated
}

/// Fails when the host cannot serve, rather than let its tests pass by being skipped.
/// An emulated one runs on any machine.
pub(crate) fn require(kind: Kind) -> Result<(), Error> {
    if kind == Kind::Native {
        let speed = measure()?;
        if !speed.is_usable() {
            eprintln!("{}", slow(speed));
        }
    }
    Ok(())
}

/// Has a few guest instructions run: that /dev/kvm opens proves nothing.
fn measure() -> Result<Speed, Error> {
    let (sender, answer) = mpsc::channel();
    // In a thread of its own, since a broken hypervisor may never come back; such a thread
    // ends with this process.
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
