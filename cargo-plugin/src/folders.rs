//! `-v`, `--mount` and `--disk`: the folders of the host and the volumes and disks that a machine gets,
//! by Docker's rules.

use std::path::{Path, absolute};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use supermachine::error::HostError;
use supermachine::{HostFolder, VmConfig, Volume};

/// A folder of the host, a volume or a disk that a machine gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FolderArg {
    /// The absolute path on the host, or the volume's name; empty for a disk.
    source: String,
    target: String,
    read_only: bool,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Folder,
    Volume,
    /// A disk of its own with this many bytes.
    Disk(u64),
}

impl FolderArg {
    /// The folder, for the library.
    fn folder(&self) -> HostFolder {
        let folder = HostFolder::new(&self.source, &self.target);
        if self.read_only { folder.read_only() } else { folder }
    }

    /// The volume or disk, for the library; `None` for a folder.
    fn volume(&self) -> Option<Volume> {
        let volume = match self.kind {
            Kind::Folder => return None,
            Kind::Volume => Volume::named(&self.source),
            Kind::Disk(size) => Volume::scratch(size),
        };
        Some(if self.read_only { volume.read_only() } else { volume })
    }

    /// Checks that the machine can have it.
    pub(crate) fn check(&self) -> Result<(), supermachine::Error> {
        if let Some(volume) = self.volume() {
            return Ok(volume.check().map_err(|source| HostError::Volume { source })?);
        }
        let refused = |source| HostError::Folder { source };
        Ok(self.folder().check().map_err(refused)?)
    }

    /// The configuration with these folders and volumes.
    pub(crate) fn apply_all(folders: &[Self], config: VmConfig) -> VmConfig {
        folders.iter().fold(config, |config, folder| match folder.volume() {
            Some(volume) => config.with_volume(volume, &folder.target),
            None => config.with_share(folder.folder()),
        })
    }

    /// A disk for what the machine writes to its root.
    pub(crate) fn layer(size: u64) -> Self {
        let (source, target) = (String::new(), "/".to_owned());
        Self { source, target, read_only: false, kind: Kind::Disk(size) }
    }

    /// A volume of this name.
    fn named(source: &str, target: &str, read_only: bool) -> Result<Self, String> {
        check_target(target)?;
        let (source, target) = (source.to_owned(), target.to_owned());
        Ok(Self { source, target, read_only, kind: Kind::Volume })
    }

    /// The folder at this path.
    fn new(source: &str, target: &str, read_only: bool) -> Result<Self, String> {
        check_target(target)?;
        let absolute = absolute(Path::new(source)).map_err(|error| error.to_string())?;
        let source = absolute.to_str().ok_or("the path of the current folder is not UTF-8")?;
        let (source, target) = (source.to_owned(), target.to_owned());
        Ok(Self { source, target, read_only, kind: Kind::Folder })
    }
}

fn check_target(target: &str) -> Result<(), String> {
    if target.starts_with('/') {
        Ok(())
    } else {
        Err(format!("the path {target:?} in the machine is not absolute"))
    }
}

/// `-v HOST:GUEST[:OPTIONS]` or `-v NAME:GUEST[:OPTIONS]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeArg(pub(crate) FolderArg);

impl FromStr for VolumeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match *parts {
            [source, target] => (source, target, ""),
            [source, target, options] => (source, target, options),
            [_] => {
                return Err("name a folder of this host or a volume, as in ./folder:/project or \
                            data:/data"
                    .into());
            }
            _ => {
                return Err(
                    "it has more than three parts: if a path has a colon in it, use --mount \
                            type=bind,source=HOST,target=GUEST"
                        .into(),
                );
            }
        };
        let is_path = source.starts_with('/')
            || matches!(source, "." | "..")
            || source.starts_with("./")
            || source.starts_with("../");
        if !is_path && source.contains('/') {
            return Err(format!(
                "{source:?} is no name of a volume: write ./{source} for a folder"
            ));
        }
        let mut read_only = false;
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" => read_only = true,
                // Labels of SELinux and caches of other systems: nothing to do here.
                "rw" | "z" | "Z" | "cached" | "consistent" | "delegated" => {}
                _ => return Err(format!("{option:?} is no option here: use ro or rw")),
            }
        }
        let new = if is_path { FolderArg::new } else { FolderArg::named };
        new(source, target, read_only).map(Self)
    }
}

/// `--mount type=bind,source=HOST,target=GUEST[,readonly]`, or `type=volume` with a name as the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountArg(pub(crate) FolderArg);

impl FromStr for MountArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut kind, mut source, mut target, mut read_only) = ("volume", "", "", false);
        for field in text.split(',') {
            let (key, value) = field.split_once('=').unwrap_or((field, "true"));
            match key {
                "type" => kind = value,
                "source" | "src" => source = value,
                "target" | "destination" | "dst" => target = value,
                "readonly" | "ro" => read_only = matches!(value, "true" | "1"),
                _ => return Err(format!("{key:?} is no field here")),
            }
        }
        match kind {
            "bind" if source.is_empty() => Err("source=HOST is missing".into()),
            "bind" => FolderArg::new(source, target, read_only).map(Self),
            "tmpfs" => Err("use --tmpfs for a file system in memory".into()),
            "volume" if source.is_empty() => Err("source=NAME is missing".into()),
            "volume" if source.contains('/') => Err("type=bind is missing for a folder".into()),
            "volume" => FolderArg::named(source, target, read_only).map(Self),
            _ => Err(format!("{kind:?} is no type here: use type=bind or type=volume")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(text: &str) -> Result<FolderArg, String> {
        text.parse::<VolumeArg>().map(|volume| volume.0)
    }

    fn mount(text: &str) -> Result<FolderArg, String> {
        text.parse::<MountArg>().map(|mount| mount.0)
    }

    #[test]
    fn paths_of_the_host_are_folders() {
        let folder =
            |source: &str, target: &str, read_only| FolderArg::new(source, target, read_only);
        assert_eq!(volume("/a:/b"), folder("/a", "/b", false));
        assert_eq!(volume("/a:/b:ro"), folder("/a", "/b", true));
        assert_eq!(volume("/a:/b:z,rw"), folder("/a", "/b", false));
        let here = std::env::current_dir().unwrap();
        let expected = here.join("a").to_str().unwrap().to_owned();
        assert_eq!(volume("./a:/b").unwrap().source, expected);
        assert_eq!(volume(".:/b").unwrap().source, here.to_str().unwrap());
        assert_eq!(mount("type=bind,source=/a:1,target=/b"), folder("/a:1", "/b", false));
        assert_eq!(mount("type=bind,src=/a,dst=/b,readonly"), folder("/a", "/b", true));
        assert_eq!(mount("type=bind,src=/a,dst=/b,ro=false"), folder("/a", "/b", false));
    }

    #[test]
    fn names_are_volumes() {
        assert_eq!(volume("data:/b"), FolderArg::named("data", "/b", false));
        assert_eq!(volume("my.data:/b:ro"), FolderArg::named("my.data", "/b", true));
        assert_eq!(mount("source=data,target=/b"), FolderArg::named("data", "/b", false));
        let read_only = mount("type=volume,src=data,dst=/b,readonly");
        assert_eq!(read_only, FolderArg::named("data", "/b", true));
        assert_ne!(volume("./data:/b").unwrap(), volume("data:/b").unwrap());
    }

    #[test]
    fn other_texts_are_refused_with_what_to_do() {
        for (text, reason) in [
            ("/b", "a volume"),
            ("a/b:/c", "write ./a/b"),
            ("data:b", "not absolute"),
            ("/a:b", "not absolute"),
            ("/a:", "not absolute"),
            ("/a:/b:rx", "ro or rw"),
            ("/a:/b:ro:", "--mount"),
        ] {
            assert!(volume(text).unwrap_err().contains(reason), "{text}");
        }
        for (text, reason) in [
            ("source=/data,target=/b", "type=bind"),
            ("type=volume,target=/b", "source=NAME"),
            ("source=data,target=b", "not absolute"),
            ("type=tmpfs,target=/b", "--tmpfs"),
            ("type=npipe,source=/a,target=/b", "npipe"),
            ("type=bind,target=/b", "source"),
            ("type=bind,source=/a", "not absolute"),
            ("type=bind,source=/a,target=/b,what=1", "what"),
        ] {
            assert!(mount(text).unwrap_err().contains(reason), "{text}");
        }
    }
}
