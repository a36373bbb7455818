//! Events of a stream: their ids, their bytes, and the required form of their payload.

use std::fmt;

use bytes::Bytes;

/// The id of one event in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventId {
    pub(crate) stream: u32,
    /// Counts from 1; 0 is the moment before the first event.
    pub(crate) seq: u64,
}

/// One event on its way to an agent.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// `None` if the stream cannot be resumed.
    pub(crate) id: Option<EventId>,
    pub(crate) bytes: Bytes,
}

impl EventId {
    /// Reads a `Last-Event-ID`; `None` for anything that is not exactly the text of an id.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (stream, seq) = text.split_once('-')?;
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !plain(stream) || !plain(seq) {
            return None;
        }
        Some(Self { stream: stream.parse().ok()?, seq: seq.parse().ok()? })
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stream, self.seq)
    }
}

/// The same JSON without raw line breaks, which would end the event. Between tokens they are white space, and inside
/// strings JSON has none.
pub(crate) fn one_line(json: Bytes) -> Bytes {
    if memchr::memchr2(b'\n', b'\r', &json).is_none() {
        return json;
    }
    json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_of_an_id_is_an_id() {
        for (stream, seq) in [(0, 0), (7, 12), (u32::MAX, u64::MAX)] {
            let known = EventId { stream, seq };
            assert_eq!(EventId::parse(&known.to_string()), Some(known));
        }
        let huge = "9".repeat(10_000);
        for text in
            ["", "-", "1", "1-", "-1", "+1-2", "1-+2", "1--2", "a-b", "4294967296-1", " 1-1", "1-1-1", &huge]
        {
            assert_eq!(EventId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn raw_line_breaks_become_space() {
        assert_eq!(one_line(Bytes::from_static(b"{\r\n\"a\":\n1}")), "{  \"a\": 1}");
    }
}
