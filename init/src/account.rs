//! Users and groups of the container: looks up `user[:group]`.
//!
//! Malformed lines are skipped, as other readers do. The caller reads the files.

use alloc::vec::Vec;

use rustix::process::Gid;

use crate::sys::process::Credentials;

/// A user as the container knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) credentials: Credentials,
    /// The home directory, `/` when the user has no entry.
    pub(crate) home: Vec<u8>,
}

/// Which part of `user[:group]` is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnknownAccount {
    User,
    Group,
}

struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// Looks `user[:group]` up. A number needs no entry; an empty user is root. Supplementary
/// groups are those that list the user, unless a group is named. The user's own group is one
/// of them, as after a login: a program must not gain by giving it up.
pub(crate) fn resolve(spec: &str, passwd: &[u8], group: &[u8]) -> Result<Account, UnknownAccount> {
    let (user_spec, group_spec) = spec.split_once(':').unwrap_or((spec, ""));
    let user_spec = if user_spec.is_empty() { "0" } else { user_spec };
    let wanted = number(user_spec.as_bytes());
    let user = lines(passwd)
        .filter_map(user_entry)
        .find(|user| user.name == user_spec.as_bytes() || wanted == Some(user.uid));
    let (uid, gid, home, name) = match (user, wanted) {
        (Some(user), _) => (user.uid, user.gid, user.home, Some(user.name)),
        (None, Some(uid)) => (uid, 0, b"/".as_slice(), None),
        (None, None) => return Err(UnknownAccount::User),
    };
    let home = if home.is_empty() { b"/".to_vec() } else { home.to_vec() };
    if !group_spec.is_empty() {
        let gid = group_id(group_spec, group).ok_or(UnknownAccount::Group)?;
        return Ok(Account { credentials: credentials(uid, gid, Vec::new()), home });
    }
    let mut groups = Vec::new();
    if let Some(name) = name {
        let listed = lines(group).filter_map(group_entry);
        groups.extend(listed.filter(|entry| is_member(entry.members, name)).map(|entry| entry.gid));
    }
    Ok(Account { credentials: credentials(uid, gid, groups), home })
}

/// Plain root has the agent's credentials: no need to set any.
fn credentials(uid: u32, gid: u32, mut groups: Vec<u32>) -> Credentials {
    if uid != 0 || gid != 0 || !groups.is_empty() {
        groups.push(gid);
        groups.sort_unstable();
        groups.dedup();
    }
    Credentials { uid, gid, groups: groups.into_iter().map(Gid::from_raw).collect() }
}

fn group_id(spec: &str, group: &[u8]) -> Option<u32> {
    lines(group)
        .filter_map(group_entry)
        .find(|entry| entry.name == spec.as_bytes())
        .map(|entry| entry.gid)
        .or_else(|| number(spec.as_bytes()))
}

fn is_member(members: &[u8], name: &[u8]) -> bool {
    members.split(|byte| *byte == b',').any(|member| member.trim_ascii() == name)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

fn user_entry(line: &[u8]) -> Option<User<'_>> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let _password = fields.next()?;
    let uid = number(fields.next()?)?;
    let gid = number(fields.next()?)?;
    let _comment = fields.next();
    Some(User { name, uid, gid, home: fields.next().unwrap_or_default() })
}

fn group_entry(line: &[u8]) -> Option<Group<'_>> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let _password = fields.next()?;
    let gid = number(fields.next()?)?;
    Some(Group { name, gid, members: fields.next().unwrap_or_default() })
}

/// Parses a decimal id. The highest number is not an id: to the kernel it means "keep".
fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(text).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\n# comment\n\nbroken line\nbad:x:y:z::/\n\
        www:x:33:33:www:/var/www:/usr/sbin/nologin\nlast:x:4294967295:1::/:\nshort:x:5:6";
    const GROUP: &[u8] =
        b"root:x:0:\nadm:x:4:root,www\nwww:x:33:\nssl:x:101: www ,x\ndup:x:4:www\n";

    fn account(spec: &str) -> Result<(u32, u32, Vec<u32>, Vec<u8>), UnknownAccount> {
        resolve(spec, PASSWD, GROUP).map(
            |Account { credentials: Credentials { uid, gid, groups }, home }| {
                (uid, gid, groups.iter().map(|group| group.as_raw()).collect(), home)
            },
        )
    }

    #[test]
    fn empty_user_is_root_with_its_groups() {
        assert_eq!(account(""), Ok((0, 0, vec![0, 4], b"/root".to_vec())));
    }

    #[test]
    fn name_and_number_are_the_same_user() {
        let expected = Ok((33, 33, vec![4, 33, 101], b"/var/www".to_vec()));
        assert_eq!(account("www"), expected);
        assert_eq!(account("33"), expected);
    }

    #[test]
    fn number_without_an_entry_is_used_unchanged() {
        assert_eq!(account("1234"), Ok((1234, 0, vec![0], b"/".to_vec())));
        assert_eq!(account("1234:77"), Ok((1234, 77, vec![77], b"/".to_vec())));
    }

    #[test]
    fn named_group_replaces_the_supplementary_ones() {
        assert_eq!(account("www:adm"), Ok((33, 4, vec![4], b"/var/www".to_vec())));
        assert_eq!(account(":adm"), Ok((0, 4, vec![4], b"/root".to_vec())));
    }

    #[test]
    fn plain_root_needs_no_groups() {
        let root = resolve("0:0", PASSWD, GROUP).unwrap();
        assert_eq!(root.credentials, Credentials::default());
    }

    #[test]
    fn unknown_names_are_refused() {
        assert_eq!(account("nobody"), Err(UnknownAccount::User));
        assert_eq!(account("bad"), Err(UnknownAccount::User));
        assert_eq!(account("last"), Err(UnknownAccount::User));
        assert_eq!(account("4294967295"), Err(UnknownAccount::User));
        assert_eq!(account("99999999999"), Err(UnknownAccount::User));
        assert_eq!(account("www:nogroup"), Err(UnknownAccount::Group));
    }

    #[test]
    fn line_without_home_means_the_root_directory() {
        assert_eq!(account("short"), Ok((5, 6, vec![6], b"/".to_vec())));
    }
}
