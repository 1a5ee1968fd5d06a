//! Environment variables from the command line and from files.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, UsageError};

/// A name and its value.
pub(crate) type Variable = (OsString, OsString);

/// Options that set environment variables.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct EnvArgs {
    /// Set a variable; without =VALUE, copy it from here
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    #[arg(value_parser = clap::builder::ValueParser::new(parser()))]
    env: Vec<Variable>,
    /// Read variables from a file, a NAME=VALUE a line
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    env_file: Vec<PathBuf>,
}

impl EnvArgs {
    /// All variables: those of the files, and then those of the command line, which win.
    pub(crate) fn read(&self) -> Result<Vec<Variable>, Error> {
        let mut all = Vec::new();
        for path in &self.env_file {
            let text = fs::read(path).map_err(Error::file("read", path))?;
            all.extend(parse_file(path, &text)?);
        }
        all.extend(self.env.iter().cloned());
        Ok(all)
    }
}

/// The parser for values of `--env`.
pub(crate) fn parser() -> impl clap::builder::TypedValueParser<Value = Variable> {
    use clap::builder::TypedValueParser;
    clap::builder::OsStringValueParser::new().try_map(|text| variable(&text))
}

/// Parses `NAME=VALUE`, or `NAME` for a variable of this process.
pub(crate) fn variable(text: &OsStr) -> Result<Variable, String> {
    let (name, value) = split(text);
    let value = match value {
        Some(value) => value,
        None => env::var_os(text).ok_or("is not set here: give a value, as NAME=VALUE")?,
    };
    if name.is_empty() { Err("has no name".into()) } else { Ok((name, value)) }
}

/// Parses a file in Docker's format: a `NAME=VALUE` a line, taken literally. Skips empty lines, comments
/// and names that are not set in this process.
fn parse_file(path: &Path, text: &[u8]) -> Result<Vec<Variable>, UsageError> {
    let mut found = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let (name, value) = split(OsStr::from_bytes(line));
        if name.is_empty() || name.as_bytes().iter().any(u8::is_ascii_whitespace) {
            return Err(UsageError::EnvFile { path: path.to_owned(), line: index + 1 });
        }
        let value = value.or_else(|| env::var_os(&name));
        found.extend(value.map(|value| (name, value)));
    }
    Ok(found)
}

fn split(text: &OsStr) -> (OsString, Option<OsString>) {
    let bytes = text.as_bytes();
    let to_text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    match bytes.iter().position(|byte| *byte == b'=') {
        None => (text.to_owned(), None),
        Some(at) => {
            let (name, value) = bytes.split_at(at);
            (to_text(name), value.get(1..).map(to_text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> Variable {
        (name.into(), value.into())
    }

    #[test]
    fn variables_need_a_name() {
        let parsed = |text: &str| variable(OsStr::new(text));
        assert_eq!(parsed("A=b=c"), Ok(pair("A", "b=c")));
        assert_eq!(parsed("A="), Ok(pair("A", "")));
        assert!(parsed("=b").is_err());
        assert!(parsed("SURELY_NOT_SET_ANYWHERE").is_err());
    }

    #[test]
    fn variables_may_be_any_bytes() {
        let text = OsStr::from_bytes(b"A=\xff\xfe");
        assert_eq!(variable(text).unwrap().1.as_bytes(), b"\xff\xfe");
    }

    #[test]
    fn env_file_is_literal_and_skips_comments_and_unset_names() {
        let text =
            b"# comment\n\n  A=b c  \nQUOTED=\"x\"\r\nSURELY_NOT_SET_ANYWHERE\nEMPTY=\nPATH\n";
        let found = parse_file(Path::new("f"), text).unwrap();
        let path = (OsString::from("PATH"), env::var_os("PATH").unwrap());
        assert_eq!(found, [pair("A", "b c  "), pair("QUOTED", "\"x\""), pair("EMPTY", ""), path]);
    }

    #[test]
    fn env_file_with_a_malformed_line_names_the_line() {
        for text in ["A=b\nB C=d\n", "A=b\n=d\n"] {
            let error = parse_file(Path::new("f"), text.as_bytes()).unwrap_err();
            assert!(matches!(error, UsageError::EnvFile { line: 2, .. }), "{error:?}");
        }
    }

    #[test]
    fn command_line_wins_over_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "A=file\nB=file\n").unwrap();
        let args = EnvArgs { env: vec![pair("A", "line")], env_file: vec![file.path().into()] };
        let all = args.read().unwrap();
        assert_eq!(all, [pair("A", "file"), pair("B", "file"), pair("A", "line")]);
        let missing = EnvArgs { env: Vec::new(), env_file: vec!["/nosuch".into()] };
        assert!(matches!(missing.read(), Err(Error::File { .. })));
    }
}
