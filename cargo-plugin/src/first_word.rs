//! Where the options of `run` and `exec` end: as in Docker, at the image or the machine. All that
//! follows belongs to the command, whatever it begins with.

use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};

/// The subcommands whose first word is followed by a command.
const WITH_COMMANDS: [&str; 2] = ["run", "exec"];

/// Puts `--` behind the image or the machine, unless only options of ours stand between it and a `--`.
pub(crate) fn separate(
    mut arguments: Vec<OsString>,
    cli: impl FnOnce() -> Command,
) -> Vec<OsString> {
    if let Some(place) = end_of_options(&arguments, cli) {
        arguments.insert(place, "--".into());
    }
    arguments
}

/// Where `--` is missing.
fn end_of_options(arguments: &[OsString], cli: impl FnOnce() -> Command) -> Option<usize> {
    let subcommand = subcommand_position(arguments)?;
    let is_name = |name: &&&str| arguments.get(subcommand).is_some_and(|word| word == **name);
    let name = WITH_COMMANDS.iter().find(is_name)?;
    let mut cli = cli();
    // Adds the global options to each subcommand.
    cli.build();
    let options = cli.find_subcommand(name)?;
    let first_word = skip_options(arguments, subcommand + 1, options, |_| true);
    if arguments.get(first_word)? == "--" {
        return None;
    }
    let place = first_word + 1;
    let next = skip_options(arguments, place, options, |word| is_ours(options, word));
    let is_separated = arguments.get(next).is_some_and(|word| word == "--");
    (place < arguments.len() && !is_separated).then_some(place)
}

/// The position of the first word from `position` on that is not an option or an option's value.
fn skip_options(
    arguments: &[OsString],
    mut position: usize,
    options: &Command,
    is_option: impl Fn(&OsStr) -> bool,
) -> usize {
    while let Some(word) = arguments.get(position) {
        let begins_as_one = word.len() > 1 && word.as_encoded_bytes().starts_with(b"-");
        if word == "--" || !begins_as_one || !is_option(word) {
            break;
        }
        position += if needs_next(options, word) { 2 } else { 1 };
    }
    position
}

/// Whether there is such an option.
fn is_ours(options: &Command, word: &OsStr) -> bool {
    let Some(word) = word.to_str() else { return false };
    match word.strip_prefix("--") {
        Some(name) => long(options, name.split('=').next().unwrap_or(name)).is_some(),
        None => word.chars().nth(1).is_some_and(|letter| short(options, letter).is_some()),
    }
}

/// Whether the next word is the value of this option, or of the last of these short options.
fn needs_next(options: &Command, word: &OsStr) -> bool {
    let Some(word) = word.to_str() else { return false };
    let takes_value = |arg: &Arg| arg.get_action().takes_values();
    if let Some(name) = word.strip_prefix("--") {
        return long(options, name).is_some_and(takes_value);
    }
    let mut letters = word.chars().skip(1);
    // What follows the first option with a value is that value.
    let has_value = letters.by_ref().any(|letter| short(options, letter).is_some_and(takes_value));
    has_value && letters.next().is_none()
}

fn long<'a>(options: &'a Command, name: &str) -> Option<&'a Arg> {
    options.get_arguments().find(|arg| {
        arg.get_long() == Some(name)
            || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    })
}

fn short(options: &Command, letter: char) -> Option<&Arg> {
    options.get_arguments().find(|arg| arg.get_short() == Some(letter))
}

/// The position of the subcommand among the arguments.
pub(crate) fn subcommand_position(arguments: &[OsString]) -> Option<usize> {
    let mut words = arguments.iter().enumerate().skip(1);
    loop {
        let (position, word) = words.next()?;
        if word == "--store" {
            words.next()?;
        } else if !word.as_encoded_bytes().starts_with(b"-") {
            return Some(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn separated(line: &str) -> String {
        let words = line.split(' ').map(Into::into).collect();
        let words = separate(words, Cli::command);
        words.join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn options_end_at_the_image() {
        for (line, expected) in [
            ("x run redis --appendonly yes", "x run redis -- --appendonly yes"),
            ("x run -d redis -d", "x run -d redis -- -d"),
            ("x run -dp 80:80 redis ls", "x run -dp 80:80 redis -- ls"),
            ("x run -dp80:80 redis ls", "x run -dp80:80 redis -- ls"),
            ("x run --memory 1g redis -m", "x run --memory 1g redis -- -m"),
            ("x run --memory=1g -it redis sh", "x run --memory=1g -it redis -- sh"),
            ("x --store /s run -e A=b redis a -- b", "x --store /s run -e A=b redis -- a -- b"),
            ("x run --store /s -q redis -q", "x run --store /s -q redis -- -q"),
            ("x run redis --appendonly yes -- x", "x run redis -- --appendonly yes -- x"),
            ("x run redis -m 1g ls -- x", "x run redis -- -m 1g ls -- x"),
            ("x exec -w /tmp web -it", "x exec -w /tmp web -- -it"),
        ] {
            assert_eq!(separated(line), expected);
        }
    }

    #[test]
    fn other_lines_are_left_alone() {
        for line in [
            "x run redis -- --appendonly yes",
            "x run redis",
            "x run redis --timings -m 1g -it -- ls",
            "x run -- redis ls",
            "x run --nosuch",
            "x run -m",
            "x exec",
            "x pull --name a b -q",
            "x --help",
            "x",
        ] {
            assert_eq!(separated(line), line);
        }
    }
}
