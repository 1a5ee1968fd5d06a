//! One command in a running emulated host: its streams and its result.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::wire::{self, Report, Request};
use crate::error::Error;

/// The clock of a host without a pulse for so long has stopped.
pub(super) const STILL_LIMIT: Duration = Duration::from_secs(30);
/// The status of timeout(1).
const TIMED_OUT: u8 = 124;
/// The status of a program whose reader went away, as a shell gives it.
const BROKEN_PIPE: u8 = 141;

/// Our ends of a host's ports.
pub(super) struct Ports {
    pub(super) stdout: UnixStream,
    pub(super) stderr: UnixStream,
    pub(super) pulse: UnixStream,
    pub(super) control: UnixStream,
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SessionEnd {
    /// The command exited with this status.
    Status(u8),
    /// The host died.
    Died,
    /// The host's clock stopped.
    ClockStopped,
}

/// An event from a running host.
enum Event {
    Output { stream: usize, bytes: u64 },
    ReaderGone,
    Pulse,
    Report(Report),
    HostGone,
}

/// Runs a command with our standard streams.
pub(super) fn run(
    mut ports: Ports,
    request: &Request,
    timeout: Option<Duration>,
) -> Result<SessionEnd, Error> {
    let input = ports.control.try_clone().map_err(Error::system("share a socket"))?;
    if wire::send(&mut ports.control, request).is_err() {
        return Ok(SessionEnd::Died);
    }
    let (sender, events) = mpsc::channel();
    forward_input(input);
    forward(0, ports.stdout, io::stdout(), sender.clone());
    forward(1, ports.stderr, io::stderr(), sender.clone());
    let pulses = sender.clone();
    thread::spawn(move || {
        let mut beats = [0; 16];
        while let Ok(1..) = ports.pulse.read(&mut beats) {
            if pulses.send(Event::Pulse).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        let report = wire::receive(&mut ports.control);
        let _ = sender.send(report.map_or(Event::HostGone, Event::Report));
    });
    Ok(follow(&events, timeout, STILL_LIMIT))
}

/// Waits for the report and all of the output that it counts.
fn follow(events: &Receiver<Event>, timeout: Option<Duration>, still: Duration) -> SessionEnd {
    let began = Instant::now();
    let mut pulse: Option<Instant> = None;
    let mut arrived = [0, 0];
    let mut report = None;
    loop {
        let left = timeout.map(|limit| limit.saturating_sub(began.elapsed()));
        // A booting host has no pulse, and neither has the measuring one.
        let beat = pulse.map(|last| still.saturating_sub(last.elapsed()));
        let wait = left.into_iter().chain(beat).min();
        let event = match wait {
            Some(wait) => events.recv_timeout(wait),
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match event {
            Ok(Event::Output { stream, bytes }) => {
                arrived.iter_mut().skip(stream).take(1).for_each(|n| *n += bytes);
            }
            Ok(Event::ReaderGone) => return SessionEnd::Status(BROKEN_PIPE),
            Ok(Event::Pulse) => pulse = Some(Instant::now()),
            Ok(Event::Report(found)) => report = Some(found),
            Ok(Event::HostGone) | Err(RecvTimeoutError::Disconnected) => return SessionEnd::Died,
            Err(RecvTimeoutError::Timeout)
                if left.is_some_and(|left| left <= beat.unwrap_or(left)) =>
            {
                return SessionEnd::Status(TIMED_OUT);
            }
            Err(RecvTimeoutError::Timeout) => return SessionEnd::ClockStopped,
        }
        if let Some(found) = &report
            && arrived == [found.stdout, found.stderr]
        {
            return SessionEnd::Status(found.status);
        }
    }
}

/// Forwards our standard input until it ends.
fn forward_input(mut to: UnixStream) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n) = io::stdin().lock().read(&mut buffer) {
            let sent = buffer.get(..n).map(|chunk| wire::send_chunk(&mut to, chunk));
            if n == 0 || !matches!(sent, Some(Ok(()))) {
                return;
            }
        }
    });
}

fn forward(
    stream: usize,
    mut from: UnixStream,
    mut to: impl Write + Send + 'static,
    events: Sender<Event>,
) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let written = buffer.get(..n).map(|b| to.write_all(b).and_then(|()| to.flush()));
            let event = match written {
                Some(Ok(())) => Event::Output { stream, bytes: n as u64 },
                _ => Event::ReaderGone,
            };
            if events.send(event).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(20);

    fn after(
        events: impl IntoIterator<Item = Event>,
        timeout: Duration,
        still: Duration,
    ) -> SessionEnd {
        let (sender, receiver) = mpsc::channel();
        for event in events {
            sender.send(event).unwrap();
        }
        follow(&receiver, Some(timeout), still)
    }

    #[test]
    fn missing_pulse_means_a_stopped_clock() {
        assert_eq!(after([Event::Pulse], LONG, SHORT), SessionEnd::ClockStopped);
    }

    #[test]
    fn host_without_a_first_pulse_times_out() {
        assert_eq!(after([], SHORT, Duration::ZERO), SessionEnd::Status(TIMED_OUT));
    }

    #[test]
    fn time_out_before_a_missing_pulse_is_a_time_out() {
        assert_eq!(after([Event::Pulse], SHORT, LONG), SessionEnd::Status(TIMED_OUT));
    }

    #[test]
    fn status_waits_for_all_output() {
        let report = Event::Report(Report { status: 3, stdout: 5, stderr: 0 });
        let output = Event::Output { stream: 0, bytes: 5 };
        assert_eq!(after([report, Event::Pulse, output], LONG, LONG), SessionEnd::Status(3));
    }

    #[test]
    fn host_gone_before_its_report_died() {
        assert_eq!(after([Event::Pulse, Event::HostGone], LONG, LONG), SessionEnd::Died);
    }
}
