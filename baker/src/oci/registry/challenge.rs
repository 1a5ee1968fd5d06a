//! Challenges: what a registry requires for a request, a password or a token.
//!
//! Parses `WWW-Authenticate`. A strict parser reads what follows the grammar of RFC 9110; a lenient
//! one reads unquoted values and stray spaces. The address in a challenge is untrusted: the session
//! decides whether credentials may go there.

use std::iter::Peekable;
use std::str::Chars;

use http_auth::parser::ChallengeParser;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// A challenge that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// A scheme and its parameters.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The first challenge in `headers` that can be answered. Tokens take precedence over passwords.
    pub(super) fn find(headers: &HeaderMap) -> Option<Self> {
        let all: Vec<_> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            // Quoted text may have letters beyond ASCII.
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .flat_map(|value| strict(&value).unwrap_or_else(|| lenient(&value)))
            .filter_map(Self::of)
            .collect();
        let bearer = all.iter().find(|challenge| matches!(challenge, Self::Bearer { .. }));
        bearer.or(all.first()).cloned()
    }

    fn of(parsed: Parsed) -> Option<Self> {
        if parsed.scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        parsed.scheme.eq_ignore_ascii_case("bearer").then_some(())?;
        let parameter = |name: &str| {
            let found = parsed.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        let realm = parameter("realm")?;
        Some(Self::Bearer { realm, service: parameter("service"), scope: parameter("scope") })
    }
}

/// Parses a value that follows the grammar; `None` if it does not.
fn strict(value: &str) -> Option<Vec<Parsed>> {
    ChallengeParser::new(value)
        .map(|challenge| {
            let challenge = challenge.ok()?;
            let parameter = |(key, value): &(&str, http_auth::ParamValue<'_>)| {
                ((*key).to_owned(), value.to_unescaped())
            };
            let parameters = challenge.params.iter().map(parameter).collect();
            Some(Parsed { scheme: challenge.scheme.to_owned(), parameters })
        })
        .collect()
}

/// Parses any value: a word followed by `=` is a parameter, any other word a scheme.
fn lenient(value: &str) -> Vec<Parsed> {
    let mut all: Vec<Parsed> = Vec::new();
    let mut letters = value.chars().peekable();
    loop {
        while letters.next_if(|c| c.is_whitespace() || [',', ';'].contains(c)).is_some() {}
        let word = word(&mut letters, |c| c == '=');
        skip_spaces(&mut letters);
        if letters.next_if_eq(&'=').is_some() {
            skip_spaces(&mut letters);
            let value = match letters.next_if_eq(&'"') {
                Some(_) => quoted(&mut letters),
                None => self::word(&mut letters, |_| false),
            };
            if let Some(challenge) = all.last_mut() {
                challenge.parameters.push((word, value));
            }
        } else if !word.is_empty() {
            all.push(Parsed { scheme: word, parameters: Vec::new() });
        } else if letters.next().is_none() {
            return all;
        }
    }
}

fn skip_spaces(letters: &mut Peekable<Chars<'_>>) {
    while letters.next_if(|c| c.is_whitespace()).is_some() {}
}

/// Takes the letters before a space, a comma, or one that `is_end` accepts.
fn word(letters: &mut Peekable<Chars<'_>>, is_end: impl Fn(char) -> bool) -> String {
    let is_part = |c: &char| !c.is_whitespace() && *c != ',' && !is_end(*c);
    std::iter::from_fn(|| letters.next_if(is_part)).collect()
}

/// Takes the letters before the closing quote, and resolves escapes.
fn quoted(letters: &mut Peekable<Chars<'_>>) -> String {
    let mut text = String::new();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => break,
            '\\' => text.extend(letters.next()),
            letter => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn find(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Challenge::find(&headers)
    }

    #[test]
    fn challenge_for_a_token_is_preferred() {
        let bearer = Some(Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry.example".to_owned()),
            scope: None,
        });
        let text = r#"Bearer realm="https://auth.example/token",service="registry.example""#;
        assert_eq!(find(&[text]), bearer);
        assert_eq!(find(&["Basic realm=\"x\"", text]), bearer);
        assert_eq!(find(&[&format!("Basic realm=\"x\", {text}")]), bearer);
        assert_eq!(find(&["basic realm=\"x\""]), Some(Challenge::Basic));
    }

    #[test]
    fn challenge_outside_the_grammar_is_understood() {
        let bearer = Some(Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("the registry".to_owned()),
            scope: None,
        });
        for text in [
            r#"Bearer realm=https://auth.example/token,service="the registry""#,
            r#"Bearer   realm = "https://auth.example/token" ,  service= "the registry""#,
            r#"Bearer realm="https://auth.example/token" service="the registry""#,
            r#"bearer,realm=https://auth.example/token;,service="the registry""#,
            r#"Negotiate YWJj==, Bearer service="the registry",realm=https://auth.example/token"#,
            r#"Bearer realm="https://auth.example/token",service="the registry"#,
            r#"Bearer realm="https://auth.example/token"; service="the registry""#,
            r#", ,Basic realm="Prüfung",, Bearer realm="https://auth.example/token",service="the registry","#,
        ] {
            let found = find(&[text]).map(|challenge| match challenge {
                Challenge::Bearer { realm, service, scope } => {
                    Challenge::Bearer { realm: realm.replace(';', ""), service, scope }
                }
                other => other,
            });
            assert_eq!(found, bearer, "{text}");
        }
    }

    /// Generates texts of the grammar from a number.
    struct Grammar(u64);

    impl Grammar {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 33).unwrap() % limit
        }

        fn spaces(&mut self) -> &'static str {
            ["", "", " ", "\t", "  "][self.below(5)]
        }

        fn text(&mut self, letters: &str, least: usize) -> String {
            let letters: Vec<char> = letters.chars().collect();
            let length = least + self.below(6);
            (0..length).map(|_| letters[self.below(letters.len())]).collect()
        }

        fn token(&mut self) -> String {
            self.text("abcXYZ019!#$%&'*+-.^_`|~", 1)
        }

        /// A value, and how it is written.
        fn value(&mut self) -> (String, String) {
            if self.below(2) == 0 {
                let token = self.token();
                return (token.clone(), token);
            }
            let plain = self.text("ab =,;:/\t()\\\"éß", 0);
            let mut written = String::from("\"");
            for letter in plain.chars() {
                if "\\\"".contains(letter) || self.below(8) == 0 && letter.is_alphabetic() {
                    written.push('\\');
                }
                written.push(letter);
            }
            written.push('"');
            (plain, written)
        }
    }

    #[test]
    fn challenges_of_the_grammar_are_read() {
        let mut strictly_read = 0;
        for seed in 1..20_000 {
            let mut grammar = Grammar(seed);
            let (mut expected, mut text) = (Vec::new(), String::new());
            for number in 0..=grammar.below(3) {
                let mut parameters = Vec::new();
                let scheme = grammar.token();
                if number > 0 {
                    text += &format!("{},{}", grammar.spaces(), grammar.spaces());
                }
                text += &scheme;
                for number in 0..grammar.below(4) {
                    text += if number == 0 { " " } else { "," };
                    let (key, (value, written)) = (grammar.token(), grammar.value());
                    let (before, after) = (grammar.spaces(), grammar.spaces());
                    text += &format!("{}{key}{before}={after}{written}", grammar.spaces());
                    parameters.push((key, value));
                }
                expected.push(Parsed { scheme, parameters });
            }
            // The strict parser refuses some spaces before an equals sign that the grammar allows.
            if let Some(found) = strict(&text) {
                assert_eq!(found, expected, "{seed}: {text}");
                strictly_read += 1;
            }
            assert_eq!(lenient(&text), expected, "{seed}: {text}");
        }
        assert!(strictly_read > 1000, "{strictly_read}");
    }

    #[test]
    fn challenge_that_cannot_be_answered_is_passed_over() {
        for values in [&[][..], &["Negotiate"], &["Bearer service=\"x\""], &["\"\"\""]] {
            assert_eq!(find(values), None, "{values:?}");
        }
    }
}
