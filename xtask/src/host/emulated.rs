//! The emulated host: QEMU emulates a processor with virtualization, on which Debian's
//! cloud kernel runs KVM unmodified; its root file system is this machine's. In a host of another
//! architecture, programs and settings come from a root of that architecture.
//!
//! Invariant: nothing outlives the caller. All sockets are unnamed, and both processes die with the
//! thread that started them.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use supermachine_kernel::Arch;

use super::kind::{CLOCK_STOPPED, Kind, Options};
use super::platform::{self, Platform};
use super::session::{self, Ports, SessionEnd};
use super::wire::Request;
use super::{guest, image, monitor, root, waits};
use crate::command;
use crate::cross;
use crate::error::Error;
use crate::packages;
use crate::workspace;

/// A folder in the emulated host's own memory; all others are this machine's.
pub(crate) const FAST_FOLDER: &str = "/dev/shm";
/// Where programs are in a root of another architecture.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const FILE_SERVER: &str = "/usr/lib/qemu/virtiofsd";
/// Lines of the console to keep for a report when the host dies.
const LOG_LINES: usize = 40;
/// How long before a time-out the host prints what its threads wait for.
const REPORT_BEFORE: Duration = Duration::from_secs(15);

/// Runs a command in a fresh emulated host.
pub(super) fn run(kind: Kind, command: &Command, options: &Options) -> Result<u8, Error> {
    let files = Files::ensure(options.arch)?;
    let request = request(kind, command, options, &files)?;
    let mut host = Host::start(kind, options, &files)?;
    let status = host.serve(&request, options.timeout);
    host.stop();
    status
}

/// What a host starts from.
struct Files {
    platform: &'static Platform,
    /// The folder of the kernel and its modules.
    kernel: PathBuf,
    /// PID 1.
    init: PathBuf,
    /// The programs of another architecture.
    root: Option<PathBuf>,
}

impl Files {
    fn ensure(arch: Arch) -> Result<Self, Error> {
        let platform = platform::of(arch);
        packages::ensure(packages::HOST)?;
        packages::ensure(&[platform.emulator_package])?;
        let kernel = image::ensure(arch)?;
        if arch == Arch::host() {
            return Ok(Self { platform, kernel, init: workspace::this_program()?, root: None });
        }
        let root = Some(root::ensure(arch)?);
        Ok(Self { platform, kernel, init: cross::this_program()?, root })
    }

    /// The kernel's parameters that start PID 1.
    fn start_init(&self) -> String {
        let init = self.init.display();
        let Some(root) = &self.root else { return format!("init=\"{init}\"") };
        let root = root.display();
        // The loader of that architecture is not where the program expects it.
        format!(
            "{}=\"{root}\" init=\"{root}{}\" -- --library-path \"{root}{}\" \"{init}\"",
            guest::ROOT,
            self.platform.loader,
            self.platform.libraries
        )
    }
}

fn request(
    kind: Kind,
    command: &Command,
    options: &Options,
    files: &Files,
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
    if files.root.is_some() {
        // This machine's programs and libraries do not run there.
        env.insert("PATH".into(), PATH.into());
        env.remove(OsStr::new("LD_LIBRARY_PATH"));
    }
    let mut argv = vec![command.get_program().to_os_string()];
    argv.extend(command.get_args().map(OsString::from));
    // SAFETY: getuid has no precondition and cannot fail.
    let uid = unsafe { libc::getuid() };
    // SAFETY: getgid has no precondition and cannot fail.
    let gid = unsafe { libc::getgid() };
    let env = env.into_iter().collect();
    let folder = folder.into();
    let modules =
        files.platform.modules.iter().map(|(name, _)| files.kernel.join(name).into()).collect();
    let report_waits_after = options.timeout.and_then(|limit| limit.checked_sub(REPORT_BEFORE));
    let report_waits_after = report_waits_after.map(|delay| delay.as_secs());
    // A thread that wakes every second would disturb measurements.
    let has_pulse = kind == Kind::Emulated;
    Ok(Request { argv, env, folder, uid, gid, modules, report_waits_after, has_pulse })
}

struct Host {
    machine: Child,
    files: Child,
    ports: Option<Ports>,
    monitor: UnixStream,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Host {
    fn start(kind: Kind, options: &Options, files: &Files) -> Result<Self, Error> {
        let pair = || UnixStream::pair().map_err(Error::system("make a socket pair"));
        let (files_socket, server) = start_file_server()?;
        let (stdout, stdout_far) = pair()?;
        let (stderr, stderr_far) = pair()?;
        let (pulse, pulse_far) = pair()?;
        let (control, control_far) = pair()?;
        let (monitor, monitor_far) = pair()?;
        let ports = [
            (guest::STDOUT, stdout_far.as_raw_fd()),
            (guest::STDERR, stderr_far.as_raw_fd()),
            (guest::PULSE, pulse_far.as_raw_fd()),
            (guest::CONTROL, control_far.as_raw_fd()),
        ];
        let sockets = Sockets {
            files: files_socket.as_raw_fd(),
            monitor: monitor_far.as_raw_fd(),
            ports: &ports,
        };
        let mut machine = Command::new(files.platform.emulator);
        machine.args(arguments(kind, options, files, &sockets));
        let mut inherited: Vec<RawFd> = ports.iter().map(|(_, fd)| *fd).collect();
        inherited.extend([sockets.files, sockets.monitor]);
        keep_open(&mut machine, inherited);
        command::die_with_us(&mut machine);
        machine.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut machine = machine.spawn().map_err(|e| command::start(&machine, e))?;
        let log = Arc::default();
        watch(machine.stdout.take(), &log);
        watch(machine.stderr.take(), &log);
        let ports = Some(Ports { stdout, stderr, pulse, control });
        Ok(Self { machine, files: server, ports, monitor, log })
    }

    fn serve(&mut self, request: &Request, timeout: Option<Duration>) -> Result<u8, Error> {
        let Some(ports) = self.ports.take() else { return Ok(0) };
        match session::run(ports, request, timeout)? {
            SessionEnd::Status(status) => Ok(status),
            SessionEnd::Died => Err(self.post_mortem()),
            SessionEnd::ClockStopped => {
                eprintln!("{}", self.dump());
                Ok(CLOCK_STOPPED)
            }
        }
    }

    /// Describes a host whose clock stopped.
    fn dump(&mut self) -> String {
        let mut text = format!(
            "emulated host: the clock stopped for {} s; two looks at its processor:\n",
            session::STILL_LIMIT.as_secs()
        );
        for _ in 0..2 {
            text += &monitor::ask(&mut self.monitor, "info registers");
        }
        text += "QEMU's threads:\n";
        text += &waits::of_process(Path::new(&format!("/proc/{}", self.machine.id())));
        text += "last output:\n";
        text + &self.last_output()
    }

    fn last_output(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().cloned().collect::<Vec<_>>().join("\n")
    }

    fn post_mortem(&mut self) -> Error {
        let _ = self.machine.kill();
        let status = self.machine.wait();
        let reason = status.map_or_else(|e| e.to_string(), |s| format!("QEMU's {s}"));
        Error::HostDied { reason, log: self.last_output() }
    }

    fn stop(mut self) {
        let _ = self.machine.kill();
        let _ = self.machine.wait();
        // The file server exits when QEMU is gone.
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

/// QEMU's ends of its sockets.
struct Sockets<'a> {
    files: RawFd,
    monitor: RawFd,
    ports: &'a [(u32, RawFd)],
}

fn arguments(kind: Kind, options: &Options, files: &Files, sockets: &Sockets) -> Vec<OsString> {
    let platform = files.platform;
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |words: &str| args.extend(words.split(' ').map(OsString::from));
    // One emulated processor in one thread: KVM's patching of running code is not safe
    // with more under emulation.
    add(&format!("-accel tcg,thread=single -smp 1 -M {}", platform.machine));
    add(&format!("-cpu {}", options.cpu.as_deref().unwrap_or(platform.cpu)));
    if kind == Kind::Measuring {
        add("-icount shift=1,sleep=off");
    }
    let memory_mib = options.memory_mib;
    add(&format!("-m {memory_mib} -numa node,memdev=mem"));
    add(&format!("-object memory-backend-memfd,id=mem,size={memory_mib}M,share=on"));
    add("-nodefaults -nographic -serial stdio -no-reboot");
    add(&format!("-chardev socket,id=monitor,fd={} -mon chardev=monitor", sockets.monitor));
    add(&format!("-chardev socket,id=files,fd={}", sockets.files));
    add("-device vhost-user-fs-pci,chardev=files,tag=rootfs");
    add("-device virtio-serial-pci");
    for (number, fd) in sockets.ports {
        add(&format!("-chardev socket,id=port{number},fd={fd}"));
        add(&format!("-device virtserialport,chardev=port{number},nr={number}"));
    }
    let line = format!(
        "console={} quiet panic=-1 root=rootfs rootfstype=virtiofs rw {} {}={} {}",
        platform.console,
        platform.parameters,
        guest::MARK,
        kind.name(),
        files.start_init()
    );
    let kernel: PathBuf = files.kernel.join("vmlinuz");
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

/// Keeps the last lines that QEMU and the console print.
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
