//! Machines in the background, as the commands use them: reaching, stopping and remembering them.

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use supermachine::Vm;
use supermachine::worker::{Client, State};

use crate::error::{BackgroundError, Error, HostError};
use crate::events::Event;
use crate::label::Label;
use crate::machines::Machines;
use crate::stopped::{self, StoppedMachine};
use crate::{report, supervisor};

/// How long the entrypoint gets to exit, unless the machine says otherwise.
const GRACE_PERIOD: Duration = Duration::from_secs(10);
/// How long a supervisor may take to notice that an entrypoint has exited.
const NOTICE: Duration = Duration::from_secs(2);
/// How often a machine that is about to start again is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// The signal that cannot be caught.
const SIGKILL: u8 = 9;
/// How long a guest may take to hand out its logs when it is stopped.
const LOGS: Duration = Duration::from_secs(5);

/// Connects to a machine that can run a command: one that neither is paused nor waits for its restart.
pub(crate) fn connect_running(name: &str) -> Result<Vm, Error> {
    let client = Machines::locate().connect(name)?;
    let status = client.status()?;
    let label = Label::parse(&status.label);
    match status.state {
        State::Paused => Err(BackgroundError::Paused { name: name.to_owned() }.into()),
        _ if label.is_some_and(|label| label.restarts_at.is_some()) => {
            Err(BackgroundError::Restarting { name: name.to_owned() }.into())
        }
        _ => Ok(client.vm()),
    }
}

/// Connects to a machine whose agent answers: one that is not paused.
pub(crate) fn connect_unpaused(name: &str) -> Result<Client, Error> {
    let client = Machines::locate().connect(name)?;
    match client.status()?.state {
        State::Paused => Err(BackgroundError::Paused { name: name.to_owned() }.into()),
        _ => Ok(client),
    }
}

/// The label of a machine.
pub(crate) fn label(client: &Client) -> Result<Label, Error> {
    let pid = client.pid();
    let label = Label::parse(&client.status()?.label);
    Ok(label.ok_or(BackgroundError::OtherVersion { pid })?)
}

/// Records what a user did to a machine.
pub(crate) fn record<const N: usize>(
    machines: &Machines,
    name: &str,
    label: Option<&Label>,
    action: &str,
    more: [(&str, String); N],
) {
    let about = label.into_iter().flat_map(Label::attributes);
    machines.events().record(&Event::new(action, name, about.chain(more)));
}

/// Waits until a machine whose entrypoint has exited starts again. `before` is its label from before the wait
/// for that exit. Returns `false` if it does not start again.
pub(crate) fn await_restart(client: &Client, before: &Label, status: u8) -> Result<bool, Error> {
    if !before.options.restart.applies(status, before.restarts) {
        return Ok(false);
    }
    let begin = Instant::now();
    loop {
        let now = match label(client) {
            // It was stopped, and the caller finds its last status.
            Err(error) if error.is_transient() => return Ok(true),
            label => label?,
        };
        if now.restarts != before.restarts {
            return Ok(true);
        }
        // The supervisor notices the exit at about the same time, unless a stop was asked for.
        if now.restarts_at.is_none() && begin.elapsed() > NOTICE {
            return Ok(false);
        }
        thread::sleep(LOOK);
    }
}

/// Whether the agent in the guest answers in time.
pub(crate) fn answers_within(machine: Vm, limit: Duration) -> Result<bool, Error> {
    let (sender, answer) = channel();
    let ask = move || {
        // An error is an answer, too. The receiver may have timed out.
        let _ = sender.send(machine.stats().is_ok());
    };
    let thread = thread::Builder::new().name("probe".into()).spawn(ask);
    thread.map_err(|source| HostError::Thread { source })?;
    Ok(answer.recv_timeout(limit).is_ok())
}

/// Does something to each machine, and reports each that it fails for. Returns the exit status: 1 if there
/// was one.
pub(crate) fn for_each(names: &[String], act: impl Fn(&Machines, &str) -> Result<(), Error>) -> u8 {
    let machines = Machines::locate();
    let failures = names.iter().filter_map(|name| act(&machines, name).err());
    let count = failures.inspect(|error| report::error(error)).count();
    u8::from(count > 0)
}

/// The option `--time` of the commands that stop machines.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct GracePeriod {
    /// Wait this long for the entrypoint; 0 stops the machine at once [default: 10, or the machine's
    /// --stop-timeout]
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) time: Option<Duration>,
}

/// Parses a number of seconds, which may be zero and have a fraction.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|_| "not a duration".to_owned())
}

/// Stops a machine, and keeps its logs until the next machine of its name. `time` is how long the
/// entrypoint gets to exit; `None` is the machine's own grace period.
pub(crate) fn stop(machines: &Machines, name: &str, time: Option<Duration>) -> Result<(), Error> {
    let (label, result) = end(machines, name, time)?;
    record(machines, name, label.as_ref(), "stop", []);
    result
}

/// Stops a machine at once.
pub(crate) fn kill(machines: &Machines, name: &str) -> Result<(), Error> {
    end(machines, name, Some(Duration::ZERO))?.1
}

/// Stops a machine. Returns its label, and whether it had failed before.
fn end(
    machines: &Machines,
    name: &str,
    time: Option<Duration>,
) -> Result<(Option<Label>, Result<(), Error>), Error> {
    let client = machines.connect(name)?;
    let status = client.status()?;
    let label = Label::parse(&status.label);
    // Else the end of its entrypoint would be a reason to start it again.
    machines.mark_stopping(name)?;
    let own = label.as_ref().and_then(|label| label.options.stop_timeout);
    let grace_period = time.or(own.map(Duration::from_secs)).unwrap_or(GRACE_PERIOD);
    if status.state == State::Paused && !grace_period.is_zero() {
        // A paused entrypoint cannot exit.
        client.vm().resume()?;
    }
    let is_alive = matches!(status.state, State::Running | State::Paused);
    if let Some(label) = label.as_ref().filter(|_| is_alive && !grace_period.is_zero()) {
        let signal = ("signal", label.stop_signal.to_string());
        record(machines, name, Some(label), "kill", [signal]);
        terminate(client.vm(), label.stop_signal, grace_period);
    }
    let is_removed = label.as_ref().is_some_and(|label| label.options.remove);
    let kept = label.clone().filter(|_| !is_removed && status.state != State::Paused);
    let kept = kept.and_then(|label| {
        let label = Label { name: name.to_owned(), ..label };
        let earlier = supervisor::earlier_output(&machines.running(name).ok()?);
        StoppedMachine::read(client.vm(), label, earlier, LOGS)
    });
    if grace_period.is_zero() {
        record(machines, name, label.as_ref(), "kill", [("signal", SIGKILL.to_string())]);
    }
    let result = match client.stop() {
        // Another command stopped the machine, or its process was killed.
        Err(
            supermachine::Error::Worker { source: supermachine::error::WorkerError::Gone }
            | supermachine::Error::Stopped,
        ) => Ok(()),
        Err(source @ supermachine::Error::Guest { .. }) => {
            Err(BackgroundError::HadFailed { name: name.to_owned(), source }.into())
        }
        result => Ok(result?),
    };
    if let Some(machine) = kept {
        // The machine has stopped. Logs that cannot be kept do not change that.
        let _ = stopped::keep(machines, &machine);
    }
    if is_removed {
        record(machines, name, label.as_ref(), "destroy", []);
    }
    Ok((label, result))
}

/// Sends the entrypoint the signal, and waits at most this long for it to exit. A guest that does not
/// answer cannot prolong the wait. Errors are ignored, since the machine stops anyway.
fn terminate(machine: Vm, signal: u8, time: Duration) {
    let (sender, exited) = channel();
    // The thread exits when the machine stops at the latest.
    let thread = thread::Builder::new().spawn(move || {
        if machine.workload_signal(signal.into()).is_ok() {
            let _ = machine.wait();
        }
        // The receiver may have timed out.
        let _ = sender.send(());
    });
    if thread.is_ok() {
        let _ = exited.recv_timeout(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_period_may_be_zero() {
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for text in ["", "-1", "nan", "1e300", "1s"] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn one_failure_fails_all_and_stops_none() {
        use std::cell::RefCell;
        let names = ["a", "b", "c"].map(str::to_owned);
        let (asked, not_running) = (RefCell::new(Vec::new()), |name: &str| {
            Err(BackgroundError::NotRunning { name: name.to_owned() }.into())
        });
        let status = for_each(&names, |_, name| {
            asked.borrow_mut().push(name.to_owned());
            if name == "b" { not_running(name) } else { Ok(()) }
        });
        assert_eq!((status, asked.into_inner()), (1, names.to_vec()));
        assert_eq!(for_each(&names, |_, _| Ok(())), 0);
    }
}
