//! A guest's side of the protocol, in bytes.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::abi::{self, operation as code};
use crate::{HostFolder, Server};

const ROOM: usize = (1 << 20) + 4096;

/// A shared folder with its server, and files of the host beside it that are out of bounds.
pub(super) struct Guest {
    pub(super) server: Server,
    /// Removed at the end.
    pub(super) home: tempfile::TempDir,
}

/// The attributes that the guest gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) owner: (u32, u32),
}

/// An item of a folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) next: u64,
    pub(super) kind: u32,
}

impl Guest {
    pub(super) fn new() -> Self {
        Self::with(|folder| folder)
    }

    pub(super) fn with(change: impl FnOnce(HostFolder) -> HostFolder) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("shared")).unwrap();
        fs::write(home.path().join("secret"), "secret").unwrap();
        let folder = change(HostFolder::new(home.path().join("shared"), "/project"));
        let guest = Self { server: Server::open(&folder).unwrap(), home };
        guest.init().unwrap();
        guest
    }

    /// The guest of a snapshot of this one, in the same folder.
    pub(super) fn resumed(self) -> Self {
        let folder = HostFolder::new(self.host(""), "/project");
        let server = Server::resume(&folder, &self.server.known()).unwrap();
        Self { server, home: self.home }
    }

    /// A path of the host, in the folder.
    pub(super) fn host(&self, name: &str) -> PathBuf {
        self.home.path().join("shared").join(name)
    }

    /// A path of the host, outside of the folder.
    pub(super) fn outside(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(super) fn init(&self) -> Result<Vec<u8>, Errno> {
        self.ask(code::INIT, 0, &[&words(&[7, 39, 65536, u32::MAX, 0]), &[0; 44][..]].concat())
    }

    /// Sends a request. Returns what follows the header of the answer.
    pub(super) fn ask(&self, operation: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Errno> {
        let answer = self.server.answer(&request(operation, node, body), ROOM);
        let (head, body) = answer.split_at(16);
        assert_eq!(usize::try_from(word(head, 0)), Ok(answer.len()));
        assert_eq!(head[8..], 7_u64.to_le_bytes());
        match word(head, 4).cast_signed() {
            0 => Ok(body.to_vec()),
            error => {
                assert!(body.is_empty() && error < 0);
                Err(Errno::from_raw_os_error(-error))
            }
        }
    }

    /// Asks without an answer.
    pub(super) fn tell(&self, operation: u32, node: u64, body: &[u8]) {
        assert!(self.server.answer(&request(operation, node, body), 0).is_empty());
    }

    pub(super) fn lookup(&self, parent: u64, name: &str) -> Result<u64, Errno> {
        Ok(long(&self.ask(code::LOOKUP, parent, &text(name))?, 0))
    }

    /// The node at the end of a path.
    pub(super) fn walk(&self, path: &str) -> Result<u64, Errno> {
        path.split('/').try_fold(abi::ROOT, |node, name| self.lookup(node, name))
    }

    pub(super) fn attributes(&self, node: u64) -> Result<Attributes, Errno> {
        let answer = self.ask(code::GETATTR, node, &[0; 16])?;
        Ok(attributes(&answer[16..]))
    }

    /// Sets attributes: which ones, and the fields after `valid` and its padding that matter.
    pub(super) fn set(&self, node: u64, valid: u32, fields: Fields) -> Result<Attributes, Errno> {
        let Fields { handle, size, mode, uid, gid } = fields;
        let body = [
            &words(&[valid, 0])[..],
            &longs(&[handle, size, 0, 1, 2, 3]),
            &words(&[4, 5, 6, mode, 0, uid, gid, 0]),
        ];
        Ok(attributes(&self.ask(code::SETATTR, node, &body.concat())?[16..]))
    }

    pub(super) fn open(&self, node: u64, flags: u32) -> Result<u64, Errno> {
        Ok(long(&self.ask(code::OPEN, node, &words(&[flags, 0]))?, 0))
    }

    pub(super) fn open_folder(&self, node: u64) -> Result<u64, Errno> {
        Ok(long(&self.ask(code::OPENDIR, node, &[0; 8])?, 0))
    }

    /// Makes and opens a file. Returns its node and handle.
    pub(super) fn create(
        &self,
        parent: u64,
        name: &str,
        flags: u32,
        mode: u32,
    ) -> Result<(u64, u64), Errno> {
        let body = [&words(&[flags, mode, 0, 0])[..], &text(name)].concat();
        let answer = self.ask(code::CREATE, parent, &body)?;
        Ok((long(&answer, 0), long(&answer, 128)))
    }

    pub(super) fn make_folder(&self, parent: u64, name: &str) -> Result<u64, Errno> {
        let body = [&words(&[0o755, 0])[..], &text(name)].concat();
        Ok(long(&self.ask(code::MKDIR, parent, &body)?, 0))
    }

    pub(super) fn make_node(&self, parent: u64, name: &str, mode: u32) -> Result<u64, Errno> {
        let body = [&words(&[mode, 0x103, 0, 0])[..], &text(name)].concat();
        Ok(long(&self.ask(code::MKNOD, parent, &body)?, 0))
    }

    pub(super) fn make_link(&self, parent: u64, name: &str, target: &str) -> Result<u64, Errno> {
        let body = [text(name), text(target)].concat();
        Ok(long(&self.ask(code::SYMLINK, parent, &body)?, 0))
    }

    pub(super) fn link(&self, old: u64, parent: u64, name: &str) -> Result<u64, Errno> {
        let body = [&longs(&[old])[..], &text(name)].concat();
        Ok(long(&self.ask(code::LINK, parent, &body)?, 0))
    }

    pub(super) fn rename(
        &self,
        from: (u64, &str),
        to: (u64, &str),
        flags: u32,
    ) -> Result<(), Errno> {
        let names = [text(from.1), text(to.1)].concat();
        let body = [&longs(&[to.0])[..], &words(&[flags, 0]), &names].concat();
        self.ask(code::RENAME2, from.0, &body).map(drop)
    }

    pub(super) fn unlink(&self, parent: u64, name: &str) -> Result<(), Errno> {
        self.ask(code::UNLINK, parent, &text(name)).map(drop)
    }

    pub(super) fn read(&self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        self.ask(code::READ, 0, &range(handle, offset, size, 0, 0))
    }

    pub(super) fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        self.write_as(handle, offset, data, (0, 0))
    }

    /// The same, with how it is written and the flags of the file.
    pub(super) fn write_as(
        &self,
        handle: u64,
        offset: u64,
        data: &[u8],
        (how, flags): (u32, u32),
    ) -> Result<u32, Errno> {
        let size = u32::try_from(data.len()).unwrap();
        let body = [&range(handle, offset, size, how, flags)[..], data].concat();
        Ok(word(&self.ask(code::WRITE, 0, &body)?, 0))
    }

    /// The items of a folder from an offset on, in answers of this size.
    pub(super) fn items(&self, handle: u64, offset: u64, size: u32) -> Result<Vec<Item>, Errno> {
        let answer = self.ask(code::READDIR, 0, &range(handle, offset, size, 0, 0))?;
        assert!(answer.len() <= usize::try_from(size).unwrap());
        let (mut rest, mut items) = (&answer[..], Vec::new());
        while !rest.is_empty() {
            let length = usize::try_from(word(rest, 16)).unwrap();
            let name = String::from_utf8(rest[24..24 + length].to_vec()).unwrap();
            items.push(Item { name, next: long(rest, 8), kind: word(rest, 20) });
            rest = &rest[(24 + length).next_multiple_of(8)..];
        }
        Ok(items)
    }

    pub(super) fn release(&self, handle: u64) {
        let body = [&longs(&[handle])[..], &[0; 16]].concat();
        assert_eq!(self.ask(code::RELEASE, 0, &body), Ok(Vec::new()));
    }

    pub(super) fn forget(&self, node: u64, count: u64) {
        self.tell(code::FORGET, node, &longs(&[count]));
    }

    pub(super) fn set_value(&self, node: u64, name: &str, value: &[u8]) -> Result<(), Errno> {
        let size = u32::try_from(value.len()).unwrap();
        let body = [&words(&[size, 0])[..], &text(name), value].concat();
        self.ask(code::SETXATTR, node, &body).map(drop)
    }

    pub(super) fn value(&self, node: u64, name: &str, size: u32) -> Result<Vec<u8>, Errno> {
        self.ask(code::GETXATTR, node, &[&words(&[size, 0])[..], &text(name)].concat())
    }
}

/// The attributes that a request sets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fields {
    pub(super) handle: u64,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A request with its header.
pub(super) fn request(operation: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(40 + body.len()).unwrap();
    let head = [&words(&[length, operation])[..], &longs(&[7, node]), &[0; 16]];
    [&head.concat()[..], body].concat()
}

pub(super) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(super) fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}

pub(super) fn text(text: &str) -> Vec<u8> {
    [std::ffi::OsStr::new(text).as_bytes(), &[0]].concat()
}

fn range(handle: u64, offset: u64, size: u32, how: u32, flags: u32) -> Vec<u8> {
    let parts = [longs(&[handle, offset]), words(&[size, how]), longs(&[0]), words(&[flags, 0])];
    parts.concat()
}

pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(super) fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn attributes(bytes: &[u8]) -> Attributes {
    assert_eq!(bytes.len(), 88);
    Attributes {
        inode: long(bytes, 0),
        size: long(bytes, 8),
        mode: word(bytes, 60),
        links: word(bytes, 64),
        owner: (word(bytes, 68), word(bytes, 72)),
    }
}
