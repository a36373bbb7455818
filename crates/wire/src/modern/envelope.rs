//! One-pass reader of a modern request's envelope: its values, and the spans to cut to remove it.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    key,
    span_cutter::{SpanCutter, is},
};
use crate::envelope::{Span, span_of};

/// The envelope's values, as JSON text each.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub(super) version: Option<&'a str>,
    pub(super) capabilities: Option<&'a str>,
    pub(super) client_info: Option<&'a str>,
    pub(super) log_level: Option<&'a str>,
    pub(super) request_state: Option<&'a str>,
    pub(super) input_responses: Option<&'a str>,
    /// Spans of the members that only this era has, sorted and disjoint. A `_meta` without other members is cut whole.
    pub(super) cuts: Vec<Span>,
}

impl<'a> Envelope<'a> {
    /// `None` if it is not a message, or has no `params` or `_meta` object.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let mut out = Self::default();
        Whole { text, out: &mut out }.deserialize(&mut serde_json::Deserializer::from_str(text)).ok()?;
        out.version.is_some().then_some(out)
    }
}

/// The message.
struct Whole<'a, 'o> {
    text: &'a str,
    out: &'o mut Envelope<'a>,
}

/// Its `params`.
struct Params<'a, 'o> {
    text: &'a str,
    out: &'o mut Envelope<'a>,
}

/// Their `_meta`.
struct Meta<'a, 'o> {
    text: &'a str,
    out: &'o mut Envelope<'a>,
    cutter: &'o mut SpanCutter,
}

macro_rules! object {
    ($seed:ident) => {
        impl<'de> DeserializeSeed<'de> for $seed<'de, '_> {
            type Value = ();
            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
                deserializer.deserialize_map(self)
            }
        }

        impl<'de> Visitor<'de> for $seed<'de, '_> {
            type Value = ();
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
                self.read(map)
            }
        }
    };
}

object!(Whole);
object!(Params);
object!(Meta);

impl<'a> Whole<'a, '_> {
    fn read<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<&'a RawValue>()? {
            match is(key, "params") {
                true => map.next_value_seed(Params { text: self.text, out: &mut *self.out })?,
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

impl<'a> Params<'a, '_> {
    fn read<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { text, out } = self;
        let mut cutter = SpanCutter::default();
        while let Some(key) = map.next_key::<&'a RawValue>()? {
            let start = span_of(text, key.get()).start;
            if is(key, "_meta") {
                let mut inner = SpanCutter::default();
                map.next_value_seed(Meta { text, out: &mut *out, cutter: &mut inner })?;
                let (is_all, last) = (!inner.keeps_any(), inner.end());
                // Only white space lies between the last member and the closing brace.
                let end = text[last..].find('}').map_or(last, |at| last + at + 1);
                cutter.member(start, end, is_all);
                if !is_all {
                    cutter.within(inner);
                }
                continue;
            }
            let value: &'a RawValue = map.next_value()?;
            let place = match () {
                () if is(key, "requestState") => Some(&mut out.request_state),
                () if is(key, "inputResponses") => Some(&mut out.input_responses),
                () => None,
            };
            cutter.member(start, span_of(text, value.get()).end, place.is_some());
            place.into_iter().for_each(|place| *place = Some(value.get()));
        }
        out.cuts = cutter.cuts();
        Ok(())
    }
}

impl<'a> Meta<'a, '_> {
    fn read<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { text, out, cutter } = self;
        while let Some((key, value)) = map.next_entry::<&'a RawValue, &'a RawValue>()? {
            let place = match () {
                () if is(key, key::VERSION) => Some(&mut out.version),
                () if is(key, key::CAPABILITIES) => Some(&mut out.capabilities),
                () if is(key, key::CLIENT_INFO) => Some(&mut out.client_info),
                () if is(key, key::LOG_LEVEL) => Some(&mut out.log_level),
                () => None,
            };
            let start = span_of(text, key.get()).start;
            cutter.member(start, span_of(text, value.get()).end, place.is_some());
            place.into_iter().for_each(|place| *place = Some(value.get()));
        }
        Ok(())
    }
}
