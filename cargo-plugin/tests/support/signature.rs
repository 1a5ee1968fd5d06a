//! Reads signatures by Apple's headers (`cs_blobs.h`), independently of the code that writes them.

#![allow(dead_code, reason = "each test program uses a part of it")]

use sha2::{Digest, Sha256};

pub(crate) const AD_HOC: u32 = 0x2;
pub(crate) const HARDENED: u32 = 0x1_0000;

const LC_CODE_SIGNATURE: u32 = 0x1d;
const SUPER_BLOB: u32 = 0xfade_0cc0;
const CODE_DIRECTORY: u32 = 0xfade_0c02;
const ENTITLEMENTS: u32 = 0xfade_7171;
const ENTITLEMENTS_DER: u32 = 0xfade_7172;

/// The signature of a program.
#[derive(Debug)]
pub(crate) struct Signature {
    pub(crate) flags: u32,
    pub(crate) identifier: String,
    pub(crate) entitlements: plist::Dictionary,
    /// The code directory, which is signed.
    pub(crate) directory: Vec<u8>,
    /// The signature over it. Empty if it is ad hoc.
    pub(crate) cms: Vec<u8>,
    /// The special slots of the code directory.
    pub(crate) special: Vec<u32>,
}

/// Reads the signature of a program of one architecture, and checks every digest in it.
#[track_caller]
pub(crate) fn read(file: &[u8]) -> Option<Signature> {
    let (start, size) = place(file)?;
    let blob = &file[start..start + size];
    assert_eq!(start + size, file.len(), "the signature is the last of the file");
    assert_eq!(big(blob, 0), SUPER_BLOB);
    assert!(big(blob, 4) as usize <= size);
    let part = |slot: u32| {
        let entry =
            (0..big(blob, 8) as usize).map(|n| 12 + 8 * n).find(|at| big(blob, *at) == slot)?;
        let part = &blob[big(blob, entry + 4) as usize..];
        Some(&part[..big(part, 4) as usize])
    };
    let directory = part(0).unwrap();
    assert_eq!(big(directory, 0), CODE_DIRECTORY);
    let [hashes, identifier, specials, pages, limit] =
        [16, 20, 24, 28, 32].map(|at| big(directory, at) as usize);
    assert_eq!((directory[36], directory[37]), (32, 2), "SHA-256");
    assert_eq!(limit, start, "all before the signature is signed");
    let page = 1 << directory[39];
    assert_eq!(pages, limit.div_ceil(page));
    for (number, bytes) in file[..limit].chunks(page).enumerate() {
        let found = &directory[hashes + 32 * number..][..32];
        assert_eq!(found, Sha256::digest(bytes).as_slice(), "page {number}");
    }
    let mut special = Vec::new();
    for slot in 1..=specials {
        let found = &directory[hashes - 32 * slot..][..32];
        if found == [0; 32] {
            continue;
        }
        special.push(slot as u32);
        if let Some(part) = part(slot as u32) {
            assert_eq!(found, Sha256::digest(part).as_slice(), "slot {slot}");
        }
    }
    let xml = part(5).unwrap();
    assert_eq!(big(xml, 0), ENTITLEMENTS);
    assert_eq!(big(part(7).unwrap(), 0), ENTITLEMENTS_DER);
    assert!(special.contains(&5) && special.contains(&7), "{special:?}");
    let text = directory[identifier..].split(|byte| *byte == 0).next().unwrap();
    Some(Signature {
        flags: big(directory, 12),
        identifier: String::from_utf8(text.to_vec()).unwrap(),
        entitlements: plist::from_bytes(&xml[8..]).unwrap(),
        directory: directory.to_vec(),
        cms: part(0x1_0000).map_or_else(Vec::new, |part| part[8..].to_vec()),
        special,
    })
}

/// Where a load command places the signature.
fn place(file: &[u8]) -> Option<(usize, usize)> {
    assert_eq!(little(file, 0), 0xfeed_facf);
    let mut at = 32;
    for _ in 0..little(file, 16) {
        if little(file, at) == LC_CODE_SIGNATURE {
            return Some((little(file, at + 8) as usize, little(file, at + 12) as usize));
        }
        at += little(file, at + 4) as usize;
    }
    None
}

fn big(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn little(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}
