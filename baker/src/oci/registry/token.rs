//! Tokens of a registry's token service, with or without credentials.

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::body::read_body;
use super::message::message_of;
use super::redirect::{NoResponse, RepeatableRequest};
use super::retry::{Failure, is_transient, retry_after};
use super::transport::{ResponseTimeout, Transport};
use crate::oci::credentials::Credentials;
use crate::oci::error::{Cause, Error, TokenFault};
use crate::oci::reference::is_loopback;

/// The most bytes of a response.
const MAX_REPLY: u64 = 256 << 10;

/// A request for a token.
pub(super) struct TokenRequest<'a> {
    pub(super) registry: &'a str,
    /// Scheme and host of the registry.
    pub(super) base: &'a Url,
    /// The token service's address, as the registry gave it.
    pub(super) realm: &'a str,
    pub(super) service: Option<&'a str>,
    pub(super) scopes: Vec<String>,
    pub(super) credentials: Option<&'a Credentials>,
    pub(super) insecure: bool,
}

#[derive(Deserialize)]
struct TokenReply {
    token: Option<String>,
    access_token: Option<String>,
}

impl TokenRequest<'_> {
    /// Sends the request once.
    pub(super) async fn send(&self, transport: &Transport) -> Result<String, Failure> {
        let address = || Failure::Final(self.failed(TokenFault::Address));
        let url = self.trusted_url().ok_or_else(address)?;
        let sent = match self.credentials {
            None => {
                let url = with_query(url, &self.query());
                self.call(transport, Method::GET, url, &|request| request).await
            }
            Some(Credentials::Password { user, password }) => {
                let mut query = self.query();
                query.push(("account", user));
                let url = with_query(url, &query);
                let authorize = |request: RequestBuilder| request.basic_auth(user, Some(password));
                self.call(transport, Method::GET, url, &authorize).await
            }
            Some(Credentials::IdentityToken { token }) => {
                let form = self.form(&url, token);
                let authorize = |request: RequestBuilder| {
                    request
                        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                        .body(form.clone())
                };
                self.call(transport, Method::POST, url, &authorize).await
            }
        };
        self.token(sent?).await
    }

    async fn call(
        &self,
        transport: &Transport,
        method: Method,
        url: Url,
        authorize: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
    ) -> Result<Response, Failure> {
        let call = RepeatableRequest {
            method,
            url,
            timeout: ResponseTimeout::Limited,
            complete: &|request| request,
        };
        call.send(transport, self.base, Some(authorize)).await.map_err(|error| match error {
            NoResponse::Unreachable(source) => self.unreachable(source),
            NoResponse::Other(error) => Failure::Final(error),
        })
    }

    async fn token(&self, mut response: Response) -> Result<String, Failure> {
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(Failure::Final(Error::Unauthorized {
                    registry: self.registry.to_owned(),
                    credentials_sent: self.credentials.is_some(),
                    message: message_of(response).await,
                }));
            }
            status => {
                let retry_after = retry_after(response.headers());
                let (code, message) = (status.as_u16(), message_of(response).await);
                let error = self.failed(TokenFault::Status { status: code, message });
                return Err(match is_transient(status) {
                    true => Failure::Transient { error, retry_after },
                    false => Failure::Final(error),
                });
            }
        }
        let reply = read_body(&mut response, MAX_REPLY).await;
        reply
            .map_err(|source| self.unreachable(source))?
            .and_then(|reply| serde_json::from_slice::<TokenReply>(&reply).ok())
            .and_then(|reply| reply.token.or(reply.access_token))
            .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or_else(|| Failure::Final(self.failed(TokenFault::Reply)))
    }

    fn query(&self) -> Vec<(&str, &str)> {
        let scopes = self.scopes.iter().map(|scope| ("scope", scope.as_str()));
        scopes.chain(self.service.map(|service| ("service", service))).collect()
    }

    /// The body of a request that exchanges an identity token.
    fn form(&self, url: &Url, token: &str) -> String {
        let scopes = self.scopes.join(" ");
        let mut pairs = vec![
            ("grant_type", "refresh_token"),
            ("client_id", "supermachine"),
            ("refresh_token", token),
            ("scope", &scopes),
        ];
        pairs.extend(self.service.map(|service| ("service", service)));
        let mut form = url.clone();
        form.set_query(None);
        with_query(form, &pairs).query().unwrap_or_default().to_owned()
    }

    /// The token service's address, if credentials may go there: unencrypted only on this machine, or if
    /// the caller allows it.
    fn trusted_url(&self) -> Option<Url> {
        let url = Url::parse(self.realm).ok()?;
        let host = url.host_str()?;
        let is_local = || self.base.host_str().is_some_and(is_loopback) && is_loopback(host);
        match url.scheme() {
            "https" => Some(url),
            "http" if self.insecure || is_local() => Some(url),
            _ => None,
        }
    }

    fn failed(&self, source: TokenFault) -> Error {
        let (registry, service) = (self.registry.to_owned(), self.realm.to_owned());
        Error::TokenService { registry, service, source }
    }

    fn unreachable(&self, source: Cause) -> Failure {
        let error = self.failed(TokenFault::Unreachable { source });
        Failure::Transient { error, retry_after: None }
    }
}

fn with_query(mut url: Url, pairs: &[(&str, &str)]) -> Url {
    url.query_pairs_mut().extend_pairs(pairs);
    url
}
