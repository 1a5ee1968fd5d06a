//! The words of a registry or token service about an error.

use reqwest::Response;

use super::body::read_body;

/// The most bytes of an error response to read.
const MAX_REFUSAL: u64 = 16 << 10;

/// The most characters of a registry's message to show.
const MAX_MESSAGE: usize = 300;

/// The message of an error response: from its JSON, or else its first line of text.
pub(super) async fn message_of(mut response: Response) -> Option<String> {
    let body = read_body(&mut response, MAX_REFUSAL).await.ok()??;
    let text = match serde_json::from_slice::<serde_json::Value>(&body) {
        Ok(json) => message_in(&json)?,
        Err(_) => {
            let text = String::from_utf8(body).ok()?;
            let line = text.trim().lines().next().unwrap_or_default().to_owned();
            if line.starts_with('<') {
                return None;
            }
            line
        }
    };
    let printable = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let text: String = printable.take(MAX_MESSAGE).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn message_in(json: &serde_json::Value) -> Option<String> {
    let text = |value: &serde_json::Value, key: &str| {
        value.get(key).and_then(serde_json::Value::as_str).map(str::to_owned)
    };
    let errors = json.get("errors").and_then(serde_json::Value::as_array);
    let of_list = errors.and_then(|errors| {
        let all: Vec<_> = errors
            .iter()
            .filter_map(|error| {
                text(error, "message").filter(|text| !text.is_empty()).or(text(error, "code"))
            })
            .collect();
        (!all.is_empty()).then(|| all.join(", "))
    });
    of_list.or(text(json, "message")).or(text(json, "details")).or(text(json, "error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_found_in_the_json_of_registries() {
        let message = |json: &str| message_in(&serde_json::from_str(json).unwrap());
        let list = r#"{"errors":[{"code":"DENIED","message":"pay first"},{"code":"X"}]}"#;
        assert_eq!(message(list).unwrap(), "pay first, X");
        assert_eq!(message(r#"{"details":"no such user"}"#).unwrap(), "no such user");
        assert_eq!(message("{}"), None);
    }
}
