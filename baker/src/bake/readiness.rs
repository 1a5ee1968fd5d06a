//! Waiting until a machine is ready to be captured.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use supermachine::agent::{Replies, console_tail};
use supermachine_formats::wire::{Command, Exit, ExitStatus, Reply, Request};
use supermachine_vmm::Machine;

use super::agent::request;
use super::ready::Ready;
use crate::error::{BakeError, LastOutput, WorkloadError};

/// The silence after which a machine without a readiness condition is ready.
const QUIET: Duration = Duration::from_secs(2);
/// How long a service may start up in silence.
const SILENT_START: Duration = Duration::from_secs(10);
/// The polling interval.
const INTERVAL: Duration = Duration::from_millis(20);
/// How many bytes of the entrypoint's output are kept.
const KEPT_OUTPUT: usize = 64 << 10;
/// How many of them an error shows.
const SHOWN_OUTPUT: usize = 4 << 10;

/// Waits until the machine is ready. The entrypoint must have been started.
pub(crate) fn wait(
    machine: &Machine,
    ready: &Ready,
    exposed_ports: &[u16],
    limit: Duration,
) -> Result<(), BakeError> {
    let mut logs = Replies::open(machine, &Request::Logs { follow: true })
        .map_err(BakeError::machine("wait for readiness"))?;
    let closer = logs.closer().map_err(BakeError::machine("wait for readiness"))?;
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        thread::Builder::new()
            .name("sm-bake-logs".into())
            .spawn_scoped(scope, move || follow(&mut logs, &sender))
            .map_err(BakeError::io("start the thread", "sm-bake-logs"))?;
        let mut watch = Watch {
            machine,
            ready,
            exposed_ports,
            limit,
            begin: Instant::now(),
            last_output: Instant::now(),
            output: Vec::new(),
        };
        let result = watch.wait(&receiver);
        // Stops the thread, which may be waiting for output.
        closer.close();
        result
    })
}

/// Passes on the entrypoint's output and exit until the stream closes.
fn follow(logs: &mut Replies, sender: &Sender<Result<Reply, supermachine::Error>>) {
    loop {
        let reply = logs.next();
        let is_last = reply.as_ref().map_or(true, Reply::is_final);
        if sender.send(reply).is_err() || is_last {
            return;
        }
    }
}

struct Watch<'a> {
    machine: &'a Machine,
    ready: &'a Ready,
    exposed_ports: &'a [u16],
    limit: Duration,
    begin: Instant,
    last_output: Instant,
    output: Vec<u8>,
}

impl Watch<'_> {
    fn wait(
        &mut self,
        logs: &Receiver<Result<Reply, supermachine::Error>>,
    ) -> Result<(), BakeError> {
        loop {
            match logs.recv_timeout(INTERVAL) {
                Ok(Ok(Reply::Stdout(bytes) | Reply::Stderr(bytes))) => {
                    self.take_output(&bytes);
                    if self.log_matches() {
                        return Ok(());
                    }
                    continue;
                }
                Ok(Ok(Reply::Exited(exit))) => return self.ended(exit),
                Ok(Ok(Reply::Failed(failure))) => {
                    return Err(BakeError::Workload(WorkloadError::EntrypointMissing { failure }));
                }
                Ok(Ok(_)) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Err(source)) => return Err(BakeError::machine("wait for readiness")(source)),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.not_ready());
                }
            }
            if self.is_ready().map_err(BakeError::machine("wait for readiness"))? {
                return Ok(());
            }
            if self.begin.elapsed() >= self.limit {
                self.take_rest(logs);
                return Err(self.not_ready());
            }
        }
    }

    fn take_output(&mut self, bytes: &[u8]) {
        self.last_output = Instant::now();
        self.output.extend_from_slice(bytes);
        let excess = self.output.len().saturating_sub(KEPT_OUTPUT);
        self.output.drain(..excess);
    }

    /// Takes the output that arrived during a query, for the error.
    fn take_rest(&mut self, logs: &Receiver<Result<Reply, supermachine::Error>>) {
        while let Ok(Ok(Reply::Stdout(bytes) | Reply::Stderr(bytes))) = logs.try_recv() {
            self.take_output(&bytes);
        }
    }

    fn log_matches(&self) -> bool {
        matches!(self.ready, Ready::Log(pattern) if pattern.is_match(&self.output))
    }

    fn is_ready(&self) -> Result<bool, supermachine::Error> {
        match self.ready {
            Ready::Tcp(port) => Ok(self.listening()?.contains(port)),
            Ready::Auto => {
                let least = if self.exposed_ports.is_empty() { QUIET } else { SILENT_START };
                let is_quiet = self.last_output.elapsed() >= QUIET && self.begin.elapsed() >= least;
                Ok(is_quiet
                    || self.listening()?.iter().any(|port| self.exposed_ports.contains(port)))
            }
            Ready::Exec(words) => self.succeeds(words),
            Ready::Log(_) | Ready::Exit => Ok(false),
        }
    }

    fn listening(&self) -> Result<Vec<u16>, supermachine::Error> {
        match request(self.machine, &Request::Listening)?.only()? {
            Reply::Ports(ports) => Ok(ports),
            _ => Err(supermachine::Error::Protocol {
                source: supermachine::error::ProtocolError::UnexpectedReply {
                    request: "listening",
                },
            }),
        }
    }

    fn succeeds(&self, words: &[String]) -> Result<bool, supermachine::Error> {
        let left = self.limit.saturating_sub(self.begin.elapsed());
        let command = Command {
            argv: words.iter().map(|word| word.clone().into_bytes()).collect(),
            // 0 means no limit.
            timeout_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1),
            ..Command::default()
        };
        let mut replies = Replies::open(self.machine, &Request::Exec(command))?;
        loop {
            match replies.next()? {
                Reply::Exited(exit) => return Ok(exit.status == ExitStatus::Code(0)),
                Reply::Failed(failure) => return Err(supermachine::Error::Agent { failure }),
                _ => {}
            }
        }
    }

    fn ended(&self, exit: Exit) -> Result<(), BakeError> {
        let is_expected = match self.ready {
            Ready::Auto | Ready::Exit => exit.status == ExitStatus::Code(0),
            _ => false,
        };
        if is_expected {
            return Ok(());
        }
        let status = match exit.status {
            ExitStatus::Code(code) => format!("exit code {code}"),
            ExitStatus::Signal(signal) => format!("signal {signal}"),
        };
        let (ready, last_output) = (self.ready.to_string(), self.last_output());
        Err(BakeError::Workload(WorkloadError::EntrypointEnded { status, ready, last_output }))
    }

    fn not_ready(&self) -> BakeError {
        let (ready, limit) = (self.ready.to_string(), self.limit);
        BakeError::Workload(WorkloadError::NotReady {
            ready,
            limit,
            last_output: self.last_output(),
        })
    }

    fn last_output(&self) -> LastOutput {
        let start = self.output.len().saturating_sub(SHOWN_OUTPUT);
        let output = &self.output[start..];
        LastOutput {
            output: String::from_utf8_lossy(output).into_owned(),
            console: console_tail(self.machine),
        }
    }
}
