//! Pulls from registries that work, fail, lie and hang.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oci_support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oci_support::server::{Reply, Request, Server, blob, honest, not_found};
use oci_support::{
    Cache, INDEX, Image, LAYER, MANIFEST, config, describe, options, record, source, tar,
};
use serde_json::json;
use supermachine_baker::oci::{
    Compression, Document, Error, Event, FetchOptions, OciImage, Progress, fetch,
};
use supermachine_formats::Digest;

fn pull(server: &Server, cache: &Cache, options: &FetchOptions) -> Result<OciImage, Error> {
    fetch(&source(&server.reference()), &cache.blobs, options)
}

fn pull_error(server: &Server) -> Error {
    let cache = Cache::new();
    let error = pull(server, &cache, &options()).unwrap_err();
    cache.blobs();
    error
}

fn assert_complete(image: &Image, pulled: &OciImage) {
    assert_eq!(pulled.manifest_digest, image.digest());
    let digests: Vec<_> = pulled.layers.iter().map(|layer| layer.digest).collect();
    assert_eq!(digests, image.layers);
    for layer in &pulled.layers {
        assert_eq!(std::fs::read(&layer.path).unwrap(), image.blobs[&layer.digest]);
    }
}

/// Answers like a correct registry, except for blobs that `special` handles.
fn special_blobs(
    image: &Image,
    special: impl Fn(&Request, &[u8]) -> Option<Reply> + Send + Sync + 'static,
) -> Server {
    let image = image.clone();
    Server::start(move |request| {
        blob(&image, &request.path)
            .and_then(|content| special(request, content))
            .unwrap_or_else(|| honest(&image, request))
    })
}

#[test]
fn pull_brings_verified_layers_of_every_compression() {
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    let cache = Cache::new();
    let pulled = pull(&server, &cache, &options()).unwrap();
    assert_complete(&image, &pulled);
    let kinds: Vec<_> = pulled.layers.iter().map(|layer| layer.compression).collect();
    assert_eq!(kinds, [Compression::None, Compression::Gzip, Compression::Zstd]);
    assert_eq!(pulled.reference, server.reference());
    assert_eq!(pulled.config.cmd, ["/bin/true"]);
    assert_eq!(pulled.config.exposed_ports, [80]);
    assert_eq!(cache.blobs().len(), 5);
}

#[test]
fn pull_again_asks_for_the_manifest_only() {
    let image = Image::new("amd64");
    let mut server = Server::serving(&image);
    let cache = Cache::new();
    pull(&server, &cache, &options()).unwrap();
    let before = server.requests().len();
    pull(&server, &cache, &options()).unwrap();
    assert_eq!(server.paths()[before..], ["/v2/test/manifests/v1"]);

    let by_digest = source(&format!("{}/test@{}", server.address, image.digest()));
    server.stop();
    fetch(&by_digest, &cache.blobs, &options()).unwrap();
    assert!(matches!(pull(&server, &cache, &options()), Err(Error::Unreachable { .. })));
    let mut offline = options();
    offline.offline = true;
    assert_complete(&image, &pull(&server, &cache, &offline).unwrap());
    fetch(&by_digest, &cache.blobs, &offline).unwrap();
}

#[test]
fn pull_offline_names_what_is_missing() {
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    let cache = Cache::new();
    let mut offline = options();
    offline.offline = true;
    assert!(matches!(pull(&server, &cache, &offline), Err(Error::NotCached { .. })));
    pull(&server, &cache, &options()).unwrap();
    std::fs::remove_file(cache.blobs.path(image.layers[1])).unwrap();
    let error = pull(&server, &cache, &offline).unwrap_err();
    assert!(error.to_string().contains(&image.layers[1].to_string()), "{error}");
}

#[test]
fn pull_works_inside_an_async_runtime() {
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    let cache = Cache::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pulled = runtime.block_on(async { pull(&server, &cache, &options()) }).unwrap();
    assert_complete(&image, &pulled);
}

#[test]
fn pull_by_many_at_once_into_one_cache_works() {
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    let cache = Cache::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_complete(&image, &pull(&server, &cache, &options()).unwrap());
            });
        }
    });
    assert_eq!(cache.blobs().len(), 5);
}

#[test]
fn pull_reports_its_progress() {
    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);
    impl Progress for Recorder {
        fn event(&self, event: Event<'_>) {
            let text = match event {
                Event::Resolved { layers, size, .. } => format!("resolved {layers} {size}"),
                Event::Fetched { digest, size } => format!("fetched {digest} {size}"),
                Event::Cached { digest, .. } => format!("cached {digest}"),
                _ => return,
            };
            self.0.lock().unwrap().push(text);
        }
    }
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    let cache = Cache::new();
    let recorder = Arc::new(Recorder::default());
    let mut options = options();
    options.progress = Some(recorder.clone());
    pull(&server, &cache, &options).unwrap();
    let events = std::mem::take(&mut *recorder.0.lock().unwrap());
    let size: usize = image.layers.iter().map(|layer| image.blobs[layer].len()).sum();
    assert!(events.contains(&format!("resolved 3 {size}")), "{events:?}");
    for layer in &image.layers {
        let event = format!("fetched {layer} {}", image.blobs[layer].len());
        assert!(events.contains(&event), "{events:?}");
    }
    pull(&server, &cache, &options).unwrap();
    let events = recorder.0.lock().unwrap();
    assert_eq!(events.iter().filter(|event| event.starts_with("cached")).count(), 3);
}

#[test]
fn blob_cut_off_is_resumed_where_it_broke() {
    let image = Image::new("amd64");
    let cuts = AtomicUsize::new(0);
    let server = special_blobs(&image, move |request, content| {
        let is_first = request.header("range") == Some("bytes=0-") && content.len() > 100 << 10;
        if is_first {
            cuts.fetch_add(1, Ordering::Relaxed)
        } else {
            return None;
        };
        Some(Reply::new(206, content).cut(100 << 10))
    });
    let cache = Cache::new();
    assert_complete(&image, &pull(&server, &cache, &options()).unwrap());
    let requests = server.requests();
    let resumed = requests.iter().filter(|r| r.header("range") == Some("bytes=102400-")).count();
    assert_eq!(resumed, 3, "{requests:?}");
    cache.blobs();
}

#[test]
fn blob_cut_off_without_ranges_is_started_anew() {
    let image = Image::new("amd64");
    let count = AtomicUsize::new(0);
    let largest = image.largest_layer().to_string();
    let server = special_blobs(&image, move |request, content| {
        if !request.path.ends_with(&largest) {
            return None;
        }
        let reply = Reply::new(200, content);
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        Some(if is_first { reply.cut(1000) } else { reply })
    });
    let cache = Cache::new();
    assert_complete(&image, &pull(&server, &cache, &options()).unwrap());
}

#[test]
fn blob_continued_from_the_wrong_byte_is_started_anew() {
    let image = Image::new("amd64");
    // The first attempt breaks, the second continues from a wrong offset, the third succeeds.
    let cut = AtomicUsize::new(0);
    let inner = image.clone();
    let breaking = Server::start(move |request| {
        let largest = inner.largest_layer().to_string();
        if !request.path.ends_with(&largest) {
            return honest(&inner, request);
        }
        let content = &inner.blobs[&inner.largest_layer()];
        match cut.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::new(206, content.clone()).cut(1000),
            1 => Reply::new(206, &content[..content.len() - 1000]),
            _ => honest(&inner, request),
        }
    });
    let cache = Cache::new();
    assert_complete(&image, &pull(&breaking, &cache, &options()).unwrap());
}

#[test]
fn blob_cut_off_every_time_is_an_error_with_facts() {
    let image = Image::new("amd64");
    let largest = image.largest_layer();
    let name = largest.to_string();
    let server = special_blobs(&image, move |request, content| {
        let reply = || Reply::new(200, content).cut(1000);
        request.path.ends_with(&name).then(reply)
    });
    match pull_error(&server) {
        Error::Interrupted { digest, received, size, attempts, .. } => {
            assert_eq!((digest, received, attempts), (largest, 1000, 4));
            assert_eq!(size, image.blobs[&largest].len() as u64);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn blob_with_wrong_content_names_both_digests_and_leaves_nothing() {
    let image = Image::new("amd64");
    let largest = image.largest_layer();
    let name = largest.to_string();
    let mut wrong = image.blobs[&largest].clone();
    wrong[5000] ^= 1;
    for status in [200, 206] {
        let (name, wrong_content) = (name.clone(), wrong.clone());
        let server = special_blobs(&image, move |request, _| {
            request.path.ends_with(&name).then(|| Reply::new(status, wrong_content.clone()))
        });
        let cache = Cache::new();
        match pull(&server, &cache, &options()) {
            Err(Error::DigestMismatch { digest, found }) => {
                assert_eq!((digest, found), (largest, Digest::of(&wrong)));
            }
            other => panic!("{other:?}"),
        }
        assert!(!cache.blobs().contains(&largest.hex()));
    }
}

#[test]
fn blob_of_another_size_than_announced_is_refused() {
    let image = Image::new("amd64");
    let largest = image.largest_layer();
    let size = image.blobs[&largest].len() as u64;
    for (longer, status) in [(true, 200), (true, 206), (false, 200), (false, 206)] {
        let name = largest.to_string();
        let server = special_blobs(&image, move |request, content| {
            if !request.path.ends_with(&name) {
                return None;
            }
            let from = request.header("range").map_or(0, |range| {
                range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()
            });
            let all = if longer {
                [content, b"more"].concat()
            } else {
                content[..content.len() - 10].to_vec()
            };
            if status == 206 && from >= all.len() {
                return Some(Reply::new(416, ""));
            }
            let from = if status == 206 { from } else { 0 };
            Some(Reply::new(status, &all[from..]))
        });
        match pull_error(&server) {
            Error::SizeMismatch { digest, expected, found } => {
                assert_eq!((digest, expected), (largest, size));
                assert_eq!(found > size, longer);
            }
            other => panic!("{longer} {status}: {other:?}"),
        }
    }
}

#[test]
fn missing_image_missing_blob_and_broken_registry_differ() {
    let image = Image::new("amd64");
    let server = Server::start(|_| not_found());
    match pull_error(&server) {
        Error::NoSuchImage { reference } => assert_eq!(reference, server.reference()),
        other => panic!("{other:?}"),
    }
    let largest = image.largest_layer();
    let name = largest.to_string();
    for body in [r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#, "nothing here"] {
        let name = name.clone();
        let server = special_blobs(&image, move |request, _| {
            request.path.ends_with(&name).then(|| Reply::new(404, body))
        });
        match pull_error(&server) {
            Error::BlobMissing { digest, .. } => assert_eq!(digest, largest),
            other => panic!("{other:?}"),
        }
    }
    let server = Server::start(|_| Reply::new(503, "busy"));
    assert!(matches!(pull_error(&server), Error::Registry { status: 503, .. }));
    let name = largest.to_string();
    let server = special_blobs(&image, move |request, _| {
        request.path.ends_with(&name).then(|| Reply::new(503, "busy"))
    });
    assert!(matches!(pull_error(&server), Error::Interrupted { attempts: 4, .. }));
}

#[test]
fn registry_that_hangs_is_given_up() {
    let image = Image::new("amd64");
    let mut impatient = options();
    impatient.timeouts.idle = Duration::from_millis(200);
    let start = Instant::now();
    let server = Server::start(|_| Reply::hang());
    let error = pull(&server, &Cache::new(), &impatient).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let server = special_blobs(&image, |_, _| Some(Reply::hang()));
    let error = pull(&server, &Cache::new(), &impatient).unwrap_err();
    assert!(matches!(error, Error::Interrupted { received: 0, .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn documents_without_end_are_cut_at_their_bound() {
    let server = Server::start(|_| Reply { endless: true, ..Reply::new(200, vec![b' '; 1 << 16]) });
    match pull_error(&server) {
        Error::TooLarge { document: Document::Manifest, limit } => assert_eq!(limit, 4 << 20),
        other => panic!("{other:?}"),
    }
    let image = Image::new("amd64");
    let mut huge = image.clone();
    let text = String::from_utf8(image.manifest).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    manifest["config"]["size"] = json!(5 << 20);
    huge.manifest = manifest.to_string().into_bytes();
    let error = pull_error(&Server::serving(&huge));
    assert!(matches!(error, Error::TooLarge { document: Document::Config, .. }), "{error:?}");
}

#[test]
fn manifest_that_does_not_match_its_digest_is_refused() {
    let image = Image::new("amd64");
    let wanted = Digest::of(b"another");
    let inner = image.clone();
    let server = Server::start(move |_| Reply::new(200, inner.manifest.clone()));
    let by_digest = source(&format!("{}/test@{wanted}", server.address));
    match fetch(&by_digest, &Cache::new().blobs, &options()) {
        Err(Error::DigestMismatch { digest, found }) => {
            assert_eq!((digest, found), (wanted, image.digest()));
        }
        other => panic!("{other:?}"),
    }
    let inner = image.clone();
    let server = Server::start(move |_| {
        Reply::new(200, inner.manifest.clone()).header("Docker-Content-Digest", &wanted.to_string())
    });
    assert!(matches!(pull_error(&server), Error::DigestMismatch { .. }));
    let server = Server::start(|_| Reply::new(200, "<html>log in</html>"));
    let cache = Cache::new();
    let error = pull(&server, &cache, &options()).unwrap_err();
    assert!(matches!(error, Error::InvalidDocument { document: Document::Manifest, .. }));
    assert!(cache.blobs().is_empty());
}

/// A registry with `images`, whose `test:v1` is an index of `entries`.
fn serving_index(entries: Vec<serde_json::Value>, images: Vec<Image>) -> Server {
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    Server::start(move |request| {
        if request.path.ends_with("manifests/v1") {
            return Reply::new(200, index.clone()).header("Content-Type", INDEX);
        }
        images
            .iter()
            .map(|image| honest(image, request))
            .find(|reply| reply.status < 300)
            .unwrap_or_else(not_found)
    })
}

fn entry(image: &Image, platform: serde_json::Value) -> serde_json::Value {
    let mut entry = describe(MANIFEST, &image.manifest);
    entry["platform"] = platform;
    entry
}

#[test]
fn index_is_followed_to_the_wanted_platform() {
    let (amd, arm) = (Image::new("amd64"), Image::new("arm64"));
    let entries = vec![
        entry(&arm, json!({"os": "unknown", "architecture": "unknown"})),
        entry(&arm, json!({"os": "linux", "architecture": "arm64", "variant": "v8"})),
        entry(&amd, json!({"os": "linux", "architecture": "amd64"})),
    ];
    let server = serving_index(entries, vec![amd.clone(), arm.clone()]);
    let cache = Cache::new();
    assert_complete(&amd, &pull(&server, &cache, &options()).unwrap());
    let mut for_arm = options();
    for_arm.platform = "linux/arm64".parse().unwrap();
    assert_complete(&arm, &pull(&server, &cache, &for_arm).unwrap());
    for_arm.offline = true;
    assert_complete(&arm, &pull(&server, &cache, &for_arm).unwrap());
    let mut for_other = options();
    for_other.platform = "linux/riscv64".parse().unwrap();
    match pull(&server, &cache, &for_other) {
        Err(Error::PlatformMissing { wanted, offered }) => {
            assert_eq!(wanted.to_string(), "linux/riscv64");
            let offered: Vec<_> = offered.iter().map(ToString::to_string).collect();
            assert_eq!(offered, ["linux/arm64/v8", "linux/amd64"]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn index_in_index_without_end_is_refused() {
    let platform = json!({"os": "linux", "architecture": "amd64"});
    let mut documents = vec![Image::new("amd64").manifest];
    for _ in 0..8 {
        let mut entry = describe(INDEX, documents.last().unwrap());
        entry["platform"] = platform.clone();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        documents.push(index.to_string().into_bytes());
    }
    let server = Server::start(move |request| {
        let is_asked =
            |document: &&Vec<u8>| request.path.ends_with(&Digest::of(document).to_string());
        let found = documents.iter().find(is_asked).or(documents.last()).unwrap();
        Reply::new(200, found.clone())
    });
    assert!(matches!(pull_error(&server), Error::IndexTooDeep { .. }));
}

#[test]
fn image_for_another_architecture_is_refused_before_its_layers() {
    let server = Server::serving(&Image::new("arm64"));
    assert!(matches!(pull_error(&server), Error::PlatformMissing { .. }));
    let layers = server.paths().iter().filter(|path| path.contains("blobs")).count();
    assert_eq!(layers, 1, "only the config");
}

#[test]
fn config_that_does_not_fit_the_layers_is_refused() {
    let layer = tar("a", 1);
    let one = vec![(LAYER.to_owned(), layer.clone())];
    let none = Image::with(one.clone(), &config("amd64", &[]));
    assert!(matches!(
        pull_error(&Server::serving(&none)),
        Error::LayerCount { layers: 1, diff_ids: 0 }
    ));
    let other = Digest::of(b"other");
    let wrong = Image::with(one, &config("amd64", &[other.to_string()]));
    match pull_error(&Server::serving(&wrong)) {
        Error::DigestMismatch { digest, found } => {
            assert_eq!((digest, found), (other, Digest::of(&layer)));
        }
        error => panic!("{error:?}"),
    }
}

#[test]
fn layer_named_twice_is_fetched_once() {
    let layer = tar("a", 1);
    let twice = vec![(LAYER.to_owned(), layer.clone()), (LAYER.to_owned(), layer.clone())];
    let diff_id = Digest::of(&layer).to_string();
    let image = Image::with(twice, &config("amd64", &[diff_id.clone(), diff_id]));
    let server = Server::serving(&image);
    assert_complete(&image, &pull(&server, &Cache::new(), &options()).unwrap());
    assert_eq!(server.paths().iter().filter(|path| path.contains("blobs")).count(), 2);
}

#[test]
fn damaged_cache_is_repaired() {
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    let cache = Cache::new();
    let pulled = pull(&server, &cache, &options()).unwrap();
    let config = image.blobs.keys().find(|digest| !image.layers.contains(digest)).unwrap();
    std::fs::write(cache.blobs.path(*config), "damaged").unwrap();
    std::fs::write(&pulled.layers[0].path, "short").unwrap();
    assert_complete(&image, &pull(&server, &cache, &options()).unwrap());
}

#[test]
fn cached_layer_with_a_flipped_bit_is_fetched_again_and_reported() {
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    let cache = Cache::new();
    let pulled = pull(&server, &cache, &options()).unwrap();
    let path = &pulled.layers[1].path;
    let mut content = std::fs::read(path).unwrap();
    content[1000] ^= 1;
    std::fs::write(path, content).unwrap();
    let mut options = options();
    let events = record(&mut options);
    assert_complete(&image, &pull(&server, &cache, &options).unwrap());
    let events = events.lock().unwrap();
    let damaged: Vec<_> = events.iter().filter(|event| event.contains("Damaged")).collect();
    assert_eq!(damaged.len(), 1, "{events:?}");
    assert!(damaged[0].contains(&image.layers[1].hex()), "{damaged:?}");
    assert!(damaged[0].contains("was_cached: true"), "{damaged:?}");
}

#[test]
fn cached_layer_that_is_damaged_is_missing_offline() {
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    let cache = Cache::new();
    let pulled = pull(&server, &cache, &options()).unwrap();
    let size = usize::try_from(pulled.layers[0].size).unwrap();
    std::fs::write(&pulled.layers[0].path, vec![0; size]).unwrap();
    let mut offline = options();
    offline.offline = true;
    let error = pull(&server, &cache, &offline).unwrap_err();
    assert!(matches!(error, Error::NotCached { .. }), "{error:?}");
}

#[test]
fn blob_that_arrives_damaged_is_fetched_once_more() {
    let image = Image::new("amd64");
    let largest = image.largest_layer().to_string();
    let name = largest.clone();
    let count = AtomicUsize::new(0);
    let server = special_blobs(&image, move |request, content| {
        let is_first = request.path.ends_with(&name) && count.fetch_add(1, Ordering::Relaxed) == 0;
        is_first.then(|| {
            let mut wrong = content.to_vec();
            wrong[5000] ^= 1;
            Reply::new(200, wrong)
        })
    });
    assert_complete(&image, &pull(&server, &Cache::new(), &options()).unwrap());
    assert_eq!(server.paths().iter().filter(|path| path.ends_with(&largest)).count(), 2);
}

/// A registry that answers `refusal` to the first `count` requests whose path contains `part`.
fn refusing(part: &str, count: usize, refusal: fn() -> Reply) -> (Image, Server) {
    let image = Image::new("amd64");
    let (inner, part, left) = (image.clone(), part.to_owned(), AtomicUsize::new(count));
    let server = Server::start(move |request| {
        let is_meant = request.path.contains(&part);
        let take = |left: usize| left.checked_sub(1);
        let relaxed = Ordering::Relaxed;
        if is_meant && left.fetch_update(relaxed, relaxed, take).is_ok() {
            refusal()
        } else {
            honest(&inner, request)
        }
    });
    (image, server)
}

#[test]
fn busy_registry_is_retried() {
    let busy: [fn() -> Reply; 4] = [
        || Reply::new(429, "slow down").header("Retry-After", "0"),
        || Reply::new(503, ""),
        || Reply::new(502, "<html>"),
        || Reply::new(200, "{}").cut(1),
    ];
    for refusal in busy {
        for part in ["/manifests/", "/blobs/"] {
            let (image, server) = refusing(part, 3, refusal);
            assert_complete(&image, &pull(&server, &Cache::new(), &options()).unwrap());
        }
    }
}

#[test]
fn retry_after_is_respected_up_to_its_bound() {
    let (image, server) =
        refusing("/manifests/", 1, || Reply::new(429, "").header("Retry-After", "1"));
    let start = Instant::now();
    assert_complete(&image, &pull(&server, &Cache::new(), &options()).unwrap());
    assert!(start.elapsed() >= Duration::from_secs(1));

    let (_, server) = refusing("/manifests/", 9, || {
        Reply::new(429, r#"{"errors":[{"message":"pull limit reached"}]}"#)
            .header("Retry-After", "3600")
    });
    let error = pull_error(&server);
    let text = error.to_string();
    assert!(text.ends_with("429: pull limit reached; it asks to wait 3600 s"), "{text}");
    assert_eq!(server.requests().len(), 1);
}
