//! Limits of a process's resources, by the names that Docker's `--ulimit` has for them.

use std::fmt;
use std::str::FromStr;

use supermachine_formats::wire;

use crate::error::InvalidInput;

/// The resources by their numbers. Docker knows no name for number 9, the size of the address space.
const NAMES: [Option<&str>; wire::Ulimit::RESOURCES as usize] = [
    Some("cpu"),
    Some("fsize"),
    Some("data"),
    Some("stack"),
    Some("core"),
    Some("rss"),
    Some("nproc"),
    Some("nofile"),
    Some("memlock"),
    None,
    Some("locks"),
    Some("sigpending"),
    Some("msgqueue"),
    Some("nice"),
    Some("rtprio"),
    Some("rttime"),
];
const NOFILE: u8 = 7;
/// The most files that the guest's kernel lets a process open.
const MOST_FILES: u64 = 1 << 20;
/// How Docker writes that there is no limit.
const UNLIMITED: &str = "-1";

/// A limit of a process's resource: `NAME=SOFT[:HARD]`, as in Docker. Without a hard limit, it equals
/// the soft one; -1 is no limit.
///
/// ```
/// use supermachine::Ulimit;
///
/// let limit: Ulimit = "nofile=1024:4096".parse()?;
/// assert_eq!(limit.name(), "nofile");
/// assert!("nofile=4096:1024".parse::<Ulimit>().is_err());
/// # Ok::<(), supermachine::error::InvalidInput>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ulimit(wire::Ulimit);

impl Ulimit {
    /// The resource's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.get(usize::from(self.0.resource)).copied().flatten().unwrap_or_default()
    }

    /// The limit as the agent takes it.
    #[doc(hidden)]
    #[must_use]
    pub fn to_wire(self) -> wire::Ulimit {
        self.0
    }
}

impl FromStr for Ulimit {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, InvalidInput> {
        let refuse = |reason| InvalidInput::Ulimit { text: text.to_owned(), reason };
        let (name, limits) =
            text.split_once('=').ok_or_else(|| refuse("it has the form NAME=SOFT[:HARD]"))?;
        let known = NAMES.iter().position(|known| *known == Some(name));
        let resource = known.and_then(|number| u8::try_from(number).ok()).ok_or_else(|| {
            refuse(
                "its name is one of core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, \
                 nproc, rss, rtprio, rttime, sigpending, stack",
            )
        })?;
        let number = |text: &str| match text {
            UNLIMITED => Ok(wire::Ulimit::UNLIMITED),
            text => text.parse().map_err(|_| refuse("a limit is a whole number, or -1 for none")),
        };
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let (soft, hard) = (number(soft)?, number(hard)?);
        if soft > hard {
            return Err(refuse("the soft limit is at most the hard one"));
        }
        if resource == NOFILE && hard > MOST_FILES {
            return Err(refuse("a process can open at most 1048576 files"));
        }
        Ok(Self(wire::Ulimit { resource, soft, hard }))
    }
}

impl fmt::Display for Ulimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |limit: u64| match limit {
            wire::Ulimit::UNLIMITED => UNLIMITED.to_owned(),
            limit => limit.to_string(),
        };
        write!(f, "{}={}:{}", self.name(), text(self.0.soft), text(self.0.hard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let shown = |text: &str| text.parse::<Ulimit>().map(|limit| limit.to_string());
        for (text, expected) in [
            ("nofile=64", "nofile=64:64"),
            ("nofile=64:1048576", "nofile=64:1048576"),
            ("core=-1", "core=-1:-1"),
            ("stack=8388608:-1", "stack=8388608:-1"),
            ("rttime=0", "rttime=0:0"),
        ] {
            assert_eq!(shown(text).unwrap(), expected);
            assert_eq!(shown(expected).unwrap(), expected);
        }
        let all = NAMES.iter().flatten().map(|name| format!("{name}=1").parse::<Ulimit>().unwrap());
        assert_eq!(all.count(), 15);
    }

    #[test]
    fn other_text_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "NAME=SOFT"),
            ("nofile", "NAME=SOFT"),
            ("=1", "one of core"),
            ("as=1", "one of core"),
            ("NOFILE=1", "one of core"),
            ("nofile=", "whole number"),
            ("nofile=1:", "whole number"),
            ("nofile=1k", "whole number"),
            ("nofile=-2", "whole number"),
            ("nofile=1:2:3", "whole number"),
            ("nofile=3:2", "at most the hard"),
            ("core=-1:5", "at most the hard"),
            ("nofile=-1", "1048576"),
            ("nofile=1:1048577", "1048576"),
            ("cpu=99999999999999999999", "whole number"),
        ] {
            let error = text.parse::<Ulimit>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
