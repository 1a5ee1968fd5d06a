//! Bounded reads of responses.

use reqwest::Response;

use super::redirect::innermost;
use crate::oci::error::Cause;

/// The whole body, or `None` if it is longer than `limit`.
pub(super) async fn read_body(
    response: &mut Response,
    limit: u64,
) -> Result<Option<Vec<u8>>, Cause> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(innermost)? {
        if body.len().saturating_add(chunk.len()) > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}
