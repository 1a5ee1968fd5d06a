//! `supermachine cp`: files and folders, between the host and a machine that runs by itself.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use supermachine::Vm;
use supermachine_snapshots::pack::is_name;

use crate::copy;
use crate::error::Error;
use crate::machines::Machines;
use crate::report;

const EXAMPLES: &str = "\
Examples:
  supermachine cp site.conf web:/etc/nginx/conf.d/
  supermachine cp ./site web:/srv
  supermachine cp web:/var/log/nginx logs
  supermachine cp web:/etc - | tar tv
  tar c src | supermachine cp - web:/build

A copy goes into TARGET where that is a folder, or ends with a slash; otherwise it is TARGET. What \
has the same name in a folder is replaced, all else in it stays. Modes and times are kept. In the \
machine all belongs to root, here to you, and set-user-id and device files do not come out of a \
machine. A path here with a colon in it is written with a slash before, as ./a:b. In place of a \
path here, - is a tar archive on standard input or output.";

/// In place of a path, an archive on standard input or output.
const STREAM: &str = "-";

/// Copy files and folders into a machine, or out of one
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What is copied
    #[arg(value_name = "[MACHINE:]SOURCE")]
    source: Place,
    /// Where to
    #[arg(value_name = "[MACHINE:]TARGET")]
    target: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Here(PathBuf),
    There { machine: String, path: PathBuf },
}

impl FromStr for Place {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once(':') {
            Some((machine, path)) if is_name(machine) => {
                // As in a container, a path without a slash begins at the root.
                Self::There { machine: machine.to_owned(), path: Path::new("/").join(path) }
            }
            _ => Self::Here(text.into()),
        })
    }
}

/// Copies.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let connect = |machine: &str| Ok::<_, Error>(Machines::locate().connect(machine)?.vm());
    match (&args.source, &args.target) {
        (Place::Here(stream), Place::There { machine, path }) if stream == Path::new(STREAM) => {
            connect(machine)?.copy_in(path, io::stdin().lock())?;
        }
        (Place::There { machine, path }, Place::Here(stream)) if stream == Path::new(STREAM) => {
            write_archive(&connect(machine)?, path)?;
        }
        (Place::Here(source), Place::There { machine, path }) => {
            copy::into_machine(&connect(machine)?, source, path)?;
        }
        (Place::There { machine, path }, Place::Here(target)) => {
            copy::out_of_machine(&connect(machine)?, path, target)?;
        }
        _ => return Err(Error::CopyPlaces),
    }
    Ok(0)
}

fn write_archive(vm: &Vm, path: &Path) -> Result<(), Error> {
    vm.copy_out(path, report::stdout_for_archive()?).map_err(|error| match error {
        supermachine::Error::Copy { source, .. } => Error::Output { source },
        error => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_in_a_machine_begins_with_its_name() {
        let there = |machine: &str, path: &str| Place::There {
            machine: machine.to_owned(),
            path: path.into(),
        };
        let here = |path: &str| Place::Here(path.into());
        for (text, place) in [
            ("web:/etc/", there("web", "/etc/")),
            ("web-2:etc", there("web-2", "/etc")),
            ("web:", there("web", "/")),
            ("a:b:c", there("a", "/b:c")),
            ("./a:b", here("./a:b")),
            ("/a:b", here("/a:b")),
            ("file", here("file")),
            (":x", here(":x")),
        ] {
            assert_eq!(text.parse(), Ok(place), "{text}");
        }
    }
}
