//! Forwarded headers (`forward_headers`): their values in a request, compared on every request with those its agent
//! session was opened with.
//!
//! The session id holds a bit for each of these headers that was present, because a session opened with credentials
//! must be unknown to a request without them. The values are not in it: a token is refreshed while its session lives,
//! and a request with other values is served on backend sessions with those.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use mcpool_wire::Forwarded;

/// The headers forwarded to a backend, and their values in one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Carried {
    names: Arc<[HeaderName]>,
    pub(crate) values: Forwarded,
}

impl Carried {
    /// Reads the headers of these names, in the order of the names; values are treated as secrets. A doubled header is
    /// left out: it is unclear which value counts.
    pub(crate) fn of(names: Arc<[HeaderName]>, headers: &HeaderMap) -> Self {
        if names.is_empty() {
            return Self::default();
        }
        let value = |name: &HeaderName| {
            let mut all = headers.get_all(name).iter();
            let mut value = all.next().filter(|_| all.next().is_none())?.clone();
            value.set_sensitive(true);
            Some((name.clone(), value))
        };
        let values = names.iter().filter_map(value).collect();
        Self { names, values }
    }

    /// Whether no headers are forwarded to the backend, so that there is nothing to compare.
    pub(crate) fn is_of_nothing(&self) -> bool {
        self.names.is_empty()
    }

    /// One bit for each header that is present.
    pub(crate) fn bits(&self) -> u32 {
        self.values.iter().fold(0, |bits, (name, _)| bits | bit_of(name))
    }

    /// Whether one of the headers with these bits is missing. A header that is no longer forwarded does not count.
    pub(crate) fn lacks(&self, opened_with: u32) -> bool {
        let given = self.names.iter().fold(0, |bits, name| bits | bit_of(name));
        opened_with & given & !self.bits() != 0
    }

    /// Whether the forwarded values are equal.
    pub(crate) fn agrees_with(&self, others: &Forwarded) -> bool {
        let value =
            |all: &Forwarded, name| all.iter().find(|(one, _)| one == name).map(|(_, value)| value.clone());
        self.names.iter().all(|name| value(&self.values, name) == value(others, name))
    }
}

/// The bit of a header name (FNV-1a, folded). Part of ids that outlive this program, so it never changes. If two names
/// share a bit, the absence of one goes unnoticed and the request is served without it.
fn bit_of(name: &HeaderName) -> u32 {
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = name.as_str().as_bytes().iter().fold(0x811c_9dc5, step);
    1 << ((hash ^ (hash >> 16)) % 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(names: &[&str], sent: &[(&str, &str)]) -> Carried {
        let names: Vec<HeaderName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        Carried::of(names.into(), &headers)
    }

    #[test]
    fn a_header_that_was_there_is_missed_and_one_that_was_not_is_not() {
        let both = ["authorization", "x-tenant"];
        let opened = carried(&both, &[("authorization", "A"), ("x-tenant", "t")]).bits();
        assert_ne!(bit_of(&http::header::AUTHORIZATION), bit_of(&"x-tenant".parse().unwrap()));
        assert!(carried(&both, &[]).lacks(opened));
        assert!(carried(&both, &[("authorization", "A")]).lacks(opened));
        assert!(!carried(&both, &[("authorization", "B"), ("x-tenant", "u")]).lacks(opened));
        assert!(!carried(&both, &[("authorization", "B")]).lacks(0), "more than before is no lack");
        assert!(
            !carried(&["x-tenant"], &[("x-tenant", "t")]).lacks(opened),
            "no longer given to the backend"
        );
        assert!(carried(&both, &[("authorization", "A"), ("authorization", "B")]).values.is_empty());
        // Written into ids: whoever changes how bits are found makes all of them strangers.
        assert_eq!(bit_of(&http::header::AUTHORIZATION), AUTHORIZATION);
    }

    const AUTHORIZATION: u32 = 1 << 8;

    #[test]
    fn values_agree_in_what_the_backend_is_given() {
        let one = carried(&["authorization"], &[("authorization", "A"), ("x-tenant", "t")]);
        let two = carried(&["authorization", "x-tenant"], &[("authorization", "A"), ("x-tenant", "u")]);
        assert!(one.agrees_with(&two.values) && !two.agrees_with(&one.values));
        assert!(!one.agrees_with(&Forwarded::default()) && Carried::default().agrees_with(&two.values));
    }
}
