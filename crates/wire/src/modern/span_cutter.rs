//! Byte spans to cut when members are removed from an object, so that nothing is serialised again.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::envelope::Span;

/// Collects the spans to cut from one object; its members are added in order.
#[derive(Debug, Default)]
pub(super) struct SpanCutter {
    cuts: Vec<Span>,
    /// True if a member is kept.
    keeps: bool,
    /// The end offset of the last member.
    end: usize,
    /// Start of the leading run of removed members.
    lead: Option<usize>,
}

impl SpanCutter {
    /// Adds the member `start..end`; `goes` removes it with its comma.
    pub(super) fn member(&mut self, start: usize, end: usize, goes: bool) {
        match (goes, self.keeps) {
            (true, true) => self.cuts.push(self.end..end),
            (true, false) => self.lead = self.lead.or(Some(start)),
            (false, _) => {
                self.cuts.extend(self.lead.take().map(|lead| lead..start));
                self.keeps = true;
            }
        }
        self.end = end;
    }

    /// Adds the cuts inside the last member, which is kept.
    pub(super) fn within(&mut self, inner: Self) {
        self.cuts.append(&mut inner.cuts());
    }

    pub(super) fn keeps_any(&self) -> bool {
        self.keeps
    }

    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// The spans to cut, sorted and disjoint.
    pub(super) fn cuts(mut self) -> Vec<Span> {
        self.cuts.extend(self.lead.map(|lead| lead..self.end));
        self.cuts
    }
}

/// One level of an object: keys and values as raw text.
pub(super) struct Level<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'a> Level<'a> {
    /// `None` if it is not an object.
    pub(super) fn read(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// The value of the first member with this key.
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(one, _)| is(one, key)).map(|(_, value)| value.get())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if one of these members is present.
    pub(super) fn has_one_of(&self, these: &[&str]) -> bool {
        self.0.iter().any(|(key, _)| these.iter().any(|one| is(key, one)))
    }
}

/// True if a raw key equals `key`, which needs no escapes.
pub(super) fn is(raw: &RawValue, key: &str) -> bool {
    let text = raw.get().as_bytes();
    // An escaped key is longer than its text with quotes.
    match text.len().cmp(&(key.len() + 2)) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => &text[1..=key.len()] == key.as_bytes(),
        std::cmp::Ordering::Greater => {
            text.contains(&b'\\') && serde_json::from_slice::<String>(text).is_ok_and(|text| text == key)
        }
    }
}

impl<'de> Deserialize<'de> for Level<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Level<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut out = Vec::with_capacity(4);
                while let Some(member) = map.next_entry()? {
                    out.push(member);
                }
                Ok(Level(out))
            }
        }
        deserializer.deserialize_map(V)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::span_of;

    #[test]
    fn what_is_left_is_the_object_without_those_members() {
        for (json, left) in [
            (r#"{"a":1,"b":2,"c":3}"#, r#"{"a":1,"b":2,"c":3}"#),
            (r#"{"x":1,"b":2,"c":3}"#, r#"{"b":2,"c":3}"#),
            (r#"{"a":1,"x":[1,{"x":2}],"c":3}"#, r#"{"a":1,"c":3}"#),
            (r#"{"a":1,"b":2,"x":3}"#, r#"{"a":1,"b":2}"#),
            (r#"{ "x" : 1 , "y" : 2 , "c" : 3 , "x":4 }"#, r#"{ "c" : 3 }"#),
            (r#"{"a":1 , "x" : 1 , "y":2, "\u0078":3}"#, r#"{"a":1}"#),
            (r#"{ "x":1,"y":2 }"#, "{  }"),
            ("{}", "{}"),
        ] {
            let mut cutter = SpanCutter::default();
            for (key, value) in Level::read(json).expect("an object").0 {
                let (start, end) = (span_of(json, key.get()).start, span_of(json, value.get()).end);
                cutter.member(start, end, is(key, "x") || is(key, "y"));
            }
            assert_eq!(cutter.keeps_any(), left.contains(':'), "{json}");
            let (mut all, mut at) = (String::new(), 0);
            for cut in cutter.cuts() {
                all.push_str(&json[at..cut.start]);
                at = cut.end;
            }
            all.push_str(&json[at..]);
            assert_eq!(all, left);
        }
        assert!(Level::read("[]").is_none());
    }

    #[test]
    fn a_key_is_what_it_says() {
        let is = |raw: &str, key: &str| super::is(serde_json::from_str(raw).expect("JSON"), key);
        assert!(is(r#""a/b""#, "a/b") && is(r#""a\/b""#, "a/b") && is(r#""\u0061""#, "a") && is(r#""""#, ""));
        assert!(!is(r#""a""#, "b") && !is(r#""ab""#, "a") && !is(r#""a""#, "ab") && !is(r#""\u0061""#, "b"));
    }
}
