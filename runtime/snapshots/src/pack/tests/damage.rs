//! Every byte is checked, or known not to matter.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::archive::members;
use super::*;

/// The ranges of an archive.
fn regions(store: &Store, path: &Path) -> BTreeMap<String, Range<usize>> {
    let pack = store.open().unwrap();
    let base = Pack::open(&store.source(), store.made.base.digest).unwrap();
    let file = fs::File::open(path).unwrap().into();
    let mut known: BTreeMap<Digest, &str> = BTreeMap::new();
    for (part, pack) in [("", &pack), ("base's ", &base)] {
        for (name, digest) in [
            ("manifest", pack.digest),
            ("config", pack.manifest.config.digest),
            ("state", pack.manifest.state.digest),
            ("index", pack.manifest.index.digest),
        ] {
            known.entry(digest).or_insert(if part.is_empty() { name } else { "base" });
        }
        known.extend(pack.manifest.chunks.iter().map(|blob| (blob.digest, "chunks")));
    }
    let mut regions = BTreeMap::new();
    for (number, (name, member)) in members(&file, path).unwrap().into_iter().enumerate() {
        let (start, size) = (member.offset as usize, member.size as usize);
        let kind = match name.strip_prefix("blobs/sha256/") {
            Some(hex) => known[&Digest::from_hex(hex).unwrap()],
            None => &name,
        };
        regions.insert(format!("{kind} {number}"), start..start + size);
        regions.insert(format!("header {number}"), start - 512..start);
        regions.insert(
            format!("padding {number}"),
            start + size..(start + size).next_multiple_of(512),
        );
    }
    regions
}

/// Opens, and reads all chunks.
fn read_all(path: &Path) -> Result<(Pack, Vec<u8>, Vec<u8>), PackError> {
    let pack = Pack::open_at(path, None)?;
    read_every_chunk(&pack)?;
    let memory = content(&pack, &pack.index.memory)?;
    let disk = content(&pack, &pack.index.disks[0])?;
    Ok((pack, memory, disk))
}

#[test]
fn flipped_byte_of_an_archive_is_named_or_irrelevant() {
    let store = Store::new();
    let path = store.archive();
    let good = fs::read(&path).unwrap();
    let made = &store.made;
    let mut harmless: BTreeMap<String, usize> = BTreeMap::new();
    for (region, range) in regions(&store, &path) {
        let kind = region.split(' ').next().unwrap();
        // Chunks are sampled, as each is read again.
        let step = if kind == "chunks" { 7 } else { 1 };
        for at in range.step_by(step) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&path, &bad).unwrap();
            let result = match kind {
                "chunks" => read_all(&path).map(|(pack, memory, disk)| {
                    assert!(memory == made.image_memory && disk == made.disk, "{region} at {at}");
                    pack
                }),
                _ => Pack::open_at(&path, None),
            };
            match (result, kind) {
                (Ok(pack), _) => {
                    assert_eq!(pack.digest, made.image.digest, "{region} at {at}");
                    assert_eq!(pack.state, store.open().unwrap().state, "{region} at {at}");
                    *harmless.entry(kind.to_owned()).or_default() += 1;
                }
                (Err(error), "header") => {
                    assert!(matches!(error, PackError::Archive { .. }), "{region}: {error:?}");
                }
                (Err(error), "index.json") => {
                    let text = causes(&error);
                    let told = ["index.json", "manifest", "it holds no snapshot"];
                    assert!(told.iter().any(|told| text.contains(told)), "{region}: {text}");
                }
                (Err(error), _) => {
                    let text = causes(&error);
                    assert!(text.starts_with(kind), "{region} at {at}: {text}");
                }
            }
        }
    }
    // Only the chunks of the base are needed. Names, media types and spaces of the index may
    // change; so may the terminators of a header's numbers.
    let may_be_harmless = ["base", "chunks", "header", "index.json", "oci-layout", "padding"];
    assert!(harmless.keys().all(|kind| may_be_harmless.contains(&&kind[..])), "{harmless:?}");
    let headers = members(&fs::File::open(store.archive()).unwrap().into(), &path).unwrap().len();
    assert!(harmless.get("header").copied().unwrap_or(0) <= 2 * headers, "{harmless:?}");
}

#[test]
fn archive_truncated_anywhere_is_refused() {
    let store = Store::new();
    let path = store.archive();
    let good = fs::read(&path).unwrap();
    let mut borders: Vec<usize> =
        regions(&store, &path).values().flat_map(|range| [range.start, range.end]).collect();
    borders.extend((0..good.len() - 1024).step_by(499));
    for border in borders {
        for length in [border.saturating_sub(1), border, border + 1] {
            fs::write(&path, &good[..length.min(good.len() - 1024)]).unwrap();
            let error = read_all(&path).map(drop).unwrap_err();
            assert!(matches!(error, PackError::Archive { .. }), "{length}: {error:?}");
        }
    }
}

#[test]
fn damaged_truncated_or_missing_blob_is_named() {
    let store = Store::new();
    let pack = store.open().unwrap();
    let Manifest { config, state, index, chunks } = pack.manifest.clone();
    let parts = [
        ("manifest", pack.digest),
        ("config", config.digest),
        ("state", state.digest),
        ("index", index.digest),
    ];
    let all = parts.into_iter().chain(chunks.iter().map(|blob| ("chunks", blob.digest)));
    for (section, digest) in all {
        let path = store.blob(digest);
        let good = fs::read(&path).unwrap();
        let refused = || store.open().and_then(|pack| read_every_chunk(&pack)).unwrap_err();
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            let text = causes(&refused());
            assert!(text.starts_with(section), "{section}: {text}");
        }
        for length in [0, 1, good.len() - 1, good.len() + 1] {
            let mut bad = good.clone();
            bad.resize(length, 0);
            fs::write(&path, &bad).unwrap();
            let error = refused();
            let text = causes(&error);
            assert!(text.starts_with(section), "{section}: {text}");
            if section != "manifest" {
                assert!(matches!(error, PackError::Size { .. }), "{section}: {error:?}");
            }
        }
        fs::remove_file(&path).unwrap();
        match refused() {
            PackError::MissingBlob { section: told, digest: missing } => {
                assert_eq!((told, missing), (section, digest));
            }
            other => panic!("{section}: {other:?}"),
        }
        fs::write(&path, &good).unwrap();
    }
    assert_is_the_sample(&store.open().unwrap(), &store.made);
}

#[test]
fn manifest_of_the_wrong_size_is_refused() {
    let store = Store::new();
    let mut other = store.made.image;
    other.size += 1;
    store.layout().set_name("example", other).unwrap();
    let error = store.source().find(Some("example")).unwrap_err();
    assert!(matches!(error, PackError::Size { section: "manifest", .. }), "{error:?}");
}
