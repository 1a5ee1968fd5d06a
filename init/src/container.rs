//! The container: its root file system, its defaults for commands, its users.
//!
//! [`attach`] turns the initramfs into the container's root: afterwards the agent itself lives
//! there, and so do its children without a step of their own.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::{
    AfterRestore, Command, Container as Description, Failure, Process, Readiness, Settings, Ulimit,
};

use crate::account::{Account, UnknownAccount, resolve};
use crate::disk::Disk;
use crate::environment::{DEFAULT_PATH, Environment};
use crate::failure::{OrFailure, failure};
use crate::place::{self, ensure_directory, make_directories, path};
use crate::resume::Resumer;
use crate::root::{WritableRoot, mount_settings};

use crate::slot::{probe, wait_for_device};
use crate::sys::{Errno, fd, mount};
use crate::volume::{Layers, OVERLAY_OPTIONS};
use crate::writable_layer;

/// The default terminal type, which every terminal program knows.
const DEFAULT_TERMINAL: &[u8] = b"xterm";
const HOSTS: &[u8] = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// The defaults that commands start from.
#[derive(Debug)]
pub(crate) struct Container {
    hostname: String,
    entrypoint: Process,
    after_restore: AfterRestore,
    settings: Settings,
    /// The signal that stops the entrypoint.
    stop_signal: u8,
    /// When an entrypoint that was started anew is ready.
    readiness: Readiness,
    /// What the root consists of, once it is mounted.
    layers: Option<Layers>,
    /// Where the agent writes its own files, if programs cannot write to their root.
    writable_root: Option<WritableRoot>,
    users: Users,
}

/// The last user that was looked up. Valid until one of the two files changes.
#[derive(Debug, Default)]
struct Users {
    known: Option<([FileMark; 2], String, Account)>,
}

/// Identifies a version of a file: inode number, size and times. `None` if there is no file.
type FileMark = Option<(u64, u64, [(i64, u32); 2])>;

/// A program with its environment, ready to start.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) env: Vec<Vec<u8>>,
    /// The search path that the program is looked for in.
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) cwd: Vec<u8>,
    pub(crate) account: Account,
    /// Whether it becomes PID 1 of namespaces of its own.
    pub(crate) is_init: bool,
    /// Its limits, beside the defaults.
    pub(crate) limits: Vec<Ulimit>,
}

impl Container {
    /// Takes the defaults from the image's description.
    pub(crate) fn new(description: Description) -> Self {
        Self {
            hostname: description.hostname,
            entrypoint: description.entrypoint,
            after_restore: description.after_restore,
            settings: description.settings,
            stop_signal: description.stop_signal,
            readiness: description.readiness,
            layers: None,
            writable_root: None,
            users: Users::default(),
        }
    }

    /// What runs after each restore.
    pub(crate) fn after_restore(&self) -> &AfterRestore {
        &self.after_restore
    }

    /// The signal that stops the entrypoint.
    pub(crate) fn stop_signal(&self) -> u8 {
        self.stop_signal
    }

    /// When an entrypoint that was started anew is ready.
    pub(crate) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Moves what programs write to their root from memory to a disk. No program may run.
    pub(crate) fn move_layer(&mut self, disk: &Disk) -> Result<(), Failure> {
        if self.settings.read_only {
            return Err(failure("write", "/", Errno::ROFS));
        }
        let layers = self.layers.as_ref();
        let layers = layers.ok_or_else(|| failure("find", "container", Errno::NOENT))?;
        self.users = Users::default();
        writable_layer::move_to(disk, layers, &self.settings.volumes)
    }

    /// Gives the container another name.
    pub(crate) fn rename(&mut self, hostname: &str) -> Result<(), Failure> {
        self.hostname = hostname.into();
        self.in_writable_root(|| self.write_names())
    }

    /// Writes files of the agent's own, also where programs cannot write.
    pub(crate) fn in_writable_root(
        &self,
        write: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match &self.writable_root {
            None => write(),
            Some(root) => root.with(write),
        }
    }

    /// The entrypoint. Creates its working directory if it is missing, as container engines do.
    /// With `is_init` it is PID 1 of namespaces of its own, and can tell that it is in a container:
    /// systemd would set up hardware otherwise.
    pub(crate) fn entrypoint(&mut self, is_init: bool) -> Result<Launch, Failure> {
        make_directories(&self.entrypoint.cwd)?;
        let account = self.users.find(&self.entrypoint.user)?;
        let mut env = self.defaults();
        env.set_default(b"HOME", &account.home);
        if is_init {
            env.set_default(b"container", b"supermachine");
        }
        let launch = Launch::new(&self.entrypoint.argv, env, &self.entrypoint.cwd, account);
        Ok(Launch { is_init, limits: self.settings.ulimits.clone(), ..launch })
    }

    /// A command on top of the container's defaults.
    pub(crate) fn command(&mut self, command: &Command) -> Result<Launch, Failure> {
        let mut env = if command.env_clear { Environment::default() } else { self.defaults() };
        env.merge(&command.env);
        let user = command.user.as_ref().unwrap_or(&self.entrypoint.user);
        let cwd = command.cwd.as_ref().unwrap_or(&self.entrypoint.cwd);
        let account = self.users.find(user)?;
        if !command.env_clear {
            env.set_default(b"HOME", &account.home);
            if command.terminal.is_some() {
                env.set_default(b"TERM", DEFAULT_TERMINAL);
            }
        }
        let limits = [self.settings.ulimits.as_slice(), &command.ulimits].concat();
        Ok(Launch { limits, ..Launch::new(&command.argv, env, cwd, account) })
    }

    /// Looks up `user[:group]`.
    pub(crate) fn account(&mut self, user: &str) -> Result<Account, Failure> {
        self.users.find(user)
    }

    fn defaults(&self) -> Environment {
        let mut env = Environment::default();
        env.merge(&self.entrypoint.env);
        env.set_default(b"PATH", DEFAULT_PATH);
        env.set_default(b"HOSTNAME", self.hostname.as_bytes());
        env
    }

    fn write_names(&self) -> Result<(), Failure> {
        let name = self.hostname.as_bytes();
        rustix::system::sethostname(name).or_failure("sethostname", name)?;
        place::write_file(b"/etc/hostname", &[name, b"\n"].concat())?;
        // Container engines own this file; the image's version is a placeholder.
        let hosts = [HOSTS, b"127.0.1.1\t", name, b"\n"].concat();
        let hosts = if name.is_empty() { HOSTS } else { &hosts };
        place::write_file(b"/etc/hosts", hosts)
    }
}

impl Launch {
    fn new(argv: &[Vec<u8>], env: Environment, cwd: &[u8], account: Account) -> Self {
        let path = env.get(b"PATH").map(<[u8]>::to_vec);
        Self {
            argv: argv.to_vec(),
            env: env.into_pairs(),
            path,
            cwd: cwd.to_vec(),
            account,
            is_init: false,
            limits: Vec::new(),
        }
    }
}

/// Probes the slots, mounts the root file system, enters it and prepares it.
pub(crate) fn attach(
    description: Description,
    resumer: &mut Resumer,
) -> Result<Container, Failure> {
    for slot in &description.slots {
        probe(*slot)?;
    }
    let device = path(&[b"/dev/", description.root_device.as_bytes()].concat())?;
    wait_for_device(&device)?;
    mount_root(&device)?;
    let layers = Layers::open(c"/image", c"/rw")?;
    enter_root()?;
    let mut container = Container::new(description);
    mount_settings(&container.settings, &layers)?;
    container.layers = Some(layers);
    let mut write = || {
        make_directories(b"/etc")?;
        ensure_resolver()?;
        container.write_names()?;
        resumer.adopt_root()
    };
    if container.settings.read_only {
        // A start in a folder that cannot be made fails, and says so.
        let _ = make_directories(&container.entrypoint.cwd);
        container.writable_root = Some(WritableRoot::protect(write)?);
    } else {
        write()?;
    }
    Ok(container)
}

/// Mounts the image read-only, and over it a writable layer in memory, at /newroot.
///
/// The image is read through the page cache, also where its disk could be mapped (DAX): such pages
/// have no `struct page`, and a debugger that writes to one of them gets another page's content.
fn mount_root(device: &CStr) -> Result<(), Failure> {
    for directory in [c"/image", c"/rw", c"/newroot"] {
        ensure_directory(directory)?;
    }
    let name = device.to_bytes();
    mount::mount(device, c"/image", c"erofs", nr::MS_RDONLY, c"").or_failure("mount", name)?;
    // Half of the memory, and as many files as fit.
    let data = c"mode=0755,size=50%,nr_inodes=0";
    mount::mount(c"tmpfs", c"/rw", c"tmpfs", 0, data).or_failure("mount", "/rw")?;
    for directory in [c"/rw/upper", c"/rw/work"] {
        ensure_directory(directory)?;
    }
    // The upper directory's owner and mode are those of the root that programs see.
    let root = mount::status(c"/image").or_failure("stat", "/image")?;
    let mode = u32::from(root.stx_mode) & 0o7777;
    mount::set_owner_and_mode(c"/rw/upper", root.stx_uid, root.stx_gid, mode)
        .or_failure("chmod", "/rw/upper")?;
    let data = format!("lowerdir=/image,upperdir=/rw/upper,workdir=/rw/work,{OVERLAY_OPTIONS}");
    let data = path(data.as_bytes())?;
    mount::mount(c"overlay", c"/newroot", c"overlay", 0, &data).or_failure("mount", "/newroot")
}

/// Moves the kernel's file systems to /newroot, and makes it the root.
fn enter_root() -> Result<(), Failure> {
    for (from, to) in
        [(c"/proc", c"/newroot/proc"), (c"/sys", c"/newroot/sys"), (c"/dev", c"/newroot/dev")]
    {
        ensure_directory(to)?;
        mount::mount(from, to, c"", nr::MS_MOVE, c"").or_failure("mount", to.to_bytes())?;
    }
    rustix::process::chdir(c"/newroot").or_failure("chdir", "/newroot")?;
    mount::mount(c".", c"/", c"", nr::MS_MOVE, c"").or_failure("mount", "/")?;
    rustix::process::chroot(c".").or_failure("chroot", "/newroot")?;
    rustix::process::chdir(c"/").or_failure("chdir", "/")
}

/// Creates an empty resolver configuration if the image has none, as container engines do.
fn ensure_resolver() -> Result<(), Failure> {
    match mount::status(c"/etc/resolv.conf") {
        Ok(_) => Ok(()),
        Err(_) => place::write_file(b"/etc/resolv.conf", b""),
    }
}

impl Users {
    /// Looks up `user[:group]` in the container's current files.
    fn find(&mut self, user: &str) -> Result<Account, Failure> {
        let marks = [mark(c"/etc/passwd"), mark(c"/etc/group")];
        if let Some((known, name, account)) = &self.known
            && *known == marks
            && name == user
        {
            return Ok(account.clone());
        }
        let passwd = read_or_empty(c"/etc/passwd")?;
        let group = read_or_empty(c"/etc/group")?;
        let account = resolve(user, &passwd, &group).map_err(|unknown| {
            let operation = match unknown {
                UnknownAccount::User => "find user",
                UnknownAccount::Group => "find group",
            };
            failure(operation, user, Errno::NOENT)
        })?;
        self.known = Some((marks, user.into(), account.clone()));
        Ok(account)
    }
}

fn mark(path: &CStr) -> FileMark {
    let status = mount::status(path).ok()?;
    let times = [status.stx_mtime, status.stx_ctime].map(|time| (time.tv_sec, time.tv_nsec));
    Some((status.stx_ino, status.stx_size, times))
}

fn read_or_empty(path: &CStr) -> Result<Vec<u8>, Failure> {
    match fd::read_file(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(Vec::new()),
        other => other.or_failure("read", path.to_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Container {
        Container::new(Description {
            hostname: "box".into(),
            entrypoint: Process {
                argv: vec![b"run".to_vec()],
                env: vec![b"A=1".to_vec(), b"PATH=/x".to_vec()],
                cwd: b"/srv".to_vec(),
                user: "0".into(),
            },
            ..Description::default()
        })
    }

    #[test]
    fn command_extends_the_containers_environment() {
        let command = Command { env: vec![b"A=2".to_vec()], ..Command::default() };
        let launch = container().command(&command).unwrap();
        let env: Vec<_> = launch.env.iter().map(|pair| String::from_utf8_lossy(pair)).collect();
        assert_eq!(env[..3], ["A=2", "PATH=/x", "HOSTNAME=box"]);
        assert!(env[3].starts_with("HOME=/"));
        assert_eq!(launch.cwd, b"/srv");
    }

    #[test]
    fn limits_of_a_command_come_after_the_containers() {
        let limit = |resource, hard| Ulimit { resource, soft: 1, hard };
        let ulimits = vec![limit(7, 8), limit(4, 4)];
        let mut container = Container::new(Description {
            settings: Settings { ulimits: ulimits.clone(), ..Settings::default() },
            ..Description::default()
        });
        assert_eq!(container.entrypoint(false).unwrap().limits, ulimits);
        let command = Command { ulimits: vec![limit(7, 9)], ..Command::default() };
        let launch = container.command(&command).unwrap();
        assert_eq!(launch.limits, [limit(7, 8), limit(4, 4), limit(7, 9)]);
    }

    #[test]
    fn cleared_environment_holds_only_the_commands_own() {
        let own = vec![b"B=3".to_vec()];
        let command = Command { env: own.clone(), env_clear: true, ..Command::default() };
        let launch = container().command(&command).unwrap();
        assert_eq!(launch.env, own);
        assert_eq!(launch.path, None);
    }

    #[test]
    fn failure_names_an_unknown_user() {
        let command = Command { user: Some("no-such-user".into()), ..Command::default() };
        let failure = container().command(&command).unwrap_err();
        assert_eq!(
            (failure.operation.as_str(), failure.subject.as_str()),
            ("find user", "no-such-user")
        );
    }
}
