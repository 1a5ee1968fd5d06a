//! Signals as options of the command.

use supermachine_baker::signals;

/// SIGINT in the guest.
pub(crate) const GUEST_SIGINT: i32 = 2;

/// Parses a signal for an option.
pub(crate) fn parse(text: &str) -> Result<u8, String> {
    signals::number(text)
        .ok_or_else(|| "not a signal: use a name, as TERM, or a number from 1 to 64".into())
}
