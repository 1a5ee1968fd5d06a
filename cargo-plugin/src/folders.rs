//! `-v` and `--mount`: the folders of the host that a machine gets, by Docker's rules.

use std::path::{Path, absolute};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use supermachine::error::HostError;
use supermachine::{HostFolder, VmConfig};

/// What a volume would be.
const NO_VOLUMES: &str =
    "there are no named volumes yet: name a folder of this host, which starts with / or ./";

/// A folder of the host that a machine gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FolderArg {
    /// The absolute path on the host.
    source: String,
    target: String,
    read_only: bool,
}

impl FolderArg {
    /// The folder, for the library.
    pub(crate) fn folder(&self) -> HostFolder {
        let folder = HostFolder::new(&self.source, &self.target);
        if self.read_only { folder.read_only() } else { folder }
    }

    /// Checks that it can be shared.
    pub(crate) fn check(&self) -> Result<(), supermachine::Error> {
        let refused = |source| HostError::Folder { source };
        Ok(self.folder().check().map_err(refused)?)
    }

    /// The configuration with these folders.
    pub(crate) fn apply_all(folders: &[Self], config: VmConfig) -> VmConfig {
        folders.iter().fold(config, |config, folder| config.with_share(folder.folder()))
    }

    fn new(source: &str, target: &str, read_only: bool) -> Result<Self, String> {
        if target.is_empty() || !target.starts_with('/') {
            return Err(format!("the path {target:?} in the machine is not absolute"));
        }
        let absolute = absolute(Path::new(source)).map_err(|error| error.to_string())?;
        let source = absolute.to_str().ok_or("the path of the current folder is not UTF-8")?;
        Ok(Self { source: source.to_owned(), target: target.to_owned(), read_only })
    }
}

/// `-v HOST:GUEST[:OPTIONS]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeArg(pub(crate) FolderArg);

impl FromStr for VolumeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match *parts {
            [source, target] => (source, target, ""),
            [source, target, options] => (source, target, options),
            [_] => return Err(format!("{NO_VOLUMES}, as in ./folder:/project")),
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
        if !is_path {
            return Err(format!("{source:?} is the name of a volume, and {NO_VOLUMES}"));
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
        FolderArg::new(source, target, read_only).map(Self)
    }
}

/// `--mount type=bind,source=HOST,target=GUEST[,readonly]`.
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
            "volume" => Err(format!("type=bind is missing: {NO_VOLUMES}")),
            _ => Err(format!("{kind:?} is no type here: use type=bind")),
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
    fn other_texts_are_refused_with_what_to_do() {
        for (text, reason) in [
            ("data:/b", "named volumes"),
            ("/b", "named volumes"),
            ("a/b:/c", "named volumes"),
            ("/a:b", "not absolute"),
            ("/a:", "not absolute"),
            ("/a:/b:rx", "ro or rw"),
            ("/a:/b:ro:", "--mount"),
        ] {
            assert!(volume(text).unwrap_err().contains(reason), "{text}");
        }
        for (text, reason) in [
            ("source=data,target=/b", "type=bind"),
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
