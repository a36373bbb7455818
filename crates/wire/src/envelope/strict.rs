//! Extra checks on agents' messages: ambiguous keys and excessive size (SEMANTICS.md 12).
//!
//! A backend's parser must see what the gateway decided on, so keys that another parser could confuse with those the
//! gateway reads are rejected. Backends' messages are not checked; the transport bounds their size.

use std::borrow::Cow;

use super::{DecodeError, DecodeKind, Envelope, Kind};
use crate::{id::IdValue, method::Method};

/// Maximum nesting of arrays and objects.
const MAX_DEPTH: usize = 64;
/// Maximum number of values in one message: containers count, keys do not.
const MAX_VALUES: usize = 100_000;
/// Maximum length of a tool or prompt name, in characters.
const MAX_NAME: usize = 128;
/// Maximum length of a URI, in bytes.
const MAX_URI: usize = 8 * 1024;
/// Maximum number of unread keys in an object that the gateway reads, as they are compared pairwise.
const MAX_KEYS: usize = 256;

/// Unread keys of one object, checked for duplicates and for keys that another parser could confuse with read ones.
pub(super) struct Unread<'a> {
    object: &'static str,
    read: &'static [&'static str],
    seen: Vec<Cow<'a, str>>,
    pub(super) ambiguity: Option<String>,
}

impl<'a> Unread<'a> {
    pub(super) fn new(object: &'static str, read: &'static [&'static str]) -> Self {
        Self { object, read, seen: Vec::new(), ambiguity: None }
    }

    pub(super) fn see(&mut self, key: Cow<'a, str>) {
        if self.ambiguity.is_some() {
            return;
        }
        let like = self.read.iter().find(|ours| folds_to(&key, ours));
        if like.is_some_and(|ours| *ours == key) || self.seen.contains(&key) {
            let shown: String = key.chars().take(64).collect();
            self.ambiguity = Some(format!("duplicate key {shown:?} in {}", self.object));
        } else if let Some(ours) = like {
            self.ambiguity =
                Some(format!("the key {key:?} of {} is not {ours:?}: keys are exact", self.object));
        } else if self.seen.len() == MAX_KEYS {
            self.ambiguity = Some(format!("more than {MAX_KEYS} keys in {}", self.object));
        } else {
            self.seen.push(key);
        }
    }
}

/// True if a case-insensitive parser confuses the two. Two non-ASCII letters fold to ASCII.
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
    /// Parses an agent's message.
    ///
    /// # Errors
    /// As [`Envelope::parse`], and for duplicate or nearly equal keys in an object the gateway reads. Notifications and
    /// responses must also be within the limits; for a request the caller checks [`Envelope::beyond_limits`], so that
    /// it can answer it.
    pub fn parse_strict(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut envelope = Self::parse(bytes)?;
        let ambiguity = envelope.params.ambiguity.take();
        let ambiguity = envelope.ambiguity.take().or(ambiguity).map(Cow::Owned);
        let beyond = (envelope.kind != Kind::Request).then(|| envelope.beyond_limits()).flatten();
        match ambiguity.or(beyond.map(Cow::Borrowed)) {
            None => Ok(envelope),
            Some(reason) => {
                let id = envelope.id().and_then(Result::ok);
                Err(DecodeError { id, ..DecodeError::new(DecodeKind::Invalid, 0, reason) })
            }
        }
    }

    /// The limit or rule that a message breaks; `None` if it is acceptable.
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
        // The upper bound is nearly free; count exactly only if it exceeds the limit.
        Shape::at_most(self.text).too_much().and_then(|_| Shape::of(self.text).too_much())
    }
}

/// Size of a JSON text, counted by its punctuation.
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

    /// An upper bound that counts punctuation inside strings too.
    fn at_most(text: &str) -> Self {
        // `{` and `[` differ in one bit.
        let opened = count(text, |byte| byte | 0x20 == b'{');
        // A value and its separator take at least two bytes.
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

/// Counts matching bytes. Chunks of 255 keep the counter in a `u8`, which lets the compiler vectorise it.
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
