//! The guest kernel and agent of supermachine, as bytes with their digests.
