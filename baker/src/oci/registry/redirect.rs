//! Requests that follow redirects without leaking credentials.
//!
//! Credentials and client certificates are for one origin: a redirect to another drops them. Only
//! `GET` and `HEAD` follow redirects, as a body may contain a secret.

use reqwest::header::LOCATION;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::transport::{ResponseTimeout, Transport};
use crate::oci::error::{Cause, Error};

const MAX_REDIRECTS: usize = 10;

/// A request that can be sent repeatedly.
pub(super) struct RepeatableRequest<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) timeout: ResponseTimeout,
    /// Adds headers and a body.
    pub(super) complete: &'a (dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
}

/// Adds credentials to a request.
pub(super) type Authorize<'a> = &'a (dyn Fn(RequestBuilder) -> RequestBuilder + Sync);

/// Why there is no response.
pub(super) enum NoResponse {
    /// The host could not be reached.
    Unreachable(Cause),
    Other(Error),
}

impl RepeatableRequest<'_> {
    /// Sends the request. Calls `authorize` only for the origin of the request's URL.
    pub(super) async fn send(
        &self,
        transport: &Transport,
        registry: &Url,
        authorize: Option<Authorize<'_>>,
    ) -> Result<Response, NoResponse> {
        let mut url = self.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let client = if url.origin() == registry.origin() {
                transport.own(self.timeout)
            } else {
                transport.elsewhere(self.timeout).map_err(NoResponse::Other)?
            };
            let mut request = (self.complete)(client.request(self.method.clone(), url.clone()));
            if let Some(authorize) = authorize
                && url.origin() == self.url.origin()
            {
                request = authorize(request);
            }
            let response =
                request.send().await.map_err(|error| NoResponse::Unreachable(innermost(error)))?;
            match self.target(&url, &response) {
                None => return Ok(response),
                Some(target) if url.scheme() == "https" && target.scheme() != "https" => {
                    let cause = "it redirects to a place without TLS";
                    return Err(NoResponse::Unreachable(cause.into()));
                }
                Some(target) => url = target,
            }
        }
        Err(NoResponse::Unreachable("it redirects too often".into()))
    }

    /// The target of a redirect to follow.
    fn target(&self, url: &Url, response: &Response) -> Option<Url> {
        let is_redirect = matches!(
            response.status(),
            StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT
        );
        let is_followed = is_redirect && [Method::GET, Method::HEAD].contains(&self.method);
        let location = response.headers().get(LOCATION).filter(|_| is_followed)?;
        let mut target = url.join(location.to_str().ok()?).ok()?;
        // A registry must not set a name and password in the address.
        let _ = target.set_username("").and_then(|()| target.set_password(None));
        ["http", "https"].contains(&target.scheme()).then_some(target)
    }
}

/// The root cause of a failed request; the errors above it add nothing.
pub(super) fn innermost(error: reqwest::Error) -> Cause {
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().into()
}
