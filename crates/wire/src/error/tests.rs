//! Codes and names of errors, and which are retryable.

use std::collections::HashSet;

use super::*;

const TABLE: [(ErrorKind, i32, &str, bool); 15] = [
    (ErrorKind::Unavailable, -31901, "backend_unavailable", true),
    (ErrorKind::QueueTimeout, -31902, "queue_timeout", true),
    (ErrorKind::Overloaded, -31903, "overloaded", true),
    (ErrorKind::CircuitOpen, -31904, "circuit_open", true),
    (ErrorKind::Lost, -31905, "lost_in_flight", true),
    (ErrorKind::Deadline, -31906, "deadline", true),
    (ErrorKind::NotRoutable, -31907, "not_routable", false),
    (ErrorKind::TooLarge, -31908, "answer_too_large", false),
    (ErrorKind::Draining, -31909, "draining", true),
    (ErrorKind::Denied, -31910, "denied", false),
    (ErrorKind::ProtocolViolation, -31911, "backend_protocol_violation", false),
    (ErrorKind::MethodNotFound, -32601, "method_not_found", false),
    (ErrorKind::InvalidParams, -32602, "invalid_params", false),
    (ErrorKind::InvalidRequest, -32600, "invalid_request", false),
    (ErrorKind::Cancelled, -32800, "cancelled", false),
];

#[test]
fn kinds_have_their_codes_and_words() {
    for (kind, code, word, _) in TABLE {
        assert_eq!((kind.code(), kind.as_str()), (code, word));
    }
    let codes: HashSet<_> = TABLE.iter().map(|(_, code, ..)| code).collect();
    assert_eq!(codes.len(), TABLE.len(), "one code per kind");
}

#[test]
fn only_what_was_not_executed_may_simply_be_sent_again() {
    for (kind, _, word, retryable) in TABLE {
        let error = CallError::not_sent(kind, "why");
        assert_eq!(error.is_retryable(), retryable, "{word}");
        for executed in [Executed::Maybe, Executed::Yes] {
            assert!(!error.clone().executed(executed).is_retryable(), "{word}");
        }
    }
    assert_eq!([Executed::No, Executed::Maybe, Executed::Yes].map(Executed::as_str), ["no", "maybe", "yes"]);
}

#[test]
fn the_text_is_the_message_alone() {
    let error =
        CallError::not_sent(ErrorKind::Deadline, format!("no answer within {}s", 60)).of_backend("b".into());
    assert_eq!(error.to_string(), "no answer within 60s");
}

#[test]
fn the_error_an_agent_gets_of_any_kind_says_whether_the_call_ran() {
    for (kind, code, word, _) in TABLE {
        for executed in [Executed::No, Executed::Maybe, Executed::Yes] {
            let error = CallError::not_sent(kind, "why").executed(executed);
            let body: serde_json::Value =
                serde_json::from_slice(&error.to_response(None, "0123")).expect("JSON");
            let data = &body["error"]["data"];
            assert_eq!(
                (body["error"]["code"].as_i64(), data["kind"].as_str()),
                (Some(code.into()), Some(word))
            );
            assert_eq!(data["executed"], executed.as_str(), "{word}");
            assert_eq!(data["retryable"], error.is_retryable(), "{word}");
        }
    }
}
