//! A conversation with one registry about one repository.
//!
//! Owns the HTTP clients, authentication, and the requests for manifests and blobs. Blobs go
//! through `oci-client`; manifests and tokens are asked for here, since that library reads
//! answers of any length into memory and does not tell a token service that is down from one
//! that refuses. Credentials go to the registry and to the token service that it names, never
//! in the clear to another machine, and never to where a request is redirected.

use std::sync::Arc;

use oci_client::RegistryOperation;
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::token_cache::RegistryTokenType;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use supermachine_formats::Digest;
use tokio::sync::Mutex;

use super::auth::Credentials;
use super::challenge::Challenge;
use super::error::{Cause, Document, Error, TokenFault};
use super::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST};
use super::reference::{Reference, is_loopback};
use super::{FetchOptions, Timeouts};

const USER_AGENT: &str = concat!("supermachine/", env!("CARGO_PKG_VERSION"));

/// The most bytes of a token service's answer.
const MAX_TOKEN_REPLY: u64 = 256 << 10;

/// What is to be done in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
}

pub(crate) struct Session {
    reference: Reference,
    credentials: Option<Credentials>,
    plain: bool,
    insecure: bool,
    timeouts: Timeouts,
    http: reqwest::Client,
    /// Waits for answers as long as it takes.
    patient: reqwest::Client,
    access: Access,
    /// Guards what is sent along; held while it is renewed, so that it is renewed once.
    grant: Mutex<Grant>,
}

/// What is sent along with requests, and the client that sends it.
#[derive(Clone)]
struct Grant {
    generation: u32,
    authorization: Option<Authorization>,
    client: Arc<oci_client::Client>,
}

#[derive(Clone)]
enum Authorization {
    Basic { user: String, password: String },
    Bearer { token: String },
}

/// Why a blob did not begin to arrive.
pub(crate) enum Refusal {
    /// Trying again is of no use.
    Final(Error),
    /// Trying again may be of use.
    Passing(Cause),
    /// The registry has nothing at that offset.
    OutOfRange,
}

impl Session {
    pub(crate) fn new(
        reference: &Reference,
        credentials: Option<Credentials>,
        options: &FetchOptions,
        access: Access,
    ) -> Result<Self, Error> {
        // Fails if the process has a provider already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let plain = options.insecure || reference.is_loopback();
        let timeouts = options.timeouts;
        let builder = || {
            let builder = reqwest::Client::builder()
                .user_agent(USER_AGENT)
                .connect_timeout(timeouts.connect)
                .redirect(reqwest::redirect::Policy::custom(redirect));
            if reference.is_loopback() { builder.no_proxy() } else { builder }
        };
        let tls = |source: reqwest::Error| Error::Tls { source: source.into() };
        let http = builder().read_timeout(timeouts.idle).build().map_err(tls)?;
        let patient = builder().build().map_err(tls)?;
        let client = new_client(reference, plain, timeouts)?;
        let grant = Grant { generation: 0, authorization: None, client: Arc::new(client) };
        Ok(Self {
            reference: reference.clone(),
            credentials,
            plain,
            insecure: options.insecure,
            timeouts,
            http,
            patient,
            access,
            grant: Mutex::new(grant),
        })
    }

    /// The manifest or index that a tag or digest names, not longer than [`MAX_DOCUMENT`]. Its
    /// digest is checked if one is known.
    pub(crate) async fn manifest(
        &self,
        tag: &str,
        digest: Option<Digest>,
    ) -> Result<Vec<u8>, Error> {
        let object = digest.map_or_else(|| tag.to_owned(), |digest| digest.to_string());
        let url = self.url(&format!("manifests/{object}"));
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ");
        let mut response =
            self.authorized(|client| client.get(&url).header(ACCEPT, &accept)).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                let reference = self.reference.to_string();
                return Err(Error::NoSuchImage { reference });
            }
            status => return Err(self.status(&object, status)),
        }
        let stated = stated_digest(response.headers());
        let body = read_body(&mut response, MAX_DOCUMENT)
            .await
            .map_err(|source| self.unreachable(source))?
            .ok_or(Error::TooLarge { document: Document::Manifest, limit: MAX_DOCUMENT })?;
        match digest.or(stated) {
            Some(digest) if digest != Digest::of(&body) => {
                Err(Error::DigestMismatch { digest, found: Digest::of(&body) })
            }
            _ => Ok(body),
        }
    }

    /// Starts to receive a blob from `offset` on.
    pub(crate) async fn blob(&self, digest: Digest, offset: u64) -> Result<BlobResponse, Refusal> {
        let grant = self.grant.lock().await.clone();
        match self.try_blob(&grant, digest, offset).await {
            Err(OciDistributionError::UnauthorizedError { .. }) => {}
            other => return other.map_err(|error| self.refusal(digest, error)),
        }
        let grant = self.renew(grant.generation, None).await.map_err(Refusal::Final)?;
        self.try_blob(&grant, digest, offset).await.map_err(|error| self.refusal(digest, error))
    }

    async fn try_blob(
        &self,
        grant: &Grant,
        digest: Digest,
        offset: u64,
    ) -> Result<BlobResponse, OciDistributionError> {
        let name = digest.to_string();
        let image = self.reference.as_inner();
        grant.client.pull_blob_stream_partial(image, name.as_str(), offset, None).await
    }

    /// Asks the registry, and a second time with new authorization if it wants that.
    pub(crate) async fn authorized(
        &self,
        request: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, Error> {
        self.ask(&self.http, true, request).await
    }

    /// Sends something large to a place that the registry named, which may take any time.
    /// Credentials go only to the registry itself.
    pub(crate) async fn authorized_at(
        &self,
        place: &Url,
        request: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let is_ours = Url::parse(&self.base()).is_ok_and(|base| base.origin() == place.origin());
        self.ask(&self.patient, is_ours, request).await
    }

    async fn ask(
        &self,
        client: &reqwest::Client,
        is_authorized: bool,
        request: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let send = async |grant: &Grant| {
            let request = match &grant.authorization {
                Some(authorization) if is_authorized => authorization.apply(request(client)),
                _ => request(client),
            };
            request.send().await.map_err(|source| self.unreachable(source))
        };
        let grant = self.grant.lock().await.clone();
        let response = send(&grant).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !is_authorized {
            return Ok(response);
        }
        let challenge = Challenge::find(response.headers());
        let grant = self.renew(grant.generation, challenge).await?;
        send(&grant).await
    }

    /// The address of something in the repository.
    pub(crate) fn url(&self, object: &str) -> String {
        format!("{}/v2/{}/{object}", self.base(), self.reference.repository())
    }

    /// A place that the registry names, relative to itself; never out of TLS.
    pub(crate) fn place(&self, location: &str) -> Option<Url> {
        let base = Url::parse(&self.base()).ok()?;
        let place = base.join(location).ok()?;
        let is_fine = match place.scheme() {
            "https" => true,
            "http" => self.plain,
            _ => false,
        };
        is_fine.then_some(place)
    }

    pub(crate) fn registry_name(&self) -> &str {
        self.reference.registry()
    }

    /// Gets new authorization, unless that happened since `generation`.
    async fn renew(&self, generation: u32, challenge: Option<Challenge>) -> Result<Grant, Error> {
        let mut grant = self.grant.lock().await;
        if grant.generation != generation {
            return Ok(grant.clone());
        }
        let challenge = match challenge {
            Some(challenge) => Some(challenge),
            None => {
                let url = format!("{}/v2/", self.base());
                let response = self.http.get(url).send().await;
                Challenge::find(response.map_err(|source| self.unreachable(source))?.headers())
            }
        };
        let authorization = match (challenge, &self.credentials) {
            (Some(Challenge::Bearer { realm, service }), _) => {
                Authorization::Bearer { token: self.token(&realm, service.as_deref()).await? }
            }
            (Some(Challenge::Basic), Some(Credentials::Password { user, password })) => {
                Authorization::Basic { user: user.clone(), password: password.clone() }
            }
            _ => return Err(self.unauthorized()),
        };
        let client = new_client(&self.reference, self.plain, self.timeouts)?;
        authorization.hand_to(&client, &self.reference).await;
        *grant = Grant {
            generation: generation.wrapping_add(1),
            authorization: Some(authorization),
            client: Arc::new(client),
        };
        Ok(grant.clone())
    }

    /// Gets a token that allows to do in the repository what is to be done.
    async fn token(&self, realm: &str, service: Option<&str>) -> Result<String, Error> {
        let failed = |source| Error::TokenService {
            registry: self.reference.registry().to_owned(),
            service: realm.to_owned(),
            source,
        };
        let url = self.trusted_url(realm).ok_or_else(|| failed(TokenFault::Address))?;
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let scope = format!("repository:{}:{actions}", self.reference.repository());
        let mut query = vec![("scope", scope.as_str())];
        query.extend(service.map(|service| ("service", service)));
        let request = match &self.credentials {
            None => self.http.get(with_query(url, &query)),
            Some(Credentials::Password { user, password }) => {
                query.push(("account", user));
                self.http.get(with_query(url, &query)).basic_auth(user, Some(password))
            }
            Some(Credentials::IdentityToken { token }) => {
                query.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "supermachine"),
                    ("refresh_token", token),
                ]);
                let mut form = url.clone();
                form.set_query(None);
                let form = with_query(form, &query).query().unwrap_or_default().to_owned();
                self.http
                    .post(url)
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form)
            }
        };
        let unreachable =
            |source: reqwest::Error| failed(TokenFault::Unreachable { source: innermost(source) });
        let mut response = request.send().await.map_err(unreachable)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.unauthorized()),
            status => return Err(failed(TokenFault::Status { status: status.as_u16() })),
        }
        let reply = read_body(&mut response, MAX_TOKEN_REPLY).await.map_err(unreachable)?;
        reply
            .and_then(|reply| serde_json::from_slice::<TokenReply>(&reply).ok())
            .and_then(|reply| reply.token.or(reply.access_token))
            .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or_else(|| failed(TokenFault::Reply))
    }

    /// The token service's address, if credentials may go there: not in the clear to another
    /// machine, unless that was asked for.
    fn trusted_url(&self, realm: &str) -> Option<Url> {
        let url = Url::parse(realm).ok()?;
        let host = url.host_str()?;
        match url.scheme() {
            "https" => Some(url),
            "http" if self.plain && (self.insecure || is_loopback(host)) => Some(url),
            _ => None,
        }
    }

    fn base(&self) -> String {
        let scheme = if self.plain { "http" } else { "https" };
        format!("{scheme}://{}", self.reference.host())
    }

    fn refusal(&self, digest: Digest, error: OciDistributionError) -> Refusal {
        let missing = || {
            let place = self.reference.registry().to_owned();
            Refusal::Final(Error::BlobMissing { digest, place })
        };
        match error {
            OciDistributionError::UnauthorizedError { .. } => Refusal::Final(self.unauthorized()),
            OciDistributionError::ServerError { code, .. } => match code {
                403 => Refusal::Final(self.unauthorized()),
                404 | 410 => missing(),
                416 => Refusal::OutOfRange,
                408 | 429 | 500.. => Refusal::Passing(Box::new(self.registry(digest, code))),
                _ => Refusal::Final(self.registry(digest, code)),
            },
            OciDistributionError::RegistryError { envelope, .. } => {
                match envelope.errors.first().map(|error| &error.code) {
                    Some(
                        OciErrorCode::BlobUnknown
                        | OciErrorCode::ManifestBlobUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound,
                    ) => missing(),
                    Some(OciErrorCode::Denied | OciErrorCode::Unauthorized) => {
                        Refusal::Final(self.unauthorized())
                    }
                    Some(OciErrorCode::Toomanyrequests) => {
                        Refusal::Passing(Box::new(self.registry(digest, 429)))
                    }
                    _ => Refusal::Final(self.registry(digest, 400)),
                }
            }
            OciDistributionError::RequestError(error) => {
                Refusal::Passing(error.without_url().into())
            }
            other => Refusal::Passing(other.into()),
        }
    }

    pub(crate) fn status(&self, object: &str, status: StatusCode) -> Error {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.unauthorized(),
            status => Error::Registry {
                registry: self.reference.registry().to_owned(),
                object: object.to_owned(),
                status: status.as_u16(),
            },
        }
    }

    fn registry(&self, digest: Digest, status: u16) -> Error {
        let registry = self.reference.registry().to_owned();
        Error::Registry { registry, object: digest.to_string(), status }
    }

    fn unauthorized(&self) -> Error {
        Error::Unauthorized {
            registry: self.reference.registry().to_owned(),
            credentials_sent: self.credentials.is_some(),
        }
    }

    fn unreachable(&self, source: reqwest::Error) -> Error {
        let registry = self.reference.registry().to_owned();
        Error::Unreachable { registry, source: innermost(source) }
    }
}

/// What a request failed on; the layers of the client between say nothing more.
fn innermost(error: reqwest::Error) -> Cause {
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().into()
}

impl Authorization {
    fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Basic { user, password } => request.basic_auth(user, Some(password)),
            Self::Bearer { token } => request.bearer_auth(token),
        }
    }

    /// Makes `client` send this too, without asking the registry again what it wants.
    async fn hand_to(&self, client: &oci_client::Client, reference: &Reference) {
        let auth = match self {
            Self::Bearer { token } => RegistryAuth::Bearer(token.clone()),
            Self::Basic { user, password } => {
                let basic = RegistryTokenType::Basic(user.clone(), password.clone());
                client.tokens.insert(reference.as_inner(), RegistryOperation::Pull, basic).await;
                RegistryAuth::Basic(user.clone(), password.clone())
            }
        };
        client.store_auth_if_needed(reference.host(), &auth).await;
    }
}

#[derive(Deserialize)]
struct TokenReply {
    token: Option<String>,
    access_token: Option<String>,
}

fn new_client(
    reference: &Reference,
    plain: bool,
    timeouts: Timeouts,
) -> Result<oci_client::Client, Error> {
    let protocol = if plain { ClientProtocol::Http } else { ClientProtocol::Https };
    // A proxy of the environment must not be asked for this machine's own ports; naming one
    // that serves no host is how this library is told so.
    let no_proxy = reference.is_loopback().then(|| "*,0.0.0.0/0,::/0".to_owned());
    let http_proxy = no_proxy.as_ref().map(|_| "http://localhost".to_owned());
    oci_client::Client::try_from(ClientConfig {
        protocol,
        http_proxy,
        no_proxy,
        connect_timeout: Some(timeouts.connect),
        read_timeout: Some(timeouts.idle),
        user_agent: USER_AGENT,
        ..ClientConfig::default()
    })
    .map_err(|source| Error::Tls { source: source.into() })
}

/// Follows redirects, but never out of TLS.
fn redirect(attempt: reqwest::redirect::Attempt<'_>) -> reqwest::redirect::Action {
    let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > 10 {
        attempt.error("too many redirects")
    } else if was_secure && attempt.url().scheme() != "https" {
        attempt.error("redirected to a place without TLS")
    } else {
        attempt.follow()
    }
}

fn with_query(mut url: Url, pairs: &[(&str, &str)]) -> Url {
    url.query_pairs_mut().extend_pairs(pairs);
    url
}

fn stated_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// The whole body, or `None` if it is longer than `limit`.
async fn read_body(response: &mut Response, limit: u64) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len().saturating_add(chunk.len()) > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}
