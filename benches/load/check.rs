//! What a call asks for, and the proof that an answer is the answer to it.

use std::io;

use mcpool_wire::{Envelope, IdValue, Kind};
use memchr::memmem;

/// Answers of this size are not read by the parser.
pub(super) const LARGE: usize = 256 * 1024;
/// Where the id of a large answer is looked for: at its beginning and its end.
const SMALL: usize = 512;

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The nonce back.
    Echo,
    /// A result of this many bytes; the answer is checked by its size and id.
    Big(usize),
}

/// Why a call has no right answer.
#[derive(Debug)]
pub enum Failure {
    /// The connection failed.
    Io(io::Error),
    /// An HTTP status that is not the one a known session gets.
    Status(u16, &'static str),
    /// A JSON-RPC error.
    Rpc(String),
    /// An answer to another call, or not an answer at all.
    Wrong(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "connection: {error}"),
            Self::Status(code, what) => write!(f, "status {code} to {what}"),
            Self::Rpc(message) => write!(f, "JSON-RPC error: {message}"),
            Self::Wrong(what) => write!(f, "wrong answer: {what}"),
        }
    }
}

/// Whether this is the answer to the call with this id and nonce.
pub(super) fn check(answer: &[u8], id: u64, work: Work, nonce: &str) -> Result<(), Failure> {
    let wrong = |what: &str| {
        let start = &answer[..answer.len().min(200)];
        Err(Failure::Wrong(format!("{what} (call {id}): {}", String::from_utf8_lossy(start))))
    };
    if answer.len() >= LARGE {
        return check_large(answer, id, work);
    }
    let Ok(envelope) = Envelope::parse(answer) else { return wrong("no message") };
    if envelope.id_value() != Some(IdValue::Num(id.cast_signed())) {
        return wrong("another id");
    }
    match envelope.kind {
        Kind::Success => {}
        Kind::Failure => {
            return Err(Failure::Rpc(String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned()));
        }
        Kind::Request | Kind::Notification => return wrong("no answer"),
    }
    if envelope.result.is_error {
        return wrong("a tool error");
    }
    match work {
        Work::Echo if memmem::find(answer, nonce.as_bytes()).is_none() => wrong("another nonce"),
        Work::Big(size) if answer.len() < size => wrong("too short"),
        Work::Echo | Work::Big(_) => Ok(()),
    }
}

/// A large result is checked by its size, its id and its last bytes: reading all of it would take the processor
/// from those it is measured beside.
fn check_large(answer: &[u8], id: u64, work: Work) -> Result<(), Failure> {
    let expected = match work {
        Work::Echo => usize::MAX,
        Work::Big(size) => size,
    };
    let field = format!("\"id\":{id},");
    let (head, tail) = (&answer[..SMALL], &answer[answer.len() - SMALL..]);
    let has_id = memmem::find(head, field.as_bytes()).is_some()
        || memmem::find(tail, field.trim_end_matches(',').as_bytes()).is_some();
    if answer.len() >= expected && has_id && answer.ends_with(b"}") {
        return Ok(());
    }
    let head = String::from_utf8_lossy(&head[..200]);
    Err(Failure::Wrong(format!("a large answer to call {id}, {} bytes: {head}", answer.len())))
}

/// A number nobody else has (splitmix64 finaliser over agent and call).
pub(super) fn nonce(key: u64, id: u64) -> u64 {
    let mut x = key.rotate_left(32) ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &[u8] = br#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"abc"}]}}"#;

    #[test]
    fn the_right_answer_is_right() {
        assert!(check(RIGHT, 7, Work::Echo, "abc").is_ok());
    }

    #[test]
    fn an_answer_with_another_nonce_or_id_is_wrong() {
        assert!(matches!(check(RIGHT, 7, Work::Echo, "abd"), Err(Failure::Wrong(_))));
        assert!(matches!(check(RIGHT, 8, Work::Echo, "abc"), Err(Failure::Wrong(_))));
        let quoted = br#"{"jsonrpc":"2.0","id":"7","result":{"text":"abc"}}"#;
        assert!(matches!(check(quoted, 7, Work::Echo, "abc"), Err(Failure::Wrong(_))));
    }

    #[test]
    fn errors_and_truncated_answers_do_not_count_as_answers() {
        let error = br#"{"jsonrpc":"2.0","id":7,"error":{"code":-31902,"message":"abc"}}"#;
        assert!(matches!(check(error, 7, Work::Echo, "abc"), Err(Failure::Rpc(_))));
        let tool = br#"{"jsonrpc":"2.0","id":7,"result":{"content":[],"isError":true,"n":"abc"}}"#;
        assert!(matches!(check(tool, 7, Work::Echo, "abc"), Err(Failure::Wrong(_))));
        assert!(matches!(check(&RIGHT[..20], 7, Work::Echo, "abc"), Err(Failure::Wrong(_))));
        assert!(matches!(check(RIGHT, 7, Work::Big(4096), ""), Err(Failure::Wrong(_))));
    }

    #[test]
    fn a_large_answer_needs_its_size_its_id_and_its_end() {
        let answer = |id: u64| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"{}"}}"#, "x".repeat(LARGE));
        assert!(check(answer(7).as_bytes(), 7, Work::Big(LARGE), "").is_ok());
        for (answer, size) in [(answer(8), LARGE), (answer(7), 2 * LARGE), (answer(7) + "x", LARGE)] {
            assert!(matches!(check(answer.as_bytes(), 7, Work::Big(size), ""), Err(Failure::Wrong(_))));
        }
        assert!(check(answer(7).as_bytes(), 7, Work::Echo, "x").is_err());
    }

    #[test]
    fn nonces_differ_between_agents_and_calls() {
        let all: std::collections::HashSet<_> =
            (0..100).flat_map(|key| (0..100).map(move |id| nonce(key, id))).collect();
        assert_eq!(all.len(), 10_000);
    }
}
