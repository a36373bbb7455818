//! JSON-RPC ids: stored as received, compared by value.
//!
//! `1` and `"1"` are different ids, but some servers confuse them. The gateway therefore never forwards an agent's id:
//! it sends integers of its own and restores the agent's bytes in the response.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

/// Maximum length of an id, in bytes of its JSON text (SEMANTICS.md 5).
const MAX_ID_BYTES: usize = 258;

/// A request id: its bytes as received and its value.
#[derive(Clone, Debug)]
pub struct RpcId {
    raw: Bytes,
    value: IdValue,
}

/// An id's value. An integer never equals a string.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IdValue {
    /// An integer id.
    Num(i64),
    /// A string id, unescaped.
    Str(Arc<str>),
}

impl RpcId {
    /// Parses an id from its JSON text.
    ///
    /// # Errors
    /// One sentence for the sender if the id is null, fractional, a boolean, an array, an object, an integer outside 64
    /// bits, or longer than 256 bytes.
    pub fn parse(raw: &RawValue) -> Result<Self, &'static str> {
        Ok(Self { value: IdValue::parse(raw)?, raw: Bytes::copy_from_slice(raw.get().as_bytes()) })
    }

    /// An integer id of the gateway.
    #[must_use]
    pub fn number(n: i64) -> Self {
        Self { raw: Bytes::from(n.to_string()), value: IdValue::Num(n) }
    }

    /// The JSON text exactly as received.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The value, for comparison and as a map key.
    #[must_use]
    pub fn value(&self) -> &IdValue {
        &self.value
    }
}

impl IdValue {
    /// Parses an id's value from its JSON text.
    ///
    /// # Errors
    /// See [`RpcId::parse`].
    pub fn parse(raw: &RawValue) -> Result<Self, &'static str> {
        let text = raw.get();
        if text.len() > MAX_ID_BYTES {
            return Err("the id is longer than 256 bytes");
        }
        match text.as_bytes().first() {
            Some(b'"') => serde_json::from_str::<String>(text)
                .map(|s| Self::Str(s.into()))
                .map_err(|_| "the id is not a valid string"),
            Some(b'0'..=b'9' | b'-') => {
                text.parse().map(Self::Num).map_err(|_| "a numeric id must be an integer within 64 bits")
            }
            _ => Err("the id must be a string or an integer"),
        }
    }

    /// The integer value, also if a server returned it as a string. The flag is true for a string.
    #[must_use]
    pub fn as_number_lenient(&self) -> Option<(i64, bool)> {
        match self {
            Self::Num(n) => Some((*n, false)),
            // Canonical decimal only: the gateway never sent `+7` or `007`.
            Self::Str(s) => s.parse().ok().filter(|n: &i64| n.to_string() == **s).map(|n| (n, true)),
        }
    }
}

impl IdValue {
    /// The gateway's integer in a backend's id or token, written as `7`, `"7"`, `7.0` or `7e0`: some servers store ids
    /// as text or floats. The flag is true if the backend wrote it differently than the gateway did.
    #[must_use]
    pub fn number_of(raw: &RawValue) -> Option<(u64, bool)> {
        let (number, mangled) = match Self::parse(raw) {
            Ok(value) => value.as_number_lenient()?,
            Err(_) => (whole(raw.get())?, true),
        };
        Some((u64::try_from(number).ok()?, mangled))
    }
}

/// Parses a whole number with a fraction or exponent, if a double holds it exactly.
fn whole(text: &str) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let is_number = text.len() <= MAX_ID_BYTES && text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let number = text.parse::<f64>().ok().filter(|number| is_number && number.fract() == 0.0)?;
    #[allow(clippy::cast_possible_truncation, reason = "a whole number within 53 bits")]
    (number.abs() < EXACT).then_some(number as i64)
}

impl PartialEq for RpcId {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for RpcId {}

impl std::hash::Hash for RpcId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

#[cfg(test)]
mod tests;
