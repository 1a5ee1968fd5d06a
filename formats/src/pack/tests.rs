use super::*;
use crate::Digest;
use crate::codec::DecodeError;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

extern crate std;

fn chunk(name: &[u8], stored: u32) -> Chunk {
    Chunk { content: Digest::of(name), stored }
}

fn sample() -> Index {
    let base = Layer::of([(0, Some(0)), (1, Some(1)), (5, Some(2))]);
    let own = Layer::of([(1, Some(3)), (2, None), (3, None)]);
    Index {
        blobs: vec![
            Blob {
                digest: Digest::of(b"base"),
                chunks: vec![chunk(b"a", 10), chunk(b"b", 20), chunk(b"c", 30)],
            },
            Blob { digest: Digest::of(b"own"), chunks: vec![chunk(b"d", 40), chunk(b"e", 5)] },
        ],
        memory: Space { size: 16 * CHUNK_SIZE, layers: vec![base, own] },
        disks: vec![Space { size: 2 << 20, layers: vec![Layer::of([(7, Some(4))])] }],
        first_use: vec![Place { space: 0, place: 1 }, Place { space: 1, place: 31 }],
    }
}

fn refused(change: impl FnOnce(&mut Index)) -> &'static str {
    let mut index = sample();
    change(&mut index);
    match Index::decode(&index.encode()) {
        Err(IndexError::Inconsistent { what }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn index_round_trips() {
    let index = sample();
    assert_eq!(Index::decode(&index.encode()).unwrap(), index);
    assert_eq!(index.blobs[0].size(), 60);
    let places: Vec<_> = index.chunks().map(|(blob, offset, _)| (blob, offset)).collect();
    assert_eq!(places, [(0, 0), (0, 10), (0, 30), (1, 0), (1, 40)]);
}

#[test]
fn adjacent_chunks_form_one_extent() {
    let layer = Layer::of([(0, Some(0)), (1, Some(1)), (2, Some(5)), (4, None), (5, None)]);
    let extents = [
        Extent { first: 0, count: 2, chunk: 0 },
        Extent { first: 2, count: 1, chunk: 5 },
        Extent { first: 4, count: 2, chunk: ZERO },
    ];
    assert_eq!(layer.extents, extents);
    let chunks: Vec<_> = layer.chunks().collect();
    assert_eq!(chunks, [(0, Some(0)), (1, Some(1)), (2, Some(5)), (4, None), (5, None)]);
}

#[test]
fn younger_layer_hides_older_one() {
    let memory = sample().memory;
    let all = [(0, Some(0)), (1, Some(3)), (2, None), (3, None), (5, Some(2))];
    assert_eq!(memory.flattened(0).chunks().collect::<Vec<_>>(), all);
    let own = [(1, Some(3)), (2, None), (3, None)];
    assert_eq!(memory.flattened(1).chunks().collect::<Vec<_>>(), own);
}

#[test]
fn identity_depends_on_content_alone() {
    let index = sample();
    let mut moved = sample();
    // The same content, stored in another order.
    moved.blobs[0].chunks.swap(0, 1);
    moved.memory.layers[0] = Layer::of([(0, Some(1)), (1, Some(0)), (5, Some(2))]);
    for layers in 0..=2 {
        let identity = index.identity(&index.memory, layers);
        assert_eq!(identity, moved.identity(&moved.memory, layers));
    }
    assert_ne!(index.identity(&index.memory, 1), index.identity(&index.memory, 2));
    let mut other = sample();
    other.blobs[1].chunks[0].content = Digest::of(b"other");
    assert_eq!(index.identity(&index.memory, 1), other.identity(&other.memory, 1));
    assert_ne!(index.identity(&index.memory, 2), other.identity(&other.memory, 2));
}

#[test]
fn inconsistent_index_is_refused() {
    let in_memory = |extent: Extent| refused(|index| index.memory.layers[1].extents = vec![extent]);
    let beyond = "an extent beyond its space";
    assert_eq!(in_memory(Extent { first: 16, count: 1, chunk: 0 }), beyond);
    assert_eq!(in_memory(Extent { first: 1, count: u32::MAX, chunk: ZERO }), beyond);
    let no_blob = "an extent of chunks that no blob has";
    assert_eq!(in_memory(Extent { first: 0, count: 1, chunk: 5 }), no_blob);
    assert_eq!(in_memory(Extent { first: 0, count: 2, chunk: 4 }), no_blob);
    assert_eq!(in_memory(Extent { first: 0, count: 2, chunk: u32::MAX - 1 }), no_blob);
    let order = "an empty extent, or one out of order";
    assert_eq!(in_memory(Extent { first: 0, count: 0, chunk: 0 }), order);
    assert_eq!(refused(|index| index.memory.layers[0].extents.reverse()), order);
    let size = "a space whose size is not whole chunks up to 16 TiB";
    for bad in [0, 1, CHUNK_SIZE + 1, u64::MAX, 32 << 40] {
        assert_eq!(refused(|index| index.disks[0].size = bad), size);
    }
    let stored = "a stored chunk of an impossible size";
    for bad in [0, MAX_STORED + 1, u32::MAX] {
        assert_eq!(refused(|index| index.blobs[1].chunks[0].stored = bad), stored);
    }
    let first_use = "a first use of a place that no space has";
    for bad in
        [Place { space: 0, place: 16 }, Place { space: 1, place: 32 }, Place { space: 2, place: 0 }]
    {
        assert_eq!(refused(|index| index.first_use.push(bad)), first_use);
    }
}

#[test]
fn too_many_layers_disks_or_blobs_are_refused_before_reading_them() {
    let limit = |change: fn(&mut Index)| {
        let mut index = sample();
        change(&mut index);
        match Index::decode(&index.encode()) {
            Err(IndexError::Malformed { source: DecodeError::TooLarge { field, limit, .. } }) => {
                (field, limit)
            }
            other => panic!("{other:?}"),
        }
    };
    let layers = |index: &mut Index| index.memory.layers = vec![Layer::default(); 65];
    assert_eq!(limit(layers), ("layers", 64));
    let disks = |index: &mut Index| index.disks = vec![Space::empty(CHUNK_SIZE); 65];
    assert_eq!(limit(disks), ("disks", 64));
    let blobs = |index: &mut Index| index.blobs.resize(4097, index.blobs[0].clone());
    assert_eq!(limit(blobs), ("blobs", 4096));
}

#[test]
fn chunk_in_too_many_places_is_refused() {
    let many = Layer { extents: vec![Extent { first: 0, count: 1 << 18, chunk: 0 }; 1] };
    let mut index = sample();
    index.memory.size = (1 << 18) * CHUNK_SIZE;
    index.blobs[0].chunks = vec![chunk(b"a", 1); 1 << 18];
    index.memory.layers = vec![many; 64];
    index.disks.clear();
    index.first_use.clear();
    assert!(Index::decode(&index.encode()).is_ok());
    index.disks = vec![Space { size: CHUNK_SIZE, layers: vec![Layer::of([(0, Some(0))])] }];
    match Index::decode(&index.encode()) {
        Err(IndexError::Inconsistent { what }) => {
            assert_eq!(what, "more than 1 TiB of placed chunks");
        }
        other => panic!("{:?}", other.map(drop)),
    }
}

/// A few bytes can describe many zeros, and must cost no more than their size.
#[test]
fn vast_extents_of_zeros_cost_neither_time_nor_memory() {
    let zeros = Layer { extents: vec![Extent { first: 0, count: 1 << 28, chunk: ZERO }] };
    let own = Layer::of([(7, Some(4))]);
    let vast = Space { size: 16 << 40, layers: [vec![zeros; 63], vec![own]].concat() };
    let mut index = sample();
    index.disks = vec![vast; 64];
    let begin = std::time::Instant::now();
    let index = Index::decode(&index.encode()).unwrap();
    for disk in &index.disks {
        let flat = disk.flattened(0);
        assert_eq!(flat.extents.len(), 3);
        assert_eq!((flat.number(6), flat.number(7), flat.number(8)), (None, Some(4), None));
        assert_ne!(index.identity(disk, 64), index.identity(disk, 63));
    }
    assert!(begin.elapsed() < std::time::Duration::from_secs(5), "{:?}", begin.elapsed());
}

/// Compares with a map of places.
#[test]
fn flattened_space_equals_its_layers_in_order() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |limit: u64| -> u32 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u32::try_from(state % limit).unwrap()
    };
    for round in 0..2000 {
        let mut layers = Vec::new();
        for _ in 0..=random(4) {
            let mut extents = Vec::new();
            let mut first = 0;
            for _ in 0..random(6) {
                first += random(5);
                let count = 1 + random(5);
                let chunk = if random(3) == 0 { ZERO } else { random(20) };
                extents.push(Extent { first, count, chunk });
                first += count;
            }
            layers.push(Layer { extents });
        }
        let mut plain = BTreeMap::new();
        layers.iter().for_each(|layer| plain.extend(layer.chunks()));
        let space = Space { size: 64 * CHUNK_SIZE, layers };
        let flat = space.flattened(0);
        let found: Vec<_> = flat.chunks().collect();
        assert_eq!(
            found,
            plain.clone().into_iter().collect::<Vec<_>>(),
            "round {round}: {space:?}"
        );
        assert_eq!(flat, Layer::of(flat.chunks()), "round {round}: {space:?}");
        for place in 0..64 {
            assert_eq!(flat.number(place), plain.get(&place).copied().flatten());
        }
    }
}

#[test]
fn truncated_index_is_refused() {
    let bytes = sample().encode();
    for end in 0..bytes.len() {
        assert!(Index::decode(&bytes[..end]).is_err(), "{end}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(matches!(Index::decode(&longer), Err(IndexError::Malformed { .. })));
}

#[test]
fn newer_versions_and_features_are_refused_by_name() {
    let bytes = sample().encode();
    let with = |offset: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[offset] = value;
        Index::decode(&bytes)
    };
    assert_eq!(with(0, b'X').unwrap_err(), IndexError::NotAnIndex);
    let version = IndexError::Version { found: 2, supported: INDEX_VERSION };
    assert_eq!(with(8, 2).unwrap_err(), version);
    assert!(matches!(with(10, 1).unwrap_err(), IndexError::Malformed { .. }));
    assert_eq!(with(16, 4).unwrap_err(), IndexError::Features { unknown: 4 });
    assert_eq!(with(24, 4).unwrap(), sample());
}

#[test]
fn counts_beyond_the_input_are_refused() {
    let mut bytes = sample().encode();
    bytes[INDEX_HEADER_SIZE..INDEX_HEADER_SIZE + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Index::decode(&bytes), Err(IndexError::Malformed { .. })));
}
