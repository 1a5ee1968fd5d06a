//! `supermachine stop`: machines that run by themselves end.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use supermachine::Vm;
use supermachine::worker::State;

use crate::error::Error;
use crate::label::Label;
use crate::machines::Machines;
use crate::report;

/// End machines that run by themselves
///
/// The entrypoint is sent the signal that its image names, or SIGTERM, and has some time to end. Then
/// the machine ends, and nothing of it is kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The machines
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
    /// How long the entrypoint may take, in seconds; with 0 it is not asked
    #[arg(short, long, value_name = "SECONDS", default_value = "10", value_parser = patience)]
    time: Duration,
}

/// Ends all that can be ended. The status is 1 if one could not, or had failed before.
pub(crate) fn exec(args: &Args) -> u8 {
    let machines = Machines::locate();
    let mut status = 0;
    for name in &args.names {
        if let Err(error) = stop(&machines, name, args.time) {
            report::error(&error);
            status = 1;
        }
    }
    status
}

fn stop(machines: &Machines, name: &str, time: Duration) -> Result<(), Error> {
    let client = machines.connect(name)?;
    let status = client.status()?;
    if !time.is_zero()
        && status.state == State::Running
        && let Some(label) = Label::read(&status.label)
    {
        ask(client.vm(), label.stop_signal, time);
    }
    match client.stop() {
        // Somebody else had it ended, or killed its process.
        Err(supermachine::Error::WorkerGone | supermachine::Error::Stopped) => Ok(()),
        Err(source @ supermachine::Error::Guest { .. }) => {
            Err(Error::HadFailed { name: name.to_owned(), source })
        }
        result => Ok(result?),
    }
}

/// Asks the entrypoint to end, and waits for that, but no longer than this, also for a guest that
/// does not answer. Whatever goes wrong, the machine ends.
fn ask(machine: Vm, signal: u8, time: Duration) {
    let (sender, ended) = channel();
    // It ends with the machine at the latest.
    let asked = thread::Builder::new().spawn(move || {
        if machine.workload_signal(signal.into()).is_ok() {
            let _ = machine.wait();
        }
        // Who waits no longer need not be told.
        let _ = sender.send(());
    });
    if asked.is_ok() {
        let _ = ended.recv_timeout(time);
    }
}

/// Reads a number of seconds, which may be none and have a fraction.
fn patience(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|_| "not a time".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_may_be_none() {
        assert_eq!(patience("0"), Ok(Duration::ZERO));
        assert_eq!(patience("0.25"), Ok(Duration::from_millis(250)));
        for text in ["", "-1", "nan", "1e300", "1s"] {
            assert!(patience(text).is_err(), "{text:?}");
        }
    }
}
