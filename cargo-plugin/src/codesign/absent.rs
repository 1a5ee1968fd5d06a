//! Fails, in builds without a signer.

use std::path::Path;

use super::error::CodesignError;
use super::request::Request;

pub(super) fn sign_file(path: &Path, _: &Request<'_>) -> Result<(), CodesignError> {
    Err(CodesignError::Absent { path: path.to_path_buf() })
}

pub(super) fn sign_bundle(path: &Path, request: &Request<'_>) -> Result<(), CodesignError> {
    sign_file(path, request)
}
