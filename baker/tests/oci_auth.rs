//! Registries that require authorization.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oci_support;

use std::sync::atomic::{AtomicUsize, Ordering};

use oci_support::server::{Reply, Request, Server, honest};
use oci_support::{Cache, Image, options, record, source};
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

/// A registry that requires the token `good`, which `tokens` issues.
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

/// Options with a Docker configuration.
fn with_config(json: &str) -> (tempfile::TempDir, FetchOptions) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), json).unwrap();
    let mut options = options();
    options.docker_config = Some(dir.path().to_owned());
    (dir, options)
}

#[test]
fn credentials_for_a_part_of_the_registry_reach_no_other_part() {
    let server = basic_registry();
    for (path, is_sent) in [("test", true), ("tes", false), ("test/deeper", false)] {
        let key = format!("{}/{path}", server.address);
        let (_dir, options) =
            with_config(&format!(r#"{{"auths":{{"{key}":{{"auth":"dXNlcjpzZWNyZXQ="}}}}}}"#));
        let before = server.requests().len();
        let refusal = unauthorized(&pull(&server, &options));
        assert_eq!(refusal, (!is_sent).then_some(false), "{key}");
        let requests = server.requests();
        let sent = requests[before..].iter().any(|r| r.header("authorization").is_some());
        assert_eq!(sent, is_sent, "{key}");
    }
}

#[test]
fn missing_helper_does_not_fail_the_pull() {
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    let helpers = format!(r#"{{"credHelpers":{{"{}":"surely-not-there"}}}}"#, server.address);
    let (_dir, mut options) = with_config(&helpers);
    let events = record(&mut options);
    assert_eq!(pull(&server, &options).unwrap(), 3);
    let events = events.lock().unwrap();
    let is_told = |event: &String| event.contains("docker-credential-surely-not-there");
    assert!(events.iter().any(is_told), "{events:?}");
}

#[test]
fn refused_pull_without_its_helper_says_that_no_credentials_were_sent() {
    let server = basic_registry();
    let helpers = format!(r#"{{"credHelpers":{{"{}":"surely-not-there"}}}}"#, server.address);
    let (_dir, options) = with_config(&helpers);
    assert_eq!(unauthorized(&pull(&server, &options)), Some(false));
}

#[test]
fn secrets_do_not_follow_the_token_services_redirects() {
    let elsewhere = Server::start(|_| token("good"));
    for status in [301, 302, 307, 308] {
        let location = format!("http://{}/token", elsewhere.address);
        let server =
            token_registry(None, move |_| Reply::new(status, "").header("Location", &location));
        let mut identity = options();
        identity.credentials = Some(Credentials::IdentityToken { token: "long".to_owned() });
        pull(&server, &identity).unwrap_err();
        // The redirect drops the password, so the token is an anonymous one.
        let _ = pull(&server, &with_password("user", "secret"));
    }
    for request in elsewhere.requests() {
        assert!(request.header("authorization").is_none(), "{request:?}");
        assert!(request.body.is_empty(), "{request:?}");
    }
}

#[test]
fn refusal_shows_the_registrys_own_words() {
    let body = r#"{"errors":[{"code":"DENIED","message":"your trial is over"}]}"#;
    let server = Server::start(move |_| Reply::new(403, body));
    let error = pull(&server, &options()).unwrap_err().to_string();
    assert!(error.ends_with("without credentials: your trial is over"), "{error}");
}

#[test]
fn refusal_of_the_token_service_shows_its_own_words() {
    let words = r#"{"details":"incorrect username or password"}"#;
    let server = token_registry(None, move |_| Reply::new(401, words));
    let error = pull(&server, &with_password("user", "wrong")).unwrap_err().to_string();
    assert!(error.ends_with("credentials sent: incorrect username or password"), "{error}");
    let server = token_registry(None, |_| Reply::new(400, "no such service\nat all"));
    match pull(&server, &options()) {
        Err(Error::TokenService { source, .. }) => {
            assert_eq!(source.to_string(), "it answered with HTTP status 400: no such service");
        }
        other => panic!("{other:?}"),
    }
}

/// A registry that wants a password, and leads to another host for blobs.
fn with_blobs_elsewhere(image: Image, elsewhere: std::net::SocketAddr) -> Server {
    Server::start(move |request| {
        if request.header("authorization") != Some(BASIC) {
            return Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"here\"");
        }
        if request.path.contains("/blobs/") {
            let location = format!("http://{elsewhere}{}", request.path);
            return Reply::new(307, "").header("Location", &location);
        }
        honest(&image, request)
    })
}

#[test]
fn challenge_of_another_host_gets_no_credentials() {
    let image = Image::new("amd64");
    let thief = Server::start(|_| token("good"));
    let challenge = format!("Bearer realm=\"http://{}/token\", Basic realm=\"x\"", thief.address);
    let storage =
        Server::start(move |_| Reply::new(401, "").header("WWW-Authenticate", &challenge));
    let server = with_blobs_elsewhere(image, storage.address);
    assert_eq!(unauthorized(&pull(&server, &with_password("user", "secret"))), Some(true));
    assert!(thief.requests().is_empty(), "{:?}", thief.requests());
    assert!(storage.requests().iter().all(|one| one.header("authorization").is_none()));
}

#[test]
fn unreadable_credentials_are_a_warning() {
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    for json in ["", "{", r#"{"auths":3}"#] {
        let (_dir, mut options) = with_config(json);
        let events = record(&mut options);
        assert_eq!(pull(&server, &options).unwrap(), 3, "{json}");
        let events = events.lock().unwrap();
        let is_told = |event: &String| event.contains("config.json");
        assert!(events.iter().any(is_told), "{json}: {events:?}");
    }
    let key = server.address;
    for entry in ["null", "{}", r#"{"auth":""}"#] {
        let (_dir, options) = with_config(&format!(r#"{{"auths":{{"{key}":{entry}}}}}"#));
        assert_eq!(pull(&server, &options).unwrap(), 3, "{entry}");
    }
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
fn token_service_receives_the_password() {
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
        // The first token expires before the first blob.
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
fn failing_token_service_differs_from_a_refusing_one() {
    let fault = |server: &Server| match pull(server, &options()) {
        Err(Error::TokenService { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    let down = token_registry(None, |_| Reply::new(503, "down"));
    assert!(matches!(fault(&down), TokenFault::Status { status: 503, .. }));

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
fn registry_that_refuses_its_own_token_is_retried_once() {
    let server = token_registry(None, |_| token("bad"));
    assert_eq!(unauthorized(&pull(&server, &options())), Some(false));
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn blobs_on_another_host_are_fetched_without_credentials() {
    let image = Image::new("amd64");
    let storage = Server::serving(&image);
    let server = with_blobs_elsewhere(image, storage.address);
    assert_eq!(pull(&server, &with_password("user", "secret")).unwrap(), 3);
    let stored = storage.requests();
    assert_eq!(stored.len(), 4);
    assert!(stored.iter().all(|request| request.header("authorization").is_none()));
}
