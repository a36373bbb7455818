//! The rules of headers: those that the gateway sends to a backend, and those that it passes on from agents.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};

use super::check::Check;

/// Headers written by the transports.
const OUR_HEADERS: [&str; 10] = [
    "host",
    "accept",
    "connection",
    "content-length",
    "content-type",
    "last-event-id",
    "mcp-protocol-version",
    "mcp-session-id",
    "transfer-encoding",
    "upgrade",
];

/// Checks the headers sent with every request.
pub(super) fn configured(
    check: &mut Check,
    headers: &BTreeMap<String, String>,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut good = Vec::new();
    for (name, value) in headers {
        let path = format!("headers.{name}");
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), _) if OUR_HEADERS.contains(&name.as_str()) => {
                check.plain(path, "the gateway sets this header itself");
            }
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                good.push((name, value));
            }
            (Err(_), _) => check.plain(path, "not a name of a header"),
            (_, Err(_)) => {
                check.plain(path, "the value holds characters a header cannot carry (a line break?)");
            }
        }
    }
    good
}

/// Checks the names of headers passed on from agents.
pub(super) fn forwarded(
    check: &mut Check,
    names: &[String],
    configured: &[(HeaderName, HeaderValue)],
) -> Vec<HeaderName> {
    let allowed = |text: &str| match HeaderName::try_from(text) {
        Err(_) => Err(format!("{text:?} is not a name of a header")),
        Ok(name) if is_ours(name.as_str()) => {
            Err(format!("{text:?} is written by the gateway itself and never taken from an agent"))
        }
        Ok(name) if configured.iter().any(|(ours, _)| *ours == name) => {
            Err(format!("{text:?} is also set by headers; it can only come from one of the two"))
        }
        Ok(name) => Ok(name),
    };
    let named = names.iter().enumerate();
    named
        .filter_map(|(n, name)| check.parsed(&format!("forward_headers[{n}]"), Some(name), allowed))
        .collect()
}

/// True for headers that identify the source or owner of a request; agents must not set them (SEMANTICS.md 5).
fn is_ours(name: &str) -> bool {
    const CLAIMS: [&str; 7] =
        ["cookie", "forwarded", "origin", "mcpool-affinity", "te", "trailer", "proxy-authorization"];
    OUR_HEADERS.contains(&name)
        || CLAIMS.contains(&name)
        || name.starts_with("mcp-")
        || name.starts_with("x-forwarded-")
}
