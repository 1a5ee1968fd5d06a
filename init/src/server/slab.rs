//! Streams by number, with numbers that are not used again soon.
//!
//! An event may refer to a stream that was closed earlier in the same batch. The generation in its
//! key distinguishes it from the stream that took its place.

use alloc::vec::Vec;

/// Which entry: its place and its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) place: u32,
    pub(super) generation: u32,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
    reserved: bool,
}

/// The entries.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Entry<T>>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// A key for a value that is put in later.
    pub(super) fn reserve(&mut self) -> Key {
        let free = self.entries.iter().position(|entry| entry.value.is_none() && !entry.reserved);
        let place = free.unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, value: None, reserved: false });
            self.entries.len() - 1
        });
        let mut generation = 0;
        if let Some(entry) = self.entries.get_mut(place) {
            entry.generation = entry.generation.wrapping_add(1) & 0x00FF_FFFF;
            entry.reserved = true;
            generation = entry.generation;
        }
        Key { place: u32::try_from(place).unwrap_or(u32::MAX), generation }
    }

    /// Takes a value out; its key stays reserved.
    pub(super) fn take(&mut self, key: Key) -> Option<T> {
        let entry = self.entry(key)?;
        let value = entry.value.take()?;
        entry.reserved = true;
        Some(value)
    }

    /// Stores a value. `None` releases the key.
    pub(super) fn put(&mut self, key: Key, value: Option<T>) {
        if let Some(entry) = self.entry(key) {
            entry.reserved = false;
            entry.value = value;
        }
    }

    /// The values that are in.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        (0_u32..).zip(&self.entries).filter_map(|(place, entry)| {
            Some((Key { place, generation: entry.generation }, entry.value.as_ref()?))
        })
    }

    fn entry(&mut self, key: Key) -> Option<&mut Entry<T>> {
        let entry = self.entries.get_mut(usize::try_from(key.place).ok()?)?;
        (entry.generation == key.generation).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_key_finds_no_value() {
        let mut slab = Slab::new();
        let first = slab.reserve();
        slab.put(first, Some('a'));
        assert_eq!(slab.take(first), Some('a'));
        let other = slab.reserve();
        assert_ne!(other.place, first.place, "a taken value keeps its place");
        slab.put(first, None);
        let second = slab.reserve();
        assert_eq!(second.place, first.place);
        slab.put(second, Some('b'));
        assert_eq!(slab.take(first), None);
        assert_eq!(slab.iter().map(|(_, value)| *value).collect::<Vec<_>>(), ['b']);
    }
}
