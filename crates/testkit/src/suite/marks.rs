//! `x-mcp-header` as a client of 2026-07-28 has to read it: which arguments are said in headers, and which tools must be
//! left alone because their marks mean nothing.
//!
//! The subtle thing: this is the agent's own reading, apart from the gateway's, so that neither can hide a fault of the
//! other.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

const MARK: &str = "x-mcp-header";

/// The headers of a call with these arguments.
///
/// # Errors
/// When the tool must not be called.
pub(super) fn headers(
    schema: &Value,
    arguments: &Map<String, Value>,
) -> Result<Vec<(String, String)>, String> {
    let (mut names, mut headers) = (Vec::new(), Vec::new());
    walk(schema, arguments, &mut names, &mut headers)?;
    if names.len() != marks(schema) {
        return Err("a mark is not reached through properties alone".to_owned());
    }
    Ok(headers)
}

fn walk(
    schema: &Value,
    arguments: &Map<String, Value>,
    names: &mut Vec<String>,
    headers: &mut Vec<(String, String)>,
) -> Result<(), String> {
    for (property, below) in schema["properties"].as_object().into_iter().flatten() {
        let value = arguments.get(property).unwrap_or(&Value::Null);
        if let Some(mark) = below.get(MARK) {
            let name = named(mark, below).ok_or_else(|| format!("{property} must not be marked {mark}"))?;
            if names.contains(&name) {
                return Err(format!("{name} is marked twice"));
            }
            headers.extend(text(value).map(|text| (name.clone(), encoded(&text))));
            names.push(name);
        }
        walk(below, value.as_object().unwrap_or(&Map::new()), names, headers)?;
    }
    Ok(())
}

/// The header a mark names, if it may stand where it stands.
fn named(mark: &Value, property: &Value) -> Option<String> {
    let is_plain = matches!(property["type"].as_str(), Some("string" | "integer" | "boolean"));
    let mark = mark.as_str().filter(|mark| is_plain && !mark.is_empty())?;
    let is_token = mark.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    is_token.then(|| format!("mcp-param-{}", mark.to_ascii_lowercase()))
}

/// How many marks there are, wherever they stand.
fn marks(schema: &Value) -> usize {
    match schema {
        Value::Object(members) => {
            members.iter().map(|(key, below)| usize::from(key == MARK) + marks(below)).sum()
        }
        Value::Array(items) => items.iter().map(marks).sum(),
        _ => 0,
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    }
}

/// A value as a header can hold it.
fn encoded(text: &str) -> String {
    let is_plain = text.bytes().all(|b| (b' '..=b'~').contains(&b))
        && text.trim() == text
        && !text.starts_with("=?base64?");
    if is_plain { text.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(text)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture::{marked_schema, takes};

    #[test]
    fn what_is_said_in_headers_is_what_a_server_expects() {
        for arguments in [
            json!({}),
            json!({ "region": "eu", "priority": -7, "verbose": false, "tenant": { "id": "a" } }),
            json!({ "region": "ü\r\n" }),
            json!({ "region": " padded " }),
            json!({ "region": "=?base64?w7w=" }),
            json!({ "region": null, "note": "not marked" }),
        ] {
            let arguments = arguments.as_object().expect("an object");
            let said = headers(&marked_schema(), arguments).expect("a tool that may be called");
            assert!(takes(&said, arguments), "{said:?} {arguments:?}");
        }
    }

    #[test]
    fn a_tool_that_is_marked_senselessly_is_left_alone() {
        let of = |property: Value| json!({ "properties": { "a": property } });
        for schema in [
            of(json!({ "type": "string", MARK: "" })),
            of(json!({ "type": "string", MARK: "My Region" })),
            of(json!({ "type": "number", MARK: "Score" })),
            of(json!({ "type": "array", "items": { "type": "string", MARK: "X" } })),
            json!({ "properties": {
                "a": { "type": "string", MARK: "Field" }, "b": { "type": "string", MARK: "field" },
            } }),
        ] {
            assert!(headers(&schema, &Map::new()).is_err(), "{schema}");
        }
        assert!(headers(&of(json!({ "type": "string", MARK: "Region" })), &Map::new()).is_ok());
    }
}
