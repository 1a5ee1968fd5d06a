//! The emulated host: QEMU emulates a processor with virtualization, on which Debian's
//! cloud kernel runs KVM unmodified; its root file system is this machine's.
//!
//! Invariant: nothing outlives the caller. All sockets are descriptors without a name,
//! and both processes die with the thread that started them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::guest;
use super::wire::{self, Report, Request};
use super::{Kind, Limits, image};
use crate::command;
use crate::error::Error;
use crate::packages;

/// A folder in the emulated host's own memory; all others are this machine's.
pub(crate) const FAST_FOLDER: &str = "/dev/shm";
const FILE_SERVER: &str = "/usr/lib/qemu/virtiofsd";
/// The statuses of timeout(1) and of a reader that went away.
const TIMED_OUT: u8 = 124;
const BROKEN_PIPE: u8 = 141;
/// How much of the console is kept for the case that the host dies.
const LOG_LINES: usize = 40;
/// How long before its time is over a host tells what it waits for.
const LAST_WORDS: Duration = Duration::from_secs(15);
/// A host that has not even begun by then never will.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// Runs a command in a fresh emulated host.
pub(super) fn run(kind: Kind, command: &Command, limits: &Limits) -> Result<u8, Error> {
    packages::ensure(packages::HOST)?;
    let kernel = image::ensure()?;
    let request = request(kind, command, limits, &kernel)?;
    let mut host = Host::start(kind, limits, &kernel)?;
    let status = host.serve(&request, limits.timeout);
    host.stop();
    status
}

fn request(
    kind: Kind,
    command: &Command,
    limits: &Limits,
    kernel: &Path,
) -> Result<Request, Error> {
    let folder = match command.get_current_dir() {
        Some(folder) => folder.to_path_buf(),
        None => std::env::current_dir().map_err(Error::system("find the current folder"))?,
    };
    let mut env: std::collections::BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => env.insert(name.into(), value.into()),
            None => env.remove(name),
        };
    }
    env.insert(guest::MARK.into(), kind.name().into());
    let mut argv = vec![command.get_program().to_os_string()];
    argv.extend(command.get_args().map(OsString::from));
    // SAFETY: getuid has no precondition and cannot fail.
    let uid = unsafe { libc::getuid() };
    // SAFETY: getgid has no precondition and cannot fail.
    let gid = unsafe { libc::getgid() };
    let env = env.into_iter().collect();
    let (folder, modules) = (folder.into(), kernel.into());
    let patience = limits.timeout.and_then(|limit| limit.checked_sub(LAST_WORDS));
    let patience = patience.map(|patience| patience.as_secs());
    Ok(Request { argv, env, folder, uid, gid, modules, patience })
}

/// What arrives from a running host.
enum Event {
    Output { stream: usize, bytes: u64 },
    ReaderGone,
    Report(Report),
    Ended,
}

struct Host {
    machine: Child,
    files: Child,
    ports: Option<Ports>,
    log: Arc<Mutex<VecDeque<String>>>,
}

struct Ports {
    stdout: UnixStream,
    stderr: UnixStream,
    control: UnixStream,
}

impl Host {
    fn start(kind: Kind, limits: &Limits, kernel: &Path) -> Result<Self, Error> {
        let pair = || UnixStream::pair().map_err(Error::system("make a socket pair"));
        let (files_socket, files) = start_file_server()?;
        let (stdout, stdout_far) = pair()?;
        let (stderr, stderr_far) = pair()?;
        let (control, control_far) = pair()?;
        let ports = [
            (guest::STDOUT, stdout_far.as_raw_fd()),
            (guest::STDERR, stderr_far.as_raw_fd()),
            (guest::CONTROL, control_far.as_raw_fd()),
        ];
        let init = std::env::current_exe().map_err(Error::system("find this program"))?;
        let mut machine = Command::new("qemu-system-x86_64");
        machine.args(arguments(kind, limits, kernel, &init, files_socket.as_raw_fd(), &ports));
        let mut inherited: Vec<RawFd> = ports.iter().map(|(_, fd)| *fd).collect();
        inherited.push(files_socket.as_raw_fd());
        keep_open(&mut machine, inherited);
        command::die_with_us(&mut machine);
        machine.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut machine = machine.spawn().map_err(|e| command::start(&machine, e))?;
        let log = Arc::default();
        watch(machine.stdout.take(), &log);
        watch(machine.stderr.take(), &log);
        let ports = Some(Ports { stdout, stderr, control });
        Ok(Self { machine, files, ports, log })
    }

    fn serve(&mut self, request: &Request, timeout: Option<Duration>) -> Result<u8, Error> {
        let Some(mut ports) = self.ports.take() else { return Ok(0) };
        let input = ports.control.try_clone().map_err(Error::system("share a socket"))?;
        if wire::send(&mut ports.control, request).is_err() {
            return Err(self.post_mortem());
        }
        let (sender, events) = mpsc::channel();
        forward_input(input);
        forward(0, ports.stdout, io::stdout(), sender.clone());
        forward(1, ports.stderr, io::stderr(), sender.clone());
        thread::spawn(move || {
            let report = wire::receive(&mut ports.control);
            let _ = sender.send(report.map_or(Event::Ended, Event::Report));
        });
        let began = Instant::now();
        let mut arrived = [0, 0];
        let mut report = None;
        loop {
            let left = timeout.map(|t| t.saturating_sub(began.elapsed()));
            match events.recv_timeout(left.unwrap_or(BOOT_LIMIT)) {
                Ok(Event::Output { stream, bytes }) => {
                    arrived.iter_mut().skip(stream).take(1).for_each(|n| *n += bytes);
                }
                Ok(Event::ReaderGone) => return Ok(BROKEN_PIPE),
                Ok(Event::Report(r)) => report = Some(r),
                Err(RecvTimeoutError::Timeout) if timeout.is_none() => {}
                Err(RecvTimeoutError::Timeout) => return Ok(TIMED_OUT),
                Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.post_mortem());
                }
            }
            if let Some(r) = &report
                && arrived == [r.stdout, r.stderr]
            {
                return Ok(r.status);
            }
        }
    }

    fn post_mortem(&mut self) -> Error {
        let _ = self.machine.kill();
        let status = self.machine.wait();
        let reason = status.map_or_else(|e| e.to_string(), |s| format!("QEMU's {s}"));
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        Error::HostDied { reason, log: log.iter().cloned().collect::<Vec<_>>().join("\n") }
    }

    fn stop(mut self) {
        let _ = self.machine.kill();
        let _ = self.machine.wait();
        // The file server ends by itself when the machine is gone.
        let _ = self.files.wait();
    }
}

/// Starts the server of this machine's files, and returns the socket for QEMU.
/// It takes its listening socket as standard input: sudo passes on no other.
fn start_file_server() -> Result<(UnixStream, Child), Error> {
    let mut random = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut random))
        .map_err(Error::system("read /dev/urandom"))?;
    let listen = || {
        let address = SocketAddr::from_abstract_name(random)?;
        let listener = UnixListener::bind_addr(&address)?;
        Ok((UnixStream::connect_addr(&address)?, listener))
    };
    let (stream, listener) = listen().map_err(Error::system("make a socket"))?;
    let mut server = command::as_root(FILE_SERVER);
    server.args(["--fd=0", "-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=auto"]);
    server.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    command::die_with_us(&mut server);
    let child = server.spawn().map_err(|e| command::start(&server, e))?;
    Ok((stream, child))
}

fn arguments(
    kind: Kind,
    limits: &Limits,
    kernel: &Path,
    init: &Path,
    files: RawFd,
    ports: &[(u32, RawFd)],
) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |words: &str| args.extend(words.split(' ').map(OsString::from));
    // One emulated processor in one thread: KVM's patching of running code is not safe
    // with more under emulation.
    add("-accel tcg,thread=single -smp 1 -M q35");
    add(&format!("-cpu {}", limits.cpu));
    if kind == Kind::Measuring {
        add("-icount shift=1,sleep=off");
    }
    let memory_mib = limits.memory_mib;
    add(&format!("-m {memory_mib} -numa node,memdev=mem"));
    add(&format!("-object memory-backend-memfd,id=mem,size={memory_mib}M,share=on"));
    add("-nodefaults -nographic -monitor none -serial stdio -no-reboot");
    add(&format!("-chardev socket,id=files,fd={files}"));
    add("-device vhost-user-fs-pci,chardev=files,tag=rootfs");
    add("-device virtio-serial-pci");
    for (number, fd) in ports {
        add(&format!("-chardev socket,id=port{number},fd={fd}"));
        add(&format!("-device virtserialport,chardev=port{number},nr={number}"));
    }
    let line = format!(
        "console=ttyS0 quiet panic=-1 root=rootfs rootfstype=virtiofs rw init=\"{}\" \
         mitigations=off tsc=reliable {}={}",
        init.display(),
        guest::MARK,
        kind.name()
    );
    let kernel: PathBuf = kernel.join("vmlinuz");
    args.extend(["-kernel".into(), kernel.into(), "-append".into(), line.into()]);
    args
}

/// Lets the child inherit these descriptors.
fn keep_open(command: &mut Command, descriptors: Vec<RawFd>) {
    let clear = move || {
        for fd in &descriptors {
            // SAFETY: F_SETFD takes a descriptor and a number; a bad one is an error.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: `clear` only makes system calls and touches memory made before the fork.
    unsafe { command.pre_exec(clear) };
}

/// Keeps the last lines of what QEMU and the console say.
fn watch(from: Option<impl Read + Send + 'static>, log: &Arc<Mutex<VecDeque<String>>>) {
    let Some(from) = from else { return };
    let log = Arc::clone(log);
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
            if log.len() > LOG_LINES {
                log.pop_front();
            }
        }
    });
}

/// Passes our standard input on, to its end.
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
