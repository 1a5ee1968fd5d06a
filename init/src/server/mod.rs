//! The event loop: the control stream, the request streams, the processes.
//!
//! One thread, one epoll. Invariant: what arrived on the control stream is carried out before
//! any request that arrived after it. The host delivers control bytes first, so the control
//! stream is read first at each wake-up, and once more before each request is acted on: after
//! a restore, no request can overtake the resume, nor the hooks that it starts.

mod drain;
mod entrypoint;
mod exec;
mod hooks;
mod input;
mod pipe;
mod slab;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;
mod token;
mod udp;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use supermachine_formats::wire::{
    Command, Container as Description, Control, Event, Failure, HEADER_SIZE, MAX_CHUNK, Reply,
    Request, Resume, VERSION, WriteFile,
};

use self::drain::Drains;
use self::entrypoint::Entrypoint;
use self::exec::{Chain, Exec, Role};
use self::hooks::{Hooks, Next, Started};
use self::slab::{Key, Slab};
use self::stream::{Stream, Work};
use self::tcp::Tcp;
use self::token::Token;
use self::udp::Udp;
use crate::cgroup::Groups;
use crate::child::Child;
use crate::container::{Container, attach};
use crate::disk::Disk;
use crate::disks::{Disks, is_layer};
use crate::failure::{OrFailure, failure};
use crate::files::{Sink, Source};
use crate::in_use::is_in_use;
use crate::joined::Joined;
use crate::link::{Inbox, Outbox};
use crate::share::Shares;
use crate::sys::fd::{self, Fd};
use crate::sys::poll::{self, Epoll, EventFlags, HANG_UP, READABLE};
use crate::sys::process::{SIGKILL, Spawner, child_signals, reap, signal};
use crate::sys::{Errno, clock, socket};
use crate::{child, files, log, ports, resume, usage};

const EVENTS: usize = 64;
const MILLISECOND: u64 = 1_000_000;

/// The agent's state.
#[derive(Debug)]
pub(crate) struct Server {
    epoll: Epoll,
    control: Fd,
    control_inbox: Inbox,
    control_outbox: Outbox,
    listener: Fd,
    children: Fd,
    null_device: Fd,
    spawner: Spawner,
    groups: Groups,
    resumer: resume::Resumer,
    container: Option<Container>,
    shares: Shares,
    disks: Disks,
    entrypoint: Option<Entrypoint>,
    /// While the entrypoint is PID 1 of namespaces of its own.
    joined: Option<Joined>,
    streams: Slab<Stream>,
    tcp: Tcp,
    udp: Udp,
    drains: Drains,
    hooks: Hooks,
    /// The resume whose mounts are set up once the entrypoint has exited.
    waiting: Option<Resume>,
    /// The receive buffer; allocated once.
    scratch: Vec<u8>,
    now: u64,
}

impl Server {
    /// A server on a connected control stream and a listening socket.
    pub(crate) fn new(control: Fd, listener: Fd, groups: Groups) -> Result<Self, Failure> {
        let epoll = Epoll::new().or_failure("epoll_create1", "")?;
        let children = child_signals().or_failure("signalfd", "")?;
        let mut server = Self {
            epoll,
            control,
            control_inbox: Inbox::default(),
            control_outbox: Outbox::default(),
            listener,
            children,
            null_device: fd::open(c"/dev/null", 2, 0).or_failure("open", "/dev/null")?,
            spawner: Spawner::new().or_failure("mmap", "stack")?,
            groups,
            resumer: resume::Resumer::new()?,
            container: None,
            shares: Shares::default(),
            disks: Disks::default(),
            entrypoint: None,
            joined: None,
            streams: Slab::new(),
            tcp: Tcp::new(),
            udp: Udp::new(),
            drains: Drains::new(),
            hooks: Hooks::default(),
            waiting: None,
            scratch: vec![0; MAX_CHUNK + HEADER_SIZE],
            now: clock::monotonic(),
        };
        let watched = [
            (&server.control, Token::Control),
            (&server.listener, Token::Listener),
            (&server.children, Token::Children),
        ];
        for (fd, token) in watched {
            server.epoll.add(fd, READABLE, token.pack()).or_failure("epoll_ctl", "")?;
        }
        server.say(&Event::Hello { version: VERSION })?;
        Ok(server)
    }

    /// Serves until the control stream is closed or the loop itself fails.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        let mut events = [poll::NO_EVENT; EVENTS];
        loop {
            let timeout = self.timeout();
            let count = self.epoll.wait(&mut events, timeout).or_failure("epoll_wait", "")?;
            let ready = events.split_at(count).0;
            let ready = || {
                ready
                    .iter()
                    .filter_map(|event| Some((Token::unpack(event.data.u64())?, event.flags)))
            };
            if ready().any(|(token, _)| token == Token::Control) && !self.read_control()? {
                return Ok(());
            }
            if ready().any(|(token, _)| token == Token::Children) {
                self.reap()?;
            }
            for (token, events) in ready() {
                match token {
                    Token::Control | Token::Children => {}
                    Token::Listener => self.accept()?,
                    Token::Entrypoint(stream) => self.read_entrypoint(stream),
                    Token::Stream(key) => self.serve_stream(key, events)?,
                    Token::Pipe(key, role) => self.serve_pipe(key, role),
                    Token::Tcp(key, side) => {
                        self.tcp.serve(key, (side, events), &self.epoll, &mut self.scratch);
                    }
                    Token::TcpListener(key, side) => {
                        self.tcp.serve_listener(key, side, &mut self.scratch);
                    }
                    Token::Udp(key, side) => {
                        self.udp.serve(key, (side, events), &self.epoll, &mut self.scratch);
                    }
                    Token::Drain(key) => self.drains.serve(key, &mut self.scratch),
                    Token::Hook => self.hooks.read(&mut self.scratch),
                }
            }
            // Deadlines that were set since are in the future: no need to read the clock.
            if timeout >= 0 {
                self.pass_time()?;
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn set_container(&mut self, container: Container) {
        self.container = Some(container);
    }

    /// Reads the control stream until it is empty. Returns `false` once it is closed.
    fn read_control(&mut self) -> Result<bool, Failure> {
        loop {
            match socket::receive(&self.control, &mut self.scratch) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    let bytes = self.scratch.split_at(count).0;
                    self.control_inbox.push(bytes);
                    self.take_control()?;
                    if count < self.scratch.len() {
                        return Ok(true);
                    }
                }
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failure("recv", "control stream", errno)),
            }
        }
    }

    fn take_control(&mut self) -> Result<(), Failure> {
        loop {
            let message = self.control_inbox.next::<Control>();
            let message = message.map_err(|_| failure("decode", "control stream", Errno::PROTO))?;
            match message {
                None => return Ok(()),
                Some(Control::Resume(resume)) => match self.resume(&resume) {
                    Ok(()) => self.start_hooks()?,
                    Err(failure) => self.finish_hooks(Some(failure))?,
                },
                Some(Control::Clock { realtime_ns }) => resume::correct_clock(realtime_ns),
                Some(_) => return Err(failure("decode", "control stream", Errno::PROTO)),
            }
        }
    }

    fn resume(&mut self, resume: &Resume) -> Result<(), Failure> {
        // Of an earlier restore.
        self.waiting = None;
        // The streams of listeners and flows exist no more.
        self.tcp.close_listeners();
        self.udp.close_all();
        self.resumer.resume(resume, self.joined.is_some())?;
        let restarts = self.must_restart(resume);
        self.disks.pull_out(self.joined.as_ref())?;
        if restarts {
            self.waiting = Some(resume.clone());
            return Ok(());
        }
        self.set_up(resume)
    }

    /// Whether the entrypoint has to start anew, as it uses what this start changes: a path where something is
    /// mounted now, or the root, whose writable layer moves to a disk. That is done while it does not run.
    fn must_restart(&self, resume: &Resume) -> bool {
        let runs = self.entrypoint.as_ref().is_some_and(|entrypoint| !entrypoint.is_gone());
        let mut targets = self.shares.new_targets(&resume.shares);
        targets.extend(resume.volumes.iter().map(|volume| volume.target.as_slice()));
        runs && targets.into_iter().any(is_in_use)
    }

    /// Writes and mounts in the root what this start gives to the machine.
    fn set_up(&mut self, resume: &Resume) -> Result<(), Failure> {
        for volume in resume.volumes.iter().filter(|volume| is_layer(volume)) {
            let disk = Disk::find(volume.slot)?;
            self.container()?.move_layer(&disk)?;
            self.resumer.adopt_root()?;
        }
        if let (Some(network), Some(container)) = (&resume.network, &self.container) {
            container.in_writable_root(|| crate::network::write_resolver(network))?;
        }
        self.shares.set_up(&resume.shares, self.container.as_ref(), self.joined.as_ref())?;
        self.disks.set_up(&resume.volumes, self.container.as_ref(), self.joined.as_ref())?;
        match (&resume.hostname, &mut self.container) {
            (None, _) => Ok(()),
            (Some(name), Some(container)) => container.rename(name),
            (Some(name), None) => {
                rustix::system::sethostname(name.as_bytes()).or_failure("sethostname", name)
            }
        }
    }

    /// Sets up what waits for the entrypoint's exit.
    fn set_up_now(&mut self) -> Result<(), Failure> {
        if let Some(resume) = self.waiting.take() {
            self.set_up(&resume)?;
        }
        self.hooks.look_again();
        Ok(())
    }

    /// Starts the hooks of a restore. Reports the resume as done once all have succeeded.
    fn start_hooks(&mut self) -> Result<(), Failure> {
        let container = self.container.as_ref();
        let stop_first = container.map(Container::stop_signal).filter(|_| self.waiting.is_some());
        for key in self.hooks.begin(container, stop_first) {
            self.streams.put(key, None);
        }
        if self.hooks.is_running() { self.run_hooks() } else { self.say(&Event::Resumed) }
    }

    /// Makes as much progress with the hooks as possible.
    fn run_hooks(&mut self) -> Result<(), Failure> {
        while self.hooks.is_running() {
            self.now = clock::monotonic();
            let entrypoint = self.entrypoint.as_ref();
            let done = match self.hooks.next(self.now, entrypoint, &mut self.scratch) {
                Next::Wait => return Ok(()),
                Next::Kill => {
                    if let Some(entrypoint) = entrypoint {
                        entrypoint.kill();
                    }
                    return Ok(());
                }
                Next::Start(command) => self.start_hook(&command),
                Next::Signal(number) => self.signal(number),
                Next::Restart => self.restart(),
                Next::SetUp => match self.set_up_now() {
                    Ok(()) => Ok(()),
                    Err(failure) => return self.finish_hooks(Some(failure)),
                },
                Next::Drain(pipe) => {
                    self.drains.add(pipe, &self.epoll);
                    Ok(())
                }
                Next::Finish => return self.finish_hooks(None),
                Next::Refuse(failure) => return self.finish_hooks(Some(failure)),
            };
            if let Err(failure) = done {
                let failure = self.hooks.explain(&failure);
                return self.finish_hooks(Some(failure));
            }
        }
        Ok(())
    }

    /// Reports how the resume went, and answers the requests that were held.
    fn finish_hooks(&mut self, failure: Option<Failure>) -> Result<(), Failure> {
        let held = self.hooks.end_all(failure.clone());
        self.say(&failure.map_or(Event::Resumed, Event::ResumeFailed))?;
        for (key, stream, request) in held {
            if let Some(stream) = self.begin(key, stream, request) {
                self.advance(key, stream);
            }
        }
        Ok(())
    }

    fn start_hook(&mut self, command: &Command) -> Result<(), Failure> {
        let launch = self.container()?.command(command)?;
        let (stdio, output) = child::output(&launch.account.credentials)?;
        let mut group = self.groups.take();
        let (pid, started) =
            child::start(&mut self.spawner, &self.null_device, &launch, &stdio, &mut group)?;
        self.epoll.add(&output, READABLE, Token::Hook.pack()).or_failure("epoll_ctl", "hook")?;
        self.hooks.started(Started { pid, started, group, output });
        Ok(())
    }

    /// Starts the entrypoint anew, with its log.
    fn restart(&mut self) -> Result<(), Failure> {
        let old = self.entrypoint.take();
        let restarted = self.start(old.as_ref().is_some_and(|old| old.is_init));
        match (&mut self.entrypoint, old) {
            (Some(entrypoint), Some(old)) => entrypoint.continue_log(old.log),
            (entrypoint, old) => *entrypoint = old,
        }
        restarted.map(drop)
    }

    fn say(&mut self, event: &Event) -> Result<(), Failure> {
        self.control_outbox.push(event);
        self.control_outbox.flush(&self.control).or_failure("send", "control stream")
    }

    /// Takes one connection; the loop comes back while there are more.
    fn accept(&mut self) -> Result<(), Failure> {
        // A connection that is lost, by the peer or for lack of memory, harms no other.
        let Ok(socket) = socket::accept(&self.listener) else { return Ok(()) };
        let key = self.streams.reserve();
        self.streams.put(key, Some(Stream::new(socket)));
        // The request usually arrives with the connection.
        self.serve_stream(key, READABLE)
    }

    fn serve_stream(&mut self, key: Key, events: EventFlags) -> Result<(), Failure> {
        let Some(mut stream) = self.streams.take(key) else { return Ok(()) };
        let mut alive = true;
        if events.intersects(READABLE) {
            alive = stream.receive(&mut self.scratch);
            while alive && let Work::Request = stream.work {
                match stream.inbox.next::<Request>() {
                    Ok(Some(request)) => {
                        // See the module: no request may overtake a resume.
                        if !self.read_control()? {
                            return Err(failure("recv", "control stream", Errno::PIPE));
                        }
                        if self.hooks.is_running() {
                            self.hooks.hold(key, stream, request, &self.epoll);
                            return Ok(());
                        }
                        match self.begin(key, stream, request) {
                            Some(begun) => stream = begun,
                            None => return Ok(()),
                        }
                    }
                    Ok(None) => break,
                    Err(_) => alive = false,
                }
            }
        } else if events.intersects(HANG_UP) {
            alive = false;
        }
        alive = alive && stream.advance(&mut self.scratch, self.entrypoint.as_ref());
        self.settle(key, stream, alive);
        Ok(())
    }

    /// Starts the work of a request. Returns the stream, unless it is one for TCP or UDP.
    fn begin(&mut self, key: Key, mut stream: Stream, request: Request) -> Option<Stream> {
        if let Some(failure) = self.hooks.failure() {
            stream.finish(&Reply::Failed(failure.clone()));
            return Some(stream);
        }
        if Tcp::takes(&request) {
            self.streams.put(key, None);
            self.tcp.open(&request, stream, &self.epoll, &mut self.scratch);
            return None;
        }
        if let Request::Datagrams { port } = request {
            self.streams.put(key, None);
            self.udp.open(port, stream, &self.epoll, &mut self.scratch);
            return None;
        }
        self.answer(&mut stream, request);
        Some(stream)
    }

    fn serve_pipe(&mut self, key: Key, role: Role) {
        let Some(mut stream) = self.streams.take(key) else { return };
        if let Work::Exec(exec) = &mut stream.work {
            match role {
                Role::Stdin => exec.pump_input(&mut stream.outbox),
                _ => exec.pump_output(role, &mut self.scratch, &mut stream.outbox),
            }
        }
        self.advance(key, stream);
    }

    fn advance(&mut self, key: Key, mut stream: Stream) {
        let alive = stream.advance(&mut self.scratch, self.entrypoint.as_ref());
        self.settle(key, stream, alive);
    }

    /// Puts a stream back with its new events, or drops it.
    fn settle(&mut self, key: Key, mut stream: Stream, alive: bool) {
        for pipe in stream.left.iter_mut().filter_map(Option::take) {
            self.drains.add(pipe, &self.epoll);
        }
        let alive = alive && stream.watch(&self.epoll, key).is_ok();
        self.streams.put(key, alive.then_some(stream));
    }

    fn answer(&mut self, stream: &mut Stream, request: Request) {
        let result = match request {
            Request::Attach(description) => self.attach(&description).map(|()| Some(Reply::Done)),
            Request::Start => self.start(false).map(Some),
            Request::StartInit => self.start(true).map(Some),
            Request::Exec(command) => self.exec(&command).map(|exec| {
                stream.outbox.push(&Reply::Started { pid: exec.pid });
                stream.work = Work::Exec(Box::new(exec));
                None
            }),
            Request::Listening => {
                ports::now(self.joined.is_some()).map(|ports| Some(Reply::Ports(ports)))
            }
            Request::Logs { follow } => self.logs(stream, 0, follow),
            Request::WaitEntrypoint => self.logs(stream, u64::MAX, true),
            Request::SignalEntrypoint { signal } => self.signal(signal).map(|()| Some(Reply::Done)),
            Request::Settle => {
                self.hooks.look();
                settle().map(|()| Some(Reply::Done))
            }
            Request::Memory => usage::memory().map(|memory| Some(Reply::Memory(memory))),
            _ => self.files(&request).map(|work| {
                stream.work = work;
                None
            }),
        };
        match result {
            Ok(None) => {}
            Ok(Some(reply)) => stream.finish(&reply),
            Err(failure) => stream.finish(&Reply::Failed(failure)),
        }
    }

    /// Follows the entrypoint's output from a position.
    fn logs(
        &self,
        stream: &mut Stream,
        position: u64,
        follow: bool,
    ) -> Result<Option<Reply>, Failure> {
        if self.entrypoint.is_none() {
            return Err(failure("wait", "entrypoint", Errno::SRCH));
        }
        stream.work = Work::Logs { position, follow };
        Ok(None)
    }

    fn attach(&mut self, description: &[u8]) -> Result<(), Failure> {
        if self.container.is_some() {
            return Err(failure("attach", "container", Errno::ALREADY));
        }
        let description = Description::decode(description)
            .map_err(|_| failure("decode", "container", Errno::PROTO))?;
        self.container = Some(attach(description, &mut self.resumer)?);
        self.hooks.adopt_folder();
        Ok(())
    }

    fn container(&mut self) -> Result<&mut Container, Failure> {
        self.container.as_mut().ok_or_else(|| failure("find", "container", Errno::NOENT))
    }

    fn start(&mut self, is_init: bool) -> Result<Reply, Failure> {
        if self.entrypoint.is_some() {
            return Err(failure("start", "entrypoint", Errno::ALREADY));
        }
        let launch = self.container()?.entrypoint(is_init)?;
        let (stdio, ends) = child::pipes(&launch.account.credentials, false)?;
        let mut group = if is_init { self.groups.take_first() } else { self.groups.take() };
        let (pid, started) =
            child::start(&mut self.spawner, &self.null_device, &launch, &stdio, &mut group)?;
        let child = Child { pid, started, ends };
        if is_init {
            self.joined = Some(Joined::new(pid).inspect_err(|_| {
                let _ = signal(pid, SIGKILL);
            })?);
        }
        let outputs = [
            (Some(&child.ends.stdout), log::Stream::Out),
            (child.ends.stderr.as_ref(), log::Stream::Err),
        ];
        for (fd, stream) in outputs.into_iter().filter_map(|(fd, stream)| Some((fd?, stream))) {
            let token = Token::Entrypoint(stream).pack();
            self.epoll.add(fd, READABLE, token).or_failure("epoll_ctl", "entrypoint")?;
        }
        let pid = child.pid;
        self.entrypoint = Some(Entrypoint::new(child, group, is_init));
        Ok(Reply::Started { pid })
    }

    fn exec(&mut self, command: &Command) -> Result<Exec, Failure> {
        let launch = self.container()?.command(command)?;
        let credentials = &launch.account.credentials;
        for file in &command.files {
            files::stage(file, credentials)?;
        }
        let (stdio, ends) = match command.terminal {
            Some(size) => child::terminal(credentials, size)?,
            None => child::pipes(credentials, command.stdin)?,
        };
        let mut group = self.groups.take();
        let (pid, started) =
            child::start(&mut self.spawner, &self.null_device, &launch, &stdio, &mut group)?;
        self.now = started;
        let rest = command.chain.iter().cloned().collect();
        let chain = (!command.chain.is_empty()).then(|| Box::new(Chain { launch, rest }));
        let child = Child { pid, started, ends };
        Ok(Exec::new(child, group, stdio, chain, command.timeout_ms))
    }

    fn write_file(&mut self, file: &WriteFile) -> Result<Work, Failure> {
        let container = self.container()?;
        let owner = file.owner.as_ref().map(|user| container.account(user)).transpose()?;
        let credentials = owner.map(|account| account.credentials);
        Ok(Work::Take(Box::new(Sink::file(file, credentials.as_ref())?)))
    }

    /// Starts the work of a request that moves files. Such requests need a container: the paths are
    /// its own.
    fn files(&mut self, request: &Request) -> Result<Work, Failure> {
        self.container()?;
        match request {
            Request::WriteFile(file) => self.write_file(file),
            Request::ReadFile { path } => Ok(Work::Give(Box::new(Source::file(path)?))),
            Request::CopyIn { path } => Ok(Work::Take(Box::new(Sink::archive(path)?))),
            Request::CopyOut { path } => Ok(Work::Give(Box::new(Source::archive(path)?))),
            _ => Err(failure("decode", "request", Errno::PROTO)),
        }
    }

    fn signal(&self, number: u8) -> Result<(), Failure> {
        match &self.entrypoint {
            Some(entrypoint) if entrypoint.exit.is_none() => {
                signal(entrypoint.pid, number).or_failure("kill", "entrypoint")
            }
            _ => Err(failure("kill", "entrypoint", Errno::SRCH)),
        }
    }

    fn read_entrypoint(&mut self, stream: log::Stream) {
        if let Some(entrypoint) = &mut self.entrypoint {
            entrypoint.pump(stream, &mut self.scratch);
        }
        self.follow();
    }

    /// Sends new output to the streams that follow the entrypoint.
    fn follow(&mut self) {
        let followers = self.keys(|stream| matches!(stream.work, Work::Logs { .. }));
        for key in followers {
            if let Some(stream) = self.streams.take(key) {
                self.advance(key, stream);
            }
        }
    }

    /// Reaps every child that has exited, including orphans.
    fn reap(&mut self) -> Result<(), Failure> {
        let mut news = [0; 128];
        match fd::read(&self.children, &mut news) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(failure("read", "signalfd", errno)),
        }
        while let Some(ended) = reap().or_failure("wait4", "")? {
            if let Some(entrypoint) = &mut self.entrypoint
                && entrypoint.pid == ended.pid
                && entrypoint.exit.is_none()
            {
                entrypoint.end(&ended, &mut self.scratch);
                if let Some(joined) = self.joined.take() {
                    joined.leave()?;
                }
                self.follow();
                continue;
            }
            if self.hooks.end(&ended) {
                continue;
            }
            let owners = self.keys(|stream| stream.runs(ended.pid));
            for key in owners {
                let Some(mut stream) = self.streams.take(key) else { continue };
                if let Work::Exec(exec) = &mut stream.work {
                    exec.end(&ended, &mut self.spawner, &self.null_device);
                }
                self.advance(key, stream);
            }
        }
        self.run_hooks()
    }

    fn keys(&self, wanted: impl Fn(&Stream) -> bool) -> Vec<Key> {
        self.streams.iter().filter(|(_, stream)| wanted(stream)).map(|(key, _)| key).collect()
    }

    /// Milliseconds until the next deadline, rounded up; -1 without one.
    fn timeout(&self) -> i32 {
        let streams = self.streams.iter().filter_map(|(_, stream)| stream.next_moment());
        let next = streams.chain(self.hooks.next_moment(self.now)).min();
        next.map_or(-1, |moment| {
            let left = moment.saturating_sub(self.now).div_ceil(MILLISECOND);
            i32::try_from(left).unwrap_or(i32::MAX)
        })
    }

    fn pass_time(&mut self) -> Result<(), Failure> {
        let waits = |(_, stream): (Key, &Stream)| stream.next_moment().is_some();
        if !self.hooks.is_running() && !self.streams.iter().any(waits) {
            return Ok(());
        }
        let now = clock::monotonic();
        self.now = now;
        let due = self.keys(|stream| stream.next_moment().is_some_and(|moment| moment <= now));
        for key in due {
            let Some(mut stream) = self.streams.take(key) else { continue };
            if let Work::Exec(exec) = &mut stream.work {
                exec.pass(now);
            }
            self.advance(key, stream);
        }
        self.run_hooks()
    }
}

/// Writes back dirty files and drops clean caches, so that a capture holds less.
fn settle() -> Result<(), Failure> {
    rustix::fs::sync();
    fd::set(c"/proc/sys/vm/drop_caches", b"3").or_failure("write", "/proc/sys/vm/drop_caches")
}
