//! `supermachine events`: prints what happens to machines in the background.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::event_filter::Filter;
use crate::events::Event;
use crate::machines::Machines;
use crate::moment::Moment;

/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How often to look for machines whose supervisors were killed.
const LOOK_FOR_DEAD: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  supermachine events
  supermachine events --since 10m --until 0s
  supermachine events --json --filter event=die --filter machine=web

Events are start, die (with the exit code of the entrypoint), kill, stop, restart, pause, unpause, rename, \
destroy (of the logs), and exec_start and exec_die of jobs of `exec -d`. The last 1 MiB of events at least \
is kept until the folder of running machines is deleted.

A filter is one of event=NAME, machine=NAME, image=NAME, snapshot=NAME, label=KEY[=VALUE] and type=machine. \
Filters of one key are alternatives; an event passes if it matches the filters of every key.";

/// Print what happens to machines in the background
///
/// Prints events as they happen, until it is interrupted or --until has come.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Begin with the events after this time: seconds since 1970, a date, or how long ago, as 10m
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    since: Option<Moment>,
    /// End with the events before this time
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    until: Option<Moment>,
    /// Print only events that match
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    /// Choose the format of each line
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: EventFormat,
    /// Print JSON, as --format json does
    #[arg(long)]
    json: bool,
}

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum EventFormat {
    /// Text
    #[default]
    Text,
    /// An object, with the keys of Docker's
    Json,
}

/// Prints events until the end that was asked for.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let machines = Machines::locate();
    machines.create()?;
    let from = args.since.unwrap_or_else(Moment::now);
    let mut log = machines.events().read(args.since.is_some());
    let mut looked = Instant::now();
    // Notes the machines whose supervisors were killed before.
    machines.names()?;
    loop {
        // Before the log is read, so that nothing before that time is missed.
        let is_over = args.until.is_some_and(|until| until.time_left().is_zero());
        let events = log.next().map_err(Error::file("read", machines.events().path()))?;
        for event in events {
            let is_in = from <= event.at() && args.until.is_none_or(|until| event.at() <= until);
            if is_in && Filter::all_match(&args.filter, &event) {
                args.print(&event)?;
            }
        }
        if is_over {
            return Ok(0);
        }
        thread::sleep(args.until.map_or(LOOK, |until| until.time_left().min(LOOK)));
        if looked.elapsed() >= LOOK_FOR_DEAD {
            machines.names()?;
            looked = Instant::now();
        }
    }
}

impl Args {
    fn print(&self, event: &Event) -> Result<(), Error> {
        let is_json = self.json || self.format == EventFormat::Json;
        let line = if is_json { event.line() } else { event.to_string() };
        let mut stdout = io::stdout().lock();
        let written = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        written.map_err(|source| Error::Output { source })
    }
}
