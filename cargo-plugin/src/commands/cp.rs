//! `supermachine cp`: copies files and folders between the host and a machine in the background.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use supermachine::Vm;
use supermachine_snapshots::pack::is_name;

use crate::copy::{self, Owner, OwnerName};
use crate::error::{Error, UsageError};
use crate::{background, report};

const EXAMPLES: &str = "\
Examples:
  supermachine cp site.conf web:/etc/nginx/conf.d/
  supermachine cp ./site web:/srv
  supermachine cp --chown www-data ./site web:/srv
  supermachine cp web:/var/log/nginx logs
  supermachine cp web:/etc - | tar tv
  tar c src | supermachine cp - web:/build

If TARGET is a folder or ends with a slash, the copy goes into it. Otherwise the copy is named TARGET. \
Copies replace files of the same name, and keep other files of a folder. Modes and modification \
times are preserved. Copies belong to root in the machine and to you on the host, unless -a or \
--chown says otherwise. Set-user-id bits and device files are not copied out of a machine. Write a \
host path that contains a colon with a leading slash or dot, as ./a:b. For a host path, - is a tar \
archive on standard input or output.";

/// The host path for an archive on standard input or output.
const STREAM: &str = "-";

/// Copy files and folders into or out of a machine
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Copy this file or folder
    #[arg(value_name = "[MACHINE:]SOURCE", value_parser = OsStringValueParser::new().map(location))]
    source: Location,
    /// Copy it here
    #[arg(value_name = "[MACHINE:]TARGET", value_parser = OsStringValueParser::new().map(location))]
    target: Location,
    /// Keep the owner of each file, by the numbers of user and group; on the host, this needs root
    #[arg(short, long, conflicts_with = "chown")]
    archive: bool,
    /// Give copies in a machine to this user, by name or number
    #[arg(long, value_name = "USER[:GROUP]")]
    chown: Option<OwnerName>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Location {
    Host(PathBuf),
    Machine { machine: String, path: PathBuf },
}

/// Parses a path of the host, or `MACHINE:PATH`.
fn location(text: OsString) -> Location {
    let bytes = text.as_bytes();
    let colon = bytes.iter().position(|byte| *byte == b':').unwrap_or(0);
    let (machine, path) = bytes.split_at(colon);
    match std::str::from_utf8(machine) {
        Ok(machine) if is_name(machine) => {
            // As in Docker, a relative path starts at the root.
            let path = Path::new("/").join(OsStr::from_bytes(path.get(1..).unwrap_or_default()));
            Location::Machine { machine: machine.to_owned(), path }
        }
        _ => Location::Host(text.into()),
    }
}

/// Copies the files.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let connect = background::connect_running;
    match (&args.source, &args.target) {
        (Location::Host(stream), Location::Machine { machine, path })
            if stream == Path::new(STREAM) =>
        {
            args.refuse_chown()?;
            connect(machine)?.copy_in(path, io::stdin().lock())?;
        }
        (Location::Machine { machine, path }, Location::Host(stream))
            if stream == Path::new(STREAM) =>
        {
            args.refuse_chown()?;
            write_archive(&connect(machine)?, path)?;
        }
        (Location::Host(source), Location::Machine { machine, path }) => {
            let vm = connect(machine)?;
            let owner = args.owner(&vm)?;
            copy::into_machine(&vm, source, path, owner)?;
        }
        (Location::Machine { machine, path }, Location::Host(target)) => {
            args.refuse_chown()?;
            copy::out_of_machine(&connect(machine)?, path, target, args.archive)?;
        }
        _ => return Err(UsageError::CopyPaths.into()),
    }
    Ok(0)
}

impl Args {
    /// The owner of copies in the machine.
    fn owner(&self, vm: &Vm) -> Result<Owner, Error> {
        match &self.chown {
            Some(name) => name.look_up(vm),
            None if self.archive => Ok(Owner::Source),
            None => Ok(Owner::ROOT),
        }
    }

    /// An archive names its owners, and on the host only root may give files away.
    fn refuse_chown(&self) -> Result<(), UsageError> {
        if self.chown.is_some() { Err(UsageError::Chown) } else { Ok(()) }
    }
}

fn write_archive(vm: &Vm, path: &Path) -> Result<(), Error> {
    vm.copy_out(path, report::stdout_for_archive()?).map_err(|error| match error {
        supermachine::Error::Transfer {
            source: supermachine::error::TransferError::Copy { source, .. },
        } => Error::Output { source },
        error => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn location_with_a_machine_name_is_in_the_machine() {
        let machine = |name: &str, path: &str| Location::Machine {
            machine: name.to_owned(),
            path: path.into(),
        };
        let host = |path: &str| Location::Host(path.into());
        for (text, location) in [
            ("web:/etc/", machine("web", "/etc/")),
            ("web-2:etc", machine("web-2", "/etc")),
            ("web:", machine("web", "/")),
            ("a:b:c", machine("a", "/b:c")),
            ("./a:b", host("./a:b")),
            ("/a:b", host("/a:b")),
            ("file", host("file")),
            (":x", host(":x")),
        ] {
            assert_eq!(super::location(text.into()), location, "{text}");
        }
    }
}
