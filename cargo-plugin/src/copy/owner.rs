//! Who owns what is copied into a machine.

use std::str::FromStr;

use supermachine::Vm;

use crate::error::{Error, UsageError};

/// The owner of copies in a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The owner of the source, by numbers.
    Source,
    /// This user and this group.
    Fixed {
        /// The user's number.
        uid: u32,
        /// The group's number.
        gid: u32,
    },
}

impl Owner {
    /// Root and its group.
    pub(crate) const ROOT: Self = Self::Fixed { uid: 0, gid: 0 };

    /// The numbers for a file whose own are given.
    pub(super) fn of(self, found: (u32, u32)) -> (u32, u32) {
        match self {
            Self::Source => found,
            Self::Fixed { uid, gid } => (uid, gid),
        }
    }
}

/// An owner as users write it: `USER[:GROUP]`, by name or number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnerName {
    user: String,
    group: Option<String>,
}

impl FromStr for OwnerName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group.to_owned())),
            None => (text, None),
        };
        if user.is_empty() || group.as_deref() == Some("") {
            return Err("not USER[:GROUP], each a name or a number");
        }
        Ok(Self { user: user.to_owned(), group })
    }
}

impl OwnerName {
    /// Looks the names up in the machine's files, as commands with `--user` do.
    pub(crate) fn look_up(&self, vm: &Vm) -> Result<Owner, Error> {
        let read = |path: &str| vm.read_file(path).unwrap_or_default();
        Ok(self.resolve(&read("/etc/passwd"), &read("/etc/group"))?)
    }

    /// A user without a group gets the group of its entry; a number without an entry, the group of the
    /// same number.
    fn resolve(&self, passwd: &[u8], group: &[u8]) -> Result<Owner, UsageError> {
        let unknown = |kind, name: &str| UsageError::UnknownOwner { kind, name: name.to_owned() };
        let number = self.user.parse().ok();
        let entry = entry(passwd, &self.user, number);
        let uid = entry
            .and_then(|fields| field(fields, 2))
            .or(number)
            .ok_or_else(|| unknown("user", &self.user))?;
        let gid = match &self.group {
            None => entry.and_then(|fields| field(fields, 3)).unwrap_or(uid),
            Some(name) => {
                let number = name.parse().ok();
                let entry = self::entry(group, name, number);
                let gid = entry.and_then(|fields| field(fields, 2)).or(number);
                gid.ok_or_else(|| unknown("group", name))?
            }
        };
        Ok(Owner::Fixed { uid, gid })
    }
}

/// The line of a name, or of a number, in a file such as `/etc/passwd`.
fn entry<'a>(file: &'a [u8], name: &str, number: Option<u32>) -> Option<&'a str> {
    let lines = file.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let mut lines = lines.filter(|line| line.contains(':'));
    lines.find(|line| match number {
        Some(number) => field(line, 2) == Some(number),
        None => line.split(':').next() == Some(name),
    })
}

fn field(line: &str, place: usize) -> Option<u32> {
    line.split(':').nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:50::/home:/bin/sh\nbroken\n";
    const GROUP: &[u8] = b"root:x:0:\nextra:x:77:app\n";

    fn resolve(text: &str) -> Result<Owner, UsageError> {
        text.parse::<OwnerName>().unwrap().resolve(PASSWD, GROUP)
    }

    #[test]
    fn names_and_numbers_are_looked_up() {
        for (text, uid, gid) in [
            ("root", 0, 0),
            ("app", 1000, 50),
            ("1000", 1000, 50),
            ("55", 55, 55),
            ("app:extra", 1000, 77),
            ("app:9", 1000, 9),
            ("7:0", 7, 0),
        ] {
            assert_eq!(resolve(text).unwrap(), Owner::Fixed { uid, gid }, "{text}");
        }
    }

    #[test]
    fn unknown_and_empty_names_are_refused() {
        for text in ["nosuch", "app:nosuch", "broken"] {
            assert!(matches!(resolve(text), Err(UsageError::UnknownOwner { .. })), "{text}");
        }
        for text in ["", ":", "app:", ":app"] {
            assert!(text.parse::<OwnerName>().is_err(), "{text:?}");
        }
    }
}
