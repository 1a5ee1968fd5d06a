//! The machines that run by themselves: what they are called, where they are, who holds them.
//!
//! Each has a folder in a folder of the user's alone, and a supervisor, the process that holds it:
//!
//! ```text
//! $XDG_RUNTIME_DIR/supermachine/     or supermachine-UID where temporary files lie; mode 0700
//!   lock                             held while a name is taken, given back, or found abandoned
//!   machines/NAME/
//!     lock                           held by the supervisor for as long as it lives
//!     socket                         where it serves, mode 0600
//! ```
//!
//! Invariant: a folder whose lock nobody holds is a leftover, as its supervisor has ended, however
//! that came; whoever finds it removes it. What else is known of a machine its supervisor tells.

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

use crate::error::Error;

/// How long a machine may take from when its name is taken until it is served.
const STARTING: Duration = Duration::from_secs(10);
/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(5);

/// The folder of the machines that run.
#[derive(Debug)]
pub(crate) struct Machines {
    dir: PathBuf,
}

/// A name that nobody else can take while this is there, or whoever has its lock.
#[derive(Debug)]
pub(crate) struct Claim {
    name: String,
    lock: File,
    dir: PathBuf,
}

impl Machines {
    /// Finds the folder. Looking for something makes none.
    pub(crate) fn locate() -> Self {
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let dir = match runtime.filter(|dir| dir.is_absolute()) {
            Some(dir) => dir.join("supermachine"),
            None => env::temp_dir().join(format!("supermachine-{}", own_id())),
        };
        Self { dir }
    }

    /// Takes a name: the wanted one, else one made of `base` that is free.
    pub(crate) fn claim(&self, wanted: Option<&str>, base: &str) -> Result<Claim, Error> {
        make_own(&self.dir)?;
        make_own(&self.dir.join("machines"))?;
        let _turn = self.turn()?;
        if let Some(name) = wanted {
            let taken = || Error::MachineTaken { name: name.to_owned() };
            return self.try_claim(name)?.ok_or_else(taken);
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

    /// The names of the machines that run, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>, Error> {
        let parent = self.dir.join("machines");
        if !is_own(&self.dir)? || !is_own(&parent)? {
            return Ok(Vec::new());
        }
        let _turn = self.turn()?;
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

    /// Reaches the machine of this name, also one that is about to start.
    pub(crate) fn connect(&self, name: &str) -> Result<Client, Error> {
        let begin = Instant::now();
        loop {
            match self.connect_now(name) {
                Err(error) if error.is_unserved() && begin.elapsed() < STARTING => {
                    thread::sleep(PAUSE);
                }
                done => return done,
            }
        }
    }

    /// Reaches the machine of this name, if it is served by now.
    pub(crate) fn connect_now(&self, name: &str) -> Result<Client, Error> {
        if !is_name(name) || !self.names()?.iter().any(|known| known == name) {
            return Err(Error::NoSuchMachine { name: name.to_owned() });
        }
        Ok(Client::connect(self.folder(name).join("socket"))?)
    }

    /// The claim that this process was started with, by who made it.
    pub(crate) fn inherited(&self, name: &str, lock: OwnedFd) -> Result<Claim, Error> {
        let lock = File::from(lock);
        let claim = Claim { name: name.to_owned(), lock, dir: self.dir.clone() };
        if !claim.is_in_place()? || claim.lock.try_lock().is_err() {
            return Err(Error::NotClaimed { name: name.to_owned() });
        }
        Ok(claim)
    }

    /// Whoever has the turn is the only one to look for free names and leftovers.
    fn turn(&self) -> Result<File, Error> {
        let path = self.dir.join("lock");
        let lock = open_lock(&path)?;
        lock.lock().map_err(|source| state("lock", &path, source))?;
        Ok(lock)
    }

    /// Takes a name if it is free. To be called in turn.
    fn try_claim(&self, name: &str) -> Result<Option<Claim>, Error> {
        if !is_name(name) {
            return Err(Error::MachineName { name: name.to_owned() });
        }
        if self.is_held(name)? {
            return Ok(None);
        }
        let folder = self.folder(name);
        make_own(&folder)?;
        let path = folder.join("lock");
        let lock = open_lock(&path)?;
        lock.lock().map_err(|source| state("lock", &path, source))?;
        Ok(Some(Claim { name: name.to_owned(), lock, dir: self.dir.clone() }))
    }

    /// Whether a machine of this name runs or starts. What a former one left is removed. To be
    /// called in turn.
    fn is_held(&self, name: &str) -> Result<bool, Error> {
        let folder = self.folder(name);
        let path = folder.join("lock");
        match File::open(&path).map(|lock| lock.try_lock()) {
            Ok(Err(TryLockError::WouldBlock)) => return Ok(true),
            Ok(Err(TryLockError::Error(source))) => return Err(state("lock", &path, source)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(state("open", &path, error));
            }
            Ok(Ok(())) | Err(_) => {}
        }
        remove(&folder)?;
        Ok(false)
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.dir.join("machines").join(name)
    }
}

impl Claim {
    /// The machine's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the machine is to be served.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder().join("socket")
    }

    /// What holds the name, to be handed to another process.
    pub(crate) fn lock(&self) -> Result<OwnedFd, Error> {
        let lock = self.lock.try_clone();
        Ok(lock.map_err(|source| state("lock", &self.folder(), source))?.into())
    }

    /// Gives the name back, unless somebody who shares the claim has, and it is another's by now.
    pub(crate) fn give_back(self) -> Result<(), Error> {
        let machines = Machines { dir: self.dir.clone() };
        let _turn = machines.turn()?;
        if self.is_in_place()? { remove(&self.folder()) } else { Ok(()) }
    }

    /// Whether the lock that is held is the one at the name's place.
    fn is_in_place(&self) -> Result<bool, Error> {
        let path = self.folder().join("lock");
        let failed = |source| state("stat", &path, source);
        let own = self.lock.metadata().map_err(failed)?;
        match fs::symlink_metadata(&path) {
            Ok(known) => Ok((known.dev(), known.ino()) == (own.dev(), own.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(failed(source)),
        }
    }

    fn folder(&self) -> PathBuf {
        self.dir.join("machines").join(&self.name)
    }
}

fn own_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn open_lock(path: &Path) -> Result<File, Error> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(|source| state("open", path, source))
}

/// Makes a folder of this user's alone, if it is not there.
fn make_own(dir: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => is_own(dir).map(drop),
        Err(source) => Err(state("mkdir", dir, source)),
    }
}

/// Whether there is such a folder. One that others could have put something into is refused.
fn is_own(dir: &Path) -> Result<bool, Error> {
    let found = match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        result => result.map_err(|source| state("stat", dir, source))?,
    };
    if found.is_dir() && found.uid() == own_id() && found.mode().trailing_zeros() >= 6 {
        return Ok(true);
    }
    Err(Error::NotOwnFolder { path: dir.to_owned() })
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
    fn name_is_taken_once_and_others_count_on() {
        let (_parent, machines) = machines();
        let first = machines.claim(None, "web").unwrap();
        let second = machines.claim(None, "web").unwrap();
        assert_eq!([first.name(), second.name()], ["web", "web-2"]);
        let taken = machines.claim(Some("web"), "other").unwrap_err();
        assert!(matches!(taken, Error::MachineTaken { name } if name == "web"));
        first.give_back().unwrap();
        assert_eq!(machines.names().unwrap(), ["web-2"]);
        assert_eq!(machines.claim(Some("web"), "").unwrap().name(), "web");
    }

    #[test]
    fn name_whose_holder_is_gone_is_free_and_not_listed() {
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
    fn lock_that_is_handed_on_holds_the_name() {
        let (_parent, machines) = machines();
        let claim = machines.claim(None, "web").unwrap();
        let lock = claim.lock().unwrap();
        drop(claim);
        assert_eq!(machines.names().unwrap(), ["web"]);
        let held = machines.inherited("web", lock).unwrap();
        held.give_back().unwrap();
        assert_eq!(machines.names().unwrap(), [""; 0]);
    }

    #[test]
    fn name_that_was_given_back_before_is_not_taken_from_its_next_holder() {
        let (_parent, machines) = machines();
        let claim = machines.claim(None, "web").unwrap();
        let shared = machines.inherited("web", claim.lock().unwrap()).unwrap();
        shared.give_back().unwrap();
        let next = machines.claim(Some("web"), "").unwrap();
        claim.give_back().unwrap();
        assert_eq!(machines.names().unwrap(), ["web"]);
        next.give_back().unwrap();
        assert_eq!(machines.names().unwrap(), [""; 0]);
    }

    #[test]
    fn lock_of_somebody_else_or_of_another_name_is_no_claim() {
        let (_parent, machines) = machines();
        let web = machines.claim(None, "web").unwrap();
        let other = machines.claim(None, "other").unwrap();
        let path = machines.dir.join("machines/web/lock");
        for lock in [File::open(path).unwrap().into(), other.lock().unwrap()] {
            let refused = machines.inherited("web", lock);
            assert!(matches!(refused, Err(Error::NotClaimed { .. })), "{refused:?}");
        }
        drop(web);
    }

    #[test]
    fn machine_that_is_about_to_start_is_waited_for_and_one_that_does_not_is_gone() {
        let (_parent, machines) = machines();
        let claim = machines.claim(None, "web").unwrap();
        thread::scope(|scope| {
            let connecting = scope.spawn(|| machines.connect("web"));
            thread::sleep(10 * PAUSE);
            assert!(!connecting.is_finished());
            claim.give_back().unwrap();
            let error = connecting.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::NoSuchMachine { .. }), "{error:?}");
        });
        let claim = machines.claim(None, "web").unwrap();
        thread::scope(|scope| {
            let connecting = scope.spawn(|| machines.connect("web"));
            thread::sleep(10 * PAUSE);
            let server = std::os::unix::net::UnixListener::bind(claim.socket()).unwrap();
            drop(server.accept().unwrap());
            // It was reached, and did not know what to say.
            let error = connecting.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Machine(_)), "{error:?}");
        });
    }

    #[test]
    fn looking_makes_no_folder_and_finds_no_machine() {
        let (_parent, machines) = machines();
        assert_eq!(machines.names().unwrap(), [""; 0]);
        for name in ["web", "", "../web", ".."] {
            let error = machines.connect(name).unwrap_err();
            assert!(matches!(error, Error::NoSuchMachine { .. }), "{error:?}");
        }
        assert!(!machines.dir.exists());
        for name in ["", "../x", "-x", "a b"] {
            let error = machines.claim(Some(name), "").unwrap_err();
            assert!(matches!(error, Error::MachineName { .. }), "{error:?}");
        }
    }

    #[test]
    fn folder_that_others_may_use_or_that_is_a_link_is_refused() {
        let (parent, machines) = machines();
        machines.claim(None, "web").unwrap();
        for mode in [0o755, 0o770, 0o701] {
            set_mode(&machines.dir, mode);
            assert!(matches!(machines.names(), Err(Error::NotOwnFolder { .. })), "{mode:o}");
            assert!(matches!(machines.claim(None, "x"), Err(Error::NotOwnFolder { .. })));
        }
        set_mode(&machines.dir, 0o700);
        let link = Machines { dir: parent.path().join("link") };
        std::os::unix::fs::symlink(&machines.dir, &link.dir).unwrap();
        assert!(matches!(link.names(), Err(Error::NotOwnFolder { .. })));
    }
}
