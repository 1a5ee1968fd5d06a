//! `supermachine ps`: lists the machines in the background.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use supermachine::worker::State;

use crate::error::{BackgroundError, Error, HostError};
use crate::globals::Globals;
use crate::label::Label;
use crate::machines::Machines;
use crate::output_format::FormatArgs;
use crate::stopped::StoppedMachine;
use crate::{background, format, report};

/// How long a machine may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// List machines in the background
///
/// A machine stays until it is stopped, even if its entrypoint has exited or its guest has failed. The
/// state is `unresponsive` if the agent in the guest does not answer within five seconds, and `restarting` if
/// the machine waits to start again, as --restart asked for. With -q, prints only names.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// List stopped machines too, whose logs are kept
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Serialize)]
struct Row {
    /// `running`, `paused`, `unresponsive`, `restarting`, `exited`, `failed` or `stopped`.
    state: &'static str,
    /// How the entrypoint exited, or why the guest failed.
    reason: Option<String>,
    /// The process that holds the machine.
    pid: Option<u32>,
    #[serde(flatten)]
    label: Label,
}

/// Prints a table of all machines. Returns 1 if one does not answer.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let machines = Machines::locate();
    let names = machines.names()?;
    let asked: Vec<_> = names.iter().map(|name| ask(name)).collect::<Result<_, _>>()?;
    let (until, mut rows, mut status) = (Instant::now() + 2 * LIMIT, Vec::new(), 0);
    for (name, answer) in names.iter().zip(asked) {
        match wait(name, &answer, until) {
            Ok(row) => rows.push(row),
            // It is starting or stopping, or has stopped since.
            Err(error) if error.is_transient() => {}
            Err(error) => {
                report::error(&error);
                status = 1;
            }
        }
    }
    if args.all {
        rows.extend(machines.stopped_names()?.iter().filter_map(|name| stopped(&machines, name)));
    }
    let text = match (globals.quiet, args.format.is_json()) {
        (true, _) => rows.iter().map(|row| format!("{}\n", row.label.name)).collect(),
        (false, true) => format::json(&rows),
        (false, false) => table(&rows),
    };
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(status)
}

/// Asks a machine in a thread of its own, since it may never answer.
fn ask(name: &str) -> Result<Receiver<Result<Row, Error>>, Error> {
    let (sender, answer) = channel();
    let name = name.to_owned();
    let work = move || {
        // The receiver may have timed out.
        let _ = sender.send(row(&name));
    };
    let thread = thread::Builder::new().name("ps".into()).spawn(work);
    thread.map_err(|source| HostError::Thread { source })?;
    Ok(answer)
}

fn wait(name: &str, answer: &Receiver<Result<Row, Error>>, until: Instant) -> Result<Row, Error> {
    match answer.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok(row) => row,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            let (name, seconds) = (name.to_owned(), 2 * LIMIT.as_secs());
            Err(BackgroundError::Unresponsive { name, seconds }.into())
        }
    }
}

fn row(name: &str) -> Result<Row, Error> {
    let client = Machines::locate().connect_now(name)?;
    let status = client.status()?;
    let (state, reason) = match status.state {
        State::Running if !background::answers_within(client.vm(), LIMIT)? => {
            ("unresponsive", Some(format!("no answer within {}", format::time(LIMIT))))
        }
        State::Running => ("running", None),
        State::Paused => ("paused", None),
        State::EntrypointExited { status } => ("exited", Some(status.to_string())),
        State::Failed { failure, .. } => ("failed", Some(failure.to_string())),
        _ => ("unknown", None),
    };
    let pid = client.pid();
    let mut label = Label::parse(&status.label).ok_or(BackgroundError::OtherVersion { pid })?;
    // It may have got another name.
    name.clone_into(&mut label.name);
    let (state, reason) = match (label.until_restart(), reason) {
        (Some(wait), Some(reason)) => {
            ("restarting", Some(format!("{reason}, starts in {}", format::time(wait))))
        }
        (Some(_), None) => ("restarting", None),
        (None, reason) => (state, reason),
    };
    Ok(Row { state, reason, pid: Some(pid), label })
}

fn stopped(machines: &Machines, name: &str) -> Option<Row> {
    let machine = StoppedMachine::find(machines, name)?;
    let reason = machine.status.map(|status| format!("exit code {status}"));
    Some(Row { state: "stopped", reason, pid: None, label: machine.label })
}

fn table(rows: &[Row]) -> String {
    let head = ["NAME", "SNAPSHOT", "UP", "PID", "PORTS", "STATE"].map(str::to_owned);
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let cells = rows.iter().map(|row| {
        let ports: Vec<_> = row.label.ports.iter().map(ToString::to_string).collect();
        let state = match &row.reason {
            None => row.state.to_owned(),
            Some(reason) => format!("{}: {reason}", row.state),
        };
        let up = row.pid.map(|_| format::time(row.label.age()));
        [
            row.label.name.clone(),
            row.label.snapshot.clone(),
            or_dash(up.unwrap_or_default()),
            or_dash(row.pid.map(|pid| pid.to_string()).unwrap_or_default()),
            or_dash(ports.join(",")),
            state,
        ]
    });
    format::table(&std::iter::once(head).chain(cells).collect::<Vec<_>>())
}
