//! Packs files into an archive.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::Failure;

use super::header::{BLOCK, Header, Kind, pad};
use crate::failure::{OrFailure, failure};
use crate::place::path;
use crate::sys::fd::{self, Fd};
use crate::sys::{Errno, mount, tree};

/// The most hard links that are remembered; further ones are packed as files.
const MOST_LINKS: usize = 64 << 10;

/// Packs an archive. See the module above.
#[derive(Debug)]
pub(crate) struct Packer {
    /// The directory that names are relative to.
    root: Vec<u8>,
    /// The directories being packed: their names below the root, and their remaining entries.
    directories: Vec<(Vec<u8>, alloc::vec::IntoIter<Vec<u8>>)>,
    /// Bytes that the caller has not taken yet.
    waiting: Vec<u8>,
    given: usize,
    /// The file being copied, and its remaining length.
    file: Option<(Fd, Vec<u8>, u64)>,
    /// The padding after the last file, in bytes.
    padding: u64,
    links: BTreeMap<(u32, u32, u64), Vec<u8>>,
    ended: bool,
}

impl Packer {
    /// Packs a file, or a directory with all in it.
    pub(crate) fn new(name: &[u8]) -> Result<Self, Failure> {
        let status = mount::status(&path(name)?).or_failure("stat", name)?;
        let mut packer = Self {
            root: name.to_vec(),
            directories: Vec::new(),
            waiting: Vec::new(),
            given: 0,
            file: None,
            padding: 0,
            links: BTreeMap::new(),
            ended: false,
        };
        if u32::from(status.stx_mode) & nr::S_IFMT == nr::S_IFDIR {
            packer.open_directory(Vec::new(), &status)?;
        } else {
            let own = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            packer.add(own.to_vec(), name, &status)?;
        }
        Ok(packer)
    }

    /// Returns the next bytes, or an empty slice at the end.
    pub(crate) fn give(&mut self, space: &mut [u8]) -> Result<usize, Failure> {
        let mut filled = 0;
        while let Some(room) = space.get_mut(filled..).filter(|room| !room.is_empty()) {
            let count = self.give_some(room)?;
            if count == 0 && !self.go_on()? {
                break;
            }
            filled += count;
        }
        Ok(filled)
    }

    /// Bytes of what was begun.
    fn give_some(&mut self, room: &mut [u8]) -> Result<usize, Failure> {
        let waiting = self.waiting.split_at(self.given).1;
        if !waiting.is_empty() {
            let count = waiting.len().min(room.len());
            for (place, byte) in room.iter_mut().zip(waiting) {
                *place = *byte;
            }
            self.given += count;
            return Ok(count);
        }
        self.waiting.clear();
        self.given = 0;
        if let Some((file, name, left)) = &mut self.file {
            let limit = usize::try_from(*left).unwrap_or(usize::MAX).min(room.len());
            let room = room.get_mut(..limit).unwrap_or_default();
            let count = fd::read(file, room).or_failure("read", name)?;
            *left -= count as u64;
            if count == 0 {
                // It was truncated meanwhile, but the archive already states its length.
                self.padding += *left;
            }
            if count == 0 || *left == 0 {
                self.file = None;
            }
            if count > 0 {
                return Ok(count);
            }
        }
        let count = usize::try_from(self.padding).unwrap_or(usize::MAX).min(room.len());
        room.get_mut(..count).unwrap_or_default().fill(0);
        self.padding -= count as u64;
        Ok(count)
    }

    /// Starts the next entry. Returns `false` if there is none.
    fn go_on(&mut self) -> Result<bool, Failure> {
        while let Some((directory, names)) = self.directories.last_mut() {
            let Some(name) = names.next() else {
                self.directories.pop();
                continue;
            };
            let name = [directory.as_slice(), &name].concat();
            let at = [&self.root, b"/".as_slice(), &name].concat();
            let status = match tree::link_status(&path(&at)?) {
                Ok(status) => status,
                // It went away meanwhile.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(failure("stat", at, errno)),
            };
            if u32::from(status.stx_mode) & nr::S_IFMT == nr::S_IFDIR {
                self.open_directory([&name, b"/".as_slice()].concat(), &status)?;
            } else {
                self.add([b"./".as_slice(), &name].concat(), &at, &status)?;
            }
            return Ok(true);
        }
        if !self.ended {
            self.ended = true;
            self.waiting.resize(2 * BLOCK, 0);
            return Ok(true);
        }
        Ok(false)
    }

    /// Adds a directory. Its name is empty or has a trailing slash.
    fn open_directory(&mut self, name: Vec<u8>, status: &rustix::fs::Statx) -> Result<(), Failure> {
        let at = [&self.root, b"/".as_slice(), &name].concat();
        let names = tree::names(&path(&at)?).or_failure("open", &at)?;
        let entry = [b"./".as_slice(), &name].concat();
        header(entry, Kind::Directory, status).encode(&mut self.waiting);
        self.directories.push((name, names.into_iter()));
        Ok(())
    }

    /// Adds what is not a directory.
    fn add(
        &mut self,
        entry: Vec<u8>,
        at: &[u8],
        status: &rustix::fs::Statx,
    ) -> Result<(), Failure> {
        let kind = match u32::from(status.stx_mode) & nr::S_IFMT {
            nr::S_IFREG => Kind::File,
            nr::S_IFLNK => Kind::SymbolicLink,
            nr::S_IFCHR => Kind::Character,
            nr::S_IFBLK => Kind::Block,
            nr::S_IFIFO => Kind::Fifo,
            // A socket is useless without its program.
            _ => return Ok(()),
        };
        let mut header = header(entry, kind, status);
        if kind == Kind::SymbolicLink {
            header.link = tree::link_target(&path(at)?).or_failure("readlink", at)?;
        }
        if kind == Kind::File {
            if let Some(first) = self.first_name(&header.name, status) {
                header.kind = Kind::HardLink;
                header.link = first;
            } else {
                let file = fd::open(&path(at)?, nr::O_RDONLY | nr::O_NONBLOCK, 0)
                    .or_failure("open", at)?;
                header.size = status.stx_size;
                self.padding = header.size.next_multiple_of(BLOCK as u64) - header.size;
                self.file = (header.size > 0).then(|| (file, at.to_vec(), header.size));
            }
        }
        header.encode(&mut self.waiting);
        pad(&mut self.waiting);
        Ok(())
    }

    /// The name that a file with several was packed by before.
    fn first_name(&mut self, name: &[u8], status: &rustix::fs::Statx) -> Option<Vec<u8>> {
        if status.stx_nlink < 2 {
            return None;
        }
        let key = (status.stx_dev_major, status.stx_dev_minor, status.stx_ino);
        if let Some(first) = self.links.get(&key) {
            return Some(first.clone());
        }
        if self.links.len() < MOST_LINKS {
            self.links.insert(key, name.to_vec());
        }
        None
    }
}

fn header(name: Vec<u8>, kind: Kind, status: &rustix::fs::Statx) -> Header {
    Header {
        name,
        link: Vec::new(),
        kind,
        mode: u32::from(status.stx_mode) & 0o7777,
        uid: status.stx_uid,
        gid: status.stx_gid,
        size: 0,
        time: (status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec),
        device: (status.stx_rdev_major, status.stx_rdev_minor),
    }
}
