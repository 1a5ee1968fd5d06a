use super::super::error::{HeaderProblem, LayerError};
use super::super::samples::Sample;
use super::super::spool::Segment;
use super::reader::{Archive, Entry, EntryKind, MAX_ARCHIVE};

fn entries(bytes: &[u8]) -> Result<Vec<Entry>, LayerError> {
    let mut archive = Archive::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next()? {
        entries.push(entry);
    }
    archive.drain()?;
    Ok(entries)
}

fn problem(bytes: &[u8]) -> HeaderProblem {
    match entries(bytes).unwrap_err() {
        LayerError::Header { problem, .. } => problem,
        other => panic!("not a header's problem: {other:?}"),
    }
}

fn number(value: u64) -> [u8; 12] {
    let mut field = [0; 12];
    field[..11].copy_from_slice(format!("{value:011o}").as_bytes());
    field
}

#[test]
fn archive_with_long_names_gives_them_whole() {
    let (name, link) = ("n".repeat(120), "l".repeat(4000));
    let bytes = Sample::new()
        .symlink(&name, &link)
        .pax(&[("path", b"from/pax"), ("linkpath", b"target")])
        .symlink("short", "other")
        .finish();
    let entries = entries(&bytes).unwrap();
    assert_eq!(entries[0].path, name.as_bytes());
    assert_eq!(entries[0].kind, EntryKind::Symlink(link.into_bytes()));
    assert_eq!(entries[1].path, b"from/pax");
    assert_eq!(entries[1].kind, EntryKind::Symlink(b"target".to_vec()));
}

#[test]
fn archive_with_global_records_and_sizes_of_links_is_read() {
    let bytes = Sample::new()
        .entry(b'g', b"pax_global_header", b"", b"19 comment=whatever")
        // Links carry no data, whatever their size field says.
        .header(|header| header.set_size(5000))
        .hard_link("h", "f")
        .file("f", b"x")
        .finish();
    let kinds: Vec<EntryKind> = entries(&bytes).unwrap().into_iter().map(|e| e.kind).collect();
    let segments = vec![Segment { start: 0, length: 1 }];
    assert_eq!(kinds, [EntryKind::HardLink(b"f".to_vec()), EntryKind::File { size: 1, segments }]);
}

#[test]
fn archive_with_size_beyond_octal_is_understood() {
    let five_gib = 5_u64 << 30;
    let binary = Sample::new().header(|header| header.set_size(9 << 30)).file("f", b"");
    let pax = Sample::new().pax(&[("size", five_gib.to_string().as_bytes())]).file("f", b"");
    for (sample, expected) in [(binary, 9 << 30), (pax, five_gib)] {
        let bytes = sample.finish();
        let mut archive = Archive::new(bytes.as_slice());
        let entry = archive.next().unwrap().unwrap();
        assert!(matches!(entry.kind, EntryKind::File { size, .. } if size == expected));
        assert!(matches!(archive.next(), Err(LayerError::Truncated { .. })));
    }
}

#[test]
fn archive_with_size_beyond_the_limit_is_refused() {
    let bytes = Sample::new().header(|header| header.set_size(MAX_ARCHIVE + 1)).file("f", b"");
    assert!(matches!(entries(&bytes.finish()), Err(LayerError::TooLarge { .. })));
}

#[test]
fn archive_with_old_sparse_file_gives_its_segments() {
    let sparse = |offset: u64, length: u64, size: u64| {
        Sample::new()
            .header(move |header| {
                let gnu = header.as_gnu_mut().unwrap();
                gnu.sparse[0].offset = number(offset);
                gnu.sparse[0].numbytes = number(length);
                gnu.realsize = number(size);
            })
            .entry(b'S', b"s", b"", b"data")
            .finish()
    };
    let segments = vec![Segment { start: 4096, length: 4 }];
    let read = entries(&sparse(4096, 4, 8192)).unwrap().remove(0).kind;
    assert_eq!(read, EntryKind::File { size: 8192, segments });
    for (offset, length, size) in [(4096, 4, 4098), (4096, 5, 8192), (4096, 3, 8192)] {
        assert_eq!(problem(&sparse(offset, length, size)), HeaderProblem::SparseMap);
    }
}

#[test]
fn archive_with_pax_sparse_file_gives_its_segments() {
    let mut map = b"1\n1048576\n4\n".to_vec();
    map.resize(512, 0);
    map.extend(b"data");
    let one = Sample::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"real"),
            ("GNU.sparse.realsize", b"2097152"),
        ])
        .file("GNUSparseFile.0/real", &map);
    let zero_one = Sample::new()
        .pax(&[
            ("GNU.sparse.size", b"2097152"),
            ("GNU.sparse.name", b"real"),
            ("GNU.sparse.map", b"1048576,4"),
        ])
        .file("GNUSparseFile.0/real", b"data");
    let zero_zero = Sample::new()
        .pax(&[
            ("GNU.sparse.size", b"2097152"),
            ("GNU.sparse.offset", b"1048576"),
            ("GNU.sparse.numbytes", b"4"),
        ])
        .file("real", b"data");
    for sample in [one, zero_one, zero_zero] {
        let entry = entries(&sample.finish()).unwrap().remove(0);
        assert_eq!(entry.path, b"real");
        let segments = vec![Segment { start: 1 << 20, length: 4 }];
        assert_eq!(entry.kind, EntryKind::File { size: 2 << 20, segments });
    }
}

#[test]
fn archive_with_pax_sparse_map_that_lies_is_refused() {
    for map in ["9999999999999999999999\n", "2\n0\n1\n0\n1\n", "1\nx\n1\n", "99999999\n"] {
        let mut data = map.as_bytes().to_vec();
        data.resize(512 + 2, 0);
        let bytes = Sample::new()
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"100"),
            ])
            .file("f", &data)
            .finish();
        assert!(entries(&bytes).is_err(), "{map}");
    }
}

#[test]
fn archive_with_damaged_headers_is_refused() {
    let good = Sample::new().file("f", b"x").finish();
    let mut flipped = good.clone();
    flipped[3] ^= 1;
    assert_eq!(problem(&flipped), HeaderProblem::Checksum);

    let uid = Sample::new().header(|header| header.as_old_mut().uid = *b"zzzzzzzz");
    assert_eq!(problem(&uid.file("f", b"").finish()), HeaderProblem::Number("uid"));

    let wide = Sample::new().owner(1 << 33, 0).file("f", b"").finish();
    assert_eq!(problem(&wide), HeaderProblem::Number("uid"));

    let device = Sample::new().device(1 << 12, 0).entry(b'3', b"n", b"", b"").finish();
    assert_eq!(problem(&device), HeaderProblem::Number("devmajor"));

    let unknown = Sample::new().entry(b'D', b"d", b"", b"").finish();
    assert_eq!(problem(&unknown), HeaderProblem::Type(b'D'));

    let orphan = Sample::new().pax(&[("path", b"x")]).finish();
    assert_eq!(problem(&orphan), HeaderProblem::Orphan);

    let lone = [vec![0; 512], good.clone()].concat();
    assert_eq!(problem(&lone), HeaderProblem::LoneZeroBlock);
}

#[test]
fn archive_with_monstrous_extension_is_refused_before_reading_it() {
    for kind in [b'x', b'L', b'K'] {
        let bytes = Sample::new().header(|header| header.set_size(3 << 30));
        let bytes = bytes.entry(kind, b"e", b"", b"").finish();
        assert_eq!(problem(&bytes), HeaderProblem::ExtensionTooLarge(3 << 30));
    }
}

#[test]
fn archive_without_end_blocks_is_complete() {
    let bytes = Sample::new().file("f", b"x").finish();
    assert_eq!(entries(&bytes[..1024]).unwrap().len(), 1);
    assert_eq!(entries(&[]).unwrap().len(), 0);
}
