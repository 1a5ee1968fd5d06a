//! Tar archives as a stream of entries.

mod block;
mod number;
mod pax;
mod reader;
mod sparse;
#[cfg(test)]
mod tests;

pub(super) use reader::{Archive, Entry, EntryKind};
