//! One row per rule for agents' messages, and a bound on the cost of parsing.

use std::time::Duration;

use super::*;
use crate::rewrite::Message;

fn request(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
}

fn strict(text: &str) -> Result<Envelope<'_>, String> {
    Envelope::parse_strict(text.as_bytes()).map_err(|error| error.reason.into_owned())
}

fn beyond(text: &str) -> Option<&'static str> {
    strict(text).unwrap_or_else(|why| panic!("{why}: {text:.200}")).beyond_limits()
}

fn nested(levels: usize) -> String {
    request(&format!(r#"{{"arguments":{}1{}}}"#, "[".repeat(levels), "]".repeat(levels)))
}

#[test]
fn keys_another_parser_could_take_for_ours_are_refused() {
    for (text, reason) in [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","ID":2}"#,
            r#"the key "ID" of the message is not "id": keys are exact"#,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#,
            r#"the key "Method" of the message is not "method": keys are exact"#,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","re\u017fult":1}"#,
            r#"the key "reſult" of the message is not "result": keys are exact"#,
        ),
        (&request(r#"{"Name":"a"}"#), r#"the key "Name" of params is not "name": keys are exact"#),
        (&request(r#"{"name":"a","NAME":"b"}"#), r#"the key "NAME" of params is not "name": keys are exact"#),
        (
            &request(r#"{"Arguments":{}}"#),
            r#"the key "Arguments" of params is not "arguments": keys are exact"#,
        ),
        (
            &request(r#"{"_meta":{"progressTo\u212Aen":1}}"#),
            "the key \"progressTo\u{212a}en\" of _meta is not \"progressToken\": keys are exact",
        ),
    ] {
        assert_eq!(strict(text).unwrap_err(), reason, "{text}");
    }
    // Accepted: keys in objects the gateway does not read, and other words.
    for text in [
        &request(r#"{"arguments":{"Name":1,"ID":2}}"#),
        &request(r#"{"names":1,"имя":2,"_meta":{"a/Name":1}}"#),
        r#"{"jsonrpc":"2.0","id":1,"result":{"IsError":true,"ID":1}}"#,
    ] {
        assert!(strict(text).is_ok(), "{text}");
    }
}

#[test]
fn a_duplicate_in_an_object_that_is_read_is_refused_wherever_it_is() {
    let many: String = (0..100).map(|n| format!("\"k{n}\":1,")).collect();
    for (text, key) in [
        (request(r#"{"arguments":{},"arguments":{}}"#), r#""arguments" in params"#),
        (request(r#"{"arguments":{},"argument\u0073":{}}"#), r#""arguments" in params"#),
        (request(r#"{"x":1,"y":2,"x":3}"#), r#""x" in params"#),
        (request(&format!("{{{many}\"k99\":2}}")), r#""k99" in params"#),
        (request(&format!("{{{many}\"k3\":2}}")), r#""k3" in params"#),
        (request(r#"{"_meta":{"a":1,"a":1}}"#), r#""a" in _meta"#),
        (
            request(
                r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":1,"io.modelcontextprotocol/protocolVersion":2}}"#,
            ),
            r#""io.modelcontextprotocol/protocolVersion" in _meta"#,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","x":1,"x":1}"#.to_owned(), r#""x" in the message"#),
    ] {
        let error = Envelope::parse_strict(text.as_bytes()).unwrap_err();
        assert_eq!(error.reason, format!("duplicate key {key}"), "{text}");
        assert_eq!((error.kind.code(), error.id.is_some()), (-32600, true));
    }
    assert!(strict(&request(&format!("{{{many}\"k\":2}}"))).is_ok());
    let keys = |n: usize| (0..n).map(|n| format!("\"k{n}\":1,")).collect::<String>();
    assert!(strict(&request(&format!("{{{}\"name\":\"n\"}}", keys(256)))).is_ok());
    let error = strict(&request(&format!("{{{}\"name\":\"n\"}}", keys(257)))).unwrap_err();
    assert_eq!(error, "more than 256 keys in params");
}

#[test]
fn names_and_uris_have_their_limits() {
    let name = |name: &str| request(&format!(r#"{{"name":"{name}"}}"#));
    let read = |uri: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{{"uri":"{uri}"}}}}"#)
    };
    assert_eq!(beyond(&name(&"x".repeat(128))), None);
    assert_eq!(beyond(&name(&"é".repeat(128))), None, "characters, not bytes");
    assert_eq!(beyond(&name(&"x".repeat(129))), Some("params.name is longer than 128 characters"));
    assert_eq!(beyond(&read(&"x".repeat(8192))), None);
    assert_eq!(beyond(&read(&"x".repeat(8193))), Some("params.uri is longer than 8 KiB"));
    // Another method's `name` is not a tool.
    assert_eq!(beyond(&name(&"x".repeat(129)).replace("tools/call", "vendor/x")), None);
}

#[test]
fn half_a_surrogate_pair_names_nothing_and_passes_in_arguments() {
    for half in [r"\ud800", r"\uDC00", r"a\ud83dx", r"\udc00\ud800"] {
        for key in ["name", "uri", "protocolVersion"] {
            let text = request(&format!(r#"{{"{key}":"{half}"}}"#));
            assert_eq!(beyond(&text), Some("params.name, uri and protocolVersion must be valid Unicode"));
        }
        let token = request(&format!(r#"{{"_meta":{{"progressToken":"{half}"}}}}"#));
        assert_eq!(
            beyond(&token),
            Some("a progressToken must be a string of at most 256 bytes or an integer")
        );
        let id = request("{}").replace(":1,", &format!(":\"{half}\","));
        assert!(strict(&id).unwrap().id().unwrap().is_err());
        assert!(strict(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{half}"}}"#)).is_err());
        assert!(strict(&request(&format!(r#"{{"{half}":1}}"#))).is_err(), "as a key beside ours");
        assert_eq!(beyond(&request(&format!(r#"{{"arguments":{{"{half}":"{half}"}}}}"#))), None);
    }
}

#[test]
fn a_progress_token_is_what_an_id_is() {
    let token = |token: &str| beyond(&request(&format!(r#"{{"_meta":{{"progressToken":{token}}}}}"#)));
    for good in ["1", "-9007199254740993", "\"t\"", "null", &format!("\"{}\"", "x".repeat(256))] {
        assert_eq!(token(good), None, "{good}");
    }
    for bad in ["1.5", "true", "[]", "{}", "1e400", &format!("\"{}\"", "x".repeat(257))] {
        assert!(token(bad).is_some(), "{bad}");
    }
    let notice = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":[1]}}"#;
    assert!(strict(notice).unwrap_err().starts_with("a progressToken"), "nobody else would tell it");
}

#[test]
fn depth_and_number_of_values_are_bounded_and_punctuation_in_strings_is_not() {
    // The message and its params are two levels.
    assert_eq!(beyond(&nested(62)), None);
    assert_eq!(beyond(&nested(63)), Some("the message nests deeper than 64 levels"));
    assert_eq!(beyond(&nested(500_000)), Some("the message nests deeper than 64 levels"));
    let wide = vec!["[]"; 80].join(",");
    let strings = format!(r#""{}\\\"[[""#, "[{,".repeat(100_000));
    assert_eq!(beyond(&request(&format!(r#"{{"arguments":[{wide},{strings},{{}}]}}"#))), None);
    // Message, version, id, method, params, arguments: six values before the first item.
    let items = |n: usize| request(&format!(r#"{{"arguments":[{}]}}"#, vec!["1"; n].join(", ")));
    assert_eq!(beyond(&items(100_000 - 6)), None);
    assert_eq!(beyond(&items(100_000 - 5)), Some("the message holds more than 100000 values"));
    let notice = items(100_000).replace("\"id\":1,", "");
    assert_eq!(strict(&notice).unwrap_err(), "the message holds more than 100000 values");
}

#[test]
fn the_shape_is_that_of_the_tree() {
    fn shape(tree: &serde_json::Value) -> (usize, usize) {
        let inner: Vec<(usize, usize)> = match tree {
            serde_json::Value::Array(items) => items.iter().map(shape).collect(),
            serde_json::Value::Object(map) => map.values().map(shape).collect(),
            _ => return (0, 1),
        };
        let deepest = inner.iter().map(|(depth, _)| *depth).max().unwrap_or_default();
        (deepest + 1, 1 + inner.iter().map(|(_, values)| values).sum::<usize>())
    }
    for text in [
        "1",
        "[]",
        " [ ] ",
        "{}",
        "[1]",
        "[[]]",
        "[[],[]]",
        "[1,[2,{}],\"[,{\",{\"a,\":[\"\\\"]\",3]}]",
        "{\"a\":{ },\"b\" : 1}",
    ] {
        let tree = serde_json::from_str(text).unwrap();
        let found = Shape::of(text);
        assert_eq!((found.depth, found.values), shape(&tree), "{text}");
        assert!(Shape::at_most(text).depth >= found.depth);
    }
}

#[test]
fn numbers_json_does_not_have_and_second_values_are_no_messages() {
    for arguments in [
        "NaN",
        "Infinity",
        "-Infinity",
        "+1",
        "01",
        ".5",
        "1.",
        "0x1",
        "'a'",
        "[1,]",
        "{\"a\":1,}",
        "/**/1",
        "\"\t\"",
    ] {
        assert!(strict(&request(&format!(r#"{{"arguments":{arguments}}}"#))).is_err(), "{arguments}");
    }
    for after in ["{}", ",", "]", "null", "\u{0}"] {
        assert!(strict(&format!("{}{after}", request("{}"))).is_err(), "{after}");
    }
}

/// A xorshift step; random enough for mutations.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 33).unwrap()
}

const PIECES: [&str; 28] = [
    "\"name\":",
    "\"Name\":",
    "\"n\\u0061me\":",
    "\"\\u006eame\":",
    "\"name \":",
    "\"ſ\":",
    "\"method\":",
    "\"METHOD\":",
    "\"params\":{",
    "\"id\":",
    "\"_meta\":{",
    "\"arguments\":{",
    "\"progressToken\":",
    "\"a\"",
    "\"b\\u0000\"",
    "\"\\ud800\"",
    "1e400",
    "-0",
    "null",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\u{feff}",
    "/*",
    "\u{0}",
];

const MEMBERS: [&str; 16] = [
    r#""name":"b","#,
    r#""Name":"b","#,
    r#""n\u0061me":"b","#,
    r#""ſ":1,"#,
    r#""uri":7,"#,
    r#""URI":"x","#,
    r#""id":3,"#,
    r#""x":{"name":"c"},"#,
    r#""y":[1e400,"\ud800"],"#,
    r#""z":"\"name\":\"d\"","#,
    r#""progressToken":9,"#,
    r#""Progresstoken":9,"#,
    r#""_Meta":{},"#,
    r#""method":"ping","#,
    r#""name ":"b","#,
    r#""na\u0000me":"b","#,
];

/// Any other parser, also a case-insensitive one, reads the values that the gateway decided on.
#[test]
fn what_is_decided_on_is_what_is_forwarded() {
    let seed = request(
        r#"{"name":"tool","arguments":{"name":"x","Name":1},"_meta":{"progressToken":7,"k":1},"uri":"u"}"#,
    );
    let (mut state, mut taken) = (0x9e37_79b9_7f4a_7c15, 0);
    for round in 0..100_000 {
        let mut text = seed.clone();
        for _ in 0..1 + round % 3 {
            // A whole member at a valid place, or any piece anywhere.
            let members: Vec<usize> = text.match_indices(['{', ',']).map(|(at, _)| at + 1).collect();
            if !next(&mut state).is_multiple_of(4) && !members.is_empty() {
                let at = members[next(&mut state) % members.len()];
                text.insert_str(at, MEMBERS[next(&mut state) % MEMBERS.len()]);
                continue;
            }
            let at = next(&mut state) % text.len();
            let end = (at + next(&mut state) % 3 * (next(&mut state) % 8)).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(end) {
                text.replace_range(at..end, PIECES[next(&mut state) % PIECES.len()]);
            }
        }
        let bytes = bytes::Bytes::from(text);
        let Ok(envelope) = Envelope::parse_strict(&bytes) else { continue };
        if envelope.kind != Kind::Request
            || envelope.id().is_none_or(|id| id.is_err())
            || envelope.beyond_limits().is_some()
        {
            continue;
        }
        let forwarded = Message::new(bytes.clone(), &envelope).with_id_and_token(4711);
        let Ok(tree) = serde_json::from_slice::<serde_json::Value>(&forwarded) else { continue };
        taken += 1;
        let find = |object: Option<&serde_json::Value>, name: &str| {
            let members = object.and_then(|o| o.as_object()).into_iter().flatten();
            let like: Vec<_> =
                members.filter(|(key, _)| folds_to(key, name)).map(|(_, value)| value.clone()).collect();
            assert!(like.len() < 2, "{bytes:?} has several {name}");
            like.into_iter().next()
        };
        let params = find(Some(&tree), "params");
        let text = |value: Option<serde_json::Value>| value.and_then(|v| v.as_str().map(str::to_owned));
        assert_eq!(
            text(find(params.as_ref(), "name")).as_deref(),
            envelope.params.name.as_deref(),
            "{bytes:?}"
        );
        assert_eq!(
            text(find(params.as_ref(), "uri")).as_deref(),
            envelope.params.uri.as_deref(),
            "{bytes:?}"
        );
        assert_eq!(
            text(find(Some(&tree), "method")).as_deref(),
            envelope.method.as_ref().map(Method::as_str)
        );
        assert_eq!(find(Some(&tree), "id"), Some(4711.into()), "{bytes:?}");
        let token =
            find(find(params.as_ref(), "_meta").as_ref(), "progressToken").filter(|token| !token.is_null());
        assert!(token.is_none_or(|token| token == 4711), "{bytes:?}");
    }
    assert!(taken > 10_000, "only {taken} of the mutated messages were still messages");
}

/// CPU time of this thread, independent of other load.
fn worked() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    Duration::from_nanos(stat.split(' ').next().and_then(|n| n.parse().ok()).expect("nanoseconds"))
}

/// CPU time for `times` parses, enough of them to hide the clock's resolution.
fn work(text: &str, times: u32) -> Duration {
    let before = worked();
    for _ in 0..times {
        let beyond = Envelope::parse_strict(text.as_bytes()).map(|envelope| envelope.beyond_limits());
        std::hint::black_box(beyond.is_ok());
    }
    (worked() - before) / times
}

#[test]
fn no_message_costs_much_more_than_a_plain_one_of_its_size() {
    const SIZE: usize = 1 << 20;
    let fill = |piece: &dyn Fn(usize) -> String| {
        let mut text = String::new();
        for n in 0.. {
            if text.len() > SIZE {
                break;
            }
            text.push_str(&piece(n));
        }
        text
    };
    let keys = fill(&|n| format!("\"k{n}\":1,"));
    // The maximum number of containers, so that nothing is rejected early.
    let plain = request(&format!(
        r#"{{"arguments":{{"items":[{}1]}}}}"#,
        fill(&|n| format!("{{\"k\":\"{n} some text of a usual length\"}},"))
    ));
    let usual = work(&plain, 100).max(Duration::from_micros(100));
    for (what, text) in [
        ("keys of params", request(&format!("{{{keys}\"z\":1}}"))),
        ("keys of _meta", request(&format!(r#"{{"_meta":{{{keys}"z":1}}}}"#))),
        ("keys of the message", format!(r#"{{{keys}"jsonrpc":"2.0","id":1,"method":"ping"}}"#)),
        ("one key again and again", request(&format!("{{{}\"z\":1}}", "\"k\":1,".repeat(SIZE / 6)))),
        ("depth", nested(SIZE / 2)),
        ("values", request(&format!(r#"{{"arguments":[{}1]}}"#, "1,".repeat(SIZE / 2)))),
        ("punctuation in a string", request(&format!(r#"{{"arguments":"{}"}}"#, "{,".repeat(SIZE / 2)))),
        ("a long name", request(&format!(r#"{{"name":"{}"}}"#, r"\u0061".repeat(SIZE / 6)))),
        ("a long key", request(&format!(r#"{{"{}":1}}"#, r"\u0061".repeat(SIZE / 6)))),
        ("a long id", request("{}").replace(":1,", &format!(":\"{}\",", r"\u0061".repeat(SIZE / 6)))),
        ("a long number", request(&format!(r#"{{"arguments":{}}}"#, "9".repeat(SIZE)))),
        ("no end", format!("{}{}", "{\"a\":".repeat(SIZE / 5), " ".repeat(SIZE / 5))),
        ("line breaks before the defect", format!("{}{{", "\n".repeat(SIZE))),
    ] {
        let took = work(&text, 4);
        assert!(took < usual * 100, "{what}: {took:?}, a plain message of the size {usual:?}");
    }
}
