//! Unpacks an archive to files.

use alloc::vec::Vec;
use core::mem::{replace, take};

use linux_raw_sys::general as nr;
use supermachine_formats::wire::Failure;

use super::header::{BLOCK, Header, HeaderError, Kind};
use crate::failure::{OrFailure, failure};
use crate::place::{make_directories, path};
use crate::sys::fd::{self, Fd};
use crate::sys::{Errno, mount, tree};

/// The longest records about one entry.
const RECORDS: u64 = 1 << 20;
/// The most directories whose time is set at the end, when no entry changes it any more.
const MOST_TIMES: usize = 64 << 10;

/// Unpacks an archive. See the module above.
#[derive(Debug)]
pub(crate) struct Unpacker {
    target: Vec<u8>,
    block: Vec<u8>,
    state: State,
    /// Extended attributes of the next entry.
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Vec<u8>,
    times: Vec<(Vec<u8>, (i64, u32))>,
}

#[derive(Debug)]
enum State {
    /// A header comes.
    Header,
    /// A file's content comes.
    File { file: Fd, path: Vec<u8>, time: (i64, u32), left: u64, padding: u64 },
    /// Something about the next entry comes.
    About { kind: Kind, bytes: Vec<u8>, left: u64, padding: u64 },
    /// Bytes of no meaning come.
    Skip { left: u64 },
    /// The archive is at its end.
    End,
}

impl Unpacker {
    /// Unpacks into a directory, which is made if need be.
    pub(crate) fn new(directory: &[u8]) -> Result<Self, Failure> {
        make_directories(directory)?;
        let status = mount::status(&path(directory)?).or_failure("stat", directory)?;
        if u32::from(status.stx_mode) & nr::S_IFMT != nr::S_IFDIR {
            return Err(failure("open", directory, Errno::NOTDIR));
        }
        Ok(Self {
            target: directory.to_vec(),
            block: Vec::with_capacity(BLOCK),
            state: State::Header,
            name: None,
            link: None,
            records: Vec::new(),
            times: Vec::new(),
        })
    }

    /// Takes the next bytes.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.take_some(rest)?;
        }
        Ok(())
    }

    /// There are no more.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        match self.state {
            State::End => {}
            // An archive may lack its end mark if no entry is truncated.
            State::Header if self.block.is_empty() && self.name.is_none() => {}
            _ => return Err(malformed("end")),
        }
        for (name, time) in take(&mut self.times).into_iter().rev() {
            tree::set_time(&path(&name)?, time).or_failure("utimensat", &name)?;
        }
        Ok(())
    }

    fn take_some<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Failure> {
        match &mut self.state {
            State::End => Ok(&[]),
            State::Header => {
                let (piece, rest) = split(bytes, (BLOCK - self.block.len()) as u64);
                self.block.extend_from_slice(piece);
                if self.block.len() == BLOCK {
                    let block = replace(&mut self.block, Vec::with_capacity(BLOCK));
                    self.begin(&block)?;
                }
                Ok(rest)
            }
            State::Skip { left } => {
                let (piece, rest) = split(bytes, *left);
                *left -= piece.len() as u64;
                if *left == 0 {
                    self.state = State::Header;
                }
                Ok(rest)
            }
            State::About { bytes: known, left, .. } => {
                let (piece, rest) = split(bytes, *left);
                known.extend_from_slice(piece);
                *left -= piece.len() as u64;
                if *left == 0 {
                    self.note();
                }
                Ok(rest)
            }
            State::File { file, path: name, left, .. } => {
                let (piece, rest) = split(bytes, *left);
                fd::write_all(file, piece).or_failure("write", name)?;
                *left -= piece.len() as u64;
                if *left == 0 {
                    self.end_file()?;
                }
                Ok(rest)
            }
        }
    }

    fn begin(&mut self, block: &[u8]) -> Result<(), Failure> {
        let Ok(block) = <&[u8; BLOCK]>::try_from(block) else { return Err(malformed("header")) };
        if block.iter().all(|byte| *byte == 0) {
            self.state = State::End;
            return Ok(());
        }
        let mut header = Header::decode(block).map_err(|bad| match bad {
            HeaderError::Malformed => malformed("header"),
            HeaderError::Kind => failure("unpack", "entry of an unknown kind", Errno::OPNOTSUPP),
        })?;
        let padding = header.size.next_multiple_of(BLOCK as u64) - header.size;
        match header.kind {
            Kind::Pax | Kind::LongName | Kind::LongLink => {
                if header.size == 0 || header.size > RECORDS {
                    return Err(malformed("record"));
                }
                let bytes = Vec::new();
                self.state = State::About { kind: header.kind, bytes, left: header.size, padding };
                Ok(())
            }
            Kind::PaxGlobal => {
                self.skip(header.size.saturating_add(padding));
                Ok(())
            }
            _ => {
                if let Some(name) = self.name.take() {
                    header.name = name;
                }
                if let Some(link) = self.link.take() {
                    header.link = link;
                }
                if !header.apply(&take(&mut self.records)) {
                    return Err(malformed("record"));
                }
                self.make(&header)
            }
        }
    }

    fn note(&mut self) {
        let State::About { kind, mut bytes, padding, .. } = replace(&mut self.state, State::Header)
        else {
            return;
        };
        if kind == Kind::Pax {
            self.records = bytes;
        } else {
            while bytes.last() == Some(&0) {
                bytes.pop();
            }
            let place = if kind == Kind::LongName { &mut self.name } else { &mut self.link };
            *place = Some(bytes);
        }
        self.skip(padding);
    }

    /// Makes an entry.
    fn make(&mut self, header: &Header) -> Result<(), Failure> {
        let name = self.place(&header.name)?;
        let at = path(&name)?;
        if header.kind == Kind::Directory {
            return self.make_directory(header, name);
        }
        make_way(&name)?;
        match header.kind {
            Kind::File => return self.begin_file(header, name),
            Kind::HardLink => {
                let existing = path(&self.place(&header.link)?)?;
                tree::hard_link(&existing, &at).or_failure("link", &name)?;
                self.skip(header.size.saturating_add(padding(header)));
                return Ok(());
            }
            Kind::SymbolicLink => {
                mount::link(&path(&header.link)?, &at).or_failure("symlink", &name)?;
            }
            Kind::Character | Kind::Block | Kind::Fifo => {
                let kind = match header.kind {
                    Kind::Character => nr::S_IFCHR,
                    Kind::Block => nr::S_IFBLK,
                    _ => nr::S_IFIFO,
                };
                tree::make_node(&at, kind | header.mode, header.device)
                    .or_failure("mknod", &name)?;
            }
            _ => return Err(malformed("header")),
        }
        tree::set_owner(&at, header.uid, header.gid).or_failure("chown", &name)?;
        if header.kind != Kind::SymbolicLink {
            tree::set_mode(&at, header.mode).or_failure("chmod", &name)?;
        }
        tree::set_time(&at, header.time).or_failure("utimensat", &name)
    }

    fn make_directory(&mut self, header: &Header, name: Vec<u8>) -> Result<(), Failure> {
        make_directories(&name)?;
        let at = path(&name)?;
        let status = mount::status(&at).or_failure("stat", &name)?;
        if u32::from(status.stx_mode) & nr::S_IFMT != nr::S_IFDIR {
            return Err(failure("mkdir", &name, Errno::EXIST));
        }
        mount::set_owner_and_mode(&at, header.uid, header.gid, header.mode)
            .or_failure("chmod", &name)?;
        if self.times.len() < MOST_TIMES {
            self.times.push((name, header.time));
        }
        self.skip(header.size.saturating_add(padding(header)));
        Ok(())
    }

    fn begin_file(&mut self, header: &Header, name: Vec<u8>) -> Result<(), Failure> {
        let how = nr::O_WRONLY | nr::O_CREAT | nr::O_EXCL | nr::O_NOFOLLOW;
        let file = fd::open(&path(&name)?, how, header.mode & 0o700).or_failure("open", &name)?;
        fd::change_owner(&file, header.uid, header.gid).or_failure("chown", &name)?;
        fd::change_mode(&file, header.mode).or_failure("chmod", &name)?;
        let (time, left) = (header.time, header.size);
        self.state = State::File { file, path: name, time, left, padding: padding(header) };
        if left == 0 { self.end_file() } else { Ok(()) }
    }

    fn end_file(&mut self) -> Result<(), Failure> {
        if let State::File { file, path: name, time, padding, .. } =
            replace(&mut self.state, State::Header)
        {
            drop(file);
            tree::set_time(&path(&name)?, time).or_failure("utimensat", &name)?;
            self.skip(padding);
        }
        Ok(())
    }

    fn skip(&mut self, left: u64) {
        self.state = if left == 0 { State::Header } else { State::Skip { left } };
    }

    /// Where an entry goes: below the directory.
    fn place(&self, name: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut place = self.target.clone();
        while place.last() == Some(&b'/') {
            place.pop();
        }
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(failure("unpack", name, Errno::INVAL)),
                part => {
                    place.push(b'/');
                    place.extend_from_slice(part);
                }
            }
        }
        if place.is_empty() {
            place.push(b'/');
        }
        Ok(place)
    }
}

/// Removes an existing file in an entry's place, or creates its parent directories.
fn make_way(name: &[u8]) -> Result<(), Failure> {
    match tree::unlink(&path(name)?) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT) => {
            let end = name.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            make_directories(name.get(..end).unwrap_or_default())
        }
        Err(errno) => Err(failure("unlink", name, errno)),
    }
}

fn padding(header: &Header) -> u64 {
    header.size.next_multiple_of(BLOCK as u64) - header.size
}

fn malformed(what: &str) -> Failure {
    failure("read", alloc::format!("{what} in the archive"), Errno::BADMSG)
}

/// At most `limit` bytes, and the rest.
fn split(bytes: &[u8], limit: u64) -> (&[u8], &[u8]) {
    let count = usize::try_from(limit).unwrap_or(usize::MAX).min(bytes.len());
    bytes.split_at(count)
}
