//! From an image's config to the container that the agent runs.

use supermachine_formats::snapshot::ImageCommand;
use supermachine_formats::wire::{Container, Process};
use supermachine_vmm::layout::ROOT_SLOT;

use super::root_disk::RootDisk;
use super::settings::Settings;
use crate::oci::ImageConfig;
use crate::signals;

/// The caller's changes to the image's config.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) command: Option<Vec<String>>,
    /// `NAME=value` pairs, which replace those of the same name.
    pub(crate) env: Vec<String>,
    pub(crate) user: Option<String>,
    pub(crate) working_dir: Option<String>,
    pub(crate) settings: Settings,
}

/// The entrypoint and its arguments. As in Docker, another entrypoint drops the image's command.
/// Empty if there is nothing to run.
pub(crate) fn argv(config: &ImageConfig, overrides: &Overrides) -> Vec<String> {
    let entrypoint = overrides.entrypoint.as_ref().unwrap_or(&config.entrypoint);
    let command = match (&overrides.command, &overrides.entrypoint) {
        (Some(command), _) => command.as_slice(),
        (None, Some(_)) => &[],
        (None, None) => &config.cmd,
    };
    [entrypoint, command].concat()
}

/// The image's own entrypoint and command.
pub(crate) fn image_command(config: &ImageConfig) -> ImageCommand {
    ImageCommand { entrypoint: config.entrypoint.clone(), command: config.cmd.clone() }
}

/// The container for the agent to prepare.
pub(crate) fn container(
    config: &ImageConfig,
    overrides: &Overrides,
    root_disk: RootDisk,
    hostname: &str,
) -> Container {
    let user = overrides.user.as_ref().or(config.user.as_ref());
    let working_dir = overrides.working_dir.as_ref().or(config.working_dir.as_ref());
    Container {
        slots: vec![ROOT_SLOT],
        root_device: root_disk.device().to_owned(),
        hostname: hostname.to_owned(),
        entrypoint: Process {
            argv: to_bytes(&argv(config, overrides)),
            env: to_bytes(&environment(&config.env, &overrides.env)),
            cwd: working_dir.map(|dir| dir.clone().into_bytes()).unwrap_or_default(),
            user: user.cloned().unwrap_or_default(),
        },
        settings: overrides.settings.to_wire(&config.volumes),
        ..Container::default()
    }
}

/// The image's stop signal, if it names one that exists. Images also write `SIG9` for 9.
pub(crate) fn stop_signal(config: &ImageConfig) -> Option<u8> {
    let text = config.stop_signal.as_deref()?;
    let digits = text.get(3..).filter(|rest| rest.parse::<u8>().is_ok());
    let has_prefix = text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("SIG"));
    signals::number(digits.filter(|_| has_prefix).unwrap_or(text))
}

/// The image's variables without those that `own` replaces, then `own`.
fn environment(image: &[String], own: &[String]) -> Vec<String> {
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let is_replaced = |pair: &&String| own.iter().any(|other| name(other) == name(pair));
    let kept = image.iter().filter(|pair| !is_replaced(pair));
    kept.chain(own).cloned().collect()
}

fn to_bytes(strings: &[String]) -> Vec<Vec<u8>> {
    strings.iter().map(|string| string.clone().into_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["entry".into()],
            cmd: vec!["cmd".into()],
            env: vec!["A=1".into(), "B=2".into()],
            ..ImageConfig::default()
        }
    }

    #[test]
    fn entrypoint_and_command_go_together() {
        assert_eq!(argv(&config(), &Overrides::default()), ["entry", "cmd"]);
    }

    #[test]
    fn another_command_keeps_the_entrypoint() {
        let overrides = Overrides { command: Some(vec!["x".into()]), ..Overrides::default() };
        assert_eq!(argv(&config(), &overrides), ["entry", "x"]);
    }

    #[test]
    fn another_entrypoint_drops_the_command() {
        let overrides = Overrides { entrypoint: Some(vec!["x".into()]), ..Overrides::default() };
        assert_eq!(argv(&config(), &overrides), ["x"]);
    }

    #[test]
    fn variables_replace_those_of_the_same_name() {
        let own = ["A=9".to_owned(), "C=3".to_owned()];
        assert_eq!(environment(&config().env, &own), ["B=2", "A=9", "C=3"]);
    }

    #[test]
    fn stop_signals_are_names_or_numbers() {
        let signal = |text: &str| {
            stop_signal(&ImageConfig { stop_signal: Some(text.into()), ..ImageConfig::default() })
        };
        let found =
            ["SIGQUIT", "term", "SIGWINCH", "9", "SIGRTMIN+3", "RTMAX-1", "RTMIN"].map(signal);
        assert_eq!(found, [3, 15, 28, 9, 37, 63, 34].map(Some));
        for text in ["", "SIG", "SIGFOO", "0", "65", "RTMIN+31", "RTMIN+300", "RTMIN+x", "-1"] {
            assert_eq!(signal(text), None, "{text:?}");
        }
        assert_eq!(["SIG9", "sig64"].map(signal), [9, 64].map(Some));
        assert_eq!(stop_signal(&ImageConfig::default()), None);
    }
}
