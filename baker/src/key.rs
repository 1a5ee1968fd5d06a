//! Keys: the digest of everything that something is made from.

use supermachine_formats::{Digest, Hasher};

/// A digest of values, each with its length so that none runs into the next.
pub(crate) struct Key(Hasher);

impl Key {
    pub(crate) fn new() -> Self {
        Self(Hasher::new())
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// A list, which is not the same as its texts one by one.
    pub(crate) fn list(&mut self, list: &[String]) {
        self.add(&(list.len() as u64).to_le_bytes());
        list.iter().for_each(|text| self.add(text.as_bytes()));
    }

    /// A list, which is another one than none.
    pub(crate) fn list_or_none(&mut self, list: Option<&[String]>) {
        match list {
            Some(list) => self.list(list),
            None => self.add(&u64::MAX.to_le_bytes()),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        self.0.finish()
    }
}
