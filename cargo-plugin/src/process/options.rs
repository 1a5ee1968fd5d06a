//! Options for a process in a machine.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use supermachine::Ulimit;

use crate::error::Error;
use crate::variables::EnvArgs;

/// Options for a process in a machine.
#[derive(Debug, clap::Args)]
pub(crate) struct ProcessArgs {
    /// Pass standard input to the command
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal; -it connects it to this one
    #[arg(short, long)]
    pub(crate) tty: bool,
    #[command(flatten)]
    pub(crate) env: EnvArgs,
    /// Run the command in this folder, which is created if it is missing
    #[arg(short, long, value_name = "DIR", value_parser = OsStringValueParser::new().try_map(folder))]
    pub(crate) workdir: Option<OsString>,
    /// Run the command as this user, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Kill the command after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
    /// Limit a resource of the command's processes, as nofile=1024:4096; -1 is no limit
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<Ulimit>,
}

impl ProcessArgs {
    /// The options as words of a command line, for another process.
    pub(crate) fn words(&self) -> Result<Vec<OsString>, Error> {
        let mut words = Vec::new();
        let mut add = |option: &str, value: OsString| {
            let mut word = OsString::from(option);
            word.push(value);
            words.push(word);
        };
        for (name, value) in self.env.read()? {
            let mut pair = name;
            pair.push("=");
            pair.push(value);
            add("--env=", pair);
        }
        if let Some(dir) = &self.workdir {
            add("--workdir=", dir.clone());
        }
        if let Some(user) = &self.user {
            add("--user=", user.into());
        }
        if let Some(timeout) = self.timeout {
            add("--timeout=", timeout.as_secs_f64().to_string().into());
        }
        for limit in &self.ulimit {
            add("--ulimit=", limit.to_string().into());
        }
        Ok(words)
    }
}

/// Parses a number of seconds, which may have a fraction.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(number) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("not a duration above zero".to_owned()),
    }
}

/// Parses a folder of the machine.
fn folder(path: OsString) -> Result<OsString, String> {
    if path.as_bytes().starts_with(b"/") {
        Ok(path)
    } else {
        Err(format!("not an absolute path: use /{}", OsStr::new(&path).display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_must_be_positive() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for text in ["", "x", "0", "-1", "inf", "nan", "1e300", "5s"] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn folder_must_be_absolute() {
        assert_eq!(folder("/a b".into()), Ok("/a b".into()));
        for path in ["", "a", "./a"] {
            assert!(folder(path.into()).is_err(), "{path:?}");
        }
    }
}
