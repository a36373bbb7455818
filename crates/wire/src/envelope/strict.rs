//! What is refused of an agent's message beyond what makes it unreadable (SEMANTICS.md 12).
//!
//! A backend's own parser must see what the gateway decided on, so keys that another parser could take for ours are
//! refused; and a message may not be built to be expensive. What backends send is not measured: it passes unread,
//! and its size is bounded by the transport.

use std::borrow::Cow;

use super::{DecodeError, DecodeKind, Envelope, Kind};
use crate::{id::IdValue, method::Method};

/// Levels of arrays and objects.
const MAX_DEPTH: usize = 64;
/// Values in one message, containers included, keys not.
const MAX_VALUES: usize = 100_000;
/// Characters in the name of a tool or prompt.
const MAX_NAME: usize = 128;
/// Bytes of a URI.
const MAX_URI: usize = 8 * 1024;
/// Unread keys of one object that the gateway reads: they are compared with each other.
const MAX_KEYS: usize = 256;

/// The keys of one object that the gateway passes unread, so that it notices what others may read differently.
pub(super) struct Unread<'a> {
    object: &'static str,
    read: &'static [&'static str],
    seen: Vec<Cow<'a, str>>,
    pub(super) doubt: Option<String>,
}

impl<'a> Unread<'a> {
    pub(super) fn new(object: &'static str, read: &'static [&'static str]) -> Self {
        Self { object, read, seen: Vec::new(), doubt: None }
    }

    pub(super) fn see(&mut self, key: Cow<'a, str>) {
        if self.doubt.is_some() {
            return;
        }
        let like = self.read.iter().find(|ours| folds_to(&key, ours));
        if like.is_some_and(|ours| *ours == key) || self.seen.contains(&key) {
            let shown: String = key.chars().take(64).collect();
            self.doubt = Some(format!("duplicate key {shown:?} in {}", self.object));
        } else if let Some(ours) = like {
            self.doubt = Some(format!("the key {key:?} of {} is not {ours:?}: keys are exact", self.object));
        } else if self.seen.len() == MAX_KEYS {
            self.doubt = Some(format!("more than {MAX_KEYS} keys in {}", self.object));
        } else {
            self.seen.push(key);
        }
    }
}

/// Whether a parser that ignores case takes one for the other. Two letters outside ASCII fold into it.
fn folds_to(key: &str, ours: &str) -> bool {
    if key.is_ascii() {
        return key.eq_ignore_ascii_case(ours);
    }
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(ours.chars().map(|c| c.to_ascii_lowercase()))
}

impl<'a> Envelope<'a> {
    /// Reads one message of an agent.
    ///
    /// # Errors
    /// As [`Envelope::parse`], and for duplicate or almost equal keys in an object the gateway reads; for
    /// notifications and responses also beyond the limits, which for a request [`Envelope::beyond_limits`] tells:
    /// a request has somebody to be answered.
    pub fn parse_strict(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut envelope = Self::parse(bytes)?;
        let doubt = envelope.params.doubt.take();
        let doubt = envelope.doubt.take().or(doubt).map(Cow::Owned);
        let beyond = (envelope.kind != Kind::Request).then(|| envelope.beyond_limits()).flatten();
        match doubt.or(beyond.map(Cow::Borrowed)) {
            None => Ok(envelope),
            Some(reason) => {
                let id = envelope.id().and_then(Result::ok);
                Err(DecodeError { id, ..DecodeError::new(DecodeKind::Invalid, 0, reason) })
            }
        }
    }

    /// Why a message of an agent is too much, or names what cannot be named.
    #[must_use]
    pub fn beyond_limits(&self) -> Option<&'static str> {
        let params = &self.params;
        let names_tool = matches!(self.method, Some(Method::ToolsCall | Method::PromptsGet));
        let name = params.name.as_deref().filter(|name| names_tool && name.len() > MAX_NAME);
        if name.is_some_and(|name| name.chars().count() > MAX_NAME) {
            return Some("params.name is longer than 128 characters");
        }
        if params.uri.as_ref().is_some_and(|uri| uri.len() > MAX_URI) {
            return Some("params.uri is longer than 8 KiB");
        }
        if params.unreadable {
            return Some("params.name, uri and protocolVersion must be valid Unicode");
        }
        let mut tokens = params.meta_progress_token.iter().chain(&params.progress_token);
        if tokens.any(|token| IdValue::parse(token).is_err()) {
            return Some("a progressToken must be a string of at most 256 bytes or an integer");
        }
        // First the most it could be, which costs next to nothing; a look inside only if that is too much.
        Shape::at_most(self.text).too_much().and_then(|_| Shape::of(self.text).too_much())
    }
}

/// How much JSON there is, by its punctuation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    depth: usize,
    values: usize,
}

impl Shape {
    fn too_much(self) -> Option<&'static str> {
        if self.depth > MAX_DEPTH {
            return Some("the message nests deeper than 64 levels");
        }
        (self.values > MAX_VALUES).then_some("the message holds more than 100000 values")
    }

    /// An upper bound: as if no punctuation stood in a string.
    fn at_most(text: &str) -> Self {
        // `{` and `[` differ in one bit.
        let opened = count(text, |byte| byte | 0x20 == b'{');
        // No value takes less than a byte and its separator.
        let values =
            if text.len() / 2 < MAX_VALUES { 0 } else { 1 + opened + count(text, |byte| byte == b',') };
        Self { depth: opened, values }
    }

    /// The exact shape of well-formed JSON.
    fn of(text: &str) -> Self {
        let (mut shape, mut depth, mut fresh) = (Self { depth: 0, values: 1 }, 0_usize, false);
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            if byte.is_ascii_whitespace() {
                continue;
            }
            // The first value of a container has no comma before it.
            shape.values += usize::from(fresh && !matches!(byte, b']' | b'}'));
            fresh = matches!(byte, b'[' | b'{');
            match byte {
                b'"' => skip_string(&mut bytes),
                b'[' | b'{' => {
                    depth += 1;
                    shape.depth = shape.depth.max(depth);
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                b',' => shape.values += 1,
                _ => {}
            }
        }
        shape
    }
}

/// Counted in bytes, in chunks too short to overflow: that is what makes it many bytes at a time.
fn count(text: &str, wanted: impl Fn(u8) -> bool) -> usize {
    let sum = |chunk: &[u8]| chunk.iter().fold(0_u8, |n, byte| n + u8::from(wanted(*byte)));
    text.as_bytes().chunks(255).map(|chunk| usize::from(sum(chunk))).sum()
}

fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => _ = bytes.next(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
