//! Arguments for cargo: passed on unchanged, and searched for a few options.

use std::ffi::{OsStr, OsString};

/// Arguments for a cargo command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// Arguments for cargo itself.
    own: Vec<OsString>,
    /// The first `--` and the arguments behind it, for the program or the tests.
    rest: Vec<OsString>,
}

impl Arguments {
    pub(crate) fn new(all: impl IntoIterator<Item = OsString>) -> Self {
        let mut own: Vec<_> = all.into_iter().collect();
        let end = own.iter().position(|word| word == "--").unwrap_or(own.len());
        let rest = own.split_off(end);
        Self { own, rest }
    }

    /// Inserts an option before all others, so that it cannot become a program's argument.
    pub(crate) fn insert(&mut self, words: impl IntoIterator<Item = OsString>) {
        self.own.splice(0..0, words);
    }

    /// Removes an option in both forms, `--option value` and `--option=value`, and returns its values.
    pub(crate) fn take(&mut self, option: &str) -> Vec<OsString> {
        let (own, values) = self.split(option);
        self.own = own;
        values
    }

    /// The values of an option in both forms, `--option value` and `--option=value`.
    pub(crate) fn values(&self, option: &str) -> Vec<OsString> {
        self.split(option).1
    }

    /// Whether the network is off.
    pub(crate) fn is_offline(&self) -> bool {
        self.own.iter().any(|word| word == "--offline" || word == "--frozen")
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &OsStr> {
        self.own.iter().chain(&self.rest).map(OsString::as_os_str)
    }

    fn split(&self, option: &str) -> (Vec<OsString>, Vec<OsString>) {
        let (mut others, mut values) = (Vec::new(), Vec::new());
        let mut words = self.own.iter();
        while let Some(word) = words.next() {
            let inline = word.to_str().and_then(|word| word.strip_prefix(option));
            match inline {
                Some("") => values.extend(words.next().cloned()),
                Some(value) if value.starts_with('=') => values.push(value[1..].into()),
                _ => others.push(word.clone()),
            }
        }
        (others, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &str) -> Arguments {
        Arguments::new(words.split_whitespace().map(Into::into))
    }

    #[test]
    fn offline_options_count_only_before_the_dashes() {
        assert!(arguments("-p x --offline").is_offline() && arguments("--frozen").is_offline());
        assert!(!arguments("--locked").is_offline() && !arguments("-- --offline").is_offline());
    }

    #[test]
    fn option_is_found_in_both_forms_before_the_dashes() {
        let given = arguments("-v --target a --target=b --target-dir x run -- --target c");
        assert_eq!(given.values("--target"), ["a", "b"]);
        assert_eq!(given.values("--target-dir"), ["x"]);
        assert_eq!(given.values("--profile"), [""; 0]);
        assert_eq!(arguments("--target").values("--target"), [""; 0]);
    }

    #[test]
    fn arguments_keep_their_order() {
        let words = "-v --target a -- --target c -- d";
        let all = |arguments: &Arguments| {
            arguments.all().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
        };
        let mut given = arguments(words);
        assert_eq!(all(&given), words);
        assert_eq!(given.take("--target"), ["a"]);
        given.insert(["--config".into(), "x".into()]);
        assert_eq!(all(&given), "--config x -v -- --target c -- d");
    }
}
