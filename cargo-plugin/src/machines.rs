//! The registry of machines in the background: their names, sockets and supervisors.
//!
//! A machine has a folder in a private folder of the user, and a supervisor, the process that holds it:
//!
//! ```text
//! $XDG_RUNTIME_DIR/supermachine/     or supermachine-UID in the temporary folder; mode 0700
//!   lock                             held while a name is claimed, released, or cleaned up
//!   machines/NAME/
//!     lock                           held by the supervisor while it lives
//!     socket                         where it listens, mode 0600
//!     stopping                       there once a user wants it to stop, so that it does not restart
//!     jobs/, log                     see `crate::jobs` and `crate::supervisor`
//!   stopped/NAME/                    the logs of the last machine of that name, see `crate::stopped`
//!   events, events.1, events.lock    see `crate::events`
//! ```
//!
//! Invariant: nobody holds the lock of a stale folder, because its supervisor has exited. The next
//! command that sees a stale folder removes it. The supervisor knows everything else about a machine, but
//! not its name: a folder may be renamed while its machine runs.

use std::env;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use supermachine::worker::Client;
use supermachine_snapshots::pack::is_name;

use crate::error::{BackgroundError, Error, HostError, UsageError};
use crate::events::{Event, EventLog};

/// How long a machine may take from the claim of its name until it is served.
const STARTING: Duration = Duration::from_secs(10);
/// How long to wait before the next attempt to connect.
const PAUSE: Duration = Duration::from_millis(5);

const LOCK: &str = "lock";
const SOCKET: &str = "socket";
const STOPPING: &str = "stopping";

/// The registry.
#[derive(Debug)]
pub(crate) struct Machines {
    dir: PathBuf,
}

/// Where a machine's folder is, by the lock in it: it may get another name.
#[derive(Debug, Clone)]
pub(crate) struct TrackedFolder {
    dir: PathBuf,
    /// Device and inode.
    lock: (u64, u64),
}

/// A claim on a name. Nobody else can claim the name while this, or a copy of its lock, exists.
#[derive(Debug)]
pub(crate) struct Claim {
    name: String,
    lock: File,
    dir: PathBuf,
}

impl Machines {
    /// Finds the registry. Lookups do not create it.
    pub(crate) fn locate() -> Self {
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let dir = match runtime.filter(|dir| dir.is_absolute()) {
            Some(dir) => dir.join("supermachine"),
            None => env::temp_dir().join(format!("supermachine-{}", user_id())),
        };
        Self { dir }
    }

    /// Creates the folder, unless it exists.
    pub(crate) fn create(&self) -> Result<(), Error> {
        create_private(&self.dir)
    }

    /// Claims the wanted name, or a free name that starts with `base`.
    pub(crate) fn claim(&self, wanted: Option<&str>, base: &str) -> Result<Claim, Error> {
        create_private(&self.dir)?;
        create_private(&self.dir.join("machines"))?;
        let _guard = self.lock()?;
        if let Some(name) = wanted {
            let taken = || BackgroundError::NameTaken { name: name.to_owned() };
            return Ok(self.try_claim(name)?.ok_or_else(taken)?);
        }
        let mut number = 1_u64;
        loop {
            let name = if number == 1 { base.to_owned() } else { format!("{base}-{number}") };
            if let Some(claim) = self.try_claim(&name)? {
                return Ok(claim);
            }
            number += 1;
        }
    }

    /// The names of all machines, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>, Error> {
        let parent = self.dir.join("machines");
        if !is_private(&self.dir)? || !is_private(&parent)? {
            return Ok(Vec::new());
        }
        let _guard = self.lock()?;
        let failed = |source| state("read", &parent, source);
        let mut names = Vec::new();
        for entry in fs::read_dir(&parent).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if is_name(&name) && self.is_held(&name)? {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Connects to a machine. Waits for one that is starting.
    pub(crate) fn connect(&self, name: &str) -> Result<Client, Error> {
        let begin = Instant::now();
        loop {
            match self.connect_now(name) {
                Err(error) if error.is_not_listening() && begin.elapsed() < STARTING => {
                    thread::sleep(PAUSE);
                }
                done => return done,
            }
        }
    }

    /// Connects to a machine that is already served.
    pub(crate) fn connect_now(&self, name: &str) -> Result<Client, Error> {
        if !is_name(name) || !self.names()?.iter().any(|known| known == name) {
            return Err(BackgroundError::NotRunning { name: name.to_owned() }.into());
        }
        Ok(Client::connect(self.folder(name).join(SOCKET))?)
    }

    /// The folder of a running machine.
    pub(crate) fn running(&self, name: &str) -> Result<PathBuf, Error> {
        if !is_name(name) || !self.names()?.iter().any(|known| known == name) {
            return Err(BackgroundError::NotRunning { name: name.to_owned() }.into());
        }
        Ok(self.folder(name))
    }

    /// Records that a user wants a machine to stop: when its entrypoint exits, it does not restart.
    pub(crate) fn mark_stopping(&self, name: &str) -> Result<(), Error> {
        let path = self.running(name)?.join(STOPPING);
        fs::write(&path, "").map_err(|source| state("create", &path, source))
    }

    /// Gives a machine another name, at once for all later lookups.
    pub(crate) fn rename(&self, old: &str, new: &str) -> Result<(), Error> {
        if !is_name(new) {
            return Err(UsageError::MachineName { name: new.to_owned() }.into());
        }
        if old == new {
            return Err(UsageError::SameName { name: old.to_owned() }.into());
        }
        let not_running = || BackgroundError::NotRunning { name: old.to_owned() };
        if !is_name(old) || !is_private(&self.dir)? {
            return Err(not_running().into());
        }
        let begin = Instant::now();
        while !self.try_rename(old, new)? {
            if begin.elapsed() > STARTING {
                return Err(not_running().into());
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Renames a machine. Returns `false` for one that is starting: its supervisor still expects its name.
    fn try_rename(&self, old: &str, new: &str) -> Result<bool, Error> {
        let _guard = self.lock()?;
        let parent = if self.is_held(old)? {
            "machines"
        } else if self.stopped(old).is_some() {
            "stopped"
        } else {
            return Err(BackgroundError::NotRunning { name: old.to_owned() }.into());
        };
        if self.is_held(new)? {
            return Err(BackgroundError::NewNameTaken { name: new.to_owned() }.into());
        }
        if parent == "machines" && !self.folder(old).join(SOCKET).exists() {
            return Ok(false);
        }
        self.forget(new)?;
        let [from, to] = [old, new].map(|name| self.dir.join(parent).join(name));
        fs::rename(&from, &to).map_err(|source| state("rename", &from, source))?;
        self.events().record(&Event::new("rename", new, [("oldName", old.to_owned())]));
        Ok(true)
    }

    /// The log of events.
    pub(crate) fn events(&self) -> EventLog {
        EventLog::in_folder(&self.dir)
    }

    /// The folder of the last stopped machine of this name, if there is one.
    pub(crate) fn stopped(&self, name: &str) -> Option<PathBuf> {
        let folder = self.dir.join("stopped").join(name);
        (is_name(name) && is_private(&self.dir).ok()? && is_private(&folder).ok()?)
            .then_some(folder)
    }

    /// The names of all stopped machines whose logs are kept, sorted.
    pub(crate) fn stopped_names(&self) -> Result<Vec<String>, Error> {
        let parent = self.dir.join("stopped");
        if !is_private(&self.dir)? || !is_private(&parent)? {
            return Ok(Vec::new());
        }
        let failed = |source| state("read", &parent, source);
        let mut names = Vec::new();
        for entry in fs::read_dir(&parent).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| is_name(name));
        names.sort();
        Ok(names)
    }

    /// Keeps a stopped machine: `fill` writes its files. Does nothing if another machine has the name.
    pub(crate) fn keep_stopped(
        &self,
        name: &str,
        fill: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), Error> {
        let _guard = self.lock()?;
        if !is_name(name) || self.is_held(name)? {
            return Ok(());
        }
        create_private(&self.dir.join("stopped"))?;
        let folder = self.dir.join("stopped").join(name);
        remove(&folder)?;
        create_private(&folder)?;
        fill(&folder).map_err(|source| {
            // Half of what is known is worse than nothing. The first error matters.
            let _ = remove(&folder);
            state("write", &folder, source)
        })
    }

    /// Forgets the last stopped machine of this name. Returns whether there was one.
    pub(crate) fn forget_stopped(&self, name: &str) -> Result<bool, Error> {
        if self.stopped(name).is_none() {
            return Ok(false);
        }
        let _guard = self.lock()?;
        self.forget(name)
    }

    /// Forgets a stopped machine. The caller has locked the registry.
    fn forget(&self, name: &str) -> Result<bool, Error> {
        let Some(folder) = self.stopped(name) else { return Ok(false) };
        remove(&folder)?;
        self.events().record(&Event::new("destroy", name, []));
        Ok(true)
    }

    /// Takes over a claim whose lock this process inherited.
    pub(crate) fn inherited(&self, name: &str, lock: OwnedFd) -> Result<Claim, Error> {
        let lock = File::from(lock);
        let claim = Claim { name: name.to_owned(), lock, dir: self.dir.clone() };
        if !claim.is_in_place()? || claim.lock.try_lock().is_err() {
            return Err(BackgroundError::NotClaimed { name: name.to_owned() }.into());
        }
        Ok(claim)
    }

    /// Locks the registry. Names are claimed and stale folders removed only under this lock.
    fn lock(&self) -> Result<File, Error> {
        let path = self.dir.join("lock");
        let lock = open_lock(&path)?;
        lock.lock().map_err(|source| state("lock", &path, source))?;
        Ok(lock)
    }

    /// Claims a name if it is free. The caller has locked the registry.
    fn try_claim(&self, name: &str) -> Result<Option<Claim>, Error> {
        if !is_name(name) {
            return Err(UsageError::MachineName { name: name.to_owned() }.into());
        }
        if self.is_held(name)? {
            return Ok(None);
        }
        self.forget(name)?;
        let folder = self.folder(name);
        create_private(&folder)?;
        let path = folder.join(LOCK);
        let lock = open_lock(&path)?;
        lock.lock().map_err(|source| state("lock", &path, source))?;
        Ok(Some(Claim { name: name.to_owned(), lock, dir: self.dir.clone() }))
    }

    /// Whether a machine of this name runs or starts. Removes a stale folder. The caller has locked the
    /// registry.
    fn is_held(&self, name: &str) -> Result<bool, Error> {
        let folder = self.folder(name);
        let path = folder.join(LOCK);
        let found = File::open(&path).map(|lock| lock.try_lock());
        let is_stale = matches!(found, Ok(Ok(())));
        match found {
            Ok(Err(TryLockError::WouldBlock)) => return Ok(true),
            Ok(Err(TryLockError::Error(source))) => return Err(state("lock", &path, source)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(state("open", &path, error));
            }
            Ok(Ok(())) | Err(_) => {}
        }
        if is_stale && folder.join(SOCKET).exists() {
            // Its supervisor was killed, and could not say so.
            self.events().record(&Event::new("die", name, [("exitCode", "137".to_owned())]));
        }
        remove(&folder)?;
        Ok(false)
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.dir.join("machines").join(name)
    }
}

impl Claim {
    /// The name that was claimed.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the machine's folder is from now on.
    pub(crate) fn tracked(&self) -> Result<TrackedFolder, Error> {
        let own = self.lock.metadata();
        let own = own.map_err(|source| state("stat", &self.folder().join(LOCK), source))?;
        Ok(TrackedFolder { dir: self.dir.clone(), lock: (own.dev(), own.ino()) })
    }

    /// The socket to serve the machine at.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder().join(SOCKET)
    }

    /// A copy of the lock, for another process.
    pub(crate) fn lock(&self) -> Result<OwnedFd, Error> {
        let lock = self.lock.try_clone();
        Ok(lock.map_err(|source| state("lock", &self.folder(), source))?.into())
    }

    /// Releases the name, unless another process with the lock has released it already.
    pub(crate) fn release(self) -> Result<(), Error> {
        let machines = Machines { dir: self.dir.clone() };
        let tracked = self.tracked()?;
        let _guard = machines.lock()?;
        tracked.look().map_or(Ok(()), |folder| remove(&folder))
    }

    /// Whether this lock is still the one in the name's folder.
    fn is_in_place(&self) -> Result<bool, Error> {
        Ok(self.tracked()?.is_at(&self.folder()))
    }

    fn folder(&self) -> PathBuf {
        self.dir.join("machines").join(&self.name)
    }
}

impl TrackedFolder {
    /// The machine's present name. `None` if its folder is gone.
    pub(crate) fn name(&self) -> Option<String> {
        Some(self.folder()?.file_name()?.to_string_lossy().into_owned())
    }

    /// The machine's present folder. `None` if it is gone.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        let machines = Machines { dir: self.dir.clone() };
        // Not between the two names.
        let _guard = machines.lock().ok()?;
        self.look()
    }

    /// Whether a user wants the machine to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.folder().is_none_or(|folder| folder.join(STOPPING).exists())
    }

    fn look(&self) -> Option<PathBuf> {
        let entries = fs::read_dir(self.dir.join("machines")).ok()?;
        let mut folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
        folders.find(|folder| self.is_at(folder))
    }

    fn is_at(&self, folder: &Path) -> bool {
        let lock = fs::symlink_metadata(folder.join(LOCK));
        lock.is_ok_and(|lock| (lock.dev(), lock.ino()) == self.lock)
    }
}

fn user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn open_lock(path: &Path) -> Result<File, Error> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(|source| state("open", path, source))
}

/// Creates a private folder, or checks that the existing one is private.
fn create_private(dir: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => is_private(dir).map(drop),
        Err(source) => Err(state("mkdir", dir, source)),
    }
}

/// Whether the folder exists. Refuses a folder that other users can write to.
fn is_private(dir: &Path) -> Result<bool, Error> {
    let found = match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        result => result.map_err(|source| state("stat", dir, source))?,
    };
    if found.is_dir() && found.uid() == user_id() && found.mode().trailing_zeros() >= 6 {
        return Ok(true);
    }
    Err(HostError::SharedFolder { path: dir.to_owned() }.into())
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(state("remove", folder, error))
        }
        _ => Ok(()),
    }
}

fn state(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn machines() -> (tempfile::TempDir, Machines) {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("supermachine");
        (parent, Machines { dir })
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn taken_name_gets_a_number() {
        let (_parent, machines) = machines();
        let first = machines.claim(None, "web").unwrap();
        let second = machines.claim(None, "web").unwrap();
        assert_eq!([first.name(), second.name()], ["web", "web-2"]);
        let taken = machines.claim(Some("web"), "other").unwrap_err();
        assert!(
            matches!(taken, Error::Background(BackgroundError::NameTaken { name }) if name == "web")
        );
        first.release().unwrap();
        assert_eq!(machines.names().unwrap(), ["web-2"]);
        assert_eq!(machines.claim(Some("web"), "").unwrap().name(), "web");
    }

    #[test]
    fn name_of_a_dead_holder_is_free_and_not_listed() {
        let (_parent, machines) = machines();
        let claim = machines.claim(None, "web").unwrap();
        fs::write(claim.socket(), "left").unwrap();
        drop(claim);
        assert!(machines.dir.join("machines/web").exists());
        assert_eq!(machines.names().unwrap(), [""; 0]);
        assert!(!machines.dir.join("machines/web").exists());
        let claim = machines.claim(Some("web"), "").unwrap();
        drop(claim);
        assert!(!machines.claim(Some("web"), "").unwrap().socket().exists());
    }

    #[test]
    fn inherited_lock_holds_the_name() {
        let (_parent, machines) = machines();
        let claim = machines.claim(None, "web").unwrap();
        let lock = claim.lock().unwrap();
        drop(claim);
        assert_eq!(machines.names().unwrap(), ["web"]);
        let held = machines.inherited("web", lock).unwrap();
        held.release().unwrap();
        assert_eq!(machines.names().unwrap(), [""; 0]);
    }

    #[test]
    fn ended_machine_is_kept_until_it_is_forgotten_or_its_name_is_claimed() {
        let (_parent, machines) = machines();
        let keep = || machines.keep_stopped("web", |folder| fs::write(folder.join("log"), "x"));
        let claim = machines.claim(None, "web").unwrap();
        keep().unwrap();
        assert!(machines.stopped("web").is_none());
        claim.release().unwrap();
        keep().unwrap();
        keep().unwrap();
        assert_eq!(machines.stopped_names().unwrap(), ["web"]);
        assert_eq!(fs::read(machines.stopped("web").unwrap().join("log")).unwrap(), b"x");
        assert!(machines.stopped("../stopped/web").is_none());
        machines.claim(Some("web"), "").unwrap().release().unwrap();
        assert!(machines.stopped("web").is_none());
        keep().unwrap();
        assert!(machines.forget_stopped("web").unwrap());
        assert!(!machines.forget_stopped("web").unwrap());
    }

    #[test]
    fn renamed_machine_is_found_by_its_new_name_only() {
        let (_parent, machines) = machines();
        let claim = machines.claim(None, "web").unwrap();
        let tracked = claim.tracked().unwrap();
        let lock = claim.lock().unwrap();
        fs::write(claim.socket(), "").unwrap();
        machines.rename("web", "api").unwrap();
        assert_eq!(machines.names().unwrap(), ["api"]);
        assert_eq!(tracked.name().as_deref(), Some("api"));
        let other = machines.claim(Some("web"), "").unwrap();
        assert_eq!(tracked.name().as_deref(), Some("api"));
        // The old name is another machine's now, which a release must spare.
        claim.release().unwrap();
        assert_eq!((machines.names().unwrap(), tracked.name()), (vec!["web".to_owned()], None));
        drop((lock, other));
    }

    #[test]
    fn rename_is_refused_with_a_reason() {
        let (_parent, machines) = machines();
        let refuse = |old: &str, new: &str, reason: &str| {
            let error = machines.rename(old, new).unwrap_err().to_string();
            assert!(error.contains(reason), "{old} {new}: {error}");
        };
        refuse("web", "api", "no machine \"web\" runs");
        let _web = machines.claim(None, "web").unwrap();
        let _api = machines.claim(None, "api").unwrap();
        refuse("web", "api", "a machine api runs already");
        refuse("web", "web", "already has the name web");
        refuse("gone", "new", "no machine \"gone\" runs");
        for bad in ["", "../x", "-x", "a b", "a/b"] {
            refuse("web", bad, "is not a machine name");
            assert!(machines.rename(bad, "new").is_err());
        }
        let long = "x".repeat(129);
        refuse("web", &long, "129");
        assert_eq!(machines.names().unwrap(), ["api", "web"]);
    }

    #[test]
    fn stopped_machine_is_renamed_over_another() {
        let (_parent, machines) = machines();
        for name in ["one", "two"] {
            machines.claim(Some(name), "").unwrap().release().unwrap();
            machines.keep_stopped(name, |folder| fs::write(folder.join("log"), name)).unwrap();
        }
        machines.rename("one", "two").unwrap();
        assert_eq!(machines.stopped_names().unwrap(), ["two"]);
        assert_eq!(fs::read(machines.stopped("two").unwrap().join("log")).unwrap(), b"one");
        let events = machines.events().read(true).next().unwrap();
        let actions: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
        assert_eq!(actions, ["destroy", "rename"]);
        assert_eq!(events[1].actor.attributes["oldName"], "one");
    }

    #[test]
    fn mark_of_a_stop_moves_with_the_machine() {
        let (_parent, machines) = machines();
        let claim = machines.claim(None, "web").unwrap();
        let tracked = claim.tracked().unwrap();
        assert!(!tracked.is_stopping());
        machines.mark_stopping("web").unwrap();
        fs::write(claim.socket(), "").unwrap();
        machines.rename("web", "api").unwrap();
        assert!(tracked.is_stopping());
        assert!(machines.mark_stopping("web").is_err());
    }

    #[test]
    fn second_release_spares_the_next_holder() {
        let (_parent, machines) = machines();
        let claim = machines.claim(None, "web").unwrap();
        let shared = machines.inherited("web", claim.lock().unwrap()).unwrap();
        shared.release().unwrap();
        let next = machines.claim(Some("web"), "").unwrap();
        claim.release().unwrap();
        assert_eq!(machines.names().unwrap(), ["web"]);
        next.release().unwrap();
        assert_eq!(machines.names().unwrap(), [""; 0]);
    }

    #[test]
    fn foreign_lock_is_not_a_claim() {
        let (_parent, machines) = machines();
        let web = machines.claim(None, "web").unwrap();
        let other = machines.claim(None, "other").unwrap();
        let path = machines.dir.join("machines/web/lock");
        for lock in [File::open(path).unwrap().into(), other.lock().unwrap()] {
            let refused = machines.inherited("web", lock);
            assert!(
                matches!(refused, Err(Error::Background(BackgroundError::NotClaimed { .. }))),
                "{refused:?}"
            );
        }
        drop(web);
    }

    #[test]
    fn connect_waits_for_a_starting_machine() {
        let (_parent, machines) = machines();
        let claim = machines.claim(None, "web").unwrap();
        thread::scope(|scope| {
            let connecting = scope.spawn(|| machines.connect("web"));
            thread::sleep(10 * PAUSE);
            assert!(!connecting.is_finished());
            claim.release().unwrap();
            let error = connecting.join().unwrap().unwrap_err();
            assert!(
                matches!(error, Error::Background(BackgroundError::NotRunning { .. })),
                "{error:?}"
            );
        });
        let claim = machines.claim(None, "web").unwrap();
        thread::scope(|scope| {
            let connecting = scope.spawn(|| machines.connect("web"));
            thread::sleep(10 * PAUSE);
            let server = std::os::unix::net::UnixListener::bind(claim.socket()).unwrap();
            drop(server.accept().unwrap());
            // The connection worked, and the greeting failed.
            let error = connecting.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Machine(_)), "{error:?}");
        });
    }

    #[test]
    fn lookup_in_a_missing_registry_creates_nothing() {
        let (_parent, machines) = machines();
        assert_eq!(machines.names().unwrap(), [""; 0]);
        for name in ["web", "", "../web", ".."] {
            let error = machines.connect(name).unwrap_err();
            assert!(
                matches!(error, Error::Background(BackgroundError::NotRunning { .. })),
                "{error:?}"
            );
        }
        assert!(!machines.dir.exists());
        for name in ["", "../x", "-x", "a b"] {
            let error = machines.claim(Some(name), "").unwrap_err();
            assert!(matches!(error, Error::Usage(UsageError::MachineName { .. })), "{error:?}");
        }
    }

    #[test]
    fn shared_or_linked_folder_is_refused() {
        let (parent, machines) = machines();
        machines.claim(None, "web").unwrap();
        for mode in [0o755, 0o770, 0o701] {
            set_mode(&machines.dir, mode);
            assert!(
                matches!(machines.names(), Err(Error::Host(HostError::SharedFolder { .. }))),
                "{mode:o}"
            );
            assert!(matches!(
                machines.claim(None, "x"),
                Err(Error::Host(HostError::SharedFolder { .. }))
            ));
        }
        set_mode(&machines.dir, 0o700);
        let link = Machines { dir: parent.path().join("link") };
        std::os::unix::fs::symlink(&machines.dir, &link.dir).unwrap();
        assert!(matches!(link.names(), Err(Error::Host(HostError::SharedFolder { .. }))));
    }
}
