//! `--net`: what a machine reaches.

use std::str::FromStr;

use supermachine::{Network, Rule, VmConfig};

use crate::report;

/// A list of what a machine reaches, as the user writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkArg {
    text: String,
    /// `None`: no interface.
    network: Option<Network>,
}

impl NetworkArg {
    /// The configuration with this network. With `logs`, each decision is printed.
    pub(crate) fn apply(&self, config: VmConfig, logs: bool) -> VmConfig {
        match &self.network {
            None => config,
            Some(network) if logs => {
                let print = |decision: &_| report::note(&format!("network: {decision}"));
                config.with_network(network.clone().on_decision(print))
            }
            Some(network) => config.with_network(network.clone()),
        }
    }

    /// As the user wrote it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl FromStr for NetworkArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, rest) = match text.split_once(',') {
            Some((first, rest)) => (first, Some(rest)),
            None => (text, None),
        };
        let (mut network, rules) = match first {
            "none" if rest.is_some() => {
                return Err(
                    "`none` stands alone: leave it out, and only the rest is allowed".into()
                );
            }
            "none" => (None, None),
            "public" => (Some(Network::public()), rest),
            "all" => (Some(Network::all()), rest),
            _ => (Some(Network::none()), Some(text)),
        };
        for rule in rules.iter().flat_map(|rules| rules.split(',')) {
            let rule: Rule = rule.parse().map_err(|error| format!("{error}"))?;
            network = network.map(|network| network.allow(rule));
        }
        Ok(Self { text: text.to_owned(), network })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Option<Network> {
        text.parse::<NetworkArg>().unwrap().network
    }

    #[test]
    fn profiles_and_rules_are_networks() {
        let rule = |text: &str| text.parse::<Rule>().unwrap();
        assert_eq!(network("none"), None);
        assert_eq!(network("public"), Some(Network::public()));
        assert_eq!(network("all"), Some(Network::all()));
        let both = Network::public().allow(rule("10.0.0.0/8")).allow(rule("host:5432"));
        assert_eq!(network("public,10.0.0.0/8,host:5432"), Some(both));
        let one = Network::none().allow(rule("tcp:*.debian.org:80"));
        assert_eq!(network("tcp:*.debian.org:80"), Some(one));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "none,example.com", "bridge", "host", "public,", "example.com,all"] {
            assert!(text.parse::<NetworkArg>().is_err(), "{text:?}");
        }
    }
}
