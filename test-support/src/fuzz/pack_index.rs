//! Pack indexes: any bytes are refused or give one index whose entries are in bounds.

use supermachine_formats::Digest;
use supermachine_formats::pack::{
    Blob, CHUNK_SIZE, Chunk, Extent, Index, Layer, Place, Space, ZERO,
};

/// Decodes an index and calls every query. Returns whether it is accepted.
pub fn run(data: &[u8]) -> bool {
    let Ok(index) = Index::decode(data) else { return false };
    // Unknown optional features are not written back, so the comparison is of decoded values.
    assert_eq!(Index::decode(&index.encode()).as_ref(), Ok(&index));
    let count = index.chunk_count();
    assert_eq!(index.chunks().count() as u64, count);
    for space in index.spaces() {
        let end = space.size / CHUNK_SIZE;
        let flat = space.flattened(0);
        let mut next = 0;
        for extent in &flat.extents {
            assert!(u64::from(extent.first) >= next && extent.count > 0);
            assert!(
                extent.chunk == ZERO || u64::from(extent.chunk) + u64::from(extent.count) <= count
            );
            next = extent.end();
        }
        assert!(next <= end);
        let named: usize = space.layers.iter().map(|layer| layer.extents.len()).sum();
        assert!(flat.extents.len() <= 2 * named + 1);
        let layers = space.layers.len();
        assert_eq!(index.identity(space, layers), index.identity(space, layers + 1));
    }
    true
}

/// Valid indexes.
pub fn samples() -> Vec<Vec<u8>> {
    let chunk = |name: &[u8], stored| Chunk { content: Digest::of(name), stored };
    let blob = |name: &[u8], chunks| Blob { digest: Digest::of(name), chunks };
    let zeros = Layer { extents: vec![Extent { first: 0, count: 1 << 20, chunk: ZERO }] };
    let small = Index {
        blobs: Vec::new(),
        memory: Space { size: 1 << 40, layers: vec![zeros] },
        disks: Vec::new(),
        first_use: Vec::new(),
    };
    let base = Layer::of([(0, Some(0)), (1, Some(1)), (5, Some(2))]);
    let own = Layer::of([(1, Some(3)), (2, None), (3, None)]);
    let full = Index {
        blobs: vec![
            blob(b"base", vec![chunk(b"a", 10), chunk(b"b", 20), chunk(b"c", 30)]),
            blob(b"own", vec![chunk(b"d", 40), chunk(b"e", 5)]),
        ],
        memory: Space { size: 16 * CHUNK_SIZE, layers: vec![base, own] },
        disks: vec![Space { size: 2 << 20, layers: vec![Layer::of([(7, Some(4))])] }],
        first_use: vec![Place { space: 0, place: 1 }, Place { space: 1, place: 31 }],
    };
    vec![small.encode(), full.encode()]
}
