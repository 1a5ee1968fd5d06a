//! Passes signals of this process on to a process in a machine.
//!
//! A signal that this process ignores, as SIGHUP under `nohup`, stays ignored.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use supermachine::ExitStatus;
use supermachine_baker::signals;

use crate::error::{Error, HostError};
use crate::signal_names::GUEST_SIGINT;

/// The signals that are passed on, as the host numbers them, with their names.
const FORWARDED: [(i32, &str); 6] = [
    (SIGHUP, "HUP"),
    (SIGINT, "INT"),
    (SIGQUIT, "QUIT"),
    (SIGTERM, "TERM"),
    (SIGUSR1, "USR1"),
    (SIGUSR2, "USR2"),
];

/// Signals that are being passed on, until this process exits.
#[derive(Debug)]
pub(crate) struct Forwarding {
    /// Whether a SIGINT was passed on. Written by the thread before it sends the signal.
    was_interrupted: Arc<AtomicBool>,
}

/// Passes signals on to `send`, as the guest numbers them. The second SIGINT kills this process.
pub(crate) fn forward(send: impl Fn(i32) + Send + 'static) -> Result<Forwarding, Error> {
    let ignored = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    let wanted = FORWARDED.iter().map(|(number, _)| *number).filter(|number| !ignored(*number));
    let mut signals = Signals::new(wanted).map_err(|source| HostError::Signals { source })?;
    let was_interrupted = Arc::new(AtomicBool::new(false));
    let forwarding = Forwarding { was_interrupted: Arc::clone(&was_interrupted) };
    let work = move || {
        for signal in signals.forever() {
            if signal == SIGINT && was_interrupted.swap(true, Ordering::AcqRel) {
                // Returns only if it fails, and then the signal is passed on once more.
                let _ = emulate_default_handler(SIGINT);
            }
            let name = FORWARDED.iter().find(|(number, _)| *number == signal);
            if let Some(number) = name.and_then(|(_, name)| signals::number(name)) {
                send(number.into());
            }
        }
    };
    let thread = thread::Builder::new().name("signals".into()).spawn(work);
    thread.map_err(|source| HostError::Thread { source })?;
    Ok(forwarding)
}

impl Forwarding {
    /// Kills this process by SIGINT if a SIGINT that was passed on killed the command. A shell then
    /// knows that the user interrupted it.
    pub(crate) fn die_of_interrupt(&self, status: ExitStatus) {
        if status.signal() == Some(GUEST_SIGINT) && self.was_interrupted.load(Ordering::Acquire) {
            // Returns only if it fails, and then the exit status is 130.
            let _ = emulate_default_handler(SIGINT);
        }
    }
}

/// Whether a process ignores a signal, by its `/proc/PID/status`.
fn ignored(status: &str) -> impl Fn(i32) -> bool + use<> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    move |signal| {
        u32::try_from(signal - 1).is_ok_and(|bit| mask.checked_shr(bit).unwrap_or(0) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let ignored = ignored("Name:\tx\nSigIgn:\t0000000000001003\nSigCgt:\t00\n");
        assert!(ignored(1) && ignored(2) && ignored(13));
        assert!(!ignored(3) && !ignored(15) && !ignored(64));
    }

    #[test]
    fn every_forwarded_signal_has_a_number_in_the_guest() {
        let numbers = FORWARDED.map(|(_, name)| signals::number(name).unwrap());
        assert_eq!(numbers, [1, 2, 3, 15, 10, 12]);
    }
}
