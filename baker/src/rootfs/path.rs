//! Paths of entries, as components.
//!
//! Owns the rules for names. Does not know the tree, which decides whether a component is a directory
//! or a symbolic link. Invariant: an [`EntryPath`] has no empty, `.` or `..` component, no NUL, and
//! nothing longer than Linux can open.

use super::error::EntryError;

/// The longest file name that Linux allows.
pub(super) const NAME_MAX: usize = 255;
/// The longest path that Linux allows, without its final NUL.
pub(super) const PATH_MAX: usize = 4095;

/// The path of an entry, as components below the root.
///
/// Strips a leading `/`, as every known tool does: `/etc/passwd` is the image's own file. Ignores `.`
/// and repeated slashes. `..` removes the component before it, by name alone; one that leads above the
/// root is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryPath<'a>(Vec<&'a [u8]>);

impl<'a> EntryPath<'a> {
    /// Splits `name`.
    pub(super) fn parse(name: &'a [u8]) -> Result<Self, EntryError> {
        if name.contains(&0) {
            return Err(EntryError::NulInName);
        }
        if name.len() > PATH_MAX {
            return Err(EntryError::PathTooLong { length: name.len() });
        }
        let mut components = Vec::new();
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    components.pop().ok_or(EntryError::OutsideRoot)?;
                }
                _ if component.len() > NAME_MAX => {
                    return Err(EntryError::NameTooLong { length: component.len() });
                }
                _ => components.push(component),
            }
        }
        Ok(Self(components))
    }

    /// All components.
    pub(super) fn components(&self) -> &[&'a [u8]] {
        &self.0
    }

    /// The parent directory and the entry's name in it; `None` for the root.
    pub(super) fn split(&self) -> Option<(&[&'a [u8]], &'a [u8])> {
        self.0.split_last().map(|(name, parent)| (parent, *name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_with_leading_slash_and_dots_is_normalised() {
        for name in ["/a/b", "./a/b", "a//b/", "a/./b", "//a/b/."] {
            let path = EntryPath::parse(name.as_bytes()).unwrap();
            let parent: &[&[u8]] = &[b"a"];
            assert_eq!(path.split(), Some((parent, b"b".as_slice())), "{name}");
        }
    }

    #[test]
    fn path_of_the_root_has_no_components() {
        for name in ["", ".", "./", "/"] {
            assert!(EntryPath::parse(name.as_bytes()).unwrap().split().is_none(), "{name}");
        }
    }

    #[test]
    fn path_above_the_root_is_refused() {
        for name in ["..", "../a", "a/../../b", "/../a", "a/../..", "/.."] {
            let result = EntryPath::parse(name.as_bytes());
            assert!(matches!(result, Err(EntryError::OutsideRoot)), "{name}");
        }
    }

    #[test]
    fn parent_component_inside_the_root_takes_back_the_one_before() {
        for name in ["a/x/../b", "x/../a/b", "./a/./x/y/../../b", "a/b/c/.."] {
            let path = EntryPath::parse(name.as_bytes()).unwrap();
            assert_eq!(path.components(), [b"a".as_slice(), b"b"], "{name}");
        }
        assert!(EntryPath::parse(b"a/..").unwrap().split().is_none());
    }

    #[test]
    fn path_beyond_the_limits_is_refused() {
        let longest = [b'x'; NAME_MAX + 1];
        assert!(EntryPath::parse(&longest[..NAME_MAX]).is_ok());
        assert!(matches!(EntryPath::parse(&longest), Err(EntryError::NameTooLong { length: 256 })));
        let deep = b"a/".repeat(2048);
        assert!(EntryPath::parse(&deep[..PATH_MAX]).is_ok());
        assert!(matches!(EntryPath::parse(&deep), Err(EntryError::PathTooLong { .. })));
        assert!(matches!(EntryPath::parse(b"a\0b"), Err(EntryError::NulInName)));
    }
}
