//! Pack manifests: any bytes are refused or give one manifest.

use supermachine_formats::Digest;
use supermachine_snapshots::pack::{Descriptor, Manifest};

/// Decodes a manifest. Returns whether it is accepted.
pub fn run(data: &[u8]) -> bool {
    let Ok(manifest) = Manifest::decode(data) else { return false };
    assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
    assert_eq!(manifest.blobs().count(), 3 + manifest.chunks.len());
    true
}

/// Valid manifests.
pub fn samples() -> Vec<Vec<u8>> {
    let blob = |name: &[u8], size| Descriptor { digest: Digest::of(name), size };
    let manifest = |chunks| Manifest {
        config: blob(b"config", 2),
        state: blob(b"state", 3),
        index: blob(b"index", u64::MAX),
        chunks,
    };
    let chunks = vec![blob(b"base", 5), blob(b"own", 0)];
    vec![manifest(Vec::new()).encode(), manifest(chunks).encode()]
}
