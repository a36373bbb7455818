//! Amendments to backend messages before agents see them: drops null members, moves claims made in the gateway's name
//! into `data`, and readdresses errors without a usable id.

use bytes::Bytes;
use serde_json::Number;

use crate::modern::members::Members;

/// Error codes reserved for the gateway.
const OWN_CODES: std::ops::RangeInclusive<i64> = -31_999..=-31_900;

/// Replacement code (generic server error) for a backend error that claims a code of the gateway.
const SERVER_ERROR: &str = "-32000";

/// Members that count as absent when they are null.
const MEMBERS: [&str; 5] = ["id", "method", "params", "result", "error"];

/// Removes those members of a message that are null. `None` if there are none, or it is not an object.
#[must_use]
pub fn without_nulls(message: &[u8]) -> Option<Bytes> {
    let mut whole = Members::read(std::str::from_utf8(message).ok()?)?;
    let nulls: Vec<&str> = MEMBERS.into_iter().filter(|key| whole.get(key) == Some("null")).collect();
    if nulls.is_empty() {
        return None;
    }
    nulls.into_iter().for_each(|key| whole.remove(key));
    Some(Bytes::from(whole.to_string()))
}

/// Moves what only the gateway may claim in an error (its codes, `data.source`) into `data.backend_code` and
/// `data.backend_data`. `None` if the response claims neither.
#[must_use]
pub fn without_verdict(response: &[u8]) -> Option<Bytes> {
    let mut whole = Members::read(std::str::from_utf8(response).ok()?)?;
    let mut error = Members::read(whole.get("error")?)?;
    let claimed = error.iter().find(|(key, value)| *key == "code" && is_own_code(value));
    let claimed = claimed.map(|(_, value)| value.to_owned());
    let claims_source = error.iter().any(|(key, value)| key == "data" && has_source(value));
    if claimed.is_none() && !claims_source {
        return None;
    }
    let mut data = Members::default();
    if let Some(code) = claimed {
        error.remove("code");
        error.set("code", SERVER_ERROR);
        data.set("backend_code", code);
    }
    if let Some(said) = error.get("data").map(str::to_owned) {
        error.remove("data");
        data.set("backend_data", said);
    }
    let data = data.to_string();
    error.set("data", data);
    let error = error.to_string();
    whole.set("error", error);
    Some(Bytes::from(whole.to_string()))
}

/// Readdresses an error with no id, or a foreign one, to the call `id`: keeps its code and message, and marks the
/// execution of the call as unknown (`executed: maybe`). `None` if the response is not an error.
#[must_use]
pub fn readdressed(response: &[u8], id: u64) -> Option<Bytes> {
    let amended = without_verdict(response);
    let text = std::str::from_utf8(amended.as_deref().unwrap_or(response)).ok()?;
    let whole = Members::read(text)?;
    let mut error = Members::read(whole.get("error")?).unwrap_or_default();
    let mut data = Members::default();
    data.set("source", "\"gateway\"");
    data.set("kind", "\"backend_error\"");
    data.set("executed", "\"maybe\"");
    data.set("retryable", "false");
    let said = error.get("data").map(str::to_owned);
    match said.as_deref().filter(|_| amended.is_some()).and_then(Members::read) {
        Some(aside) => aside.iter().for_each(|(key, value)| match key {
            "backend_code" => data.set("backend_code", value.to_owned()),
            _ => data.set("backend_data", value.to_owned()),
        }),
        None => said.into_iter().for_each(|said| data.set("backend_data", said)),
    }
    if error.get("code").is_none_or(|code| serde_json::from_str::<i64>(code).is_err()) {
        error.set("code", SERVER_ERROR);
    }
    if error.text("message").is_none() {
        error.set("message", "\"the backend answered with an error without a message\"");
    }
    let data = data.to_string();
    error.set("data", data);
    Some(Bytes::from(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{error}}}")))
}

/// True if any number parser would read this as a code of the gateway: `-31905`, `-31905.0`, `"-31905"`.
fn is_own_code(json: &str) -> bool {
    let number = serde_json::from_str::<Number>(json.trim_matches('"').trim()).ok();
    let read = number.and_then(|number| number.as_i64().or_else(|| rounded(number.as_f64()?)));
    read.is_some_and(|code| OWN_CODES.contains(&code))
}

#[expect(clippy::cast_possible_truncation, reason = "casts saturate, and far outside it is no code of ours")]
fn rounded(code: f64) -> Option<i64> {
    code.is_finite().then(|| code.round() as i64)
}

fn has_source(data: &str) -> bool {
    Members::read(data).is_some_and(|data| data.get("source").is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn json(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn null_members_are_left_out_and_all_else_stays_as_it_came() {
        let mended =
            |text: &str| without_nulls(text.as_bytes()).map(|m| String::from_utf8(m.to_vec()).unwrap());
        assert_eq!(
            mended(r#"{"jsonrpc":"2.0","id":1,"result":{"n":1.0},"error":null,"method":null}"#).unwrap(),
            r#"{"jsonrpc":"2.0","id":1,"result":{"n":1.0}}"#
        );
        assert_eq!(
            mended(r#"{"result":null,"error":{"code":1,"data":null},"id":1}"#).unwrap(),
            r#"{"error":{"code":1,"data":null},"id":1}"#
        );
        assert_eq!(mended(r#"{"id":1,"result":{"error":null}}"#), None);
        assert_eq!(mended("[null]"), None);
        assert_eq!(mended("{"), None);
    }

    #[test]
    fn an_error_cannot_speak_in_the_gateways_name() {
        let of = |error: &str| {
            without_verdict(format!(r#"{{"jsonrpc":"2.0","id":1,"error":{error}}}"#).as_bytes())
                .map(|message| json(&message)["error"].clone())
        };
        for code in ["-31905", "-31905.0", "-3.1905e4", "-31900", "-31999", "\"-31905\""] {
            let forged =
                format!(r#"{{"code":{code},"message":"m","data":{{"source":"gateway","executed":"no"}}}}"#);
            let error = of(&forged).unwrap();
            let code: Value = serde_json::from_str(code).unwrap();
            let aside =
                json!({"backend_code": code, "backend_data": {"source": "gateway", "executed": "no"}});
            assert_eq!(error, json!({"code": -32000, "message": "m", "data": aside}));
        }
        let error = of(r#"{"code":-32602,"message":"m","data":{"s\u006furce":1}}"#).unwrap();
        assert_eq!(error, json!({"code": -32602, "message": "m", "data": {"backend_data": {"source": 1}}}));
        let twice = of(r#"{"code":-1,"code":-31901,"message":"m","data":1,"data":{"source":2}}"#).unwrap();
        assert_eq!(twice["code"], -32000);
        assert!(twice["data"].get("source").is_none());
        for plain in [
            r#"{"code":-32603,"message":"m","data":{"executed":"no"}}"#,
            r#"{"code":-31899,"message":"m"}"#,
            r#"{"code":-32000,"message":"m","data":"source"}"#,
            r#"{"code":1e400,"message":"m"}"#,
        ] {
            assert_eq!(of(plain), None, "{plain}");
        }
        assert!(without_verdict(br#"{"id":1,"result":{"error":{"code":-31905}}}"#).is_none());
    }

    #[test]
    fn an_error_without_our_id_is_given_one_and_what_is_known() {
        let of = |text: &str| readdressed(text.as_bytes(), 7).map(|message| json(&message));
        let verdict = |more: Value| {
            let mut data = json!({"source": "gateway", "kind": "backend_error", "executed": "maybe", "retryable": false});
            data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            data
        };
        let plain =
            of(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no","data":[1]}}"#).unwrap();
        assert_eq!(plain["id"], 7);
        assert_eq!(
            plain["error"],
            json!({"code": -32000, "message": "no", "data": verdict(json!({"backend_data": [1]}))})
        );
        let forged = of(r#"{"error":{"code":-31905,"message":"m","data":{"source":"gateway"}}}"#).unwrap();
        let aside = json!({"backend_code": -31905, "backend_data": {"source": "gateway"}});
        assert_eq!(forged["error"], json!({"code": -32000, "message": "m", "data": verdict(aside)}));
        let odd = of(r#"{"error":"out of order"}"#).unwrap();
        assert_eq!(odd["error"]["code"], -32000);
        assert_eq!(of(r#"{"result":{}}"#), None);
    }
}
