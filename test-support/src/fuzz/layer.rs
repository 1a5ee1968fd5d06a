//! Image layers: any bytes are refused or give a tree.

use std::io;

use supermachine_baker::rootfs::{Spool, Tree, read_layer};

/// Applies a layer twice. Returns whether it is accepted.
pub fn run(data: &[u8]) -> bool {
    let (mut tree, mut spool) = (Tree::new(), Spool::new(io::empty()));
    let is_accepted = read_layer(data, &mut tree, &mut spool).is_ok();
    // The second time, its whiteouts and replacements meet its own files.
    if is_accepted {
        assert!(read_layer(data, &mut tree, &mut spool).is_ok());
    }
    is_accepted
}

/// Valid layers.
pub fn samples() -> Vec<Vec<u8>> {
    let directory = entry("dir/", b'5', "", b"");
    let file = entry("dir/file", b'0', "", b"content");
    let link = entry("dir/link", b'2', "../file", b"");
    let hard_link = entry("dir/hard", b'1', "dir/file", b"");
    let device = entry("dev/null", b'3', "", b"");
    let attributes = entry("PaxHeader", b'x', "", b"32 SCHILY.xattr.user.name=value\n");
    let long_name = entry("././@LongLink", b'L', "", &[b'n'; 200]);
    let upper: [&[u8]; 4] = [
        &entry("dir/.wh.gone", b'0', "", b""),
        &entry("dir/.wh..wh..opq", b'0', "", b""),
        &attributes,
        &entry("other", b'0', "", &[7; 1000]),
    ];
    let end = [0; 1024];
    let lower: [&[u8]; 7] = [&directory, &file, &link, &hard_link, &device, &long_name, &file];
    vec![
        [lower.concat(), end.to_vec()].concat(),
        [upper.concat(), end.to_vec()].concat(),
        end.to_vec(),
    ]
}

fn entry(name: &str, kind: u8, target: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, target.as_bytes());
    put(257, b"ustar\x0000");
    put(329, b"0000001\0");
    put(337, b"0000003\0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut all = header.to_vec();
    all.extend_from_slice(content);
    all.resize(all.len().next_multiple_of(512), 0);
    all
}
