//! What takes outside bytes apart, for fuzz targets.

use crate::request::{Header, Operation};

/// Takes a request of a guest apart. Returns whether it is one that the server has.
#[must_use]
pub fn take_request(bytes: &[u8]) -> bool {
    Header::split(bytes).is_some_and(|(header, body)| {
        Operation::read(header.operation, body).is_ok_and(|operation| {
            let _ = operation.writes();
            true
        })
    })
}
