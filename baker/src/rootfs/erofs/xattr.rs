//! Extended attributes, stored after their inode.

use super::super::tree::Attributes;
use super::format::put16;

const HEADER: usize = 12;
const ENTRY: usize = 4;

/// The numbered namespaces of the format. Full names match exactly.
const NAMESPACES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// Whether an image can represent an attribute with this name.
pub(in super::super) fn holds_attribute(name: &[u8]) -> bool {
    split(name).is_some()
}

/// The encoded size of an inode's attributes; zero without any.
pub(super) fn encoded_size(attributes: &Attributes) -> usize {
    if attributes.is_empty() {
        return 0;
    }
    let sizes = attributes.iter().filter_map(|(name, value)| {
        let (_, suffix) = split(name)?;
        Some((ENTRY + suffix.len() + value.len()).next_multiple_of(4))
    });
    HEADER + sizes.sum::<usize>()
}

/// Appends the attributes, [`encoded_size`] bytes.
pub(super) fn encode(attributes: &Attributes, out: &mut Vec<u8>) {
    if attributes.is_empty() {
        return;
    }
    out.extend([0; HEADER]);
    for (name, value) in attributes {
        // `holds_attribute` and the layer's bounds have checked names and values.
        let Some((index, suffix)) = split(name) else { continue };
        let start = out.len();
        out.extend([u8::try_from(suffix.len()).unwrap_or(u8::MAX), index]);
        put16(out, u16::try_from(value.len()).unwrap_or(u16::MAX));
        out.extend(suffix);
        out.extend(value);
        out.resize(start + (out.len() - start).next_multiple_of(4), 0);
    }
}

/// The number of a name's namespace, and the rest of the name.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    NAMESPACES.iter().find_map(|(prefix, index)| {
        let suffix = name.strip_prefix(*prefix)?;
        let exact = !prefix.ends_with(b".");
        let fits = suffix.is_empty() == exact && suffix.len() <= 255 && !suffix.contains(&0);
        fits.then_some((*index, suffix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_encoded_with_their_name_space() {
        let mut attributes = Attributes::new();
        attributes.insert(b"user.ab".to_vec(), b"xyz".to_vec());
        attributes.insert(b"system.posix_acl_access".to_vec(), vec![9]);
        let mut out = Vec::new();
        encode(&attributes, &mut out);
        assert_eq!(out.len(), encoded_size(&attributes));
        assert_eq!(out[12..20], [0, 2, 1, 0, 9, 0, 0, 0]);
        assert_eq!(out[20..32], *b"\x02\x01\x03\0abxyz\0\0\0");
    }

    #[test]
    fn attributes_of_unknown_name_spaces_are_not_held() {
        for name in ["com.apple.x", "system.nfs4_acl", "user.", "user", "system.posix_acl_accessx"]
        {
            assert!(!holds_attribute(name.as_bytes()), "{name}");
        }
        assert!(holds_attribute(b"security.capability"));
    }
}
