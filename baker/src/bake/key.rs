//! Cache keys: digests of all inputs.

use supermachine_formats::{Digest, Hasher};

/// A digest of values. Each is preceded by its length, so that they cannot run together.
pub(crate) struct Key(Hasher);

impl Key {
    pub(crate) fn new() -> Self {
        Self(Hasher::new())
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// A list, which differs from its items one by one.
    pub(crate) fn list(&mut self, list: &[String]) {
        self.add(&(list.len() as u64).to_le_bytes());
        list.iter().for_each(|text| self.add(text.as_bytes()));
    }

    /// An optional list: an empty one differs from `None`.
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
