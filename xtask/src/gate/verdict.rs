//! The errors of failed checks.

use crate::error::Error;

/// Passes if `against` is empty.
pub(super) fn none(what: &'static str, expected: &str, against: &[String]) -> Result<(), Error> {
    if against.is_empty() { Ok(()) } else { Err(found(what, expected, &against.join(", "))) }
}

/// The error of a check that found something other than expected.
pub(super) fn found(what: &'static str, expected: &str, found: &str) -> Error {
    Error::Unexpected { what, expected: expected.to_owned(), found: found.to_owned() }
}
