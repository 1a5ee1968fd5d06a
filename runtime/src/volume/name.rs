//! Names of volumes, and the paths of guests where they are mounted.

use super::VolumeError;

/// The longest name.
const MAX_NAME: usize = 128;
/// The longest path of a guest.
const MAX_TARGET: usize = 4095;
/// The guest's own file systems, which a volume must not cover.
const RESERVED: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Checks a name: letters, digits, `_`, `.` and `-`, and a letter or digit first.
pub(super) fn check_name(name: &str) -> Result<(), VolumeError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric();
    let is_first = name.bytes().next().is_some_and(is_plain);
    let is_legal = |byte| is_plain(byte) || matches!(byte, b'_' | b'.' | b'-');
    if is_first && name.bytes().all(is_legal) && name.len() <= MAX_NAME {
        Ok(())
    } else {
        Err(VolumeError::Name { name: name.to_owned() })
    }
}

/// A path without slashes at its end, where a guest can have a volume; `/` for the root's writable layer.
pub(crate) fn check_target(target: &str) -> Result<&str, VolumeError> {
    if target == "/" {
        return Ok(target);
    }
    let trimmed = target.trim_end_matches('/');
    let mut steps = trimmed.split('/').skip(1);
    let is_plain = trimmed.starts_with('/')
        && steps.all(|step| !matches!(step, "" | "." | ".."))
        && !trimmed.contains('\0')
        && trimmed.len() <= MAX_TARGET;
    if is_plain && !RESERVED.contains(&trimmed) {
        Ok(trimmed)
    } else {
        Err(VolumeError::Target { target: target.to_owned() })
    }
}
