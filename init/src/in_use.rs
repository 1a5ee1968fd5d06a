//! Whether programs use a directory that is about to be covered: they would go on with what is below.

use alloc::vec::Vec;

use supermachine_formats::wire::Failure;

use crate::failure::OrFailure;
use crate::place::path;
use crate::sys::{Errno, tree};

/// Whether a program may use what is at `target`: it has files that may have been read, or a program works in it.
/// What cannot be looked at counts as used.
pub(crate) fn is_in_use(target: &[u8]) -> bool {
    looks_used(target).unwrap_or(true)
}

fn looks_used(target: &[u8]) -> Result<bool, Failure> {
    match tree::names(&path(target)?) {
        // The agent is going to make it.
        Err(Errno::NOENT) => return Ok(false),
        names => {
            if !names.or_failure("read", target)?.is_empty() {
                return Ok(true);
            }
        }
    }
    for process in processes()? {
        if works_in(&process, target)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The ids of all processes, as `/proc` names them.
pub(crate) fn processes() -> Result<impl Iterator<Item = Vec<u8>>, Failure> {
    let names = tree::names(c"/proc").or_failure("read", "/proc")?;
    Ok(names.into_iter().filter(|name| name.first().is_some_and(u8::is_ascii_digit)))
}

/// Whether a process is in a directory, or has it or a removed file of it open.
fn works_in(process: &[u8], target: &[u8]) -> Result<bool, Failure> {
    let own = [b"/proc/", process].concat();
    let is_in = |link: &[u8]| {
        let link = path(&[own.as_slice(), link].concat())?;
        // It may have exited, or closed the file.
        let leads_to = tree::link_target(&link).unwrap_or_default();
        let behind = leads_to.strip_prefix(target);
        Ok(behind.is_some_and(|behind| matches!(behind.first(), None | Some(b'/' | b' '))))
    };
    if is_in(b"/cwd")? {
        return Ok(true);
    }
    let open = tree::names(&path(&[own.as_slice(), b"/fd"].concat())?).unwrap_or_default();
    for number in open {
        if is_in(&[b"/fd/".as_slice(), &number].concat())? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::ffi::OsStrExt;
    use std::process::{Command, Stdio};

    #[test]
    fn directory_with_files_or_programs_is_in_use() {
        let own = std::env::temp_dir().join(format!("supermachine-use-{}", std::process::id()));
        let (missing, full, empty) = (own.join("missing"), own.join("full"), own.join("empty"));
        fs::create_dir_all(&full).unwrap();
        fs::create_dir_all(&empty).unwrap();
        File::create(full.join("file")).unwrap();
        let used = |path: &std::path::Path| is_in_use(path.as_os_str().as_bytes());
        assert!(!used(&missing) && used(&full) && !used(&empty) && used(&full.join("file")));
        let sleeping = |command: &mut Command| {
            let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
            let is_used = used(&empty);
            drop(child.stdin.take());
            child.wait().unwrap();
            is_used
        };
        assert!(sleeping(Command::new("cat").current_dir(&empty)));
        let removed = File::create(empty.join("removed")).unwrap();
        fs::remove_file(empty.join("removed")).unwrap();
        assert!(sleeping(Command::new("cat").stdout(removed)));
        assert!(!sleeping(Command::new("cat").current_dir(&own)));
        fs::remove_dir_all(own).unwrap();
    }
}
