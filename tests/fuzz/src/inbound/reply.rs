//! Answers of the server, cut out of a connection and judged, without the code under test.

use serde_json::{Value, value::RawValue};

/// One answer.
pub(super) struct Reply {
    status: u16,
    content_type: String,
    body: Vec<u8>,
    is_whole: bool,
}

/// What the last answer ends in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Behind an answer, or before any.
    Clean,
    /// In the body of a stream that goes on, or that went on until the connection ended.
    InStream,
    /// In the middle of anything else.
    Torn,
}

/// Whether these bytes are exactly one request whose body is as long as it says, with nothing that could make the
/// server wait or go.
pub(super) fn is_request(bytes: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = request.parse(bytes) else { return false };
    let of =
        |name: &str| request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).collect::<Vec<_>>();
    let plain =
        ["transfer-encoding", "connection", "expect", "upgrade"].iter().all(|name| of(name).is_empty());
    let length = match of("content-length").as_slice() {
        [] => Some(0),
        [one] => std::str::from_utf8(one.value).ok().and_then(|text| text.trim().parse().ok()),
        _ => None,
    };
    plain && request.version == Some(1) && length == Some(bytes.len() - head)
}

/// The answers of a connection.
pub(super) fn all(mut bytes: &[u8]) -> (Vec<Reply>, Ending) {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(head)) = response.parse(bytes) else {
            return (replies, Ending::Torn);
        };
        let of = |name: &str| {
            let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok()
        };
        let status = response.code.unwrap_or_default();
        let content_type = of("content-type").unwrap_or_default().to_owned();
        let is_stream = content_type.starts_with("text/event-stream");
        let rest = &bytes[head..];
        let body = if status < 200 {
            Body { bytes: Vec::new(), length: Some(0) }
        } else if of("transfer-encoding").is_some() {
            chunked(rest)
        } else if let Some(length) = of("content-length").and_then(|text| text.parse::<usize>().ok()) {
            let length = Some(length).filter(|length| *length <= rest.len());
            Body { bytes: rest[..length.unwrap_or(rest.len())].to_vec(), length }
        } else {
            // Of HTTP/1.0: up to the end of the connection.
            Body { bytes: rest.to_vec(), length: Some(rest.len()).filter(|_| !is_stream) }
        };
        let is_whole = body.length.is_some();
        if status >= 200 {
            replies.push(Reply { status, content_type, body: body.bytes, is_whole });
        }
        match body.length {
            Some(length) => bytes = &rest[length..],
            None => return (replies, if is_stream { Ending::InStream } else { Ending::Torn }),
        }
    }
    (replies, Ending::Clean)
}

struct Body {
    bytes: Vec<u8>,
    /// With its framing, if it is whole.
    length: Option<usize>,
}

fn chunked(rest: &[u8]) -> Body {
    let (mut at, mut bytes) = (0, Vec::new());
    while let Ok(httparse::Status::Complete((head, size))) = httparse::parse_chunk_size(&rest[at..]) {
        let (from, size) = (at + head, usize::try_from(size).unwrap_or(usize::MAX));
        let Some(chunk) = from.checked_add(size).and_then(|to| rest.get(from..to)) else { break };
        bytes.extend_from_slice(chunk);
        at = from + size + 2;
        if at > rest.len() {
            break;
        }
        if size == 0 {
            return Body { bytes, length: Some(at) };
        }
    }
    Body { bytes, length: None }
}

impl Reply {
    /// What is wrong with it.
    pub(super) fn judge(&self, sent: &[u8]) -> Result<(), String> {
        if !(200..500).contains(&self.status) {
            return Err(format!("status {}", self.status));
        }
        if self.content_type.starts_with("text/event-stream") {
            return self.events().iter().try_for_each(|data| message(data, sent));
        }
        if self.content_type.starts_with("application/json") && self.is_whole {
            return match self.body.first() {
                Some(b'[') => serde_json::from_slice::<Vec<&RawValue>>(&self.body)
                    .map_err(|why| why.to_string())?
                    .iter()
                    .try_for_each(|one| message(one.get(), sent)),
                _ => message(&String::from_utf8_lossy(&self.body), sent),
            };
        }
        Ok(())
    }

    /// The data of complete events that carry a message.
    fn events(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.body);
        let Some((complete, _)) = text.rsplit_once("\n\n") else { return Vec::new() };
        let data = |event: &str| {
            if event.lines().any(|line| line == "event: endpoint") {
                return None;
            }
            let lines: Vec<&str> = event.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
            Some(lines.join("\n")).filter(|data| !data.is_empty())
        };
        complete.split("\n\n").filter_map(data).collect()
    }
}

/// A message or a page: JSON, and under no id that was not sent.
fn message(text: &str, sent: &[u8]) -> Result<(), String> {
    let value: Value = serde_json::from_str(text).map_err(|why| format!("{why} in {text:?}"))?;
    if value.get("jsonrpc").is_none_or(|version| version != "2.0") {
        return if value.get("id").is_none() { Ok(()) } else { Err(format!("no version in {text}")) };
    }
    let parts = ["method", "result", "error"].iter().filter(|key| value.get(**key).is_some()).count();
    if parts != 1 {
        return Err(format!("{parts} kinds at once in {text}"));
    }
    #[derive(serde::Deserialize)]
    struct Only<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    let only: Only<'_> = serde_json::from_str(text).map_err(|why| why.to_string())?;
    let id = only.id.map_or("null", RawValue::get);
    // The gateway's own questions have ids of its own; an id that came in chunks stands nowhere in one piece.
    let is_own = value.get("method").is_some() || id == "null";
    let in_pieces = sent.windows(7).any(|word| word.eq_ignore_ascii_case(b"chunked"));
    let was_sent = sent.windows(id.len()).any(|part| part == id.as_bytes());
    if is_own || in_pieces || was_sent { Ok(()) } else { Err(format!("a foreign id in {text}")) }
}
