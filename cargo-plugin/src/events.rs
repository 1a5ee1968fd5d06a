//! The log of what happens to machines in the background.
//!
//! No process owns it. Every command that changes a machine appends a line of JSON in the format of Docker's
//! events API:
//!
//! ```text
//! $XDG_RUNTIME_DIR/supermachine/
//!   events          the newest events
//!   events.1        the events before them
//!   events.lock     held while a line is appended
//! ```
//!
//! A file of [`MAX_SIZE`] bytes becomes the older one, whose events are dropped. Invariant: a line is
//! written at once under the lock. What a writer that was killed has left is closed by the next writer,
//! and skipped by readers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::moment::Moment;

/// The size at which a file becomes the older one.
const MAX_SIZE: u64 = 1 << 20;
/// The kind of object that all events are about.
pub(crate) const KIND: &str = "machine";

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    status: String,
    id: String,
    from: String,
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "Action")]
    pub(crate) action: String,
    #[serde(rename = "Actor")]
    pub(crate) actor: Actor,
    scope: String,
    time: i64,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

/// The machine that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Actor {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(rename = "Attributes")]
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Event {
    /// Something that happens to a machine now. `about` are its image, its labels and the like.
    pub(crate) fn new<'a>(
        action: &str,
        name: &str,
        about: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Self {
        let about = about.into_iter().map(|(key, value)| (key.to_owned(), value));
        let mut attributes: BTreeMap<_, _> = about.collect();
        attributes.insert("name".to_owned(), name.to_owned());
        let now = Moment::now();
        Self {
            status: action.to_owned(),
            id: name.to_owned(),
            from: attributes.get("image").cloned().unwrap_or_default(),
            kind: KIND.to_owned(),
            action: action.to_owned(),
            actor: Actor { id: name.to_owned(), attributes },
            scope: "local".to_owned(),
            time: now.seconds(),
            time_nano: now.0,
        }
    }

    /// When it happened.
    pub(crate) fn at(&self) -> Moment {
        Moment(self.time_nano)
    }

    /// The event as one line of JSON.
    pub(crate) fn line(&self) -> String {
        // Serialization fails only for maps with keys that are not strings.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Actor { id, attributes } = &self.actor;
        let about: Vec<_> =
            attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        write!(f, "{} {} {} {id} ({})", self.at(), self.kind, self.action, about.join(", "))
    }
}

/// The log.
#[derive(Debug, Clone)]
pub(crate) struct EventLog {
    dir: PathBuf,
}

impl EventLog {
    /// The log in the folder of machines.
    pub(crate) fn in_folder(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Appends an event. What happened has happened, so that an event that cannot be written changes
    /// nothing.
    pub(crate) fn record(&self, event: &Event) {
        let _ = self.append(event);
    }

    fn append(&self, event: &Event) -> io::Result<()> {
        let lock = self.lock()?;
        let mut line = event.line() + "\n";
        let open = || File::options().create(true).read(true).append(true).open(self.newest());
        let mut file = open()?;
        let mut size = file.metadata()?.len();
        if size + line.len() as u64 > MAX_SIZE && size > 0 {
            fs::rename(self.newest(), self.older())?;
            file = open()?;
            size = 0;
        }
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1)?;
        }
        if last != [b'\n'] {
            line.insert(0, '\n');
        }
        file.write_all(line.as_bytes())?;
        drop(lock);
        Ok(())
    }

    /// Starts to read: all events that are kept, or only those to come.
    pub(crate) fn read(&self, from_start: bool) -> Reader {
        let mut reader = Reader {
            path: self.newest(),
            files: Vec::new(),
            rest: Vec::new(),
            at_end: !from_start,
        };
        // Not between the two steps of a writer.
        let _lock = self.lock();
        if from_start && let Ok(older) = File::open(self.older()) {
            reader.files.push(older);
        }
        reader.open_newest();
        reader.at_end = false;
        reader
    }

    fn lock(&self) -> io::Result<File> {
        let path = self.dir.join("events.lock");
        let lock = File::options().create(true).write(true).truncate(false).open(path)?;
        lock.lock()?;
        Ok(lock)
    }

    /// The folder of the log.
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    fn newest(&self) -> PathBuf {
        self.dir.join("events")
    }

    fn older(&self) -> PathBuf {
        self.dir.join("events.1")
    }
}

/// A reader that follows the log.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    /// The files that are left to read, the newest last.
    files: Vec<File>,
    /// The start of a line.
    rest: Vec<u8>,
    /// Whether to open the newest file at its end.
    at_end: bool,
}

impl Reader {
    /// The events that have been written since the last call.
    pub(crate) fn next(&mut self) -> io::Result<Vec<Event>> {
        // Looks first: a file that is no longer the newest is complete.
        self.open_newest();
        let mut events = Vec::new();
        while let Some(file) = self.files.first() {
            let mut lines = BufReader::new(file);
            loop {
                let count = lines.by_ref().read_until(b'\n', &mut self.rest)?;
                if self.rest.ends_with(b"\n") {
                    events.extend(serde_json::from_slice::<Event>(&self.rest));
                    self.rest.clear();
                }
                if count == 0 {
                    break;
                }
            }
            if self.files.len() == 1 {
                break;
            }
            self.files.remove(0);
            self.rest.clear();
        }
        Ok(events)
    }

    fn open_newest(&mut self) {
        let Ok(mut file) = File::open(&self.path) else { return };
        let identity = |file: &File| file.metadata().map(|it| (it.dev(), it.ino())).ok();
        if self.files.last().is_some_and(|known| identity(known) == identity(&file)) {
            return;
        }
        if self.at_end && file.seek(SeekFrom::End(0)).is_err() {
            return;
        }
        self.files.push(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, EventLog) {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::in_folder(dir.path());
        (dir, log)
    }

    fn event(action: &str) -> Event {
        Event::new(action, "web", [("image", "redis".to_owned())])
    }

    fn actions(reader: &mut Reader) -> Vec<String> {
        reader.next().unwrap().into_iter().map(|event| event.action).collect()
    }

    #[test]
    fn event_has_the_form_of_dockers() {
        let event = event("start");
        let value: serde_json::Value = serde_json::from_str(&event.line()).unwrap();
        for (key, expected) in [
            ("status", "start"),
            ("id", "web"),
            ("from", "redis"),
            ("Type", "machine"),
            ("Action", "start"),
            ("scope", "local"),
        ] {
            assert_eq!(value[key], expected);
        }
        assert_eq!(value["Actor"]["Attributes"]["name"], "web");
        assert_eq!(value["time"].as_i64().unwrap(), event.time_nano / 1_000_000_000);
        assert!(event.to_string().ends_with("Z machine start web (image=redis, name=web)"));
        assert_eq!(serde_json::from_str::<Event>(&event.line()).unwrap(), event);
    }

    #[test]
    fn reader_follows_from_the_start_or_the_end() {
        let (_dir, log) = log();
        let mut early = log.read(false);
        assert_eq!(actions(&mut early), [""; 0]);
        log.record(&event("start"));
        let (mut all, mut new) = (log.read(true), log.read(false));
        assert_eq!(actions(&mut early), ["start"]);
        assert_eq!(actions(&mut all), ["start"]);
        assert_eq!(actions(&mut new), [""; 0]);
        log.record(&event("die"));
        for reader in [&mut all, &mut new] {
            assert_eq!(actions(reader), ["die"]);
            assert_eq!(actions(reader), [""; 0]);
        }
    }

    #[test]
    fn full_file_becomes_the_older_one_and_followers_miss_nothing() {
        let (dir, log) = log();
        let mut follower = log.read(true);
        let mut seen = 0;
        for number in 0..12_000 {
            log.record(&event("start"));
            if number % 1000 == 0 {
                seen += actions(&mut follower).len();
            }
        }
        assert_eq!(seen + actions(&mut follower).len(), 12_000);
        let size = |name: &str| fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size("events") <= MAX_SIZE && size("events.1") <= MAX_SIZE);
        assert!(actions(&mut log.read(true)).len() > 3000);
    }

    #[test]
    fn line_of_a_killed_writer_is_skipped() {
        let (dir, log) = log();
        log.record(&event("start"));
        let mut file = File::options().append(true).open(dir.path().join("events")).unwrap();
        file.write_all(b"{\"status\":\"di").unwrap();
        let mut follower = log.read(true);
        assert_eq!(actions(&mut follower), ["start"]);
        log.record(&event("stop"));
        assert_eq!(actions(&mut follower), ["stop"]);
        assert_eq!(actions(&mut log.read(true)), ["start", "stop"]);
    }

    #[test]
    fn writers_take_turns() {
        let (_dir, log) = log();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..100).for_each(|_| log.record(&event("start"))));
            }
        });
        assert_eq!(actions(&mut log.read(true)).len(), 800);
    }
}
