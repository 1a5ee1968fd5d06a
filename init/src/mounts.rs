//! What is mounted where, from the kernel's table.

use alloc::vec::Vec;

use supermachine_formats::wire::Failure;

use crate::failure::OrFailure;
use crate::sys::fd;

/// A mount that the agent can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) id: u32,
    /// The mount that it is in.
    pub(crate) parent: u32,
    /// Where it is.
    pub(crate) path: Vec<u8>,
}

/// The mounts, parents first.
pub(crate) fn now() -> Result<Vec<Mount>, Failure> {
    let table = c"/proc/self/mountinfo";
    let table = fd::read_file(table).or_failure("read", table.to_bytes())?;
    Ok(listed(&table))
}

/// The mounts of a table of the form of /proc/self/mountinfo. Lines of another form are passed over.
fn listed(table: &[u8]) -> Vec<Mount> {
    let mut mounts: Vec<Mount> =
        table.split(|byte| *byte == b'\n').filter_map(mount_of_line).collect();
    mounts.sort_by(|one, other| one.path.cmp(&other.path));
    mounts
}

fn mount_of_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let number = |field: &[u8]| core::str::from_utf8(field).ok()?.parse().ok();
    let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
    Some(Mount { id, parent, path: plain(fields.nth(2)?) })
}

/// A path without the kernel's escapes: a backslash and three octal digits.
fn plain(escaped: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.split_first_chunk::<3>().filter(|_| *first == b'\\');
        let code = octal
            .and_then(|(digits, _)| u8::from_str_radix(core::str::from_utf8(digits).ok()?, 8).ok());
        match (code, octal) {
            (Some(code), Some((_, behind))) => {
                path.push(code);
                rest = behind;
            }
            _ => {
                path.push(*first);
                rest = behind;
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_come_parents_first_with_plain_paths() {
        let table = b"30 21 0:5 / /dev/pts rw - devpts devpts rw\n\
            21 20 0:4 / /dev rw,nosuid shared:1 - devtmpfs devtmpfs rw\n\
            20 1 0:26 / / rw - overlay overlay rw,lowerdir=/image\n\
            31 20 0:9 / /a\\040b\\134c rw - tmpfs tmpfs rw\nbroken\n";
        let mount = |id, parent, path: &str| Mount { id, parent, path: path.into() };
        let expected = [
            mount(20, 1, "/"),
            mount(31, 20, "/a b\\c"),
            mount(21, 20, "/dev"),
            mount(30, 21, "/dev/pts"),
        ];
        assert_eq!(listed(table), expected);
    }

    #[test]
    fn hosts_table_has_a_root() {
        assert_eq!(now().unwrap().first().map(|mount| mount.path.clone()), Some(b"/".to_vec()));
    }
}
