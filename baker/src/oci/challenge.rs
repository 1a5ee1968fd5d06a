//! What a registry that refuses a request asks for: a password, or a token from elsewhere.
//!
//! Owns the reading of `WWW-Authenticate`. What it names is a stranger's wish, not yet to be
//! trusted with credentials.

use http_auth::parser::ChallengeParser;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// A challenge that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// The first challenge in `headers` that can be answered; tokens go before passwords.
    pub(crate) fn find(headers: &HeaderMap) -> Option<Self> {
        let all: Vec<_> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(Self::parse)
            .collect();
        let bearer = all.iter().find(|challenge| matches!(challenge, Self::Bearer { .. }));
        bearer.or(all.first()).cloned()
    }

    fn parse(value: &str) -> Vec<Self> {
        ChallengeParser::new(value)
            .map_while(Result::ok)
            .filter_map(|challenge| {
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    return Some(Self::Basic);
                }
                let param = |name: &str| {
                    let found = challenge.params.iter().find(|(k, _)| k.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                challenge.scheme.eq_ignore_ascii_case("bearer").then_some(())?;
                Some(Self::Bearer { realm: param("realm")?, service: param("service") })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::find(&headers)
    }

    #[test]
    fn challenge_for_a_token_is_preferred() {
        let bearer = Some(Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry.example".to_owned()),
        });
        let text = r#"Bearer realm="https://auth.example/token",service="registry.example""#;
        assert_eq!(find(&[text]), bearer);
        assert_eq!(find(&["Basic realm=\"x\"", text]), bearer);
        assert_eq!(find(&[&format!("Basic realm=\"x\", {text}")]), bearer);
        assert_eq!(find(&["basic realm=\"x\""]), Some(Challenge::Basic));
    }

    #[test]
    fn challenge_that_cannot_be_answered_is_passed_over() {
        for values in [&[][..], &["Negotiate"], &["Bearer service=\"x\""], &["\"\"\""]] {
            assert_eq!(find(values), None, "{values:?}");
        }
    }
}
