//! JSON-RPC ids: kept as they came, compared by value.
//!
//! `1` and `"1"` are different ids; some servers confuse them, so the gateway never forwards an agent's id
//! (it sends integers of its own and restores the agent's bytes on the way back).

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

/// Longest string id accepted, in bytes of its JSON form (SEMANTICS.md 5).
const MAX_ID_BYTES: usize = 258;

/// A request id as it came, with the value it stands for.
#[derive(Clone, Debug)]
pub struct RpcId {
    raw: Bytes,
    value: IdValue,
}

/// What an id means: integers and strings, never equal to one another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IdValue {
    /// An integer id.
    Num(i64),
    /// A string id, unescaped.
    Str(Arc<str>),
}

impl RpcId {
    /// Reads an id from its JSON text.
    ///
    /// # Errors
    /// A sentence for the sender when the id is null, fractional, a boolean, an array, an object, an integer
    /// outside 64 bits, or longer than 256 bytes.
    pub fn parse(raw: &RawValue) -> Result<Self, &'static str> {
        Ok(Self { value: IdValue::parse(raw)?, raw: Bytes::copy_from_slice(raw.get().as_bytes()) })
    }

    /// An integer id of our own.
    #[must_use]
    pub fn number(n: i64) -> Self {
        Self { raw: Bytes::from(n.to_string()), value: IdValue::Num(n) }
    }

    /// The JSON text exactly as it was received.
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
    /// Reads the value of an id from its JSON text.
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

    /// The integer this id stands for, also when a server returned it as a string (some do).
    /// The flag says whether it was mangled that way.
    #[must_use]
    pub fn as_number_lenient(&self) -> Option<(i64, bool)> {
        match self {
            Self::Num(n) => Some((*n, false)),
            // Exactly the string form of the number: `+7` and `007` were never sent by anybody.
            Self::Str(s) => s.parse().ok().filter(|n: &i64| n.to_string() == **s).map(|n| (n, true)),
        }
    }
}

impl IdValue {
    /// The integer of ours that a backend's id or token stands for, however it wrote it: `7`, `"7"`, `7.0` or `7e0`, as
    /// servers do that keep ids as text or as floating-point numbers. The flag says whether it is not what we sent.
    #[must_use]
    pub fn number_of(raw: &RawValue) -> Option<(u64, bool)> {
        let (number, mangled) = match Self::parse(raw) {
            Ok(value) => value.as_number_lenient()?,
            Err(_) => (whole(raw.get())?, true),
        };
        Some((u64::try_from(number).ok()?, mangled))
    }
}

/// The integer a number with a fraction or an exponent stands for, if it is one that floating point holds exactly.
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
