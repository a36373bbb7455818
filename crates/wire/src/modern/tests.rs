//! Conversion between the eras: converted members, and unchanged bytes elsewhere.

mod spelling;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::{envelope::Envelope, rewrite::Message};

const REQUEST: &[u8] = br#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t","arguments":{"n":1.0e2, "u":"\u00e9"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}},"io.modelcontextprotocol/logLevel":"info","progressToken":7},"requestState":"x","inputResponses":{"k":{"action":"accept"}}}}"#;

fn value(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

#[test]
fn the_envelope_is_read() {
    let request = ModernRequest::parse(REQUEST).expect("an envelope");
    assert!(request.client.is_interactive());
    assert_eq!(request.log_level.as_deref(), Some("info"));
    assert_eq!(request.request_state.as_deref(), Some("\"x\""));
    assert_eq!(request.input_responses.as_deref(), Some(r#"{"k":{"action":"accept"}}"#));
}

#[test]
fn what_is_missing_is_named_and_another_revision_is_its_own_defect() {
    let parse = |meta: Value| {
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "x", "params": { "_meta": meta } });
        ModernRequest::parse(message.to_string().as_bytes()).map(drop)
    };
    let version = |version: &str| json!({ key::VERSION: version, key::CAPABILITIES: {} });
    assert_eq!(parse(version("2026-07-28")), Ok(()));
    assert_eq!(parse(version("2031-01-01")), Err(Defect::Version("2031-01-01".to_owned())));
    for (meta, named) in [
        (json!({}), key::VERSION),
        (json!({ key::VERSION: 3, key::CAPABILITIES: {} }), key::VERSION),
        (json!({ key::VERSION: "2026-07-28" }), key::CAPABILITIES),
        (json!({ key::VERSION: "2026-07-28", key::CAPABILITIES: [] }), key::CAPABILITIES),
    ] {
        let Err(Defect::Envelope(why)) = parse(meta.clone()) else { panic!("{meta} passed") };
        assert!(why.contains(named), "{why}");
    }
}

#[test]
fn a_request_loses_its_envelope_and_nothing_else() {
    let legacy = legacy(REQUEST);
    let text = std::str::from_utf8(&legacy).expect("text");
    assert!(text.contains(r#""arguments":{"n":1.0e2, "u":"\u00e9"}"#), "{text}");
    assert_eq!(value(&legacy)["params"]["_meta"], json!({ "progressToken": 7 }));
    assert_eq!(value(&legacy)["params"].as_object().map(serde_json::Map::len), Some(3), "{text}");
    // The spans of id and token moved with the cut.
    let read = ModernRequest::parse(REQUEST).expect("an envelope");
    let sent = value(&read.to_legacy(&message(REQUEST)).with_id_and_token(42));
    assert_eq!((&sent["id"], &sent["params"]["_meta"]["progressToken"]), (&json!(42), &json!(42)));
    let only = br#"{"jsonrpc":"2.0","method":"x","params":{ "_meta" : {"io.modelcontextprotocol\/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}} , "a":1},"id":1}"#;
    assert_eq!(
        value(&self::legacy(only)),
        json!({ "jsonrpc": "2.0", "method": "x", "params": { "a": 1 }, "id": 1 })
    );
}

fn message(text: &[u8]) -> Message {
    let bytes = Bytes::copy_from_slice(text);
    Message::new(bytes.clone(), &Envelope::parse(&bytes).expect("a message"))
}

fn legacy(text: &[u8]) -> Bytes {
    ModernRequest::parse(text).expect("an envelope").to_legacy(&message(text)).bytes().clone()
}

#[test]
fn a_request_that_goes_over_and_back_is_what_it_was() {
    let stamp = Stamp {
        capabilities: r#"{"roots":{}}"#,
        client_info: r#"{"name":"a","version":"1"}"#,
        log_level: Some("debug"),
        carried: Some(Carried { responses: Some("{}"), state: Some(r#""a\u0062""#) }),
    };
    for message in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_meta":{"traceparent":"00-1"}}}"#,
    ] {
        let modern = to_modern_request(&Bytes::from_static(message.as_bytes()), &stamp);
        let read = ModernRequest::parse(&modern).expect("an envelope");
        assert_eq!(read.request_state.as_deref(), Some(r#""a\u0062""#), "byte for byte");
        assert_eq!(read.client.capabilities, json!({ "roots": {} }));
        let back = value(&legacy(&modern));
        let mut before = value(message.as_bytes());
        if before.get("params").is_none() {
            before["params"] = json!({});
        }
        assert_eq!(back, before);
    }
}

#[test]
fn a_result_says_what_it_is_and_keeps_its_content() {
    let message =
        Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[ 1.50 ],"_meta":{"a":1}}}"#);
    let finish = Finish { server_info: r#"{"name":"s","version":"1"}"#, ttl_ms: Some(0), opens_urls: false };
    let modern = to_modern_result(&message, &finish);
    assert!(std::str::from_utf8(&modern).expect("text").contains("[ 1.50 ]"));
    let result = &value(&modern)["result"];
    assert_eq!((&result["resultType"], &result["ttlMs"]), (&json!("complete"), &json!(0)));
    assert_eq!(result["_meta"], json!({ "a": 1, key::SERVER_INFO: { "name": "s", "version": "1" } }));
    let LegacyResult::Complete(back) = to_legacy_result(&modern) else { panic!("it is complete") };
    assert_eq!(value(&back), value(&message));
    let error = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"m"}}"#);
    assert_eq!(to_modern_result(&error, &finish), error);
    assert_eq!(to_legacy_result(&error), LegacyResult::Complete(error));
}

#[test]
fn what_a_result_says_of_this_era_is_said_once() {
    let finish = Finish { server_info: r#"{"name":"n"}"#, ttl_ms: Some(5), opens_urls: false };
    let said = |result: &str| {
        let message = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,"result": {result} }}"#));
        let text = String::from_utf8(to_modern_result(&message, &finish).to_vec()).expect("text");
        for key in ["resultType", "ttlMs", "cacheScope", key::SERVER_INFO, "\"_meta\""] {
            assert_eq!(text.matches(key).count(), 1, "{key}: {text}");
        }
        value(text.as_bytes())["result"].clone()
    };
    let own = json!({ "resultType": "complete", "ttlMs": 5, "cacheScope": "private",
                      "_meta": { key::SERVER_INFO: { "name": "n" } } });
    for empty in ["{}", "{ }", r#"{"ttlMs":9}"#, r#"{"_meta":{},"cacheScope":"public"}"#] {
        assert_eq!(said(empty), own);
    }
    assert_eq!(said(r#"{"\u005fmeta":{"a":1}}"#)["_meta"]["a"], 1);
    assert_eq!(said(r#"{"tools":[{"m":1.0e2}]}"#)["tools"].to_string(), r#"[{"m":100.0}]"#);
}

#[test]
fn a_resource_that_does_not_exist_has_another_code_and_other_errors_are_as_they_came() {
    let finish = Finish { server_info: "{}", ttl_ms: None, opens_urls: true };
    let error = |code: i64| {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{code},"message":"m","data":{{"uri": 1.0e2}}}}}}"#
        );
        Bytes::from(text)
    };
    assert_eq!(value(&to_modern_result(&error(-32002), &finish)), value(&error(-32602)));
    assert_eq!(to_modern_result(&error(-32603), &finish), error(-32603));
    assert_eq!(error_code(&error(-32603)), Some(-32603));
    assert_eq!(error_code(br#"{"jsonrpc":"2.0","id":1,"result":{"error":{"code":1}}}"#), None);
}

#[test]
fn what_a_server_asks_for_is_read_in_its_order() {
    let message = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"z":{"method":"elicitation/create","params":{"message": "?"}},"a":{"method":"roots/list"}},"requestState":"s\u0041"}}"#);
    let LegacyResult::InputRequired { requests, state } = to_legacy_result(&message) else {
        panic!("it asks")
    };
    assert_eq!(state.as_deref(), Some(r#""s\u0041""#), "byte for byte");
    let names: Vec<_> = requests.iter().map(|one| (one.key.as_str(), one.method.as_str())).collect();
    assert_eq!(names, [("z", "elicitation/create"), ("a", "roots/list")]);
    assert_eq!(requests[0].params.as_deref(), Some(r#"{"message": "?"}"#));
    let other = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"task"}}"#);
    assert_eq!(to_legacy_result(&other), LegacyResult::Unknown("task".to_owned()));
    let answers = input_responses([("z", r#"{"action":"accept"}"#), ("a\"", "{}")]);
    assert_eq!(value(answers.as_bytes()), json!({ "z": { "action": "accept" }, "a\"": {} }));
}

#[test]
fn any_text_goes_through_a_header_and_forms_that_are_not_canonical_do_not() {
    for text in ["plain", "with space inside", "", " edge", "grüße", "a\nb", "=?base64?YQ==?=", "\u{0}"] {
        assert_eq!(decode_header(&encode_header(text)).as_deref(), Some(text));
    }
    assert_eq!(encode_header("plain").to_str().ok(), Some("plain"));
    for bad in ["=?base64?YQ?=", "=?base64?YR==?=", "=?base64?/w==?=", "=?base64?%?="] {
        assert_eq!(decode_header(&bad.parse().expect("a header")), None, "{bad}");
    }
}

fn tools(items: &Value) -> ToolsPage {
    let message = json!({ "jsonrpc": "2.0", "id": 1, "result": { "tools": items, "nextCursor": "c" } });
    read_tools(&Bytes::from(message.to_string())).expect("a page")
}

#[test]
fn arguments_that_are_marked_are_said_in_headers() {
    let page = tools(&json!([{ "name": "t", "inputSchema": { "type": "object", "properties": {
        "region": { "type": "string", "x-mcp-header": "Region" },
        "n": { "type": "integer", "x-mcp-header": "N" },
        "deep": { "type": "object", "properties": { "on": { "type": "boolean", "x-mcp-header": "on" } } },
        "x-mcp-header": { "type": "object", "default": { "x-mcp-header": "data" } },
    } } }]));
    let [(name, params)] = &page.tools[..] else { panic!("{page:?}") };
    assert_eq!((name.as_str(), page.refused.len()), ("t", 0));
    let said = |arguments: &str| {
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{arguments}}}}}"#
        );
        let mut said: Vec<String> = params
            .headers(call.as_bytes())
            .iter()
            .map(|(k, v)| format!("{k}: {}", v.to_str().expect("text")))
            .collect();
        said.sort();
        said
    };
    assert_eq!(
        said(r#"{"region":"grüße","n":123456789012345678901234567890,"deep":{"on":false}}"#),
        [
            "mcp-param-n: 123456789012345678901234567890",
            "mcp-param-on: false",
            "mcp-param-region: =?base64?Z3LDvMOfZQ==?="
        ]
    );
    assert_eq!(said(r#"{"region":null,"n":4.0,"deep":[]}"#), ["mcp-param-n: 4"]);
    assert!(said("{}").is_empty());
}

#[test]
fn a_tool_whose_marks_say_nothing_is_left_out() {
    let schema = |properties: Value| json!({ "type": "object", "properties": properties });
    let bad = [
        schema(json!({ "a": { "type": "number", "x-mcp-header": "A" } })),
        schema(json!({ "a": { "type": ["string", "null"], "x-mcp-header": "A" } })),
        schema(json!({ "a": { "type": "string", "x-mcp-header": "a b" } })),
        schema(json!({ "a": { "type": "string", "x-mcp-header": "" } })),
        schema(json!({ "a": { "type": "string", "x-mcp-header": 3 } })),
        schema(json!({
            "a": { "type": "string", "x-mcp-header": "X" }, "b": { "type": "string", "x-mcp-header": "x" } })),
        schema(json!({ "a": { "type": "array", "items": { "type": "string", "x-mcp-header": "A" } } })),
        schema(json!({ "a": { "anyOf": [{ "type": "string", "x-mcp-header": "A" }] } })),
        json!({ "type": "string", "x-mcp-header": "A" }),
        json!({ "$defs": { "d": { "type": "string", "x-mcp-header": "A" } } }),
    ];
    for schema in bad {
        let page = tools(&json!([
            { "name": "bad", "inputSchema": schema }, { "name": "good", "inputSchema": { "a": 1.50 } }]));
        assert_eq!(page.tools, [("good".to_owned(), ToolParams::default())], "{schema}");
        assert_eq!(page.refused[0].0, "bad");
        let left = value(&page.message);
        assert_eq!(left["result"]["tools"].as_array().map(Vec::len), Some(1));
        assert_eq!(left["result"]["nextCursor"], "c");
    }
    let whole = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[ {"name":"a"} ]}}"#);
    assert_eq!(read_tools(&whole).expect("a page").message, whole, "byte for byte");
}

#[test]
fn a_notification_loses_the_name_of_its_stream() {
    let legacy = |params: Value| {
        let message = json!({ "jsonrpc": "2.0", "method": "n", "params": params });
        value(&to_legacy_notification(&Bytes::from(message.to_string())))
    };
    let id = key::SUBSCRIPTION_ID;
    assert_eq!(legacy(json!({ "_meta": { id: 1 } })), json!({ "jsonrpc": "2.0", "method": "n" }));
    assert_eq!(
        legacy(json!({ "uri": "u", "_meta": { id: 1, "a": 2 } }))["params"],
        json!({ "uri": "u", "_meta": { "a": 2 } })
    );
    let bare = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"n"}"#);
    assert_eq!(to_legacy_notification(&bare), bare);
}

#[test]
fn structured_content_that_is_no_object_is_left_out() {
    for (content, kept) in [("{\"a\":1}", true), ("[1]", false), ("3", false)] {
        let message = Bytes::from(format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[],"structuredContent":{content}}}}}"#
        ));
        let LegacyResult::Complete(legacy) = to_legacy_result(&message) else { panic!("it is complete") };
        assert_eq!(value(&legacy)["result"].get("structuredContent").is_some(), kept, "{content}");
    }
}

#[test]
fn headers_and_arguments_are_compared_by_what_they_mean() {
    let schema = json!({ "properties": {
        "s": { "type": "string", "x-mcp-header": "S" },
        "n": { "type": "integer", "x-mcp-header": "N" },
    } });
    let marks = ToolParams::read(&schema.to_string()).expect("sound marks");
    let fits = |arguments: Value, sent: &[(&str, &str)]| {
        let call = json!({ "params": { "arguments": arguments } }).to_string();
        let header = |name: &str| http::HeaderName::try_from(format!("mcp-param-{name}")).expect("a name");
        let value = |value| http::HeaderValue::from_str(value).expect("a value");
        let sent: Vec<_> = sent.iter().map(|(name, text)| (header(name), value(text))).collect();
        marks.check(call.as_bytes(), &sent).is_ok()
    };
    assert!(fits(json!({}), &[]));
    assert!(fits(json!({ "s": "\u{fc}" }), &[("s", "=?base64?w7w=?=")]));
    assert!(fits(json!({ "s": null, "n": 7 }), &[("n", "7.0"), ("other", "x")]));
    for (arguments, sent) in [
        (json!({ "s": "eu" }), vec![]),
        (json!({}), vec![("s", "eu")]),
        (json!({ "s": "eu" }), vec![("s", "EU")]),
        (json!({ "s": "1" }), vec![("s", "1.0")]),
        (json!({ "n": 7 }), vec![("n", "8")]),
        (json!({ "s": "\u{fc}" }), vec![("s", "=?base64?w!w=?=")]),
    ] {
        assert!(!fits(arguments.clone(), &sent), "{arguments} {sent:?}");
    }
}

#[test]
fn an_argument_that_stands_there_twice_is_not_what_its_header_says() {
    let inner = json!({ "type": "object", "properties": { "s": { "type": "string", "x-mcp-header": "S" } } });
    let schema = json!({ "properties": { "o": inner, "t": { "type": "string", "x-mcp-header": "T" } } });
    let marks = ToolParams::read(&schema.to_string()).expect("sound marks");
    let header = |name: &str, value| {
        (http::HeaderName::try_from(name).expect("a name"), http::HeaderValue::from_static(value))
    };
    let sent = [header("mcp-param-s", "eu"), header("mcp-param-t", "eu")];
    let fits = |arguments: &str| {
        let call = format!(r#"{{"params":{{"arguments":{arguments}}}}}"#);
        marks.check(call.as_bytes(), &sent).is_ok()
    };
    assert!(fits(r#"{"o":{"s":"eu","x":1,"x":2},"t":"eu","x":1,"x":1}"#));
    for arguments in [
        r#"{"o":{"s":"eu"},"t":"eu","t":"us"}"#,
        r#"{"o":{"s":"eu"},"t":"eu","\u0074":"eu"}"#,
        r#"{"o":{"s":"eu","s":"us"},"t":"eu"}"#,
        r#"{"o":{"s":"eu"},"o":{"s":"us"},"t":"eu"}"#,
    ] {
        assert!(!fits(arguments), "{arguments}");
    }
    assert!(
        marks.check(br#"{"params":{"arguments":{"o":{"s":"eu"},"t":"eu"},"arguments":{}}}"#, &sent).is_err()
    );
}

#[test]
fn urls_to_visit_first_are_asked_for_of_who_can_open_them() {
    let error = Bytes::from_static(
        br#"{"jsonrpc":"2.0","id":"i","error":{"code":-32042,"message":"m","data":{"elicitations":[{"mode":"url","elicitationId":"e","url":"https://u","message":"?"}]}}}"#,
    );
    let finish = |opens_urls| Finish { server_info: "{}", ttl_ms: None, opens_urls };
    let asked = value(&to_modern_result(&error, &finish(true)));
    let params = json!({ "mode": "url", "url": "https://u", "message": "?" });
    assert_eq!((&asked["id"], &asked["result"]["resultType"]), (&json!("i"), &json!("input_required")));
    let requests = json!({ "url-0": { "method": "elicitation/create", "params": params } });
    assert_eq!(asked["result"]["inputRequests"], requests);
    assert_eq!(asked["result"].get("requestState"), None, "it asks again");
    assert_eq!(to_modern_result(&error, &finish(false)), error);
    let none = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"m"}}"#);
    assert_eq!(to_modern_result(&none, &finish(true)), none);
}
