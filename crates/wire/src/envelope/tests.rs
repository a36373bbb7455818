//! Valid and invalid messages; `random` holds the properties.

use super::*;

mod random;

fn parse(text: &str) -> Result<Envelope<'_>, DecodeError> {
    Envelope::parse(text.as_bytes())
}

fn refused(text: &str) -> (i32, String) {
    match parse(text) {
        Ok(envelope) => panic!("{text} was taken for {envelope:?}"),
        Err(error) => (error.kind.code(), error.reason.into_owned()),
    }
}

/// A request with these params.
fn request(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
}

#[test]
fn the_kind_follows_from_the_keys() {
    for (text, kind) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, Kind::Request),
        (r#"{"method":"ping","id":"a","jsonrpc":"2.0"}"#, Kind::Request),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, Kind::Request),
        (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, Kind::Notification),
        (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Kind::Success),
        (r#"{"jsonrpc":"2.0","id":1,"result":null}"#, Kind::Success),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#, Kind::Failure),
        (r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#, Kind::Failure),
        (r#"{"jsonrpc":"2.0","error":{"code":1,"message":""}}"#, Kind::Failure),
        (" \r\n\t{ \"jsonrpc\" : \"2.0\" , \"method\" : \"ping\" } \n", Kind::Notification),
        (r#"{"jsonrpc":"2.0","method":"ping","extra":{"id":7,"id":8}}"#, Kind::Notification),
    ] {
        assert_eq!(parse(text).unwrap().kind, kind, "{text}");
    }
}

#[test]
fn json_that_is_no_message_is_an_invalid_request() {
    for (text, reason) in [
        ("{}", "\"jsonrpc\" must be exactly \"2.0\""),
        (r#"{"id":1,"method":"ping"}"#, "\"jsonrpc\" must be exactly \"2.0\""),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, "\"jsonrpc\" must be exactly \"2.0\""),
        (r#"{"JSONRPC":"2.0","id":1,"method":"ping"}"#, "\"jsonrpc\" must be exactly \"2.0\""),
        (
            r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#,
            "invalid type: floating point `2.0`, expected a string",
        ),
        (r#"{"jsonrpc":"2.0"}"#, "neither a method nor a result nor an error"),
        (r#"{"jsonrpc":"2.0","id":1,"Method":"ping"}"#, "neither a method nor a result nor an error"),
        (r#"{"jsonrpc":"2.0","result":{}}"#, "a result needs an id"),
        (r#"{"jsonrpc":"2.0","id":1,"method":null}"#, "invalid type: null, expected a string"),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, "invalid type: integer `7`, expected a string"),
        (r#""ping""#, "invalid type: string \"ping\", expected a JSON-RPC message object"),
        ("7", "invalid type: integer `7`, expected a JSON-RPC message object"),
        ("null", "invalid type: null, expected a JSON-RPC message object"),
    ] {
        assert_eq!(refused(text), (-32600, reason.to_owned()), "{text}");
    }
    for both in [
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","error":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
        r#"{"jsonrpc":"2.0","method":"ping","result":{}}"#,
    ] {
        assert_eq!(
            refused(both),
            (-32600, "a message is a request, a notification or a response, not several".into())
        );
    }
}

#[test]
fn malformed_json_is_a_parse_error_with_its_place() {
    for (text, offset) in [
        ("", 0),
        ("{", 1),
        (r#"{"jsonrpc":"2.0","id":1"#, 23),
        (r#"{"jsonrpc":"2.0",}"#, 18),
        (r#"{"jsonrpc":"2.0","id":01,"method":"ping"}"#, 24),
        (r#"{"jsonrpc":"2.0","method":"ping"} x"#, 35),
        ("{\"jsonrpc\":\"2.0\",\n\"method\":ping}", 28),
        ("{\"jsonrpc\":\"2.0\",\"method\":\"a\nb\"}", 29),
        (r#"{"jsonrpc":"2.0","method":"\ud800"}"#, 33),
        ("\u{feff}{}", 1),
        ("{}{}", 3),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.kind, DecodeKind::Parse, "{text}: {error}");
        assert!(error.offset.abs_diff(offset) <= 1, "{text}: {error}, expected about {offset}");
        assert!(error.id.is_none());
    }
}

#[test]
fn invalid_utf8_is_a_parse_error_at_the_first_bad_byte() {
    let good = br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"#;
    for bad in [&b"\"\xff\"}}"[..], b"\"\xc3\x28\"}}", b"\"\xed\xa0\x80\"}}", b"\"\xf0\x9f"] {
        let bytes = [good, bad].concat();
        let error = Envelope::parse(&bytes).unwrap_err();
        assert_eq!((error.kind.code(), error.offset), (-32700, good.len() + 1));
        assert_eq!(error.to_string(), format!("the body is not valid UTF-8 (at byte {})", good.len() + 1));
    }
}

#[test]
fn a_batch_is_told_apart_from_garbage() {
    for text in ["[]", "  [1]", "\n[{\"jsonrpc\":\"2.0\",\"method\":\"ping\"}]", "[oops"] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.kind, DecodeKind::Batch, "{text}");
        assert_eq!(error.kind.code(), -32600);
    }
}

#[test]
fn a_duplicate_of_a_key_that_is_read_is_refused() {
    for text in [
        r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":null,"id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{},"params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":null,"params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":1,"result":2}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":1,"error":2}"#,
        // An escaped key equals its plain form.
        r#"{"jsonrpc":"2.0","id":1,"\u0069d":2,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/call"}"#,
        &request(r#"{"name":"a","name":"b"}"#),
        &request(r#"{"name":"a","n\u0061me":"b"}"#),
        &request(r#"{"name":1,"name":"b"}"#),
        &request(r#"{"name":"a","name":1}"#),
        &request(r#"{"name":null,"name":"b"}"#),
        &request(r#"{"uri":1,"uri":"b"}"#),
        &request(r#"{"protocolVersion":1,"protocolVersion":"b"}"#),
        &request(r#"{"cursor":null,"cursor":"b"}"#),
        &request(r#"{"requestId":1,"requestId":2}"#),
        &request(r#"{"progressToken":null,"progressToken":2}"#),
        &request(r#"{"_meta":null,"_meta":{}}"#),
        &request(r#"{"_meta":{"progressToken":1,"progressToken":2}}"#),
        &request(r#"{"_meta":{"progressToken":null,"progress\u0054oken":2}}"#),
    ] {
        let (code, reason) = refused(text);
        assert_eq!(code, -32600, "{text}");
        assert!(reason.starts_with("duplicate field `"), "{text}: {reason}");
    }
}

#[test]
fn duplicates_inside_what_is_not_read_pass() {
    let text = request(r#"{"arguments":{"a":1,"a":2,"name":1,"Name":2}}"#);
    assert!(Envelope::parse_strict(text.as_bytes()).is_ok());
    // Backends' messages are parsed less strictly.
    assert_eq!(parse(&request(r#"{"Name":"a","name":"b"}"#)).unwrap().params.name.as_deref(), Some("b"));
}

#[test]
fn params_are_an_object_or_absent() {
    for absent in [r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, &request("null"), &request("{}")] {
        let params = parse(absent).unwrap().params;
        assert!(params.name.is_none() && params.meta_progress_token.is_none() && !params.has_cursor);
    }
    for other in ["[]", "[1]", "1", "\"a\"", "true"] {
        let (code, reason) = refused(&request(other));
        assert_eq!(code, -32600);
        assert!(reason.ends_with("expected a params object"), "{reason}");
    }
    for other in ["[]", "1", "\"a\"", "true"] {
        let (code, reason) = refused(&request(&format!(r#"{{"_meta":{other}}}"#)));
        assert_eq!(code, -32600);
        assert!(reason.ends_with("expected a _meta object"), "{reason}");
    }
}

#[test]
fn the_parameters_it_reads_are_read() {
    let text = request(
        r#"{"name":"tool","uri":"a:\/\/b","protocolVersion":"2025-06-18","cursor":"c","requestId":"7","progressToken":5,
            "_meta":{"progressToken":"t","io.modelcontextprotocol/protocolVersion":"2026-07-28","other":[1,2]}}"#,
    );
    let envelope = parse(&text).unwrap();
    let params = &envelope.params;
    assert_eq!(params.name.as_deref(), Some("tool"));
    assert!(matches!(params.name, Some(Cow::Borrowed(_))), "no copy where there is no escape");
    assert_eq!(params.uri.as_deref(), Some("a://b"));
    assert_eq!(params.protocol_version.as_deref(), Some("2025-06-18"));
    assert_eq!(params.request_id.map(RawValue::get), Some("\"7\""));
    assert_eq!(params.progress_token.map(RawValue::get), Some("5"));
    assert_eq!(params.meta_progress_token.map(RawValue::get), Some("\"t\""));
    assert!(params.has_cursor && params.is_modern);
    assert_eq!(&text[envelope.request_id_span().unwrap()], "\"7\"");
    assert_eq!(&text[envelope.token_span().unwrap()], "5");
    assert_eq!(&text[envelope.meta_token_span().unwrap()], "\"t\"");
    assert_eq!(&text[envelope.id_span().unwrap()], "1");
}

#[test]
fn parameters_of_another_type_are_the_backends_to_refuse() {
    let text = request(r#"{"name":7,"uri":null,"protocolVersion":[],"cursor":null,"_meta":null}"#);
    let params = parse(&text).unwrap().params;
    assert!(params.name.is_none() && params.uri.is_none() && params.protocol_version.is_none());
    assert!(!params.has_cursor && !params.is_modern);
}

#[test]
fn a_progress_token_of_null_is_none() {
    let text = request(r#"{"progressToken":null,"_meta":{"progressToken":null}}"#);
    let envelope = parse(&text).unwrap();
    assert!(envelope.meta_token_span().is_none());
    assert!(envelope.token_span().is_none());
}

#[test]
fn a_tool_error_is_exactly_is_error_true() {
    for (result, is_error) in [
        (r#"{"isError":true}"#, true),
        (r#"{"content":[{"isError":false}],"is\u0045rror":true}"#, true),
        (r#"{"isError":false}"#, false),
        (r#"{"isError":"true"}"#, false),
        (r#"{"isError":1}"#, false),
        (r#"{"isError":null}"#, false),
        (r#"{"iserror":true}"#, false),
        (r#"{"content":[{"isError":true}]}"#, false),
        (r#"[{"isError":true}]"#, false),
        ("null", false),
        ("true", false),
        ("-1", false),
        ("18446744073709551615", false),
        ("1.5", false),
        ("\"isError\"", false),
        ("\"\\n\"", false),
        ("{}", false),
    ] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
        let envelope = parse(&text).unwrap();
        assert_eq!((envelope.kind, envelope.result.is_error), (Kind::Success, is_error), "{result}");
    }
}

#[test]
fn a_refused_message_keeps_its_id_where_it_has_one() {
    for (text, id) in [
        (r#"{"id":7,"method":"ping"}"#, Some("7")),
        (r#"{"jsonrpc":"2.0","id":"a","params":[],"method":"ping"}"#, Some("\"a\"")),
        (r#"{"jsonrpc":"2.0","params":[],"method":"ping","id":"\u0061"}"#, Some("\"\\u0061\"")),
        (r#"{"jsonrpc":"2.0","id":3,"method":"a","method":"b"}"#, Some("3")),
        (r#"{"jsonrpc":"2.0","id":3,"method":"a","result":1}"#, Some("3")),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":7}"#, None),
        (r#"{"jsonrpc":"2.0","id":null,"method":7}"#, None),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}"#, None),
        (r#"{"jsonrpc":"2.0","method":7}"#, None),
        (r#"{"jsonrpc":"2.0","id":1,"method":"#, None),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.id.as_ref().map(RpcId::raw), id.map(str::as_bytes), "{text}");
    }
}

#[test]
fn an_id_of_a_refused_kind_is_told_to_its_sender() {
    for id in ["null", "1.5", "true", "[1]", "{\"a\":1}", "9223372036854775808"] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        let envelope = parse(&text).unwrap();
        assert_eq!(envelope.kind, Kind::Request, "never taken for a notification");
        assert!(envelope.id().unwrap().is_err(), "{id}");
        assert_eq!(envelope.id_value(), None);
    }
    assert!(parse(r#"{"jsonrpc":"2.0","method":"ping"}"#).unwrap().id().is_none());
}

#[test]
fn depth_and_size_of_what_is_not_read_do_not_matter() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    for text in [
        request(&format!(r#"{{"arguments":{deep}}}"#)),
        format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":{deep}}}}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":1,"error":{deep}}}"#),
    ] {
        assert!(parse(&text).is_ok());
    }
}
