//! Request headers: what the client accepts, and what its body is.

use std::cmp::Reverse;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, AsHeaderName},
};

const JSON: &str = "application/json";

/// Headers of the protocol, parsed once.
pub(crate) static SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
pub(crate) static VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// A header as text.
pub(crate) fn text(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// What the `Accept` headers of a request allow. The most specific range decides; `q=0` refuses. A request without one
/// takes everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) json: bool,
    pub(crate) events: bool,
    /// Event streams are named: a client that takes anything may still not read them.
    pub(crate) names_events: bool,
    /// Event streams come before JSON: by weight, then by order.
    pub(crate) prefers_events: bool,
}

/// The ranges that match one media type.
#[derive(Default)]
struct Ranges {
    /// Weight and place of its own name.
    exact: Option<(f32, Reverse<usize>)>,
    /// Weight of `type/*`, else of `*/*`.
    family: Option<f32>,
    any: Option<f32>,
}

impl Accept {
    /// Reads the headers once.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(header::ACCEPT).iter();
        match (values.next().map(HeaderValue::as_bytes), values.next()) {
            (None, _) => Self { json: true, events: true, names_events: false, prefers_events: false },
            // What the SDKs send.
            (Some(b"application/json, text/event-stream" | b"application/json,text/event-stream"), None) => {
                Self { json: true, events: true, names_events: true, prefers_events: false }
            }
            _ => Self::read(headers),
        }
    }

    fn read(headers: &HeaderMap) -> Self {
        let (mut json, mut events) = (Ranges::default(), Ranges::default());
        let values = headers.get_all(header::ACCEPT).iter().map(|value| value.to_str().unwrap_or("*/*"));
        for (place, range) in values.flat_map(|value| value.split(',')).enumerate() {
            json.add(JSON, range, place);
            events.add("text/event-stream", range, place);
        }
        let wish = |ranges: &Ranges| ranges.exact.filter(|(weight, _)| *weight > 0.0);
        Self {
            json: json.takes(),
            events: events.takes(),
            names_events: wish(&events).is_some(),
            prefers_events: wish(&events) > wish(&json),
        }
    }
}

impl Ranges {
    fn add(&mut self, media: &str, range: &str, place: usize) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        // A weight that cannot be read is the least there is.
        let weight = weight.map_or(1.0, |q| q.trim().parse().unwrap_or(f32::MIN_POSITIVE));
        if name.eq_ignore_ascii_case(media) {
            self.exact.get_or_insert((weight, Reverse(place)));
        } else if name == "*/*" {
            self.any.get_or_insert(weight);
        } else if name.strip_suffix('*').is_some_and(|family| media.starts_with(family)) && name != "*" {
            self.family.get_or_insert(weight);
        }
    }

    fn takes(&self) -> bool {
        let weight = self.exact.map(|(weight, _)| weight).or(self.family).or(self.any);
        weight.is_some_and(|weight| weight > 0.0)
    }
}

/// Whether the body is JSON, by its content type.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let media = text(headers, header::CONTENT_TYPE).unwrap_or_default();
    media == JSON || media.split(';').next().unwrap_or_default().trim_ascii().eq_ignore_ascii_case(JSON)
}

/// The content coding of the body, if it has one.
pub(crate) fn coding_of(headers: &HeaderMap) -> Option<String> {
    let all = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut codings = all.flat_map(|value| value.to_str().unwrap_or("?").split(',')).map(str::trim);
    let coding = codings.find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))?;
    Some(coding.chars().filter(char::is_ascii_graphic).take(40).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each letter is one of `Accept`: json, events, names, prefers.
    fn of(values: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::ACCEPT, HeaderValue::from_static(value));
        }
        let accept = Accept::of(&headers);
        let letters = [accept.json, accept.events, accept.names_events, accept.prefers_events];
        "jenp".chars().zip(letters).filter_map(|(letter, is_set)| is_set.then_some(letter)).collect()
    }

    #[test]
    fn accept_is_read_by_one_rule() {
        for (values, expected) in [
            (&[][..], "je"),
            (&["application/json, text/event-stream"], "jen"),
            (&["application/json,text/event-stream"], "jen"),
            (&["application/json", "text/event-stream"], "jen"),
            (&["text/event-stream, application/json"], "jenp"),
            (&["Text/Event-Stream ; charset=utf-8, application/json"], "jenp"),
            (&["application/json;q=0.5, text/event-stream"], "jenp"),
            (&["application/json;q=0.5, text/event-stream;q=0.4"], "jen"),
            (&["application/json, text/event-stream;q=0"], "j"),
            (&["*/*, text/event-stream; q=0"], "j"),
            (&["application/json;q=0, */*"], "e"),
            (&["application/*;q=0, */*;q=0.1"], "e"),
            (&["application/json;q=much"], "j"),
            (&["*/*"], "je"),
            (&["text/*"], "e"),
            (&["application/*"], "j"),
            (&["text/html"], ""),
            (&["*"], ""),
            (&[""], ""),
        ] {
            assert_eq!(of(values), expected, "{values:?}");
        }
    }
}
