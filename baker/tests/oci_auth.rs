//! Registries that want to know who asks.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oci_support;

use std::sync::atomic::{AtomicUsize, Ordering};

use oci_support::server::{Reply, Request, Server, honest};
use oci_support::{Cache, Image, options, source};
use supermachine_baker::oci::{Credentials, Error, FetchOptions, TokenFault, fetch};

/// `user:secret` in base64.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

fn with_password(user: &str, password: &str) -> FetchOptions {
    let mut options = options();
    options.credentials =
        Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() });
    options
}

fn pull(server: &Server, options: &FetchOptions) -> Result<usize, Error> {
    let cache = Cache::new();
    let pulled = fetch(&source(&server.reference()), &cache.blobs, options);
    cache.blobs();
    pulled.map(|image| image.layers.len())
}

fn unauthorized(result: &Result<usize, Error>) -> Option<bool> {
    match result {
        Err(Error::Unauthorized { credentials_sent, .. }) => Some(*credentials_sent),
        _ => None,
    }
}

fn basic_registry() -> Server {
    let image = Image::new("amd64");
    Server::start(move |request| {
        if request.header("authorization") == Some(BASIC) {
            honest(&image, request)
        } else {
            Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"here\"")
        }
    })
}

/// A registry that wants the token `good`, which `tokens` hands out.
fn token_registry(
    realm: Option<String>,
    tokens: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> Server {
    let image = Image::new("amd64");
    Server::start(move |request| {
        if request.path.starts_with("/token") {
            return tokens(request);
        }
        if request.header("authorization") == Some("Bearer good") {
            return honest(&image, request);
        }
        let own = format!("http://{}/token", request.header("host").unwrap());
        let realm = realm.as_ref().unwrap_or(&own);
        let challenge = format!("Bearer realm=\"{realm}\",service=\"the registry\"");
        Reply::new(401, "").header("WWW-Authenticate", &challenge)
    })
}

fn token(text: &str) -> Reply {
    Reply::new(200, serde_json::json!({ "token": text }).to_string())
}

#[test]
fn basic_credentials_open_the_registry() {
    let server = basic_registry();
    assert_eq!(pull(&server, &with_password("user", "secret")).unwrap(), 3);
    assert_eq!(unauthorized(&pull(&server, &with_password("user", "wrong"))), Some(true));
    assert_eq!(unauthorized(&pull(&server, &options())), Some(false));
}

#[test]
fn credentials_come_from_dockers_configuration_unless_given() {
    let server = basic_registry();
    let dir = tempfile::tempdir().unwrap();
    let config = format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpzZWNyZXQ="}}}}}}"#, server.address);
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let mut configured = options();
    configured.docker_config = Some(dir.path().to_owned());
    assert_eq!(pull(&server, &configured).unwrap(), 3);
    configured.credentials = with_password("user", "wrong").credentials;
    assert_eq!(unauthorized(&pull(&server, &configured)), Some(true));
}

#[test]
fn secret_is_in_no_error() {
    let server = basic_registry();
    let error = pull(&server, &with_password("user", "gEhEiM")).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("gEhEiM"));
}

#[test]
fn token_is_asked_for_once_and_used_for_all() {
    let server = token_registry(None, |_| token("good"));
    assert_eq!(pull(&server, &options()).unwrap(), 3);
    let paths = server.paths();
    let asked: Vec<_> = paths.iter().filter(|path| path.starts_with("/token")).collect();
    assert_eq!(asked, ["/token?scope=repository%3Atest%3Apull&service=the+registry"], "{paths:?}");
}

#[test]
fn token_service_is_shown_the_password() {
    let server = token_registry(None, |request| match request.header("authorization") {
        Some(BASIC) => Reply::new(200, r#"{"access_token":"good","expires_in":60}"#),
        _ => Reply::new(401, r#"{"details":"incorrect username or password"}"#),
    });
    assert_eq!(pull(&server, &with_password("user", "secret")).unwrap(), 3);
    assert_eq!(unauthorized(&pull(&server, &with_password("user", "wrong"))), Some(true));
    assert_eq!(unauthorized(&pull(&server, &options())), Some(false));
    let on_registry = server.requests().into_iter().filter(|r| !r.path.starts_with("/token"));
    assert!(
        on_registry
            .filter_map(|r| r.header("authorization").map(str::to_owned))
            .all(|sent| { sent == "Bearer good" })
    );
}

#[test]
fn identity_token_is_exchanged_for_another() {
    let server = token_registry(None, |request| {
        let is_right = request.method == "POST"
            && request.body.contains("grant_type=refresh_token")
            && request.body.contains("refresh_token=long%2Flived")
            && request.body.contains("scope=repository%3Atest%3Apull");
        if is_right { token("good") } else { Reply::new(401, "") }
    });
    let mut options = options();
    options.credentials = Some(Credentials::IdentityToken { token: "long/lived".to_owned() });
    assert_eq!(pull(&server, &options).unwrap(), 3);
}

#[test]
fn token_that_expires_in_mid_pull_is_renewed_once() {
    let image = Image::new("amd64");
    let issued = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        if request.path.starts_with("/token") {
            return token(&format!("token{}", issued.fetch_add(1, Ordering::SeqCst) + 1));
        }
        // The first token has expired when blobs are asked for.
        let wanted = if request.path.contains("/blobs/") { "token2" } else { "token1" };
        if request.header("authorization") == Some(&format!("Bearer {wanted}")) {
            return honest(&image, request);
        }
        let realm = format!("http://{}/token", request.header("host").unwrap());
        Reply::new(401, "").header("WWW-Authenticate", &format!("Bearer realm=\"{realm}\""))
    });
    assert_eq!(pull(&server, &options()).unwrap(), 3);
    let paths = server.paths();
    assert_eq!(paths.iter().filter(|path| path.starts_with("/token")).count(), 2, "{paths:?}");
}

#[test]
fn token_service_that_fails_is_told_from_one_that_refuses() {
    let fault = |server: &Server| match pull(server, &options()) {
        Err(Error::TokenService { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    let down = token_registry(None, |_| Reply::new(503, "down"));
    assert!(matches!(fault(&down), TokenFault::Status { status: 503 }));

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = token_registry(Some(format!("http://{closed}/token")), |_| token("good"));
    assert!(matches!(fault(&away), TokenFault::Unreachable { .. }));

    for reply in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\nb: c"}"#, "<html>"] {
        let odd = token_registry(None, move |_| Reply::new(200, reply));
        assert!(matches!(fault(&odd), TokenFault::Reply), "{reply}");
    }
    let endless =
        token_registry(None, |_| Reply { endless: true, ..Reply::new(200, vec![b' '; 4096]) });
    assert!(matches!(fault(&endless), TokenFault::Reply));
}

#[test]
fn token_service_elsewhere_without_tls_gets_no_credentials() {
    for realm in ["http://192.0.2.1/token", "ftp://127.0.0.1/token", "nonsense"] {
        let server = token_registry(Some(realm.to_owned()), |_| token("good"));
        match pull(&server, &with_password("user", "secret")) {
            Err(Error::TokenService { source: TokenFault::Address, service, .. }) => {
                assert_eq!(service, realm);
            }
            other => panic!("{realm}: {other:?}"),
        }
    }
}

#[test]
fn registry_that_refuses_its_own_token_is_not_asked_forever() {
    let server = token_registry(None, |_| token("bad"));
    assert_eq!(unauthorized(&pull(&server, &options())), Some(false));
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn blobs_on_another_host_are_fetched_without_credentials() {
    let image = Image::new("amd64");
    let storage = Server::serving(&image);
    let elsewhere = storage.address;
    let server = Server::start(move |request| {
        if request.header("authorization") != Some(BASIC) {
            return Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"here\"");
        }
        if request.path.contains("/blobs/") {
            let location = format!("http://{elsewhere}{}", request.path);
            return Reply::new(307, "").header("Location", &location);
        }
        honest(&image, request)
    });
    assert_eq!(pull(&server, &with_password("user", "secret")).unwrap(), 3);
    let stored = storage.requests();
    assert_eq!(stored.len(), 4);
    assert!(stored.iter().all(|request| request.header("authorization").is_none()));
}
