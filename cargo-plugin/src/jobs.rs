//! Commands in the background of a machine: `exec -d`.
//!
//! A process of its own, the attendant, holds a command, and writes its output to a folder of the machine:
//!
//! ```text
//! machines/NAME/jobs/NUMBER/
//!   lock      held by the attendant while it lives
//!   log       the output, the last part of it if it is long; see `crate::stream_log`
//!   status    spaces, and the exit status once the command has exited
//! ```
//!
//! A job is called NAME/NUMBER. Its folder goes with the machine. A job lives on when the disk is full: its
//! log then says how much is missing, and its status has its room from the start.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind::{QuotaExceeded, StorageFull};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::{BackgroundError, Error};
use crate::machines::Machines;
use crate::stream_log::{self, CopyError, STDERR};

/// How much of a log is kept, at most.
const MAX_LOG: u64 = 1 << 20;

/// The room for an exit status.
const STATUS_ROOM: usize = 4;

/// A job of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    machine: String,
    number: u32,
    folder: PathBuf,
}

/// Splits NAME/NUMBER. Returns `None` for other names.
fn split(name: &str) -> Option<(&str, u32)> {
    let (machine, number) = name.split_once('/')?;
    Some((machine, number.parse().ok()?))
}

/// Whether a name is a job's, and not a machine's.
pub(crate) fn is_job(name: &str) -> bool {
    split(name).is_some()
}

impl Job {
    /// Creates the folder of a new job, and locks it.
    pub(crate) fn create(machines: &Machines, machine: &str) -> Result<(Self, File), Error> {
        let parent = machines.jobs(machine)?;
        make(&parent)?;
        for number in 1_u32.. {
            let folder = parent.join(number.to_string());
            match DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                done => done.map_err(Error::file("create", &folder))?,
            }
            let job = Self { machine: machine.to_owned(), number, folder };
            let made = job.make_files();
            if made.is_err() {
                // The first error matters.
                let _ = fs::remove_dir_all(&job.folder);
            }
            return made.map(|lock| (job, lock));
        }
        Err(Error::file("create", &parent)(io::ErrorKind::StorageFull.into()))
    }

    fn make_files(&self) -> Result<File, Error> {
        let path = self.folder.join("lock");
        let lock = File::create(&path).map_err(Error::file("create", &path))?;
        lock.lock().map_err(Error::file("lock", &path))?;
        let path = self.folder.join("status");
        fs::write(&path, [b' '; STATUS_ROOM]).map_err(Error::file("write", &path))?;
        Ok(lock)
    }

    /// Finds a job by its name.
    pub(crate) fn find(machines: &Machines, name: &str) -> Result<Self, Error> {
        let unknown = || BackgroundError::NoSuchJob { name: name.to_owned() };
        let (machine, number) = split(name).ok_or_else(unknown)?;
        let folder = machines.jobs(machine)?.join(number.to_string());
        let job = Self { machine: machine.to_owned(), number, folder };
        if job.folder.is_dir() { Ok(job) } else { Err(unknown().into()) }
    }

    /// The job's name.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.machine, self.number)
    }

    /// The log, to append to.
    pub(crate) fn log(&self) -> Result<BoundedLog, Error> {
        let path = self.folder.join("log");
        let file = File::options().create(true).read(true).append(true).open(&path);
        Ok(BoundedLog { file: file.map_err(Error::file("create", &path))?, size: 0, lost: 0 })
    }

    /// Notes the exit status.
    pub(crate) fn exited(&self, status: u8) -> Result<(), Error> {
        let path = self.folder.join("status");
        let file = File::options().write(true).open(&path);
        let written = file.and_then(|mut file| write!(file, "{status:<STATUS_ROOM$}"));
        written.map_err(Error::file("write", &path))
    }

    /// Waits until the command exits, and returns its status. `None` if its attendant was killed.
    pub(crate) fn wait(&self) -> Result<Option<u8>, Error> {
        let path = self.folder.join("lock");
        let lock = File::open(&path).map_err(Error::file("open", &path))?;
        lock.lock_shared().map_err(Error::file("lock", &path))?;
        Ok(self.status())
    }

    /// The exit status, if it is known.
    fn status(&self) -> Option<u8> {
        fs::read_to_string(self.folder.join("status")).ok()?.trim().parse().ok()
    }

    /// Prints the log.
    pub(crate) fn print_log(
        &self,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<(), Error> {
        let path = self.folder.join("log");
        let mut file = File::open(&path).map_err(Error::file("open", &path))?;
        stream_log::copy(&mut file, stdout, stderr).map_err(|error| match error {
            CopyError::Read(source) => Error::file("read", &path)(source),
            CopyError::Write(source) => Error::Output { source },
        })
    }
}

/// A log file that drops its older half when it is full, and new pieces while the disk is.
#[derive(Debug)]
pub(crate) struct BoundedLog {
    file: File,
    size: u64,
    /// Bytes of output that the full disk took since the last piece in the file.
    lost: u64,
}

impl Write for BoundedLog {
    /// Takes whole pieces.
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let length = piece.len() as u64;
        if self.size + length > MAX_LOG {
            self.drop_older_half()?;
        }
        let mut whole = Vec::new();
        if self.lost > 0 {
            let note = format!("[{} bytes are missing here: the disk was full]\n", self.lost);
            whole = stream_log::piece(STDERR, note.as_bytes());
        }
        whole.extend_from_slice(piece);
        match self.file.write_all(&whole) {
            Ok(()) => (self.size, self.lost) = (self.size + whole.len() as u64, 0),
            Err(error) if matches!(error.kind(), StorageFull | QuotaExceeded) => {
                // Readers must find whole pieces.
                self.file.set_len(self.size)?;
                self.lost += stream_log::content_of(piece);
            }
            Err(error) => return Err(error),
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BoundedLog {
    fn drop_older_half(&mut self) -> io::Result<()> {
        let mut all = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut all)?;
        let mut rest = all.as_slice();
        while rest.len() as u64 > MAX_LOG / 2 {
            let [_, a, b, c, d, ..] = rest else { break };
            let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            rest = rest.get(5 + length..).unwrap_or_default();
        }
        // This frees room before it needs some.
        self.file.set_len(0)?;
        self.size = 0;
        self.file.write_all(rest)?;
        self.size = rest.len() as u64;
        Ok(())
    }
}

fn make(folder: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::file("create", folder)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::stream_log::Stream;
    use supermachine_test_support::small_disk::with_small_disk;

    #[test]
    fn job_has_the_name_of_its_machine_and_a_number() {
        assert_eq!(split("web/12"), Some(("web", 12)));
        for name in ["web", "web/", "web/x", "/", "web/1/2"] {
            assert!(!is_job(name), "{name}");
        }
    }

    #[test]
    fn full_disk_takes_output_but_neither_the_job_nor_its_status() {
        let test = "jobs::tests::full_disk_takes_output_but_neither_the_job_nor_its_status";
        with_small_disk(256 << 10, test, |disk| {
            let folder = disk.dir().join("1");
            fs::create_dir(&folder).unwrap();
            let job = Job { machine: "m".into(), number: 1, folder };
            let _lock = job.make_files().unwrap();
            let log = Arc::new(Mutex::new(job.log().unwrap()));
            let (mut stdout, _) = Stream::pair(&log);
            for _ in 0..1000 {
                stdout.write_all(&[b'x'; 1023]).unwrap();
            }
            let printed = || {
                let (mut out, mut err) = (Vec::new(), Vec::new());
                job.print_log(&mut out, &mut err).unwrap();
                (out, String::from_utf8(err).unwrap())
            };
            let (out, err) = printed();
            assert!(out.len() > 100 << 10 && out.len() % 1023 == 0 && err.is_empty(), "{err}");
            job.exited(143).unwrap();
            assert_eq!(job.status(), Some(143));
            disk.resize(1 << 20);
            stdout.write_all(b"after").unwrap();
            let missing = 1000 * 1023 - out.len();
            let (out, err) = printed();
            assert!(out.ends_with(b"xafter"));
            assert_eq!(err, format!("[{missing} bytes are missing here: the disk was full]\n"));
        });
    }

    #[test]
    fn job_without_room_leaves_no_folder() {
        with_small_disk(4 << 10, "jobs::tests::job_without_room_leaves_no_folder", |disk| {
            fs::write(disk.dir().join("filler"), [1; 4096]).unwrap();
            let folder = disk.dir().join("1");
            fs::create_dir(&folder).unwrap();
            let job = Job { machine: "m".into(), number: 1, folder };
            let error = job.make_files().unwrap_err();
            assert_eq!(error.to_string(), format!("disk full: {}/1/status", disk.dir().display()));
        });
    }

    #[test]
    fn long_log_keeps_its_end_in_whole_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let job = Job { machine: "m".into(), number: 1, folder: dir.path().to_owned() };
        let log = Arc::new(Mutex::new(job.log().unwrap()));
        let (mut stdout, _) = Stream::pair(&log);
        for number in 0..20_000_u32 {
            stdout.write_all(format!("{number:0100}\n").as_bytes()).unwrap();
        }
        assert!(fs::metadata(dir.path().join("log")).unwrap().len() <= MAX_LOG);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        job.print_log(&mut out, &mut err).unwrap();
        assert!(out.len() as u64 > MAX_LOG / 3 && err.is_empty());
        assert!(String::from_utf8(out).unwrap().ends_with("19999\n"));
    }
}
