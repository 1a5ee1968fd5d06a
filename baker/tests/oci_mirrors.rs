//! Mirrors of registries.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oci_support;

use std::fs;

use oci_support::server::{Reply, Server, blob, honest};
use oci_support::{Cache, Image, options, record, source};
use supermachine_baker::oci::{Credentials, Error, FetchOptions, artifact_type, fetch, locate};

/// Options with a `registries.conf` that names `mirrors` of the registry `server`.
fn with_mirrors(server: &Server, mirrors: &[&Server]) -> (tempfile::TempDir, FetchOptions) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registries.conf");
    let mut conf = format!("[[registry]]\nlocation = \"{}\"\n", server.address);
    for mirror in mirrors {
        conf += &format!("[[registry.mirror]]\nlocation = \"{}\"\n", mirror.address);
    }
    fs::write(&path, conf).unwrap();
    let mut options = options();
    options.registry_files.registries = vec![path];
    (dir, options)
}

fn pull(server: &Server, options: &FetchOptions) -> Result<usize, Error> {
    let cache = Cache::new();
    let pulled = fetch(&source(&server.reference()), &cache.blobs, options);
    cache.blobs();
    pulled.map(|image| image.layers.len())
}

#[test]
fn mirror_serves_in_place_of_its_registry() {
    let image = Image::new("amd64");
    let (server, mirror) = (Server::serving(&image), Server::serving(&image));
    let (_dir, options) = with_mirrors(&server, &[&mirror]);
    assert_eq!(pull(&server, &options).unwrap(), 3);
    assert_eq!(server.paths(), [""; 0]);
    assert_eq!(mirror.paths().len(), 5);
}

#[test]
fn registry_serves_what_its_mirrors_fail_to() {
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    let down = Server::start(|_| Reply::new(404, ""));
    let largest = image.largest_layer();
    let inner = image.clone();
    let partial = Server::start(move |request| match blob(&inner, &request.path) {
        Some(content) if *content == inner.blobs[&largest] => Reply::new(404, ""),
        _ => honest(&inner, request),
    });
    let (_dir, mut options) = with_mirrors(&server, &[&down, &partial]);
    let events = record(&mut options);
    assert_eq!(pull(&server, &options).unwrap(), 3);
    assert!(server.paths().iter().all(|path| path.contains("/blobs/")), "{:?}", server.paths());
    let events = events.lock().unwrap();
    assert_eq!(events.iter().filter(|event| event.contains("MirrorFailed")).count(), 2);
}

#[test]
fn credentials_of_the_registry_do_not_reach_its_mirrors() {
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    let mirror =
        Server::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"mirror\""));
    let (_dir, mut options) = with_mirrors(&server, &[&mirror]);
    options.credentials =
        Some(Credentials::Password { user: "user".to_owned(), password: "secret".to_owned() });
    assert_eq!(pull(&server, &options).unwrap(), 3);
    assert!(mirror.requests().iter().all(|request| request.header("authorization").is_none()));
}

/// Options whose `registries.conf` is `conf`.
fn with_conf(conf: &str) -> (tempfile::TempDir, FetchOptions) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registries.conf");
    fs::write(&path, conf).unwrap();
    let mut options = options();
    options.registry_files.registries = vec![path];
    (dir, options)
}

#[test]
fn short_name_with_an_alias_is_pulled_from_there() {
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    let conf = format!("[aliases]\n\"app\" = \"{}/test\"", server.address);
    let (_dir, options) = with_conf(&conf);
    let cache = Cache::new();
    let source = locate("app:v1", &cache.blobs, &options).unwrap();
    assert_eq!(source.to_string(), server.reference());
    assert!(server.requests().is_empty());
    assert_eq!(fetch(&source, &cache.blobs, &options).unwrap().reference, server.reference());
}

#[test]
fn short_name_is_searched_in_the_configured_registries_in_order() {
    let image = Image::new("amd64");
    let (empty, closed) =
        (Server::start(|_| Reply::new(404, "")), Server::start(|_| Reply::new(401, "")));
    let (first, second) = (Server::serving(&image), Server::serving(&image));
    let all = [&empty, &closed, &first, &second];
    let list: Vec<_> = all.iter().map(|one| format!("{:?}", one.address.to_string())).collect();
    let conf = format!("unqualified-search-registries = [{}]", list.join(", "));
    let (_dir, mut options) = with_conf(&conf);
    let events = record(&mut options);
    let cache = Cache::new();
    let source = locate("test:v1", &cache.blobs, &options).unwrap();
    assert_eq!(source.to_string(), first.reference());
    let count = events.lock().unwrap().iter().filter(|event| event.contains("NotThere")).count();
    assert_eq!((count, second.requests().len()), (2, 0));
    // Without a network, the same name means what was found before.
    options.offline = true;
    let offline = locate("test:v1", &cache.blobs, &options).unwrap();
    assert_eq!(offline, source);
    // Nobody can say which of them a password is for.
    options.credentials =
        Some(Credentials::Password { user: "user".to_owned(), password: "secret".to_owned() });
    let refused = locate("test:v1", &cache.blobs, &options);
    assert!(matches!(refused, Err(Error::SeveralRegistries { .. })), "{refused:?}");
}

#[test]
fn blocked_registry_is_asked_by_no_request() {
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    let conf = format!("[[registry]]\nlocation = \"{}\"\nblocked = true", server.address);
    let (_dir, options) = with_conf(&conf);
    assert!(matches!(pull(&server, &options), Err(Error::Blocked { .. })));
    let reference = server.reference().parse().unwrap();
    assert!(matches!(artifact_type(&reference, &options), Err(Error::Blocked { .. })));
    assert!(server.requests().is_empty());
}
