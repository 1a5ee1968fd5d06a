//! Snapshots of other hosts are refused by name, before anything is made of them.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use supermachine::{AssetPaths, Error, Image, VmConfig, host};
use supermachine_formats::snapshot::Architecture;
use supermachine_snapshots::pack::Source;
use supermachine_vmm::MachineError;
use tempfile::TempDir;

/// Packs that an earlier build wrote, of each architecture.
const PACKS: [(Architecture, &str); 2] = [
    (Architecture::X86_64, "snapshots/tests/golden/pack-v1.tar"),
    (Architecture::Aarch64, "snapshots/tests/golden/pack-v1-aarch64.tar"),
];

/// An image of the architecture that this host does not have, and the folder of its cache.
fn foreign() -> (Architecture, Image, TempDir) {
    let own = host::architecture();
    let [(architecture, pack)] =
        PACKS.into_iter().filter(|(of, _)| *of != own).collect::<Vec<_>>()[..]
    else {
        panic!("there is a pack for each architecture but {own}")
    };
    let dir = tempfile::tempdir().unwrap();
    let source = Source::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(pack)).unwrap();
    let digest = source.find(Some("example")).unwrap();
    let image = Image::open(source, digest, &dir.path().join("cache")).unwrap();
    assert_eq!(image.snapshot().arch.architecture(), architecture);
    (architecture, image, dir)
}

#[test]
fn pack_of_another_architecture_is_refused_by_name_however_it_is_started() {
    let (other, image, dir) = foreign();
    let own = host::architecture();
    let programs = Path::new(env!("CARGO_BIN_EXE_supermachine-worker")).parent().unwrap();
    let config = VmConfig::new();
    let isolated = config.clone().with_isolated(true).with_assets(AssetPaths::from_dir(programs));
    for config in [config.clone(), config.with_expand_first(true), isolated] {
        let error = image.start(&config).unwrap_err();
        let Error::Machine { source } = &error else { panic!("{error:?}") };
        let MachineError::Architecture { found, host } = source else { panic!("{source:?}") };
        assert_eq!((*found, *host), (other, own));
        let expected =
            format!("snapshot is for {other}, this host is {own}; bake the image on {own}");
        assert_eq!(source.to_string(), expected);
    }
    let error = image.pool().build().and_then(|pool| pool.acquire().map(drop)).unwrap_err();
    assert!(matches!(error, Error::Machine { source: MachineError::Architecture { .. } }));
    assert!(!fs::exists(dir.path().join("cache/memory")).unwrap(), "it was expanded");
}
