//! Handmade archives for the tests, including hostile ones.
//!
//! Unlike the `tar` crate's builder, this one writes any name, type and number unchanged.

use tar::Header;

/// Builds an archive. Setters apply only to the next entry.
pub(super) struct Sample {
    bytes: Vec<u8>,
    next: Header,
}

impl Sample {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), next: fresh() }
    }

    pub(super) fn mode(mut self, mode: u32) -> Self {
        self.next.set_mode(mode);
        self
    }

    pub(super) fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.next.set_uid(uid);
        self.next.set_gid(gid);
        self
    }

    pub(super) fn device(mut self, major: u32, minor: u32) -> Self {
        self.next.set_device_major(major).unwrap();
        self.next.set_device_minor(minor).unwrap();
        self
    }

    /// Changes the next entry's header in other ways.
    pub(super) fn header(mut self, change: impl FnOnce(&mut Header)) -> Self {
        change(&mut self.next);
        self
    }

    /// Pax records for the next entry.
    pub(super) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let length = (1..).map(|digits| body + digits);
            let length = length.clone().find(|n| n.to_string().len() + body == *n).unwrap();
            data.extend(format!("{length} {key}=").into_bytes());
            data.extend(*value);
            data.push(b'\n');
        }
        let next = std::mem::replace(&mut self.next, fresh());
        self = self.entry(b'x', b"PaxHeader", b"", &data);
        self.next = next;
        self
    }

    pub(super) fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(b'0', name.as_bytes(), b"", data)
    }

    pub(super) fn dir(self, name: &str) -> Self {
        self.entry(b'5', name.as_bytes(), b"", b"")
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name.as_bytes(), target.as_bytes(), b"")
    }

    pub(super) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name.as_bytes(), target.as_bytes(), b"")
    }

    pub(super) fn entry(mut self, kind: u8, name: &[u8], link: &[u8], data: &[u8]) -> Self {
        self = self.long(b'L', name).long(b'K', link);
        let mut header = std::mem::replace(&mut self.next, fresh());
        let old = header.as_old_mut();
        old.linkflag = [kind];
        old.name[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        old.linkname[..link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        if old.size == [0; 12] {
            header.set_size(data.len() as u64);
        }
        self.append(header, data)
    }

    /// Finishes the archive with two blocks of zeros.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend([0; 1024]);
        self.bytes
    }

    fn long(self, kind: u8, name: &[u8]) -> Self {
        if name.len() <= 100 {
            return self;
        }
        let mut header = fresh();
        header.as_old_mut().linkflag = [kind];
        header.set_size(name.len() as u64 + 1);
        self.append(header, &[name, &[0]].concat())
    }

    fn append(mut self, mut header: Header, data: &[u8]) -> Self {
        header.set_cksum();
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }
}

fn fresh() -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
