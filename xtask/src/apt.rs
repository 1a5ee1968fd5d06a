//! Debian packages of arm64 beside this machine's, without installing them.
//!
//! The system's lists cover this machine's architecture only, so the lists here are private.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::error::Error;

/// apt with the system's sources and private lists that cover arm64 too.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Fetches the lists into a folder below `scratch`.
    pub(crate) fn new(scratch: &Path) -> Result<Self, Error> {
        let folder = scratch.join("apt");
        let partial = folder.join("lists/partial");
        fs::create_dir_all(&partial).map_err(Error::file("create", &partial))?;
        let apt = Self { folder };
        command::output(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    /// Removes the lists.
    pub(crate) fn remove(self) -> Result<(), Error> {
        fs::remove_dir_all(&self.folder).map_err(Error::file("remove", &self.folder))
    }

    /// Downloads packages and unpacks them into `folder`.
    pub(crate) fn unpack(&self, names: &[&str], folder: &Path) -> Result<(), Error> {
        let download = self.folder.join("download");
        fs::create_dir(&download).map_err(Error::file("create", &download))?;
        let mut fetch = self.command("apt-get");
        command::output(fetch.arg("download").args(names).current_dir(&download))?;
        for package in fs::read_dir(&download).map_err(Error::file("read", &download))? {
            let package = package.map_err(Error::file("read", &download))?.path();
            command::output(Command::new("dpkg").arg("-x").arg(&package).arg(folder))?;
        }
        fs::remove_dir_all(&download).map_err(Error::file("remove", &download))
    }

    /// The dependency of a package whose name starts with `prefix`.
    pub(crate) fn dependency(&self, package: &str, prefix: &str) -> Result<String, Error> {
        let text = command::output(self.command("apt-cache").args(["depends", package]))?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let name = names.map(str::to_owned).find(|name| name.starts_with(prefix));
        name.ok_or_else(|| Error::Unexpected {
            what: "apt-cache depends",
            expected: format!("{package} to depend on a {prefix} package"),
            found: "none".into(),
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-q", "-o", "APT::Architectures=amd64,arm64"]);
        for (option, name) in [("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")] {
            command.arg("-o").arg(format!("{option}={}", self.folder.join(name).display()));
        }
        command
    }
}
