//! `supermachine ps`: the machines that run by themselves.

use std::io::{self, Write};

use serde::Serialize;
use supermachine::worker::State;

use crate::error::Error;
use crate::label::Label;
use crate::machines::Machines;
use crate::{format, report};

/// List the machines that run by themselves
///
/// A machine is there until it is stopped, also when its entrypoint has ended or its guest has failed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    /// `running`, `ended` or `failed`.
    state: &'static str,
    /// How the entrypoint or the guest ended.
    reason: Option<String>,
    /// The process that holds the machine.
    pid: u32,
    #[serde(flatten)]
    label: Label,
}

/// Prints a table of all machines. The status is 1 if one of them does not answer.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let machines = Machines::locate();
    let mut rows = Vec::new();
    let mut status = 0;
    for name in machines.names()? {
        match row(&machines, &name) {
            Ok(row) => rows.push(row),
            // It ended meanwhile, or is about to begin or to end.
            Err(error) if error.is_passing() => {}
            Err(error) => {
                report::warning(&format!("the machine {name} does not answer"));
                report::error(&error);
                status = 1;
            }
        }
    }
    let text = if args.json { format::json(&rows) } else { table(&rows) };
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(status)
}

fn row(machines: &Machines, name: &str) -> Result<Row, Error> {
    let client = machines.connect_now(name)?;
    let status = client.status()?;
    let (state, reason) = match status.state {
        State::Running => ("running", None),
        State::Ended { status } => ("ended", Some(status.to_string())),
        State::Failed { failure, .. } => ("failed", Some(failure.to_string())),
        _ => ("unknown", None),
    };
    let pid = client.pid();
    let label = Label::read(&status.label).ok_or(Error::OtherLabel { pid })?;
    Ok(Row { state, reason, pid, label })
}

fn table(rows: &[Row]) -> String {
    let head = ["NAME", "SNAPSHOT", "UP", "PID", "PORTS", "STATE"].map(str::to_owned);
    let cells = rows.iter().map(|row| {
        let ports: Vec<_> = row.label.ports.iter().map(ToString::to_string).collect();
        let state = match &row.reason {
            None => row.state.to_owned(),
            Some(reason) => format!("{}: {reason}", row.state),
        };
        [
            row.label.name.clone(),
            row.label.snapshot.clone(),
            format::time(row.label.age()),
            row.pid.to_string(),
            if ports.is_empty() { "-".to_owned() } else { ports.join(",") },
            state,
        ]
    });
    format::table(&std::iter::once(head).chain(cells).collect::<Vec<_>>())
}
