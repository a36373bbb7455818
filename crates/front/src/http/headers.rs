//! Request headers: what the client accepts, and what its body is.

use http::{HeaderMap, header};

/// A header as text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// Whether the client accepts this media type; without an `Accept` header it accepts everything.
pub(crate) fn accepts(headers: &HeaderMap, media: &str) -> bool {
    let family = media.split_once('/').map_or(media, |(family, _)| family);
    let mut silent = true;
    for value in headers.get_all(header::ACCEPT) {
        silent = false;
        let ranges = value.to_str().unwrap_or("*/*").split(',');
        for range in ranges.map(|range| range.split(';').next().unwrap_or_default().trim()) {
            let any = range.strip_suffix("/*").is_some_and(|prefix| prefix == "*" || prefix == family);
            if any || range.eq_ignore_ascii_case(media) {
                return true;
            }
        }
    }
    silent
}

/// Whether the client prefers events to JSON: of two equal media types, the one it names first.
pub(crate) fn prefers_events(headers: &HeaderMap) -> bool {
    let wish = |media| {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut ranges = values.flat_map(|value| value.split(',')).zip((0_u32..).map(std::cmp::Reverse));
        ranges.find_map(|(range, place)| {
            let mut parts = range.split(';').map(str::trim);
            let is_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(media));
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse().ok());
            is_it.then_some((weight.filter(|q: &f32| *q > 0.0)?, place))
        })
    };
    wish("text/event-stream") > wish("application/json")
}

/// Whether the client names event streams in `Accept`. A client that accepts anything may still not read them.
pub(crate) fn names_events(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges = values.flat_map(|value| value.split(',')).map(|range| range.split(';').next());
    ranges.any(|range| range.is_some_and(|range| range.trim().eq_ignore_ascii_case("text/event-stream")))
}

/// Whether the body is JSON, by its content type.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let media = text(headers, "content-type").unwrap_or_default().split(';').next().unwrap_or_default();
    media.trim().eq_ignore_ascii_case("application/json")
}

/// The content coding of the body, if it has one.
pub(crate) fn coding_of(headers: &HeaderMap) -> Option<String> {
    let all = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut codings = all.flat_map(|value| value.to_str().unwrap_or("?").split(',')).map(str::trim);
    let coding = codings.find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))?;
    Some(coding.chars().filter(char::is_ascii_graphic).take(40).collect())
}
