//! The envelope agrees with an independent reading of the same text, its spans lie where they say, and what is
//! spliced comes back byte for byte.

use bytes::Bytes;
use mcpool_wire::{DecodeKind, Envelope, IdValue, Kind, Message, Method};
use serde_json::value::RawValue;

use crate::text::{all, is_json, members, shape};

const TOP: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];
const PARAMS: [&str; 10] = [
    "name",
    "uri",
    "protocolVersion",
    "requestId",
    "progressToken",
    "cursor",
    "level",
    "task",
    "_meta",
    "arguments",
];

/// One message of anybody.
pub fn envelope(data: &[u8]) {
    let text = std::str::from_utf8(data);
    match Envelope::parse(data) {
        Ok(envelope) => {
            let text = text.expect("a message is UTF-8");
            assert_eq!(expected(text), Some(envelope.kind), "{text}");
            agrees(text, &envelope);
            splices(data, &envelope);
            renames(data, &envelope);
        }
        Err(error) => {
            assert!(error.offset <= data.len(), "{error}");
            assert!(!error.reason.is_empty());
            if let Ok(text) = text {
                assert_eq!(expected(text), None, "{error}: {text}");
                // The first defect decides: what is no message may be no JSON further on. Not the other way round.
                assert!(!is_json(text) || error.kind != DecodeKind::Parse || is_odd(text), "{error}: {text}");
            }
        }
    }
    strict(data);
}

/// What this text is, read member by member; `None` if it is no message.
fn expected(text: &str) -> Option<Kind> {
    let top = members(text)?;
    let one = |name| match all(&top, name).as_slice() {
        [] => Some(None),
        [value] => Some(Some(*value)),
        _ => None,
    };
    let [jsonrpc, id, method, params, result, error] =
        [one("jsonrpc")?, one("id")?, one("method")?, one("params")?, one("result")?, one("error")?];
    let string = |value: &str| serde_json::from_str::<String>(value).ok();
    if string(jsonrpc?)? != "2.0" {
        return None;
    }
    if let Some(method) = method {
        string(method)?;
    }
    if let Some(params) = params.filter(|params| *params != "null") {
        readable_params(params)?;
    }
    if let Some(result) = result {
        readable_result(result)?;
    }
    match (method.is_some(), id.is_some(), result.is_some(), error.is_some()) {
        (true, true, false, false) => Some(Kind::Request),
        (true, false, false, false) => Some(Kind::Notification),
        (false, true, true, false) => Some(Kind::Success),
        (false, _, false, true) => Some(Kind::Failure),
        _ => None,
    }
}

fn readable_params(params: &str) -> Option<()> {
    let params = members(params)?;
    // Arguments that come twice are a doubt, not a defect.
    let read = PARAMS.iter().filter(|name| **name != "arguments");
    if read.into_iter().any(|name| all(&params, name).len() > 1) {
        return None;
    }
    match all(&params, "_meta").first() {
        None | Some(&"null") => Some(()),
        Some(meta) => (all(&members(meta)?, "progressToken").len() < 2).then_some(()),
    }
}

/// A result that is no object is read as a value: what no machine holds is refused there.
fn readable_result(result: &str) -> Option<()> {
    match result.as_bytes().first() {
        Some(b'{') => members(result).map(drop),
        Some(b'[') => Some(()),
        _ => serde_json::from_str::<serde_json::Value>(result).ok().map(drop),
    }
}

/// JSON whose strings or numbers mean nothing: it is told as malformed where it is read.
fn is_odd(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text).is_err()
}

fn agrees(text: &str, envelope: &Envelope<'_>) {
    let top = members(text).expect("an object");
    let string = |value: &&str| serde_json::from_str::<String>(value).ok();
    let method = all(&top, "method").first().and_then(string);
    assert_eq!(envelope.method.as_ref().map(Method::as_str), method.as_deref());
    assert_eq!(envelope.id_span().map(|span| &text[span]), all(&top, "id").first().copied());
    let params = all(&top, "params").first().and_then(|params| members(params)).unwrap_or_default();
    let of = |name: &str| all(&params, name).first().and_then(string);
    assert_eq!(envelope.params.name.as_deref(), of("name").as_deref());
    assert_eq!(envelope.params.uri.as_deref(), of("uri").as_deref());
    assert_eq!(envelope.params.level.as_deref(), of("level").as_deref());
    assert_eq!(envelope.params.protocol_version.as_deref(), of("protocolVersion").as_deref());
    let text_of = |name: &str| all(&params, name).first().copied().filter(|value| string(value).is_some());
    assert_eq!(envelope.name_span().map(|span| &text[span]), text_of("name"));
    assert_eq!(envelope.uri_span().map(|span| &text[span]), text_of("uri"));
    let raw = |name: &str| all(&params, name).first().copied().filter(|raw| *raw != "null");
    assert_eq!(envelope.cursor_span().map(|span| &text[span]), raw("cursor"));
    assert_eq!(envelope.token_span().map(|span| &text[span]), raw("progressToken"));
    assert_eq!(
        envelope.request_id_span().map(|span| &text[span]),
        all(&params, "requestId").first().copied()
    );
    let meta = raw("_meta").and_then(members).unwrap_or_default();
    let token = all(&meta, "progressToken").first().copied().filter(|raw| *raw != "null");
    assert_eq!(envelope.meta_token_span().map(|span| &text[span]), token);
    let modern = !all(&meta, "io.modelcontextprotocol/protocolVersion").is_empty();
    assert_eq!(envelope.params.is_modern, modern);
    assert_eq!(envelope.params.has_task, raw("task").is_some());
    let result = all(&top, "result").first().and_then(|result| members(result)).unwrap_or_default();
    // Of duplicates the last one, as other parsers take it.
    assert_eq!(envelope.result.is_error, all(&result, "isError").last() == Some(&"true"));
}

/// The gateway's own id and token go in, the agent's come back, and nothing else changes.
fn splices(data: &[u8], envelope: &Envelope<'_>) {
    let bytes = Bytes::copy_from_slice(data);
    let message = Message::new(bytes.clone(), envelope);
    let (id, token) = (envelope.id_span().map(|span| bytes.slice(span)), message.token());
    let sent = message.with_id_and_token(u64::MAX);
    let read = Envelope::parse(&sent).expect("what is sent is a message");
    assert_eq!((read.kind, &read.method), (envelope.kind, &envelope.method));
    assert_eq!(read.params.name, envelope.params.name);
    let spliced = Message::new(sent.clone(), &read);
    assert_eq!(spliced.token(), token.as_ref().map(|_| Bytes::from(u64::MAX.to_string())));
    let back = match &id {
        Some(id) => spliced.with_id(id),
        None => sent.clone(),
    };
    let read = Envelope::parse(&back).expect("what comes back is a message");
    let back = match &token {
        Some(token) => Message::new(back.clone(), &read).with_token(token),
        None => back,
    };
    assert_eq!(back, bytes);
    let own = message.with_id(b"\"k\"");
    let read = Envelope::parse(&own).expect("a message");
    assert_eq!(read.id_value(), id.map(|_| IdValue::Str("k".into())));
}

/// A request goes out under another name, in one step as in two, and nothing else changes.
fn renames(data: &[u8], envelope: &Envelope<'_>) {
    const NAME: &str = "another \"name\"";
    let message = Message::new(Bytes::copy_from_slice(data), envelope);
    let renamed = message.with_name(NAME);
    assert_eq!(message.with_id_token_and_name(u64::MAX, NAME), renamed.with_id_and_token(u64::MAX));
    let read = Envelope::parse(renamed.bytes()).expect("a message under another name");
    let is_called = matches!(envelope.method, Some(Method::ToolsCall | Method::PromptsGet));
    let (before, after) = match is_called {
        true => (envelope.name_span(), &read.params.name),
        false => (envelope.uri_span(), &read.params.uri),
    };
    match before.filter(|_| envelope.kind == Kind::Request) {
        None => assert_eq!(renamed.bytes(), data),
        Some(span) => {
            assert_eq!(after.as_deref(), Some(NAME));
            let new = serde_json::Value::from(NAME).to_string();
            let parts = [&data[..span.start], new.as_bytes(), &data[span.end..]];
            assert_eq!(renamed.bytes(), &parts.concat());
            assert_eq!(renamed.token(), message.token());
        }
    }
}

/// What passes the strict reading means the same to every other parser, and is not built to be expensive.
fn strict(data: &[u8]) {
    let Ok(envelope) = Envelope::parse_strict(data) else { return };
    let text = std::str::from_utf8(data).expect("a message is UTF-8");
    let top = members(text).expect("an object");
    exact(&top, &TOP);
    if let Some(params) = all(&top, "params").first().and_then(|params| members(params)) {
        exact(&params, &PARAMS);
        if let Some(meta) = all(&params, "_meta").first().and_then(|meta| members(meta)) {
            exact(&meta, &["progressToken", "io.modelcontextprotocol/protocolVersion"]);
        }
    }
    let beyond = envelope.beyond_limits();
    assert!(envelope.kind == Kind::Request || beyond.is_none());
    if let Some((depth, values)) = shape(text) {
        let too_much = depth > 64 || values > 100_000;
        assert!(!too_much || beyond.is_some(), "{depth} levels, {values} values");
        let says_so = beyond.is_some_and(|why| why.starts_with("the message"));
        assert!(too_much || !says_so, "{beyond:?} of {depth} levels, {values} values");
    }
}

/// No key twice, and none that a parser without regard to case takes for one that is read.
fn exact(members: &[(String, &RawValue)], read: &[&str]) {
    for (at, (key, _)) in members.iter().enumerate() {
        assert!(members[..at].iter().all(|(other, _)| other != key), "{key:?} twice");
        let like = read.iter().find(|ours| key.to_lowercase() == ours.to_lowercase());
        assert!(like.is_none_or(|ours| ours == key), "{key:?} like {like:?}");
    }
}
