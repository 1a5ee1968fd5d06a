//! Packs in one file: any bytes are refused or give chunks that match their digests.

use std::fs;

use supermachine_formats::Digest;
use supermachine_formats::snapshot::arch::ArchState;
use supermachine_snapshots::pack::{ChunkReader, Pack, Source};

use crate::packs;

/// Opens an archive and reads every chunk. Returns whether it contains a snapshot.
pub fn run(data: &[u8]) -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), data).unwrap();
    let Ok(source) = Source::open(file.path()) else { return false };
    let Ok(all) = source.snapshots() else { return false };
    let mut is_found = false;
    for named in all {
        let Ok(pack) = Pack::open(&source, named.descriptor.digest) else { continue };
        is_found = true;
        let Ok(mut reader) = ChunkReader::new(&pack) else { continue };
        for (number, (_, _, chunk)) in (0..).zip(pack.index.chunks()) {
            if let Ok(content) = reader.read(number) {
                assert_eq!(Digest::of(content), chunk.content);
            }
        }
    }
    is_found
}

/// A valid archive for each architecture.
pub fn samples() -> Vec<Vec<u8>> {
    let archive = |arch| {
        let dir = tempfile::tempdir().unwrap();
        packs::make_of(arch, dir.path());
        packs::archive(dir.path())
    };
    let architectures: [fn() -> ArchState; 2] = [packs::x86_64_state, packs::aarch64_state];
    architectures.map(archive).into()
}
