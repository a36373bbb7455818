//! Target URL of a transport's requests, and the redirects they follow.
//!
//! A redirect must stay within the configured origin, because credentials are sent along. A GET follows every kind;
//! other methods follow only those that preserve method and body (307, 308).

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{HeaderValue, Method, StatusCode, Uri};
use url::Url;

/// Maximum number of redirects per request.
pub(super) const MAX_REDIRECTS: usize = 5;

/// A URL, and the target of a redirect within its origin.
pub(super) struct Target(ArcSwap<Place>);

/// A URL in the required forms, parsed once.
pub(super) struct Place {
    pub(super) url: Arc<Url>,
    /// The URI of its requests. `None` if it is not a valid URI; the two parsers differ. The authority of a plain origin
    /// is one letter, because the connection pool hashes it twice per request: the connector knows the address, and
    /// `Host` is a header of the session.
    pub(super) uri: Option<Uri>,
}

impl Place {
    pub(super) fn new(url: Url) -> Self {
        let uri = url.as_str().parse().ok();
        let uri = if url.scheme() == "http" { uri.and_then(shortened) } else { uri };
        Self { uri, url: Arc::new(url) }
    }
}

impl Target {
    pub(super) fn new(url: Url) -> Self {
        Self(ArcSwap::from_pointee(Place::new(url)))
    }

    pub(super) fn place(&self) -> Arc<Place> {
        self.0.load_full()
    }

    /// Makes later requests use this place at once.
    pub(super) fn moved(&self, to: Arc<Place>) {
        self.0.store(to);
    }
}

fn shortened(uri: Uri) -> Option<Uri> {
    let mut parts = uri.into_parts();
    parts.authority = Some(http::uri::Authority::from_static("b"));
    Uri::from_parts(parts).ok()
}

/// True for a redirect status.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// True if later requests should go there too. A call is not sent twice each time just because a redirect is temporary.
pub(super) fn is_lasting(method: &Method, status: StatusCode) -> bool {
    method != Method::GET || matches!(status.as_u16(), 301 | 308)
}

/// The target of a redirect.
///
/// # Errors
/// One sentence for the operator: why it is not followed.
pub(super) fn follow(
    method: &Method,
    status: StatusCode,
    from: &Url,
    location: Option<&HeaderValue>,
) -> Result<Url, String> {
    let to = location.and_then(|to| from.join(to.to_str().ok()?).ok());
    let Some(to) = to else { return Err("redirected without saying where".to_owned()) };
    let Some(next) = within_origin(from, &to) else {
        return Err(format!(
            "redirected to another origin, {}: not followed, because credentials would be sent there; if it is the \
             right one, write it into `url`",
            to.origin().ascii_serialization()
        ));
    };
    if method != Method::GET && !matches!(status.as_u16(), 307 | 308) {
        return Err(format!(
            "{method} redirected to {}: with {status} it would become a GET, so it is not followed; write that path \
             into `url`",
            next.path()
        ));
    }
    Ok(next)
}

/// The intended URL within our origin. A server behind a TLS proxy, or believing so, names another scheme: then only
/// path and query are taken. If these are unchanged, plain HTTP is upgraded to HTTPS on the default ports; never the
/// reverse.
fn within_origin(from: &Url, to: &Url) -> Option<Url> {
    if to.host() != from.host() || to.port() != from.port() {
        return None;
    }
    let mut next = from.clone();
    next.set_path(to.path());
    next.set_query(to.query());
    next.set_fragment(None);
    let stays = (next.path(), next.query()) == (from.path(), from.query());
    if stays && from.scheme() == "http" && to.scheme() == "https" && from.port().is_none() {
        next.set_scheme("https").ok()?;
    }
    Some(next)
}

/// True if two URLs have the same scheme, host and port.
pub(super) fn is_same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host() == b.host() && a.port_or_known_default() == b.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_followed_within_the_origin_and_by_what_may_be_repeated() {
        let cases = [
            ("GET", 301, "http://a/sse", "/sse/", Ok("http://a/sse/")),
            ("GET", 303, "http://a/sse", "sse/?x=1", Ok("http://a/sse/?x=1")),
            ("POST", 307, "http://a/mcp", "http://a/mcp/", Ok("http://a/mcp/")),
            ("POST", 302, "http://a/mcp", "/mcp/", Err("it would become a GET")),
            ("DELETE", 301, "http://a/mcp", "/mcp/", Err("it would become a GET")),
            ("GET", 302, "http://a/mcp", "http://b/mcp", Err("another origin, http://b")),
            ("GET", 302, "http://a/mcp", "http://a:81/mcp", Err("another origin, http://a:81")),
            ("GET", 302, "https://a/mcp/", "http://a/mcp", Ok("https://a/mcp")),
            ("GET", 302, "https://a/mcp", "http://a/mcp", Ok("https://a/mcp")),
            ("POST", 308, "http://a/mcp", "https://a/mcp", Ok("https://a/mcp")),
            ("POST", 308, "http://a/mcp/", "https://a/mcp", Ok("http://a/mcp")),
            ("POST", 308, "http://a:8080/mcp", "https://a:8443/mcp", Err("another origin")),
            ("GET", 302, "http://a/mcp", "http://u:p@a/mcp/", Ok("http://a/mcp/")),
            ("GET", 302, "http://a/mcp", "http://", Err("without saying where")),
        ];
        for (method, status, from, to, expected) in cases {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let location = HeaderValue::from_static(to);
            let got = follow(
                &method,
                StatusCode::from_u16(status).unwrap(),
                &Url::parse(from).unwrap(),
                Some(&location),
            );
            match (got, expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got.as_str(), expected, "{from} {to}"),
                (Err(got), Err(expected)) => assert!(got.contains(expected), "{from} {to}: {got}"),
                (got, expected) => panic!("{method} {status} {from} {to}: {got:?}, not {expected:?}"),
            }
        }
    }
}
