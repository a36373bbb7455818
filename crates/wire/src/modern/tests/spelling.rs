//! Conversion is independent of spelling: escapes, order and white space.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::testing::{space, value};

/// Keys of `_meta` in both spellings; true if they belong to this era.
const OF_META: [(&str, bool); 7] = [
    (r#""io.modelcontextprotocol/protocolVersion""#, true),
    (r#""io.modelcontextprotocol\/clientCapabilities""#, true),
    (r#""io.modelcontextprotocol/clientInfo""#, true),
    (r#""\u0069o.modelcontextprotocol/logLevel""#, true),
    (r#""progressToken""#, false),
    (r#""io.modelcontextprotocol/""#, false),
    (r#""traceparent""#, false),
];

/// Keys of `params`; true if they belong to this era.
const OF_PARAMS: [(&str, bool); 5] = [
    (r#""requestState""#, true),
    (r#""inputRespons\u0065s""#, true),
    (r#""name""#, false),
    (r#""arguments""#, false),
    (r#""_mera""#, false),
];

/// An object of these members in order, with white space `a` and `b`.
fn object(members: &[(String, String)], a: &str, b: &str) -> String {
    let members: Vec<String> =
        members.iter().map(|(key, value)| format!("{a}{key}{b}:{a}{value}{b}")).collect();
    format!("{{{a}{}}}", members.join(","))
}

/// Any value that a tree can hold.
fn readable() -> impl Strategy<Value = String> {
    value().prop_filter("a number is too large", |text| serde_json::from_str::<Value>(text).is_ok())
}

fn strip(mut value: Value) -> Value {
    let params = value["params"].as_object_mut().expect("parameters");
    ["requestState", "inputResponses"].into_iter().for_each(|key| drop(params.remove(key)));
    let meta = params["_meta"].as_object_mut().expect("an object");
    [key::VERSION, key::CAPABILITIES, key::CLIENT_INFO, key::LOG_LEVEL]
        .into_iter()
        .for_each(|key| drop(meta.remove(key)));
    if meta.is_empty() {
        params.remove("_meta");
    }
    value
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_loses_its_envelope_however_it_is_written(
        meta in Just(OF_META.to_vec()).prop_shuffle(),
        params in Just(OF_PARAMS.to_vec()).prop_shuffle(),
        (of_meta, of_params, place) in (any::<u8>(), any::<u8>(), 0_usize..6),
        (any, a, b) in (readable(), space(), space()),
    ) {
        let required = |key: &str| key.contains("protocolVersion") || key.contains("clientCapabilities");
        let said = |key: &str| match key {
            _ if key.contains("protocolVersion") => r#""2026-07-28""#.to_owned(),
            _ if key.contains("clientCapabilities") || key.contains("clientInfo") => r#"{"x":{}}"#.to_owned(),
            _ if key.contains("progressToken") || key.contains("logLevel") => r#""info""#.to_owned(),
            _ if key.contains("name") => r#""tool""#.to_owned(),
            _ => any.clone(),
        };
        let chosen = |all: &[(&str, bool)], mask: u8| -> Vec<(String, String)> {
            let is_in = |at: usize, key: &str| required(key) || mask & (1 << at) != 0;
            all.iter().enumerate().filter(|(at, (key, _))| is_in(*at, key))
                .map(|(_, (key, _))| ((*key).to_owned(), said(key))).collect()
        };
        let meta = object(&chosen(&meta, of_meta), &a, &b);
        let mut params = chosen(&params, of_params);
        params.insert(place.min(params.len()), (r#""_meta""#.to_owned(), meta));
        let text = format!(
            "{{{a}\"method\":\"tools/call\",\"params\"{b}:{},\"id\":{b}7{a},\"jsonrpc\":\"2.0\"}}",
            object(&params, &a, &b)
        );
        let read = ModernRequest::parse(text.as_bytes()).expect("an envelope");
        let left = read.to_legacy(&message(text.as_bytes()));
        prop_assert_eq!(value_of(left.bytes()), strip(value_of(text.as_bytes())), "{}", text);
        let sent = value_of(&left.with_id_and_token(42));
        prop_assert_eq!(&sent["id"], 42);
        if left.has_token() {
            prop_assert_eq!(&sent["params"]["_meta"]["progressToken"], 42);
        }
    }

    #[test]
    fn a_result_says_what_it_is_however_it_is_written((any, a, b) in (readable(), space(), space())) {
        for members in [vec![], vec![("\"content\"".to_owned(), any.clone())]] {
            let result = object(&members, &a, &b);
            let text = format!("{{{a}\"id\":{b}7,\"result\"{b}:{a}{result}{b},\"jsonrpc\":\"2.0\"}}");
            let finish = Finish { server_info: r#"{"name":"n"}"#, ttl_ms: None, opens_urls: false };
            let modern = to_modern_result(&Bytes::from(text.clone()), &finish);
            let mut expected = value_of(text.as_bytes());
            expected["result"]["resultType"] = json!("complete");
            expected["result"]["_meta"] = json!({ key::SERVER_INFO: { "name": "n" } });
            prop_assert_eq!(value_of(&modern), expected, "{}", text);
        }
    }
}

fn value_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}
