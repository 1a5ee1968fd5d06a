//! A session with one repository of a registry.
//!
//! Owns authorization and the requests for manifests and blobs. Credentials go to the registry and to
//! the token service that it names, never unencrypted to another machine, and never to the target of a
//! redirect. Where plain HTTP is allowed, the session tries TLS first.

use reqwest::header::{ACCEPT, CONTENT_RANGE, HeaderMap, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use supermachine_formats::Digest;
use tokio::sync::{Mutex, OnceCell};

use super::body::read_body;
use super::challenge::Challenge;
use super::message::message_of;
use super::redirect::{NoResponse, RepeatableRequest};
use super::retry::{Backoff, Failure, is_transient, retry_after};
use super::token::TokenRequest;
use super::transport::{ResponseTimeout, Transport};
use crate::oci::credentials::Credentials;
use crate::oci::error::{Cause, Document, Error};
use crate::oci::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST};
use crate::oci::options::FetchOptions;
use crate::oci::progress::Event;
use crate::oci::reference::Reference;

/// The access that a session needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
}

pub(crate) struct RegistrySession {
    reference: Reference,
    credentials: Option<Credentials>,
    options: FetchOptions,
    transport: Transport,
    access: Access,
    /// Scheme and host. The first request determines the scheme.
    base: OnceCell<Url>,
    /// Guards the authorization. Held during a renewal, so that concurrent requests renew it once.
    auth: Mutex<CurrentAuth>,
}

/// The authorization of requests.
#[derive(Clone, Default)]
struct CurrentAuth {
    generation: u32,
    authorization: Option<Authorization>,
}

#[derive(Clone)]
enum Authorization {
    Basic { user: String, password: String },
    Bearer { token: String },
}

/// The start of a blob's transfer.
pub(super) enum BlobStart {
    /// The blob from the requested offset on.
    Rest(Response),
    /// The whole blob.
    Whole(Response),
    /// The registry has no content at that offset.
    OutOfRange,
}

impl RegistrySession {
    pub(super) fn new(
        reference: &Reference,
        credentials: Option<Credentials>,
        options: &FetchOptions,
        access: Access,
    ) -> Result<Self, Error> {
        Ok(Self {
            reference: reference.clone(),
            credentials,
            options: options.clone(),
            transport: Transport::new(reference.host(), options)?,
            access,
            base: OnceCell::new(),
            auth: Mutex::default(),
        })
    }

    /// Fetches the manifest or index with a tag or digest, of at most [`MAX_DOCUMENT`] bytes. Verifies its
    /// digest if one is known.
    pub(super) async fn manifest(
        &self,
        tag: &str,
        digest: Option<Digest>,
    ) -> Result<Vec<u8>, Error> {
        let object = digest.map_or_else(|| tag.to_owned(), |digest| digest.to_string());
        let mut backoff = Backoff::new(self.options.timeouts);
        loop {
            let (error, asked) = match self.try_manifest(&object, digest).await {
                Ok(manifest) => return Ok(manifest),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Transient { error, retry_after }) => (error, retry_after),
            };
            let Some(pause) = backoff.next(asked) else { return Err(error) };
            self.wait(&error, pause).await;
        }
    }

    async fn try_manifest(&self, object: &str, digest: Option<Digest>) -> Result<Vec<u8>, Failure> {
        let url = self.url(&format!("manifests/{object}")).await.map_err(Failure::Final)?;
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ");
        let request = |builder: RequestBuilder| builder.header(ACCEPT, &accept);
        let mut response = self.request(Method::GET, url, &request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                let reference = self.reference.to_string();
                return Err(Failure::Final(Error::NoSuchImage { reference }));
            }
            _ => return Err(self.refusal(object, response).await),
        }
        let stated = stated_digest(response.headers());
        let body = read_body(&mut response, MAX_DOCUMENT)
            .await
            .map_err(|source| transient(self.unreachable(source)))?;
        let too_large = Error::TooLarge { document: Document::Manifest, limit: MAX_DOCUMENT };
        let body = body.ok_or(Failure::Final(too_large))?;
        match digest.or(stated) {
            Some(digest) if digest != Digest::of(&body) => {
                Err(Failure::Final(Error::DigestMismatch { digest, found: Digest::of(&body) }))
            }
            _ => Ok(body),
        }
    }

    /// Starts to receive a blob from `offset` on.
    pub(super) async fn blob(&self, digest: Digest, offset: u64) -> Result<BlobStart, Failure> {
        let object = digest.to_string();
        let url = self.url(&format!("blobs/{object}")).await.map_err(Failure::Final)?;
        let range = format!("bytes={offset}-");
        let request = |builder: RequestBuilder| builder.header(RANGE, &range);
        let response = self.request(Method::GET, url, &request).await?;
        match response.status() {
            StatusCode::OK => Ok(BlobStart::Whole(response)),
            StatusCode::PARTIAL_CONTENT => match stated_offset(response.headers()) {
                Some(found) if found != offset => Ok(BlobStart::OutOfRange),
                _ => Ok(BlobStart::Rest(response)),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(BlobStart::OutOfRange),
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                let place = self.reference.registry().to_owned();
                Err(Failure::Final(Error::BlobMissing { digest, place }))
            }
            _ => Err(self.refusal(&object, response).await),
        }
    }

    /// Sends a request, and once more with new authorization if the registry requires it.
    pub(super) async fn request(
        &self,
        method: Method,
        url: Url,
        complete: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
    ) -> Result<Response, Failure> {
        let call = RepeatableRequest { method, url, timeout: ResponseTimeout::Limited, complete };
        self.authorized(&call).await
    }

    /// Sends a large body to an upload location, without a time limit. Sends credentials only to the
    /// registry itself.
    pub(super) async fn put(
        &self,
        place: Url,
        complete: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
    ) -> Result<Response, Failure> {
        let call = RepeatableRequest {
            method: Method::PUT,
            url: place,
            timeout: ResponseTimeout::Unlimited,
            complete,
        };
        self.authorized(&call).await
    }

    async fn authorized(&self, call: &RepeatableRequest<'_>) -> Result<Response, Failure> {
        let base = self.base().await.map_err(Failure::Final)?;
        let auth = self.auth.lock().await.clone();
        let response = self.send(call, &auth).await?;
        // What a redirect led to may not say where to send credentials.
        let is_own = base.origin() == response.url().origin();
        if response.status() != StatusCode::UNAUTHORIZED || !is_own {
            return Ok(response);
        }
        let challenge = Challenge::find(response.headers());
        let message = message_of(response).await;
        let auth = self.renew(auth.generation, challenge, message).await?;
        self.send(call, &auth).await
    }

    async fn send(
        &self,
        call: &RepeatableRequest<'_>,
        auth: &CurrentAuth,
    ) -> Result<Response, Failure> {
        let base = self.base().await.map_err(Failure::Final)?;
        let apply = |request: RequestBuilder| match &auth.authorization {
            Some(Authorization::Basic { user, password }) => {
                request.basic_auth(user, Some(password))
            }
            Some(Authorization::Bearer { token }) => request.bearer_auth(token),
            None => request,
        };
        let is_own = base.origin() == call.url.origin();
        let sent = call.send(&self.transport, base, is_own.then_some(&apply)).await;
        sent.map_err(|error| match error {
            NoResponse::Unreachable(source) => transient(self.unreachable(source)),
            NoResponse::Other(error) => Failure::Final(error),
        })
    }

    /// The URL of an object in the repository.
    pub(super) async fn url(&self, object: &str) -> Result<Url, Error> {
        let path = format!("v2/{}/{object}", self.reference.repository());
        self.base().await?.join(&path).map_err(|source| self.unreachable(source.into()))
    }

    /// Resolves an upload location; `None` if it would leave TLS.
    pub(super) async fn place(&self, location: &str) -> Option<Url> {
        let base = self.base().await.ok()?;
        let place = base.join(location).ok()?;
        let is_fine = match place.scheme() {
            "https" => true,
            "http" => base.scheme() == "http",
            _ => false,
        };
        is_fine.then_some(place)
    }

    pub(super) fn registry_name(&self) -> &str {
        self.reference.registry()
    }

    /// Scheme and host of the registry.
    async fn base(&self) -> Result<&Url, Error> {
        self.base.get_or_try_init(|| self.find_base()).await
    }

    async fn find_base(&self) -> Result<Url, Error> {
        let address = |scheme| self.address(scheme).map_err(|source| self.unreachable(source));
        let secure = address("https")?;
        if !self.transport.may_be_plain() {
            return Ok(secure);
        }
        let client = self.transport.own(ResponseTimeout::Limited);
        match client.head(secure.clone()).send().await {
            Ok(_) => Ok(secure),
            Err(_) => address("http"),
        }
    }

    fn address(&self, scheme: &str) -> Result<Url, Cause> {
        Ok(Url::parse(&format!("{scheme}://{}/", self.reference.host()))?)
    }

    /// Renews the authorization, unless another request did so since `generation`.
    async fn renew(
        &self,
        generation: u32,
        challenge: Option<Challenge>,
        message: Option<String>,
    ) -> Result<CurrentAuth, Failure> {
        let mut auth = self.auth.lock().await;
        if auth.generation != generation {
            return Ok(auth.clone());
        }
        let authorization = match (challenge, &self.credentials) {
            (Some(Challenge::Bearer { realm, service, scope }), _) => {
                Authorization::Bearer { token: self.token(&realm, service, scope).await? }
            }
            (Some(Challenge::Basic), Some(Credentials::Password { user, password })) => {
                Authorization::Basic { user: user.clone(), password: password.clone() }
            }
            _ => return Err(Failure::Final(self.unauthorized(message))),
        };
        *auth = CurrentAuth {
            generation: generation.wrapping_add(1),
            authorization: Some(authorization),
        };
        Ok(auth.clone())
    }

    /// Requests a token for the session's access.
    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: Option<String>,
    ) -> Result<String, Failure> {
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let own = format!("repository:{}:{actions}", self.reference.repository());
        let base = self.base().await.map_err(Failure::Final)?;
        let request = TokenRequest {
            registry: self.reference.registry(),
            base,
            realm,
            service: service.as_deref(),
            scopes: scopes(&own, scope.as_deref()),
            credentials: self.credentials.as_ref(),
            insecure: self.options.insecure,
        };
        let mut backoff = Backoff::new(self.options.timeouts);
        loop {
            let (error, asked) = match request.send(&self.transport).await {
                Ok(token) => return Ok(token),
                Err(Failure::Final(error)) => return Err(Failure::Final(error)),
                Err(Failure::Transient { error, retry_after }) => (error, retry_after),
            };
            let Some(pause) = backoff.next(asked) else { return Err(Failure::Final(error)) };
            self.wait(&error, pause).await;
        }
    }

    async fn wait(&self, error: &Error, pause: std::time::Duration) {
        self.options.report(Event::Waiting { error, pause });
        tokio::time::sleep(pause).await;
    }

    /// The failure that an error response stands for.
    pub(super) async fn refusal(&self, object: &str, response: Response) -> Failure {
        let status = response.status();
        let asked = retry_after(response.headers());
        let message = message_of(response).await;
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Failure::Final(self.unauthorized(message))
            }
            _ => {
                let error = Error::Registry {
                    registry: self.reference.registry().to_owned(),
                    object: object.to_owned(),
                    status: status.as_u16(),
                    message,
                    retry_after: asked,
                };
                if is_transient(status) {
                    Failure::Transient { error, retry_after: asked }
                } else {
                    Failure::Final(error)
                }
            }
        }
    }

    fn unauthorized(&self, message: Option<String>) -> Error {
        Error::Unauthorized {
            registry: self.reference.registry().to_owned(),
            credentials_sent: self.credentials.is_some(),
            message,
        }
    }

    fn unreachable(&self, source: Cause) -> Error {
        // The TLS library's answer to plain HTTP.
        let source = match source.to_string().contains("InvalidContentType") {
            true => "it answers without TLS; use --insecure to allow that".into(),
            false => source,
        };
        let url = self.base.get().cloned().or_else(|| self.address("https").ok());
        let source = match url.and_then(|url| self.transport.proxy_for(&url)) {
            Some(proxy) => format!("through the proxy {proxy}: {source}").into(),
            None => source,
        };
        Error::Unreachable { registry: self.reference.registry().to_owned(), source }
    }
}

fn transient(error: Error) -> Failure {
    Failure::Transient { error, retry_after: None }
}

/// The scopes of a token: the session's own, and others that the registry requires.
fn scopes(own: &str, wanted: Option<&str>) -> Vec<String> {
    let mut all = vec![own.to_owned()];
    let resource = |scope: &str| scope.rsplit_once(':').map(|(resource, _)| resource.to_owned());
    for scope in wanted.unwrap_or_default().split_ascii_whitespace() {
        if resource(scope) != resource(own) && !all.iter().any(|known| known == scope) {
            all.push(scope.to_owned());
        }
    }
    all
}

fn stated_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// The offset of a partial response.
fn stated_offset(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_add_what_the_registry_wants_of_other_resources() {
        let own = "repository:a/b:pull";
        assert_eq!(scopes(own, None), [own]);
        assert_eq!(scopes(own, Some("repository:a/b:pull,push")), [own]);
        let other = "repository:a/c:pull";
        assert_eq!(scopes(own, Some(&format!("{other} {own}"))), [own, other]);
    }
}
