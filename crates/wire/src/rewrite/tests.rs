//! Splices change exactly their spans; error bodies match the error table.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    error::{ErrorKind, Executed},
    testing::{space, string, value},
};

fn message(text: &str) -> Message {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    Message::new(bytes.clone(), &Envelope::parse(&bytes).unwrap())
}

fn id(text: &str) -> RpcId {
    let text = format!(r#"{{"jsonrpc":"2.0","id":{text},"method":"ping"}}"#);
    Envelope::parse(text.as_bytes()).unwrap().id().unwrap().unwrap()
}

#[test]
fn id_and_token_are_replaced_in_either_order() {
    for (from, to) in [
        (
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"_meta":{"progressToken":"t"},"name":"n"}}"#,
            r#"{"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"_meta":{"progressToken":42},"name":"n"}}"#,
        ),
        (
            r#"{"params":{"_meta":{"progressToken" : 123456 }},"method":"tools/call","jsonrpc":"2.0", "id" : -1 }"#,
            r#"{"params":{"_meta":{"progressToken" : 42 }},"method":"tools/call","jsonrpc":"2.0", "id" : 42 }"#,
        ),
        (r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#, r#"{"jsonrpc":"2.0","id":42,"method":"ping"}"#),
    ] {
        assert_eq!(message(from).with_id_and_token(42), to);
    }
}

#[test]
fn a_request_is_sent_under_another_name_in_one_copy() {
    let call = |before: &str, id: &str, token: &str, name: &str| {
        format!(
            r#"{{{before}"jsonrpc":"2.0","method":"tools/call","params":{{"name" : {name},"arguments":{{"name":"n"}},"_meta":{{"progressToken":{token}}}}},"id":{id}}}"#
        )
    };
    let message = message(&call("", "\"a\"", "\"t\"", r#""gh__\u0061dd""#));
    assert_eq!(message.with_id_token_and_name(42, "a\"dd"), call("", "42", "42", r#""a\"dd""#));
    // Two steps make the same, so the spans behind the name moved with it.
    for name in ["a\"dd", "", "a name that is longer than the one before it"] {
        assert_eq!(message.with_name(name).with_id_and_token(42), message.with_id_token_and_name(42, name));
        assert_eq!(message.with_name("x").with_name(name).bytes(), message.with_name(name).bytes());
    }
    assert_eq!(message.with_name("x").token().as_deref(), Some(&b"\"t\""[..]));
}

#[test]
fn what_a_request_is_about_depends_on_its_method() {
    let with = |method: &str, rest: &str| {
        message(&format!(r#"{{"id":1,"jsonrpc":"2.0","method":"{method}"{rest}}}"#))
    };
    let both = r#","params":{"uri":"u","name":"n"}"#;
    for (method, rest, becomes) in [
        ("prompts/get", both, r#","params":{"uri":"u","name":"x"}"#),
        ("resources/read", both, r#","params":{"uri":"x","name":"n"}"#),
        ("resources/subscribe", r#","params":{"uri":"u"}"#, r#","params":{"uri":"x"}"#),
        ("tools/call", r#","params":{"name":7}"#, r#","params":{"name":7}"#),
        ("tools/call", r#","params":{"uri":"u"}"#, r#","params":{"uri":"u"}"#),
        ("tools/list", "", ""),
    ] {
        assert_eq!(
            with(method, rest).with_name("x").bytes(),
            with(method, becomes).bytes(),
            "{method} {rest}"
        );
    }
    let note = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"u"}}"#;
    assert_eq!(message(note).with_name("x").bytes(), note, "only requests are about something");
}

#[test]
fn an_answer_gets_its_agents_own_id_back() {
    let answer = message(r#"{"id":42,"result":{"id":42},"jsonrpc":"2.0"}"#);
    assert_eq!(
        answer.with_id(id("\"\\u0061\"").raw()),
        r#"{"id":"\u0061","result":{"id":42},"jsonrpc":"2.0"}"#
    );
    let failure = message(r#"{"jsonrpc":"2.0","error":{"code":1,"message":"m"}}"#);
    assert_eq!(failure.with_id(b"1"), *failure.bytes(), "where there is no id there is none to replace");
}

#[test]
fn progress_gets_its_agents_own_token_back() {
    let progress = message(
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1,"progressToken":42,"message":"42"}}"#,
    );
    assert_eq!(progress.token().as_deref(), Some(&b"42"[..]));
    assert_eq!(
        progress.with_token(b"\"mine\""),
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1,"progressToken":"mine","message":"42"}}"#
    );
}

#[test]
fn only_the_tokens_of_the_protocol_are_tokens() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"progressToken":7,"name":"n"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"_meta":{"progressToken":7}}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"progressToken":null}}}"#,
        r#"{"jsonrpc":"2.0","method":"vendor/thing","params":{"progressToken":7}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"_meta":{"progressToken":7}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"_meta":{"progressToken":7}}}"#,
    ] {
        let message = message(text);
        assert!(!message.has_token() && message.token().is_none(), "{text}");
        assert_eq!(message.with_token(b"9"), text);
    }
}

#[test]
fn bodies_are_json_rpc_with_the_id_as_it_came() {
    assert_eq!(
        result_response(&id("\"\\u0061\""), b"{ }"),
        r#"{"jsonrpc":"2.0","id":"\u0061","result":{ }}"#
    );
    let error = error_response(None, -32700, "say \"what\"", None);
    assert_eq!(error, r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"say \"what\""}}"#);
    let error = error_response(Some(&id("7")), -32600, "no", Some(&json!({ "a": 1 })));
    let error: Value = serde_json::from_slice(&error).unwrap();
    assert_eq!(error["id"], 7);
    assert_eq!(error["error"]["data"], json!({ "a": 1 }));
}

#[test]
fn the_error_object_says_what_its_caller_needs() {
    let mut error = CallError::not_sent(ErrorKind::CircuitOpen, "backend \"search\" is down")
        .of_backend("search".into())
        .retry_after(Duration::from_millis(1500));
    error.attempt = 2;
    let body: Value = serde_json::from_slice(&error.to_response(Some(&id("\"x\"")), "00ab")).unwrap();
    assert_eq!(
        body,
        json!({"jsonrpc": "2.0", "id": "x", "error": {
            "code": -31904,
            "message": "backend \"search\" is down",
            "data": {
                "source": "gateway", "kind": "circuit_open", "backend": "search", "executed": "no",
                "retryable": true, "retry_after_ms": 1500, "attempt": 2, "request_id": "00ab",
            },
        }})
    );
    let error = CallError::not_sent(ErrorKind::Lost, "lost").executed(Executed::Maybe);
    let body: Value = serde_json::from_slice(&error.to_response(None, "1")).unwrap();
    assert_eq!(body["id"], Value::Null);
    let data = body["error"]["data"].as_object().unwrap();
    assert_eq!((&data["executed"], &data["retryable"]), (&json!("maybe"), &json!(false)));
    assert!(!data.contains_key("backend") && !data.contains_key("retry_after_ms"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_but_the_spliced_spans_leaves_byte_for_byte(
        (old_id, old_token) in (string(), string()),
        (arguments, other) in (value(), value()),
        new in any::<u32>().prop_map(u64::from),
        (id_first, a, b) in (any::<bool>(), space(), space()),
    ) {
        let build = |id: &str, token: &str| {
            let id = format!("{a}\"id\"{b}:{a}{id}{b}");
            let params = format!(
                "\"params\":{a}{{\"arguments\"{b}:{arguments}{a},\"_meta\":{{\"x\":{other},\"progressToken\":{b}{token}{a}}}}}"
            );
            let (first, last) = if id_first { (id, params) } else { (params, id) };
            format!("{{{first},\"jsonrpc\":\"2.0\",\"other\":{other},\"method\":\"tools/call\",{last}}}")
        };
        let message = message(&build(&old_id, &old_token));
        let up = message.with_id_and_token(new);
        prop_assert_eq!(&up, &build(&new.to_string(), &new.to_string()));
        // The reverse splice restores the original bytes, in any spelling.
        let back = Message::new(up.clone(), &Envelope::parse(&up).unwrap());
        prop_assert_eq!(back.with_id(old_id.as_bytes()), build(&old_id, &new.to_string()));
        prop_assert_eq!(back.with_token(old_token.as_bytes()), build(&new.to_string(), &old_token));
        prop_assert_eq!(message.token().unwrap(), old_token);
    }

    #[test]
    fn a_name_is_spliced_wherever_it_is_and_comes_back(
        (old, new, id) in (string(), any::<String>(), any::<u32>().prop_map(u64::from)),
        (other, a, name_first) in (value(), space(), any::<bool>()),
    ) {
        let build = |id: &str, name: &str| {
            let (name, meta) = (format!("\"name\":{a}{name}{a}"), format!("\"_meta\":{{\"progressToken\":{id}}},\"o\":{other}"));
            let (first, last) = if name_first { (name, meta) } else { (meta, name) };
            format!("{{\"method\":\"prompts/get\",\"params\":{{{first},{last}}},\"jsonrpc\":\"2.0\",\"id\":{id}}}")
        };
        let text = build("\"i\"", &old);
        let envelope = Envelope::parse(text.as_bytes()).unwrap();
        // A name that means nothing is nobody's, and stays.
        prop_assume!(envelope.params.name.is_some());
        let quoted = Value::from(new.as_str()).to_string();
        let message = message(&text);
        prop_assert_eq!(message.with_id_token_and_name(id, &new), build(&id.to_string(), &quoted));
        let renamed = message.with_name(&new);
        prop_assert_eq!(renamed.bytes(), &build("\"i\"", &quoted));
        prop_assert_eq!(renamed.with_id_and_token(id), build(&id.to_string(), &quoted));
    }

    #[test]
    fn a_result_leaves_byte_for_byte(result in value(), new in string(), s in space()) {
        let build = |id: &str| format!("{{\"jsonrpc\":\"2.0\",{s}\"result\":{s}{result}{s},\"id\":{id}}}");
        // No server sends a bare number beyond any machine type as a result.
        prop_assume!(!matches!(result.as_str(), "1e400"));
        prop_assert_eq!(message(&build("17")).with_id(new.as_bytes()), build(&new));
    }
}
