//! Properties of the scan over random messages.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::testing::{space, string, value};

/// Top-level keys of a message, mostly with valid values.
fn member() -> impl Strategy<Value = (&'static str, String)> {
    let id = prop_oneof![4 => any::<i64>().prop_map(|n| n.to_string()), 4 => string(), 1 => value()];
    let method = prop_oneof![5 => Just("\"tools/call\"".to_owned()), 3 => string(), 1 => value()];
    let meta = prop_oneof![
        1 => value(),
        5 => string().prop_map(|token| format!(r#"{{"x":1,"progressToken":{token}}}"#)),
    ];
    let params = prop_oneof![
        1 => value(),
        5 => (value(), meta).prop_map(|(a, meta)| format!(r#"{{"arguments":{a},"name":"n","_meta":{meta}}}"#)),
    ];
    prop_oneof![
        3 => id.prop_map(|v| ("id", v)),
        3 => method.prop_map(|v| ("method", v)),
        3 => params.prop_map(|v| ("params", v)),
        1 => value().prop_map(|v| ("result", v)),
        1 => value().prop_map(|v| ("error", v)),
        1 => value().prop_map(|v| ("other", v)),
    ]
}

/// An object of distinct keys as text, `jsonrpc` somewhere in it.
fn message() -> impl Strategy<Value = String> {
    (prop::collection::vec((member(), space(), space()), 0..6), any::<prop::sample::Index>()).prop_map(
        |(mut members, at)| {
            members.sort_by_key(|((key, _), ..)| *key);
            members.dedup_by_key(|((key, _), ..)| *key);
            let mut pairs: Vec<String> =
                members.iter().map(|((key, value), a, b)| format!("{a}\"{key}\"{b}:{a}{value}{b}")).collect();
            pairs.insert(at.index(pairs.len() + 1), r#""jsonrpc":"2.0""#.to_owned());
            format!("{{{}}}", pairs.join(","))
        },
    )
}

/// The message kind according to a tree parser.
fn kind_by_tree(tree: &Value) -> Option<Kind> {
    let has = |key| tree.get(key).is_some();
    match (has("method"), has("id"), has("result"), has("error")) {
        (true, true, false, false) => Some(Kind::Request),
        (true, false, false, false) => Some(Kind::Notification),
        (false, true, true, false) => Some(Kind::Success),
        (false, _, false, true) => Some(Kind::Failure),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_taken_agrees_with_a_tree_parser(text in message()) {
        // Only the tree parser rejects numbers beyond any machine type; neither rejects nested duplicates.
        let Ok(tree) = serde_json::from_str::<Value>(&text) else { return Ok(()) };
        let Ok(envelope) = Envelope::parse(text.as_bytes()) else { return Ok(()) };
        prop_assert_eq!(Some(envelope.kind), kind_by_tree(&tree));
        prop_assert_eq!(envelope.method.as_ref().map(Method::as_str), tree.get("method").and_then(Value::as_str));
        prop_assert_eq!(envelope.params.name.as_deref(), tree.pointer("/params/name").and_then(Value::as_str));
        let is_error = tree.pointer("/result/isError").filter(|_| tree["result"].is_object());
        prop_assert_eq!(envelope.result.is_error, is_error == Some(&Value::Bool(true)));
        if let Some(span) = envelope.id_span() {
            prop_assert_eq!(&serde_json::from_str::<Value>(&text[span]).unwrap(), &tree["id"]);
        }
        if let Some(span) = envelope.meta_token_span() {
            let token: Value = serde_json::from_str(&text[span]).unwrap();
            prop_assert_eq!(&token, &tree["params"]["_meta"]["progressToken"]);
        }
    }

    #[test]
    fn well_formed_messages_are_taken_whatever_their_arguments(arguments in value(), id in any::<i64>(), s in space()) {
        let text = format!(
            "{{{s}\"jsonrpc\":\"2.0\",\"params\":{s}{{\"arguments\":{arguments}{s},\"name\":\"n\"}},\"method\":\"tools/call\",\"id\":{id}}}"
        );
        let envelope = Envelope::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(envelope.id_value(), Some(IdValue::Num(id)));
    }

    #[test]
    fn doubling_any_member_that_is_read_is_refused(text in message()) {
        let Ok(tree) = serde_json::from_str::<Value>(&text) else { return Ok(()) };
        if Envelope::parse(text.as_bytes()).is_ok() {
            for key in ["jsonrpc", "id", "method", "params", "result", "error"] {
                let Some(member) = tree.get(key) else { continue };
                let doubled = format!("{},\"{key}\":{member}}}", &text[..text.len() - 1]);
                prop_assert!(Envelope::parse(doubled.as_bytes()).is_err(), "{}", doubled);
            }
        }
    }

    #[test]
    fn cut_or_damaged_messages_never_panic(text in message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let at = at.index(text.len());
        let check = |bytes: &[u8]| match Envelope::parse(bytes) {
            Ok(envelope) => {
                assert!(envelope.id_span().is_none_or(|span| span.end <= bytes.len()));
                let _ = envelope.id();
            }
            Err(error) => assert!(error.offset <= bytes.len()),
        };
        check(&text.as_bytes()[..at]);
        let mut damaged = text.clone().into_bytes();
        damaged[at] = byte;
        check(&damaged);
    }
}
