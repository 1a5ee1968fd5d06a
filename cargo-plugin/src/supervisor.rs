//! The supervisor's work while it holds a machine: it watches the entrypoint, records its exit, and starts the
//! machine again if that was asked for.
//!
//! A restart restores the snapshot, so that nothing is left of the machine but its name, its ports and the
//! output of its entrypoint, which goes to `machines/NAME/log`. The watch is a thread of its own. It holds
//! the ports' guards, under a lock that the end of the machine takes, too: once the machine was stopped,
//! no port is opened again.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use supermachine::worker::Control;
use supermachine::{Image, Vm, VmConfig};

use crate::error::{Error, HostError};
use crate::events::{Event, EventLog};
use crate::jobs::BoundedLog;
use crate::label::Label;
use crate::machines::{Machines, TrackedFolder};
use crate::ports::{self, Guard, Publish};
use crate::process;
use crate::restart_policy::BackOff;
use crate::stream_log::Stream;

/// The status of an entrypoint that the end of its machine killed: 128 and SIGKILL.
const KILLED: u8 = 137;
/// The status of an entrypoint whose guest failed, or that could not be started again.
const FAILED: u8 = 255;
/// How long the end of a machine waits for its entrypoint's status.
const LAST_STATUS: Duration = Duration::from_secs(2);
/// The output of earlier starts, in a machine's folder.
const LOG: &str = "log";

/// What a machine is started from, each time.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) image: Image,
    pub(crate) config: VmConfig,
}

/// The guards of published ports; `None` once the machine was stopped.
type Guards = Arc<Mutex<Option<Vec<Guard>>>>;

/// The watch over a machine, as its holder sees it.
#[derive(Debug)]
pub(crate) struct Watch {
    guards: Guards,
    /// Whether the exit of the present entrypoint is still to be recorded.
    is_open: Arc<AtomicBool>,
    exits: Receiver<()>,
    records: Records,
}

/// Records events of a machine.
#[derive(Debug, Clone)]
struct Records {
    tracked: TrackedFolder,
    log: EventLog,
    about: Arc<Vec<(String, String)>>,
    name: String,
}

/// The thread's side.
#[derive(Debug)]
struct Watcher {
    start: Start,
    control: Control,
    label: Label,
    tracked: TrackedFolder,
    guards: Guards,
    is_open: Arc<AtomicBool>,
    exits: Sender<()>,
    records: Records,
}

/// How an entrypoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Exited(u8),
    /// There is none to wait for.
    Absent,
    /// The machine was stopped.
    Stopped,
}

impl Watch {
    /// Watches a machine that is about to be served.
    pub(crate) fn begin(
        start: Start,
        control: Control,
        label: Label,
        tracked: TrackedFolder,
        guards: Vec<Guard>,
    ) -> Result<Self, Error> {
        let about = label.attributes().into_iter().map(|(key, value)| (key.to_owned(), value));
        let records = Records {
            tracked: tracked.clone(),
            log: Machines::locate().events(),
            about: Arc::new(about.collect()),
            name: label.name.clone(),
        };
        records.record("start", []);
        let guards: Guards = Arc::new(Mutex::new(Some(guards)));
        let is_open = Arc::new(AtomicBool::new(true));
        let (sender, exits) = channel();
        let watcher = Watcher {
            start,
            control,
            label,
            tracked,
            guards: Arc::clone(&guards),
            is_open: Arc::clone(&is_open),
            exits: sender,
            records: records.clone(),
        };
        let thread = thread::Builder::new().name("watch".into()).spawn(move || watcher.run());
        thread.map_err(|source| HostError::Thread { source })?;
        Ok(Self { guards, is_open, exits, records })
    }

    /// Closes the ports of a machine that was stopped, and makes sure that the end is recorded.
    pub(crate) fn end(self) {
        drop(lock(&self.guards).take());
        let until = Instant::now() + LAST_STATUS;
        while self.is_open.load(Ordering::Acquire) {
            let left = until.saturating_duration_since(Instant::now());
            if self.exits.recv_timeout(left).is_err() {
                break;
            }
        }
        if self.is_open.swap(false, Ordering::AcqRel) {
            self.records.died(KILLED);
        }
    }
}

impl Records {
    fn record<const N: usize>(&self, action: &str, more: [(&str, String); N]) {
        // A machine whose folder is gone keeps its first name.
        let name = self.tracked.name().unwrap_or_else(|| self.name.clone());
        let about = self.about.iter().map(|(key, value)| (key.as_str(), value.clone()));
        self.log.record(&Event::new(action, &name, about.chain(more)));
    }

    fn died(&self, status: u8) {
        self.record("die", [("exitCode", status.to_string())]);
    }
}

impl Watcher {
    fn run(mut self) {
        let mut back_off = BackOff::default();
        let mut began = Instant::now();
        loop {
            let status = match self.wait() {
                End::Exited(status) => status,
                End::Stopped => KILLED,
                End::Absent => return,
            };
            self.record_exit(status);
            if !self.restart(status, &mut back_off, began) {
                return;
            }
            began = Instant::now();
        }
    }

    fn wait(&self) -> End {
        let Some(vm) = self.control.vm() else { return End::Stopped };
        match vm.wait() {
            Ok(status) => End::Exited(process::of_exit(status)),
            Err(supermachine::Error::Agent { .. }) => End::Absent,
            Err(supermachine::Error::Guest { .. }) => End::Exited(FAILED),
            Err(_) => End::Stopped,
        }
    }

    fn record_exit(&self, status: u8) {
        if self.is_open.swap(false, Ordering::AcqRel) {
            self.records.died(status);
        }
        // The holder may have gone.
        let _ = self.exits.send(());
    }

    /// Starts the machine again, as often as it takes. Returns `false` if it stays as it is.
    fn restart(&mut self, mut status: u8, back_off: &mut BackOff, began: Instant) -> bool {
        let mut ran = began.elapsed();
        loop {
            if !self.wants_restart(status) {
                self.label.restarts_at = None;
                self.control.set_label(self.label.line());
                return false;
            }
            self.keep_output();
            if let Some(guards) = lock(&self.guards).as_mut() {
                guards.clear();
            }
            let wait = back_off.next(ran);
            self.label.restart_in(wait);
            self.control.set_label(self.label.line());
            thread::sleep(wait);
            if !self.wants_restart(status) {
                continue;
            }
            self.label.restarted();
            match self.start() {
                Ok(true) => return true,
                Ok(false) => return false,
                // Another attempt may succeed: a port may be free again.
                Err(_) => (status, ran) = (FAILED, Duration::ZERO),
            }
        }
    }

    fn wants_restart(&self, status: u8) -> bool {
        self.label.options.restart.applies(status, self.label.restarts)
            && self.control.vm().is_some()
            && !self.tracked.is_stopping()
    }

    /// Keeps the output of an entrypoint, as its machine ends.
    fn keep_output(&self) {
        // Output that cannot be kept is no reason not to start again.
        let _ = self.tracked.folder().zip(self.control.vm()).map(|(folder, vm)| {
            let log = append_to(&folder.join(LOG))?;
            let log = Arc::new(Mutex::new(log));
            let (mut stdout, mut stderr) = Stream::pair(&log);
            vm.logs_to(&mut stdout, &mut stderr).map(drop).map_err(Error::from)
        });
    }

    /// Starts a machine in place of the present one. Returns `false` if that was stopped.
    fn start(&self) -> Result<bool, Error> {
        let vm = self.start.image.start(&self.start.config)?;
        let mut guards = lock(&self.guards);
        let Some(open) = guards.as_mut() else { return Ok(false) };
        *open = open_ports(&vm, &self.label)?;
        self.is_open.store(true, Ordering::Release);
        if self.control.replace(vm, self.label.line()).is_err() {
            self.is_open.store(false, Ordering::Release);
            return Ok(false);
        }
        self.records.record("start", []);
        Ok(true)
    }
}

/// The output of the entrypoints before the present one.
pub(crate) fn earlier_output(folder: &Path) -> Vec<u8> {
    // Without a restart there is none.
    fs::read(folder.join(LOG)).unwrap_or_default()
}

fn open_ports(vm: &Vm, label: &Label) -> Result<Vec<Guard>, Error> {
    let wanted: Vec<Publish> = label.ports.iter().copied().map(Publish::from).collect();
    Ok(ports::open(vm, &wanted)?.into_iter().map(|(guard, _)| guard).collect())
}

fn append_to(path: &Path) -> Result<BoundedLog, Error> {
    let file = File::options().create(true).read(true).append(true).open(path);
    Ok(BoundedLog::new(file.map_err(Error::file("open", path))?))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
