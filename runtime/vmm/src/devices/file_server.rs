//! What answers for a folder of the host.

use std::fmt::Debug;

use supermachine_formats::snapshot::device::{ShareHandle, ShareNode};

/// The other end of a folder's device: takes a guest's FUSE messages and answers them.
///
/// It may be in another process. Several threads ask it at once, and each waits for its answer, so it may
/// take as long as the host's file system does.
pub trait FileServer: Debug + Send + Sync {
    /// Answers a request with at most `room` bytes. Empty for a request that wants no answer.
    fn answer(&self, request: &[u8], room: usize) -> Vec<u8>;

    /// What the guest knows of the folder, for a snapshot.
    fn known(&self) -> Known;
}

/// What a guest knows of a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The files that it knows.
    pub nodes: Vec<ShareNode>,
    /// The files that it has open.
    pub handles: Vec<ShareHandle>,
}
