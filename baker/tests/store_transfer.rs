//! Snapshots in Debian's registry, and copies by skopeo.
//!
//! Requires the packages `docker-registry` and `skopeo`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oci_support;

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};

use supermachine_baker::oci::{self, Credentials, Event, FetchOptions, Reference};
use supermachine_baker::{BakeError, InputError, OciImageBuilder, StoreError};
use supermachine_formats::Digest;
use supermachine_formats::pack::ARTIFACT_TYPE;
use supermachine_snapshots::pack::{Manifest, PackError, Source};
use supermachine_test_support::registry::{DockerRegistry, USER_SECRET, skopeo};
use supermachine_test_support::stores::{Sample, TestStore};

fn options() -> FetchOptions {
    oci_support::options()
}

fn reference(registry: &DockerRegistry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.address).parse().unwrap()
}

/// Counts the events of blobs.
#[derive(Default)]
struct Counted(Mutex<BTreeMap<&'static str, Vec<Digest>>>);

impl Counted {
    fn options(self: &Arc<Self>) -> FetchOptions {
        let mut options = options();
        options.progress = Some(Arc::clone(self) as _);
        options
    }

    fn take(&self, what: &str) -> Vec<Digest> {
        self.0.lock().unwrap().remove(what).unwrap_or_default()
    }
}

impl oci::Progress for Counted {
    fn event(&self, event: Event<'_>) {
        let (what, digest) = match event {
            Event::Sent { digest, .. } => ("sent", digest),
            Event::Present { digest, .. } => ("present", digest),
            Event::Fetched { digest, .. } => ("fetched", digest),
            Event::Cached { digest, .. } => ("cached", digest),
            _ => return,
        };
        self.0.lock().unwrap().entry(what).or_default().push(digest);
    }
}

#[test]
fn snapshot_that_was_pushed_is_pulled_the_same() {
    let registry = DockerRegistry::start(None);
    let from = TestStore::new();
    let base = from.add("base", &Sample::new(1));
    let digest = from.add("web", &Sample::new(2).on(base).disk(&[7, 8]));
    let place = reference(&registry, "group/web:v1");
    let pushed = from.store.push("web", &place, &options()).unwrap();
    assert_eq!((pushed.digest, pushed.present), (digest, 0));
    let to = TestStore::new();
    let pulled = to.store.pull(&place, None, &options()).unwrap();
    assert_eq!((pulled.name.as_str(), pulled.digest, pulled.present), ("web", digest, 0));
    assert_eq!(pulled.moved, pushed.moved);
    to.is_clean();
    for blob in to.blobs() {
        let path = format!("blobs/sha256/{blob}");
        let read = |place: &TestStore| fs::read(place.store.dir().join(&path)).unwrap();
        assert_eq!(read(&from), read(&to));
    }
    let by_digest = reference(&registry, &format!("group/web@{digest}"));
    assert_eq!(to.store.pull(&by_digest, Some("same"), &options()).unwrap().moved, 0);
    assert_eq!(oci::artifact_type(&place, &options()).unwrap().unwrap(), ARTIFACT_TYPE);
}

#[test]
fn blobs_that_two_snapshots_share_are_sent_and_fetched_once() {
    let registry = DockerRegistry::start(None);
    let from = TestStore::new();
    let base = from.add("base", &Sample::new(1));
    let a = from.add("a", &Sample::new(2).on(base).disk(&[7]));
    let b = from.add("b", &Sample::new(3).on(base).disk(&[7]));
    let (of_a, of_b) = (from.manifest(a), from.manifest(b));
    let common = of_a.blobs().filter(|blob| of_b.blobs().any(|other| other == *blob)).count();
    assert!(common > 2, "at least the base and the disk");
    let counted = Arc::new(Counted::default());
    let place = |name: &str| reference(&registry, &format!("apps:{name}"));
    from.store.push("a", &place("a"), &counted.options()).unwrap();
    let sent = counted.take("sent");
    assert_eq!(sent.len(), of_a.blobs().count());
    from.store.push("b", &place("b"), &counted.options()).unwrap();
    assert_eq!(counted.take("present").len(), common);
    from.store.push("a", &place("a"), &counted.options()).unwrap();
    assert_eq!(counted.take("present").len(), sent.len());
    let to = TestStore::new();
    to.store.pull(&place("a"), Some("a"), &counted.options()).unwrap();
    assert_eq!((counted.take("fetched").len(), counted.take("cached").len()), (sent.len(), 0));
    to.store.pull(&place("b"), Some("b"), &counted.options()).unwrap();
    assert_eq!(counted.take("cached").len(), common);
    to.is_clean();
    let usage = from.store.usage().unwrap();
    assert!(usage.snapshots["a"].1 >= 4 * 65_536, "{usage:?}");
}

#[test]
fn pull_fetches_a_damaged_blob_again() {
    let registry = DockerRegistry::start(None);
    let place = TestStore::new();
    let digest = place.add("web", &Sample::new(1));
    let at = reference(&registry, "web");
    place.store.push("web", &at, &options()).unwrap();
    let damaged = place.manifest(digest).chunks[0];
    fs::write(place.blob(damaged.digest), vec![0; usize::try_from(damaged.size).unwrap()]).unwrap();
    let counted = Arc::new(Counted::default());
    place.store.pull(&at, None, &counted.options()).unwrap();
    assert_eq!(counted.take("fetched"), [damaged.digest]);
    place.is_clean();
}

#[test]
fn damaged_snapshot_is_not_pushed() {
    let registry = DockerRegistry::start(None);
    let place = TestStore::new();
    let digest = place.add("web", &Sample::new(1));
    let damaged = place.manifest(digest).chunks[0];
    fs::write(place.blob(damaged.digest), vec![0; usize::try_from(damaged.size).unwrap()]).unwrap();
    let at = reference(&registry, "web");
    match place.store.push("web", &at, &options()).unwrap_err() {
        BakeError::Store(StoreError::Pack { source: PackError::Damaged { digest, .. } }) => {
            assert_eq!(digest, damaged.digest);
        }
        other => panic!("{other:?}"),
    }
    let error = place.store.pull(&at, Some("x"), &options()).unwrap_err();
    assert!(
        matches!(
            error,
            BakeError::Store(StoreError::Pull { source: oci::Error::NoSuchImage { .. } })
        ),
        "{error:?}"
    );
}

#[test]
fn registry_with_passwords_wants_the_right_one() {
    let registry = DockerRegistry::start(Some(USER_SECRET));
    let place = TestStore::new();
    place.add("web", &Sample::new(1));
    let at = reference(&registry, "web");
    let with = |password: Option<&str>| {
        let mut options = options();
        options.credentials = password.map(|password| Credentials::Password {
            user: "user".to_owned(),
            password: password.to_owned(),
        });
        options
    };
    for (password, sent) in [(Some("wrong"), true), (None, false)] {
        match place.store.push("web", &at, &with(password)).unwrap_err() {
            BakeError::Store(StoreError::Push {
                source: oci::Error::Unauthorized { credentials_sent, .. },
            }) => assert_eq!(credentials_sent, sent),
            other => panic!("{other:?}"),
        }
    }
    place.store.push("web", &at, &with(Some("secret"))).unwrap();
    TestStore::new().store.pull(&at, None, &with(Some("secret"))).unwrap();
}

#[test]
fn image_is_not_pulled_as_a_snapshot_and_a_snapshot_not_baked() {
    let registry = DockerRegistry::start(None);
    let dir = tempfile::tempdir().unwrap();
    let image = oci_support::Image::new("amd64");
    oci_support::write_files(dir.path(), &image.layout(Some("v1")));
    let name = format!("{}/image:v1", registry.address);
    let layout = format!("oci:{}:v1", dir.path().display());
    skopeo(&["--preserve-digests", &layout, &format!("docker://{name}")]);
    let place = TestStore::new();
    let error = place.store.pull(&name.parse().unwrap(), None, &options()).unwrap_err();
    assert!(matches!(error, BakeError::Input(InputError::NotASnapshot { .. })), "{error:?}");
    assert_eq!(oci::artifact_type(&name.parse().unwrap(), &options()).unwrap(), None);
    assert_eq!(place.blobs(), [""; 0]);
    place.add("web", &Sample::new(1));
    let at = reference(&registry, "web");
    place.store.push("web", &at, &options()).unwrap();
    let bake = OciImageBuilder::new(&at.to_string()).unwrap().fetch_options(options());
    match bake.fetch(&place.store).unwrap_err() {
        BakeError::Fetch { source: oci::Error::Artifact { artifact_type, .. } } => {
            assert_eq!(artifact_type, ARTIFACT_TYPE);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn skopeo_copies_from_a_store_through_every_form_and_back() {
    let registry = DockerRegistry::start(None);
    let from = TestStore::new();
    let base = from.add("base", &Sample::new(1));
    let digest = from.add("web", &Sample::new(2).on(base).disk(&[7, 8]));
    let at = |name: &str| from.path(name).display().to_string();
    let stages = [
        format!("oci:{}:web", from.store.dir().display()),
        format!("oci:{}:web", at("layout")),
        format!("oci-archive:{}:web", at("copied.tar")),
        format!("docker://{}/web:v1", registry.address),
        format!("oci:{}:web", at("back")),
        format!("oci-archive:{}:web", at("back.tar")),
    ];
    for pair in stages.windows(2) {
        skopeo(&["--src-tls-verify=false", &pair[0], &pair[1]]);
    }
    for path in ["layout", "copied.tar", "back", "back.tar"] {
        let to = TestStore::new();
        let imported = to.store.import(&from.path(path), None).unwrap();
        assert_eq!((imported[0].name.as_str(), imported[0].digest), ("web", digest), "{path}");
        to.is_clean();
    }
    let to = TestStore::new();
    let pulled = to.store.pull(&reference(&registry, "web:v1"), None, &options()).unwrap();
    assert_eq!(pulled.digest, digest);
    to.is_clean();
}

#[test]
fn skopeo_reads_what_was_exported_and_pushed() {
    let registry = DockerRegistry::start(None);
    let from = TestStore::new();
    let digest = from.add("web", &Sample::new(1).disk(&[7]));
    let file = from.path("web.tar");
    from.store.export("web", &file).unwrap();
    let archive = format!("oci-archive:{}:web", file.display());
    skopeo(&["--preserve-digests", &archive, &format!("docker://{}/a:v1", registry.address)]);
    let to = TestStore::new();
    assert_eq!(
        to.store.pull(&reference(&registry, "a:v1"), None, &options()).unwrap().digest,
        digest
    );
    from.store.push("web", &reference(&registry, "b:v1"), &options()).unwrap();
    let copied = from.path("copied.tar");
    let pushed = format!("docker://{}/b:v1", registry.address);
    skopeo(&["--src-tls-verify=false", &pushed, &format!("oci-archive:{}:b", copied.display())]);
    let source = Source::open(&copied).unwrap();
    let found = source.find(Some("b")).unwrap();
    assert_eq!(found, digest);
    Manifest::read(&source, found).unwrap();
}
