//! Starts programs that cargo built through this command, which signs them first.
//!
//! Cargo starts programs, tests and examples through a *runner* if its configuration names one. The
//! command line names ours, which overrides all configuration; ours then starts the user's runner.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_config2::{Config, PathAndArgs};

use super::arguments::Arguments;
use crate::error::CargoError;

/// The options that make cargo start programs through our runner.
pub(crate) fn configuration(arguments: &Arguments) -> Result<Vec<OsString>, CargoError> {
    let failed = |source| CargoError::Configuration { source };
    let config = Config::load().map_err(failed)?;
    let host = config.host_triple().map_err(failed)?.to_owned();
    let asked = arguments.values("--target");
    let asked = asked.iter().map(|target| target.to_string_lossy());
    let mut targets = config.build_target_for_cli(asked).map_err(failed)?;
    if targets.is_empty() {
        targets.push(host.clone());
    }
    let executable = std::env::current_exe().map_err(|source| CargoError::CurrentExe { source })?;
    let mut words = Vec::new();
    for target in targets {
        let target = if target == "host-tuple" { host.clone() } else { target };
        // A target specification file names its target.
        let name = match Path::new(&target).extension() {
            Some(extension) if extension == "json" => Path::new(&target).file_stem(),
            _ => None,
        };
        let name = name.map_or(target.clone(), |stem| stem.to_string_lossy().into_owned());
        let users = config.runner(&name).map_err(failed)?;
        let runner = runner(&executable, users.as_ref())?;
        words.extend(["--config".into(), format!("target.{}.runner={runner}", text(&name)).into()]);
    }
    Ok(words)
}

/// The target platform: from the arguments, or from the configuration, or this host.
pub(crate) fn target(asked: Option<&str>) -> Result<String, CargoError> {
    let failed = |source| CargoError::Configuration { source };
    let config = Config::load().map_err(failed)?;
    let targets = config.build_target_for_cli(asked).map_err(failed)?;
    match targets.into_iter().next() {
        Some(target) if target != "host-tuple" => Ok(target),
        _ => Ok(config.host_triple().map_err(failed)?.to_owned()),
    }
}

/// The value of cargo's `runner` setting: a TOML array.
fn runner(executable: &Path, users: Option<&PathAndArgs>) -> Result<String, CargoError> {
    let mut words = vec![executable.as_os_str().to_owned(), "runner".into()];
    for word in users.into_iter().flat_map(|users| {
        std::iter::once(users.path.clone().into_os_string()).chain(users.args.iter().cloned())
    }) {
        let mut option = OsString::from("--then=");
        option.push(word);
        words.push(option);
    }
    words.push("--".into());
    let words = words.into_iter().map(|word| match word.to_str() {
        Some(word) => Ok(text(word)),
        None => Err(CargoError::NotUtf8 { path: word.clone() }),
    });
    Ok(format!("[{}]", words.collect::<Result<Vec<_>, _>>()?.join(",")))
}

/// A TOML string. A JSON string is one, except for one character.
fn text(word: &str) -> String {
    serde_json::Value::from(word).to_string().replace('\u{7f}', "\\u007f")
}

/// A program to start, with its arguments and the user's runner.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// The user's runner.
    pub(crate) then: Vec<OsString>,
    /// The program and its arguments.
    pub(crate) argv: Vec<OsString>,
}

impl Program {
    /// The file to sign.
    pub(crate) fn path(&self) -> PathBuf {
        self.argv.first().map(PathBuf::from).unwrap_or_default()
    }

    pub(crate) fn command(&self) -> Command {
        let mut words = self.then.iter().chain(&self.argv);
        let mut command = Command::new(words.next().cloned().unwrap_or_default());
        command.args(words);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runner_with_any_words_is_toml() {
        let mut users = PathAndArgs::new("/a \"b\"\\c");
        users.arg("--x\t\u{7f}");
        let value = runner(Path::new("/o u r"), Some(&users)).unwrap();
        assert_eq!(value, r#"["/o u r","runner","--then=/a \"b\"\\c","--then=--x\t\u007f","--"]"#);
        assert_eq!(runner(Path::new("/o"), None).unwrap(), r#"["/o","runner","--"]"#);
    }

    #[test]
    fn user_runner_starts_the_program() {
        let words = |words: &[&str]| words.iter().map(Into::into).collect();
        let program = Program { then: words(&["env", "-i"]), argv: words(&["/p", "-x"]) };
        let command = program.command();
        assert_eq!(command.get_program(), "env");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["-i", "/p", "-x"]);
        assert_eq!(program.path(), Path::new("/p"));
    }
}
