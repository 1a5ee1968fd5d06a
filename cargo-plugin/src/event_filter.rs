//! Filters of events, as `events --filter` takes them.

use std::str::FromStr;

use crate::events::{Event, KIND};

/// The keys, with those that Docker has for the same.
const KEYS: [(&str, Key); 8] = [
    ("event", Key::Action),
    ("action", Key::Action),
    ("machine", Key::Machine),
    ("container", Key::Machine),
    ("image", Key::Attribute("image")),
    ("snapshot", Key::Attribute("snapshot")),
    ("label", Key::Label),
    ("type", Key::Kind),
];

/// What a filter looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Action,
    Machine,
    Attribute(&'static str),
    Label,
    Kind,
}

/// A filter: `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    key: Key,
    value: String,
}

impl Filter {
    /// Whether an event matches a filter of each key that there are filters of.
    pub(crate) fn all_match(filters: &[Self], event: &Event) -> bool {
        filters.iter().all(|filter| {
            let alternatives = filters.iter().filter(|other| other.key == filter.key);
            filter.key == Key::Label && filter.matches(event)
                || filter.key != Key::Label && alternatives.clone().any(|one| one.matches(event))
        })
    }

    fn matches(&self, event: &Event) -> bool {
        let attributes = &event.actor.attributes;
        let equals = |key: &str, value: &str| attributes.get(key).is_some_and(|it| it == value);
        match self.key {
            Key::Action => event.action == self.value,
            Key::Machine => event.actor.id == self.value || equals("oldName", &self.value),
            Key::Attribute(key) => equals(key, &self.value),
            Key::Label => match self.value.split_once('=') {
                Some((key, value)) => equals(key, value),
                None => attributes.contains_key(&self.value),
            },
            Key::Kind => self.value == KIND || self.value == "container",
        }
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("not KEY=VALUE")?;
        let known = KEYS.iter().find(|(name, _)| *name == key);
        match known {
            _ if value.is_empty() => Err(format!("no value for {key}")),
            Some((_, key)) => Ok(Self { key: *key, value: value.to_owned() }),
            None => {
                Err(format!("{key:?} is not one of event, machine, image, snapshot, label, type"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(filters: &[&str]) -> bool {
        let about = [("image", "redis"), ("tier", "back"), ("empty", "")];
        let event = Event::new("die", "web", about.map(|(key, value)| (key, value.to_owned())));
        let filters: Vec<Filter> = filters.iter().map(|text| text.parse().unwrap()).collect();
        Filter::all_match(&filters, &event)
    }

    #[test]
    fn filters_of_one_key_are_alternatives_and_keys_add_up() {
        assert!(passes(&[]));
        assert!(passes(&["event=die"]) && !passes(&["event=start"]));
        assert!(passes(&["event=start", "event=die", "container=web", "image=redis"]));
        assert!(!passes(&["event=die", "machine=api"]));
        assert!(passes(&["label=tier"]) && passes(&["label=tier=back", "label=empty="]));
        assert!(!passes(&["label=tier=front"]) && !passes(&["label=tier", "label=other"]));
        assert!(passes(&["type=machine"]) && passes(&["type=container"]));
        assert!(!passes(&["type=image"]) && !passes(&["snapshot=redis"]));
    }

    #[test]
    fn other_text_is_refused() {
        for (text, reason) in [
            ("", "KEY=VALUE"),
            ("die", "KEY=VALUE"),
            ("event=", "no value"),
            ("color=red", "not one of event, machine"),
        ] {
            let error = text.parse::<Filter>().unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
