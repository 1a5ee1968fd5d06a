//! The emulated host's PID 1: this same program, found through the shared root file
//! system. Mounts what a Linux machine has, loads KVM, runs one command and reports.
//!
//! It runs until the host is stopped from outside, after its report. If it exits early, the kernel
//! panics, which is how a failure here should look.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::mounts::{self, checked};
use super::wire::{self, Report, Request};
use super::{native, waits};

/// Set on the kernel's command line, which passes it to PID 1, and for the command.
pub(super) const MARK: &str = "SUPERMACHINE_HOST";
/// In a host of another architecture, names the folder with the programs of that architecture.
pub(super) const ROOT: &str = "SUPERMACHINE_HOST_ROOT";

/// The numbers of the ports. Control is last: when it is up, so are the others.
pub(super) const STDOUT: u32 = 1;
pub(super) const STDERR: u32 = 2;
pub(super) const PULSE: u32 = 3;
pub(super) const CONTROL: u32 = 4;

/// The interval of the pulse.
const BEAT: Duration = Duration::from_secs(1);

/// Whether this process is an emulated host's PID 1.
pub(crate) fn is_wanted() -> bool {
    std::process::id() == 1 && std::env::var_os(MARK).is_some()
}

/// Whether this process runs in an emulated host.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Serves one command.
pub(crate) fn run() -> ! {
    if let Err(error) = serve() {
        eprintln!("emulated host: {error}");
        std::process::exit(1);
    }
    loop {
        thread::park();
    }
}

fn serve() -> io::Result<()> {
    prepare()?;
    let mut control = port(CONTROL, OpenOptions::new().read(true).write(true))?;
    let request: Request = wire::receive(&mut WaitingReader(&control))?;
    load_kvm(&request.modules)?;
    if request.has_pulse {
        beat(port(PULSE, OpenOptions::new().write(true))?);
    }
    let report = execute(&request, control.try_clone()?)?;
    // SAFETY: sync has no precondition and cannot fail.
    unsafe { libc::sync() };
    wire::send(&mut control, &report)
}

/// Sends a byte every second from now on, to show that the clock advances.
fn beat(mut pulse: File) {
    thread::spawn(move || {
        while pulse.write_all(&[0]).is_ok() {
            thread::sleep(BEAT);
        }
    });
}

fn prepare() -> io::Result<()> {
    if let Some(root) = std::env::var_os(ROOT) {
        mounts::enter(Path::new(&root))?;
    }
    mounts::system()?;
    fs::write("/proc/sys/kernel/hostname", "emulated")?;
    raise_loopback()?;
    raise_file_limit()
}

fn raise_loopback() -> io::Result<()> {
    // SAFETY: ifreq is plain data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        // Its sign depends on the architecture.
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, and `request` is one.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    checked(done, "raise lo")
}

/// PID 1 starts with the kernel's low limit; distributions raise it.
fn raise_file_limit() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: 65_536, rlim_max: 1 << 20 };
    // SAFETY: setrlimit reads an rlimit, and `limit` is one.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    checked(done, "raise the limit of open files")
}

fn load_kvm(modules: &[OsString]) -> io::Result<()> {
    for path in modules {
        let file = File::open(path)?;
        // SAFETY: finit_module takes an open file, a NUL-terminated string and flags.
        let done =
            unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
        checked(i32::try_from(done).unwrap_or(-1), &format!("load {}", path.display()))?;
    }
    fs::set_permissions("/dev/kvm", fs::Permissions::from_mode(0o666))
}

/// Opens a port, waiting until the kernel finds it. Its name contains the number of its controller
/// among all virtio devices, which depends on the order of discovery.
fn port(number: u32, options: &OpenOptions) -> io::Result<File> {
    let suffix = format!("p{number}");
    for _ in 0..500 {
        for entry in fs::read_dir("/dev")? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("vport") && name.ends_with(&suffix) {
                return options.open(path);
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no port {number}")))
}

/// Reads a port whose other side may not be connected yet, which reads as end of file.
struct WaitingReader<'a>(&'a File);

impl Read for WaitingReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        for _ in 0..500 {
            let n = self.0.read(buf)?;
            if n > 0 {
                return Ok(n);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(0)
    }
}

fn execute(request: &Request, mut input: File) -> io::Result<Report> {
    let output = port(STDOUT, OpenOptions::new().write(true))?;
    let mut errors = port(STDERR, OpenOptions::new().write(true))?;
    let mut child = match spawn(request) {
        Ok(child) => child,
        Err(error) => {
            let program = request.argv.first().cloned().unwrap_or_default();
            let text = format!("{}: {error}\n", program.display());
            errors.write_all(text.as_bytes())?;
            let status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            return Ok(Report { status, stdout: 0, stderr: text.len() as u64 });
        }
    };
    if let Some(mut stdin) = child.stdin.take() {
        // Never joined: the command may exit without reading all of its input.
        thread::spawn(move || {
            while let Ok(chunk) = wire::receive_chunk(&mut input) {
                if chunk.is_empty() || stdin.write_all(&chunk).is_err() {
                    return;
                }
            }
        });
    }
    let printed = Arc::new(AtomicU64::new(0));
    if let Some(seconds) = request.report_waits_after {
        print_waits(Duration::from_secs(seconds), errors.try_clone()?, Arc::clone(&printed));
    }
    let stdout = child.stdout.take().map(|from| relay(from, output));
    let stderr = child.stderr.take().map(|from| relay(from, errors));
    let status = reap_until(&child)?;
    // Processes that are left would keep the pipes open.
    // SAFETY: kill takes any numbers; -1 spares the caller, PID 1.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    let (stdout, stderr) = (total(stdout)?, total(stderr)? + printed.load(Ordering::Acquire));
    Ok(Report { status: native::shell_status(status), stdout, stderr })
}

/// After a delay, prints what every thread waits for on standard error and counts the bytes.
fn print_waits(delay: Duration, mut errors: File, printed: Arc<AtomicU64>) {
    // Never joined: the command may exit before.
    thread::spawn(move || {
        thread::sleep(delay);
        let text = waits::report();
        // Counted first, or the command's report could lack it.
        printed.store(text.len() as u64, Ordering::Release);
        // If this fails, nobody reads it.
        let _ = errors.write_all(text.as_bytes());
    });
}

fn spawn(request: &Request) -> io::Result<Child> {
    let Some((program, arguments)) = request.argv.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(request.env.iter().map(|(k, v)| (k, v)));
    command.env("PWD", &request.folder).current_dir(&request.folder).process_group(0);
    if request.uid != 0 {
        command.uid(request.uid).gid(request.gid);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

/// Copies to a port and counts the bytes. Programs get a pipe, because a port cannot be opened twice,
/// as through /dev/stdout.
fn relay(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
) -> JoinHandle<io::Result<u64>> {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        let mut total = 0;
        loop {
            let n = from.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else { return Ok(total) };
            to.write_all(bytes)?;
            total += n as u64;
        }
    })
}

fn total(relay: Option<JoinHandle<io::Result<u64>>>) -> io::Result<u64> {
    relay.and_then(|r| r.join().ok()).unwrap_or(Ok(0))
}

/// Waits for the command and reaps the orphans that exit before it.
fn reap_until(child: &Child) -> io::Result<ExitStatus> {
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one int, and `status` is one.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        if u32::try_from(pid) == Ok(child.id()) {
            return Ok(ExitStatus::from_raw(status));
        }
    }
}
