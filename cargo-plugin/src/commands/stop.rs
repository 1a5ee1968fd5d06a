//! `supermachine stop`: stops machines in the background.

use std::time::Duration;

use crate::background::{self, Stop};
use crate::machines::Machines;
use crate::report;

/// Stop machines in the background
///
/// Sends the entrypoint the stop signal of its image, or SIGTERM, and waits for it to exit. Then discards
/// the machine and everything in it, except the logs, which `logs` prints until `rm` or until a machine of
/// the same name starts.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Stop these machines
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
    /// Wait this long for the entrypoint; 0 stops the machine at once [default: 10, or the machine's
    /// --stop-timeout]
    #[arg(short, long, value_name = "SECONDS", value_parser = grace_period)]
    time: Option<Duration>,
}

/// Stops all machines that it can. Returns 1 if one could not be stopped, or had failed before.
pub(crate) fn exec(args: &Args) -> u8 {
    let machines = Machines::locate();
    let mut status = 0;
    for name in &args.names {
        if let Err(error) = background::stop(&machines, name, Stop { grace_period: args.time }) {
            report::error(&error);
            status = 1;
        }
    }
    status
}

/// Parses a number of seconds, which may be zero and have a fraction.
pub(crate) fn grace_period(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|_| "not a duration".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_period_may_be_zero() {
        assert_eq!(grace_period("0"), Ok(Duration::ZERO));
        assert_eq!(grace_period("0.25"), Ok(Duration::from_millis(250)));
        for text in ["", "-1", "nan", "1e300", "1s"] {
            assert!(grace_period(text).is_err(), "{text:?}");
        }
    }
}
