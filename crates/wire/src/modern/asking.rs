//! Server requests of a legacy session as `input_required` results of the modern era, and their responses.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{key, members::Members};

/// Converts a server request into an entry of `inputRequests`: its method and its parameters without session data.
/// `None` if it is not a request.
#[must_use]
pub fn question(message: &[u8]) -> Option<String> {
    let whole = Members::read(std::str::from_utf8(message).ok()?)?;
    let mut one = Members::default();
    one.set("method", whole.get("method")?);
    let params = whole.get("params").and_then(Members::read).map(|mut params| {
        params.remove("_meta");
        params.remove("elicitationId");
        params.to_string()
    });
    if let Some(params) = params {
        one.set("params", params);
    }
    Some(one.to_string())
}

/// The `input_required` result for the request with this id (JSON text), with input requests by key. Without `state` no
/// call waits: the caller sends the request again as a new one.
#[must_use]
pub fn input_required(
    id: &str,
    questions: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>,
    state: Option<&str>,
    server_info: &str,
) -> Bytes {
    let one = |(name, question): (_, _)| named(&name, &question);
    let questions: Vec<String> = questions.into_iter().map(one).collect();
    let state = state.map(|state| format!("\"requestState\":{},", json!(state))).unwrap_or_default();
    let (questions, key) = (questions.join(","), key::SERVER_INFO);
    Bytes::from(format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"resultType\":\"input_required\",\
         \"inputRequests\":{{{questions}}},{state}\"_meta\":{{\"{key}\":{server_info}}}}}}}"
    ))
}

fn named(name: &impl AsRef<str>, question: &impl AsRef<str>) -> String {
    format!("{}:{}", json!(name.as_ref()), question.as_ref())
}

/// The entries of `inputResponses` (JSON text): key and JSON text each. `None` if it is not an object.
#[must_use]
pub fn answers(json: &str) -> Option<Vec<(String, String)>> {
    let all = Members::read(json)?;
    Some(all.iter().map(|(key, answer)| (key.to_owned(), answer.to_owned())).collect())
}

/// A canonical text of a request, equal when the request is sent again: its method and parameters without `_meta`,
/// `requestState` and `inputResponses`, whatever their order.
#[must_use]
pub fn essence(message: &[u8]) -> Option<String> {
    let whole: Value = serde_json::from_slice(message).ok()?;
    let mut params = whole.get("params").cloned().unwrap_or(Value::Null);
    if let Some(params) = params.as_object_mut() {
        for key in ["_meta", "requestState", "inputResponses"] {
            params.remove(key);
        }
    }
    Some(json!([whole.get("method")?, params]).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_what_is_asked_and_nothing_of_its_session() {
        let asked = br#"{"jsonrpc":"2.0","id":"s1","method":"elicitation/create","params":{"message": 1.0e2,"_meta":{"progressToken":1},"elicitationId":"e"}}"#;
        let one = question(asked).expect("a question");
        assert_eq!(one, r#"{"method":"elicitation/create","params":{"message":1.0e2}}"#);
        assert_eq!(
            question(br#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#).as_deref(),
            Some(r#"{"method":"roots/list"}"#)
        );
        assert_eq!(question(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#), None);
        let body = input_required("\"i\"", [("a\"", one.as_str())], Some("s"), r#"{"name":"n"}"#);
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((&body["id"], &body["result"]["requestState"]), (&json!("i"), &json!("s")));
        assert_eq!(body["result"]["inputRequests"]["a\""]["method"], "elicitation/create");
        assert_eq!(body["result"]["_meta"][key::SERVER_INFO], json!({ "name": "n" }));
    }

    #[test]
    fn the_same_request_is_known_again_and_another_is_not() {
        let first = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1,"b":2},"_meta":{"x":1}}}"#;
        let again = br#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"arguments":{"b":2,"a":1},"name":"t","requestState":"s","inputResponses":{}}}"#;
        let other = br#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"arguments":{"b":2,"a":2},"name":"t"}}"#;
        assert_eq!(essence(first), essence(again));
        assert_ne!(essence(first), essence(other));
        assert_eq!(answers("[]"), None);
        let both = answers(r#"{"a":{"action": "accept"},"b":1}"#).expect("answers");
        assert_eq!(
            both,
            [("a".to_owned(), r#"{"action": "accept"}"#.to_owned()), ("b".to_owned(), "1".to_owned())]
        );
    }
}
