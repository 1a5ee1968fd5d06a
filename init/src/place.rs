//! Files and directories at paths where links may lead elsewhere, or nowhere yet.
//!
//! As in container engines, a link is followed inside the container's root, and what it points to is
//! created. The agent's root is the container's, so that no link leads out of it.

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::CStr;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::Failure;

use crate::failure::{OrFailure, failure};
use crate::sys::{Errno, Result as SysResult, fd, mount, tree};

/// The most links on the way to a file, as in the kernel.
const MAX_LINKS: usize = 40;

/// A path as a C string.
pub(crate) fn path(bytes: &[u8]) -> Result<CString, Failure> {
    c_path(bytes).or_failure("open", bytes)
}

/// Creates a directory, unless it exists.
pub(crate) fn ensure_directory(path: &CStr) -> Result<(), Failure> {
    match mount::make_directory(path, 0o755) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failure("mkdir", path.to_bytes(), errno)),
    }
}

/// Creates a directory and its missing parents. Follows links, also those whose targets are missing.
pub(crate) fn make_directories(directory: &[u8]) -> Result<(), Failure> {
    create_directories(directory, MAX_LINKS).or_failure("mkdir", directory)
}

/// Writes a file that container engines own in every container. Follows a link, and replaces a link that
/// leads to no file that can be written. Leaves alone what is neither a file nor a link.
pub(crate) fn write_file(name: &[u8], content: &[u8]) -> Result<(), Failure> {
    let file = path(name)?;
    let attempt = overwrite(&file, content)
        .or_else(|_| create_target(name, MAX_LINKS).and_then(|()| overwrite(&file, content)));
    let Err(errno) = attempt else { return Ok(()) };
    match tree::link_status(&file).map(|status| u32::from(status.stx_mode) & nr::S_IFMT) {
        Ok(nr::S_IFLNK) => {
            tree::unlink(&file).or_failure("unlink", name)?;
            fd::write_file(&file, content, 0o644).or_failure("write", name)
        }
        Ok(nr::S_IFREG) | Err(_) => Err(failure("write", name, errno)),
        Ok(_) => Ok(()),
    }
}

/// Does not wait for the other end of a fifo.
fn overwrite(file: &CStr, content: &[u8]) -> SysResult<()> {
    let how = nr::O_WRONLY | nr::O_CREAT | nr::O_TRUNC | nr::O_NONBLOCK;
    fd::write_all(&fd::open(file, how, 0o644)?, content)
}

/// Creates the directories of the file that a path leads to.
fn create_target(name: &[u8], links: usize) -> SysResult<()> {
    create_directories(parent(name), links)?;
    match tree::link_target(&c_path(name)?) {
        Ok(target) if links > 0 => create_target(&beside(name, &target), links - 1),
        Ok(_) => Err(Errno::LOOP),
        // No link, or nothing at all.
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn create_directories(directory: &[u8], links: usize) -> SysResult<()> {
    if directory.is_empty() || mount::status(&c_path(directory)?).is_ok() {
        return Ok(());
    }
    let ends = directory.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/');
    for end in ends.map(|(end, _)| end).chain([directory.len()]) {
        let name = directory.get(..end).unwrap_or(directory);
        let at = c_path(name)?;
        match mount::make_directory(&at, 0o755) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                if matches!(mount::status(&at), Err(Errno::NOENT)) {
                    // A link to nothing.
                    let target = tree::link_target(&at)?;
                    let links = links.checked_sub(1).ok_or(Errno::LOOP)?;
                    create_directories(&beside(name, &target), links)?;
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The path that a link at `name` leads to.
fn beside(name: &[u8], target: &[u8]) -> Vec<u8> {
    if target.starts_with(b"/") {
        return target.to_vec();
    }
    [parent(name), b"/", target].concat()
}

/// The directory of a path. Empty for the root, and for a name without a directory.
fn parent(name: &[u8]) -> &[u8] {
    let end = name.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    name.get(..end).unwrap_or_default()
}

fn c_path(bytes: &[u8]) -> SysResult<CString> {
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("supermachine-place-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(path.join("etc")).unwrap();
            Self(path)
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        /// Writes `etc/hosts`, which is a link to `target`, and returns what it then reads as.
        fn through(&self, target: impl AsRef<Path>) -> String {
            let hosts = self.at("etc/hosts");
            symlink(target, &hosts).unwrap();
            write_file(hosts.to_str().unwrap().as_bytes(), b"names").unwrap();
            fs::read_to_string(&hosts).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn is_link(path: &Path) -> bool {
        fs::symlink_metadata(path).unwrap().is_symlink()
    }

    #[test]
    fn dangling_link_is_followed_and_its_target_created() {
        for target in ["../run/resolve/stub", "hosts.d/own", "../run/../var/lib/x"] {
            let scratch = Scratch::new();
            assert_eq!(scratch.through(target), "names");
            assert!(is_link(&scratch.at("etc/hosts")));
            assert_eq!(fs::read_to_string(scratch.at("etc").join(target)).unwrap(), "names");
        }
    }

    #[test]
    fn links_to_dangling_links_are_followed() {
        let scratch = Scratch::new();
        symlink(scratch.at("gone/deep"), scratch.at("folder")).unwrap();
        symlink("folder/file", scratch.at("link")).unwrap();
        assert_eq!(scratch.through("../link"), "names");
        assert_eq!(fs::read_to_string(scratch.at("gone/deep/file")).unwrap(), "names");
    }

    #[test]
    fn link_to_what_cannot_be_written_is_replaced() {
        for target in ["hosts", ".", "/proc/no/such/file", "plain/below"] {
            let scratch = Scratch::new();
            fs::write(scratch.at("etc/plain"), "").unwrap();
            assert_eq!(scratch.through(target), "names", "{target}");
            assert!(!is_link(&scratch.at("etc/hosts")), "{target}");
        }
    }

    #[test]
    fn existing_file_keeps_its_place_and_a_directory_is_left_alone() {
        let scratch = Scratch::new();
        fs::write(scratch.at("real"), "a longer text").unwrap();
        assert_eq!(scratch.through("../real"), "names");
        let folder = scratch.at("etc/folder");
        fs::create_dir(&folder).unwrap();
        write_file(folder.to_str().unwrap().as_bytes(), b"x").unwrap();
        assert!(folder.is_dir());
    }

    #[test]
    fn directories_are_made_through_links() {
        let scratch = Scratch::new();
        symlink("gone", scratch.at("link")).unwrap();
        let below = scratch.at("link/a/b");
        make_directories(below.to_str().unwrap().as_bytes()).unwrap();
        assert!(scratch.at("gone/a/b").is_dir());
        symlink("ring", scratch.at("ring")).unwrap();
        let ring = scratch.at("ring/a");
        assert!(make_directories(ring.to_str().unwrap().as_bytes()).is_err());
    }
}
