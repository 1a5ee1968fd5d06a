//! Where there is nothing to sign with.

use std::path::Path;

use super::{CodesignError, Request};

pub(super) fn sign_file(path: &Path, _: &Request<'_>) -> Result<(), CodesignError> {
    Err(CodesignError::Absent { path: path.to_path_buf() })
}

pub(super) fn sign_bundle(path: &Path, request: &Request<'_>) -> Result<(), CodesignError> {
    sign_file(path, request)
}
