//! Settings of the container, as users write them.

use std::fmt;
use std::str::FromStr;

use supermachine::Ulimit;
use supermachine_formats::wire;

use super::key::Key;
use crate::error::InputError;

/// The file systems of the kernel, which nothing may be mounted over. `/dev/shm` is a directory of its own.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/dev"];
/// The longest path in a request to the agent.
const MAX_PATH: usize = 4096;
/// The flags of a mount, by the names that mount(8) and Docker have for them.
const FLAGS: [(&str, u32, bool); 16] = [
    ("ro", wire::Tmpfs::READ_ONLY, true),
    ("rw", wire::Tmpfs::READ_ONLY, false),
    ("nosuid", wire::Tmpfs::NO_SUID, true),
    ("suid", wire::Tmpfs::NO_SUID, false),
    ("nodev", wire::Tmpfs::NO_DEV, true),
    ("dev", wire::Tmpfs::NO_DEV, false),
    ("noexec", wire::Tmpfs::NO_EXEC, true),
    ("exec", wire::Tmpfs::NO_EXEC, false),
    ("sync", wire::Tmpfs::SYNCHRONOUS, true),
    ("async", wire::Tmpfs::SYNCHRONOUS, false),
    ("dirsync", wire::Tmpfs::DIR_SYNC, true),
    ("noatime", wire::Tmpfs::NO_ATIME, true),
    ("atime", wire::Tmpfs::NO_ATIME, false),
    ("nodiratime", wire::Tmpfs::NO_DIR_ATIME, true),
    ("diratime", wire::Tmpfs::NO_DIR_ATIME, false),
    // The kernel's default.
    ("relatime", 0, true),
];

/// A file system in memory, mounted in the container: `PATH[:OPTIONS]`, as for Docker's `--tmpfs`.
///
/// Options are separated by commas: `size` (bytes, with a unit `k`, `m` or `g`, or in percent of the
/// memory; half of the memory by default), `mode`, `uid`, `gid`, `nr_inodes`, `nr_blocks`, and flags
/// such as `exec` and `ro`. As in Docker, programs in it cannot be executed unless `exec` is given, and
/// set-user-id bits and devices have no effect.
///
/// ```
/// use supermachine_baker::Tmpfs;
///
/// let tmpfs: Tmpfs = "/run:size=64m,mode=755".parse()?;
/// assert_eq!(tmpfs.path(), "/run");
/// assert!("run".parse::<Tmpfs>().is_err());
/// # Ok::<(), supermachine_baker::InputError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tmpfs {
    path: String,
    flags: u32,
    /// The options of the file system.
    data: Vec<String>,
}

/// The caller's settings of the container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) read_only: bool,
    pub(crate) tmpfs: Vec<Tmpfs>,
    pub(crate) shm_size: Option<u64>,
    pub(crate) ulimits: Vec<Ulimit>,
}

impl Tmpfs {
    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for Tmpfs {
    type Err = InputError;

    fn from_str(text: &str) -> Result<Self, InputError> {
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        let refuse = |reason: String| InputError::InvalidTmpfs { text: text.to_owned(), reason };
        let path = mount_point(path).map_err(refuse)?;
        let mut tmpfs = Self {
            path,
            flags: wire::Tmpfs::NO_SUID | wire::Tmpfs::NO_DEV | wire::Tmpfs::NO_EXEC,
            data: Vec::new(),
        };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            tmpfs.set(option).map_err(refuse)?;
        }
        Ok(tmpfs)
    }
}

impl Tmpfs {
    fn set(&mut self, option: &str) -> Result<(), String> {
        if let Some((_, bit, is_set)) = FLAGS.iter().find(|(name, ..)| *name == option) {
            self.flags = if *is_set { self.flags | bit } else { self.flags & !bit };
            return Ok(());
        }
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let is_valid = match name {
            "size" => is_size(value.strip_suffix('%').unwrap_or(value)),
            "nr_inodes" | "nr_blocks" => is_size(value),
            "mode" => u32::from_str_radix(value, 8).is_ok_and(|mode| mode <= 0o7777),
            "uid" | "gid" => value.parse::<u32>().is_ok(),
            _ => return Err(format!("{option:?} is not an option of a file system in memory")),
        };
        if !is_valid {
            return Err(format!("{value:?} is not a value of {name}"));
        }
        // The last one holds.
        self.data.retain(|known| known.split('=').next() != Some(name));
        self.data.push(option.to_owned());
        Ok(())
    }
}

/// A number, with a unit of the kernel's.
fn is_size(text: &str) -> bool {
    let number = text.strip_suffix(['k', 'm', 'g', 't', 'K', 'M', 'G', 'T']).unwrap_or(text);
    number.bytes().all(|digit| digit.is_ascii_digit()) && number.parse::<u64>().is_ok()
}

/// The path without superfluous slashes.
fn mount_point(path: &str) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err("its path must be absolute".to_owned());
    }
    let names: Vec<_> = path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.contains(&"..") || path.contains('\0') || path.len() > MAX_PATH {
        return Err("its path has \"..\", a zero byte, or more than 4096 bytes".to_owned());
    }
    let path = format!("/{}", names.join("/"));
    let is_in = |dir: &str| {
        path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if names.is_empty() {
        return Err("it would cover the whole root file system".to_owned());
    }
    match KERNELS.into_iter().find(|dir| is_in(dir)) {
        Some(dir) if dir != "/dev" || path == "/dev" || is_in("/dev/pts") => {
            Err(format!("it would cover what the kernel shows in {dir}"))
        }
        _ => Ok(path),
    }
}

/// Where an image's volume is mounted. As in Docker, a path is relative to the root directory, and `..`
/// does not leave it. `None` if it would cover the root, or what the kernel shows.
fn volume(path: &str) -> Option<String> {
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    mount_point(&format!("/{}", names.join("/"))).ok()
}

impl fmt::Display for Tmpfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let defaults = wire::Tmpfs::NO_SUID | wire::Tmpfs::NO_DEV | wire::Tmpfs::NO_EXEC;
        let differs = |bit: u32, is_set: bool| {
            bit != 0 && (self.flags & bit != 0) == is_set && (defaults & bit != 0) != is_set
        };
        let flags = FLAGS.iter().filter(|(_, bit, is_set)| differs(*bit, *is_set));
        let options: Vec<_> =
            flags.map(|(name, ..)| *name).chain(self.data.iter().map(String::as_str)).collect();
        let separator = if options.is_empty() { "" } else { ":" };
        write!(f, "{}{separator}{}", self.path, options.join(","))
    }
}

impl Settings {
    /// The settings for the agent, with the image's volumes: parents before what is mounted in them, and
    /// the last of several values. As in Docker, a file system in memory replaces the volume at its path.
    pub(crate) fn to_wire(&self, volumes: &[String]) -> wire::Settings {
        let mut tmpfs: Vec<&Tmpfs> = Vec::new();
        for one in &self.tmpfs {
            tmpfs.retain(|other| other.path != one.path);
            tmpfs.push(one);
        }
        tmpfs.sort();
        let mut ulimits: Vec<Ulimit> = Vec::new();
        for one in &self.ulimits {
            ulimits.retain(|other| other.name() != one.name());
            ulimits.push(*one);
        }
        ulimits.sort();
        let mut volumes: Vec<String> = volumes.iter().filter_map(|path| volume(path)).collect();
        volumes.retain(|path| tmpfs.iter().all(|one| one.path != *path));
        volumes.sort();
        volumes.dedup();
        wire::Settings {
            read_only: self.read_only,
            tmpfs: tmpfs
                .into_iter()
                .map(|one| wire::Tmpfs {
                    path: one.path.clone().into_bytes(),
                    flags: one.flags,
                    data: one.data.join(","),
                })
                .collect(),
            shm_size: self.shm_size,
            ulimits: ulimits.into_iter().map(Ulimit::to_wire).collect(),
            volumes: volumes.into_iter().map(String::into_bytes).collect(),
        }
    }

    /// Adds the settings to a key.
    pub(crate) fn add_to(&self, key: &mut Key) {
        // The debug form names every field.
        key.add(format!("{:?}", self.to_wire(&[])).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Tmpfs {
        text.parse().unwrap()
    }

    #[test]
    fn options_are_those_of_docker() {
        let plain = parse("//run/.//lock/");
        assert_eq!((plain.path(), plain.flags, plain.data.len()), ("/run/lock", 14, 0));
        let full =
            parse("/a:rw,exec,suid,dev,size=64m,mode=1777,uid=7,gid=8,nr_inodes=10k,noatime");
        assert_eq!(full.flags, wire::Tmpfs::NO_ATIME);
        assert_eq!(full.data.join(","), "size=64m,mode=1777,uid=7,gid=8,nr_inodes=10k");
        assert_eq!(parse("/a:exec,noexec,ro").flags, 15);
        assert_eq!(parse("/a:size=1m,size=50%").data, ["size=50%"]);
        assert_eq!(parse("/a:"), parse("/a"));
        assert_eq!(parse("/dev/shm/x").path(), "/dev/shm/x");
        assert_eq!(parse("/process").path(), "/process");
    }

    #[test]
    fn text_form_round_trips() {
        for text in ["/run", "/run:size=64m", "/run:ro,exec,sync,size=1g,mode=755"] {
            assert_eq!(parse(text).to_string(), text);
            assert_eq!(parse(&parse(text).to_string()), parse(text));
        }
    }

    #[test]
    fn other_text_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "absolute"),
            ("run", "absolute"),
            (":size=1m", "absolute"),
            ("/", "whole root"),
            ("/.", "whole root"),
            ("/a/../b", "\"..\""),
            ("/proc", "/proc"),
            ("/proc/sys", "/proc"),
            ("/sys/fs", "/sys"),
            ("/dev", "/dev"),
            ("/dev/pts", "/dev"),
            ("/a:size=", "not a value of size"),
            ("/a:size=x", "not a value of size"),
            ("/a:size=-1", "not a value of size"),
            ("/a:size=1q", "not a value of size"),
            ("/a:mode=8", "not a value of mode"),
            ("/a:mode=17777", "not a value of mode"),
            ("/a:uid=root", "not a value of uid"),
            ("/a:bind", "\"bind\" is not an option"),
            ("/a:size", "not a value of size"),
        ] {
            let error = text.parse::<Tmpfs>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn order_does_not_matter_and_the_last_value_holds() {
        let settings = |tmpfs: &[&str], ulimits: &[&str]| Settings {
            tmpfs: tmpfs.iter().map(|text| parse(text)).collect(),
            ulimits: ulimits.iter().map(|text| text.parse().unwrap()).collect(),
            ..Settings::default()
        };
        let one = settings(&["/a/b", "/a:size=1m", "/a:size=2m"], &["nofile=1", "core=0"]);
        let other = settings(&["/a:size=2m", "/a/b"], &["core=0", "nofile=5", "nofile=1"]);
        assert_eq!(one.to_wire(&[]), other.to_wire(&[]));
        let paths: Vec<_> = one.to_wire(&[]).tmpfs.into_iter().map(|one| one.path).collect();
        assert_eq!(paths, [b"/a".to_vec(), b"/a/b".to_vec()]);
    }

    #[test]
    fn volumes_are_clean_paths_that_nothing_else_is_mounted_at() {
        let settings = Settings { tmpfs: vec![parse("/run/own")], ..Settings::default() };
        let volumes =
            ["/var//lib/x/", "data", "/srv/../opt/./a", "../up", "/var/lib/x", "/run/own"];
        let refused = ["/", "", "..", "/proc/x", "/sys", "/dev", "/a\0"];
        let given: Vec<_> = volumes.into_iter().chain(refused).map(str::to_owned).collect();
        let expected =
            ["/data", "/opt/a", "/up", "/var/lib/x"].map(|path| path.as_bytes().to_vec());
        assert_eq!(settings.to_wire(&given).volumes, expected);
    }
}
