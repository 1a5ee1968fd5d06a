//! When a machine is ready to be captured, and how that is found out.

use std::fmt;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use regex::bytes::Regex;
use supermachine::agent::{Replies, console_tail};
use supermachine_formats::wire::{Command, Exit, ExitStatus, Reply, Request};
use supermachine_vmm::Machine;

use crate::BakeError;
use crate::ask::ask;
use crate::error::LastWords;

/// Without output for this long, a machine whose readiness nobody described is ready.
const QUIET: Duration = Duration::from_secs(2);
/// How long a service may take to listen without a word.
const SILENT_START: Duration = Duration::from_secs(10);
/// How often the guest is asked.
const INTERVAL: Duration = Duration::from_millis(20);
/// How much of the entrypoint's output is kept.
const KEPT_OUTPUT: usize = 64 << 10;
/// How much of it an error tells.
const TOLD_OUTPUT: usize = 4 << 10;

/// When a machine is ready to be captured.
///
/// ```
/// use supermachine_baker::Ready;
///
/// let ready: Ready = "tcp:6379".parse()?;
/// assert_eq!(ready.to_string(), "tcp:6379");
/// # Ok::<(), supermachine_baker::BakeError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Ready {
    /// What comes first: something listens on a port that the image exposes, the entrypoint ends
    /// with success, or it has written nothing for two seconds (ten seconds after its start at
    /// the least if the image exposes ports, for services that begin slowly and in silence).
    #[default]
    Auto,
    /// Something in the guest listens on this TCP port.
    Tcp(u16),
    /// The entrypoint has written something that the expression matches.
    Log(Regex),
    /// A command, run again and again, ends with success. Its words are separated by spaces.
    Exec(Vec<String>),
    /// The entrypoint ends by itself, with success.
    Exit,
}

impl FromStr for Ready {
    type Err = BakeError;

    fn from_str(text: &str) -> Result<Self, BakeError> {
        let invalid = || BakeError::InvalidReady { text: text.to_owned() };
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "exit" => Ok(Self::Exit),
            Some(("tcp", port)) => match port.parse() {
                Ok(0) | Err(_) => Err(invalid()),
                Ok(port) => Ok(Self::Tcp(port)),
            },
            Some(("log", pattern)) => Regex::new(pattern)
                .map(Self::Log)
                .map_err(|source| BakeError::InvalidPattern { source }),
            Some(("exec", command)) => {
                let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
                if words.is_empty() { Err(invalid()) } else { Ok(Self::Exec(words)) }
            }
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Tcp(port) => write!(f, "tcp:{port}"),
            Self::Log(pattern) => write!(f, "log:{pattern}"),
            Self::Exec(words) => write!(f, "exec:{}", words.join(" ")),
            Self::Exit => f.write_str("exit"),
        }
    }
}

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
            .map_err(|source| BakeError::Thread { source })?;
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
        // Ends the thread, which waits for output that may never come.
        closer.close();
        result
    })
}

/// Passes the entrypoint's output and end on until the stream ends.
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
                    return Err(BakeError::EntrypointMissing { failure });
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

    /// Takes the output that came while the guest was asked something, to be told.
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
                let patience = if self.exposed_ports.is_empty() { QUIET } else { SILENT_START };
                let is_quiet =
                    self.last_output.elapsed() >= QUIET && self.begin.elapsed() >= patience;
                Ok(is_quiet
                    || self.listening()?.iter().any(|port| self.exposed_ports.contains(port)))
            }
            Ready::Exec(words) => self.succeeds(words),
            Ready::Log(_) | Ready::Exit => Ok(false),
        }
    }

    fn listening(&self) -> Result<Vec<u16>, supermachine::Error> {
        match ask(self.machine, &Request::Listening)?.only()? {
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
            // 0 would mean that it may take for ever.
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
        let (ready, last_words) = (self.ready.clone(), self.last_words());
        Err(BakeError::EntrypointEnded { status, ready, last_words })
    }

    fn not_ready(&self) -> BakeError {
        let (ready, limit) = (self.ready.clone(), self.limit);
        BakeError::NotReady { ready, limit, last_words: self.last_words() }
    }

    fn last_words(&self) -> LastWords {
        let start = self.output.len().saturating_sub(TOLD_OUTPUT);
        let output = self.output.get(start..).unwrap_or_default();
        LastWords {
            output: String::from_utf8_lossy(output).into_owned(),
            console: console_tail(self.machine),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_round_trips() {
        for text in ["auto", "exit", "tcp:80", "log:ready to accept", "exec:redis-cli ping"] {
            assert_eq!(text.parse::<Ready>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "tcp", "tcp:", "tcp:0", "tcp:65536", "exec:", "exec:  ", "udp:53"] {
            let error = text.parse::<Ready>().unwrap_err();
            assert!(matches!(error, BakeError::InvalidReady { .. }), "{text}");
        }
        assert!(matches!("log:(".parse::<Ready>(), Err(BakeError::InvalidPattern { .. })));
    }
}
