//! CORS: what a browser asks before it lets a page of another origin call the gateway, and what it needs in every
//! answer to let the page read it.
//!
//! Only pages of allowed origins get these headers (see `host_policy`). No cookie is used, so credentials are not
//! allowed.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};

use crate::{config::FrontConfig, host_policy::HostPolicy, http::response::Response, observe::Cause};

/// Headers any page may send, besides those that begin with `mcp-` and those that are forwarded.
const SENT: &str = "content-type, accept, authorization, last-event-id, mcp-session-id, mcp-protocol-version, \
                    mcp-method, mcp-name, mcpool-affinity";
/// Headers of answers a page may read.
const READ: &str = "mcp-session-id, www-authenticate";
/// Seconds for which a browser may cache the preflight answer.
const REMEMBERED: &str = "7200";

const ASKS_PRIVATE: &str = "access-control-request-private-network";
const ALLOWS_PRIVATE: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// The answer to a preflight for a path with these methods.
pub(crate) fn preflight(config: &FrontConfig, headers: &HeaderMap, methods: &'static str) -> Response {
    let response = Response::status(StatusCode::NO_CONTENT, Cause::Gateway)
        .with(header::ALLOW, HeaderValue::from_static(methods));
    if !headers.contains_key(header::ORIGIN) {
        return response;
    }
    let mut response = response
        .with(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods))
        .with(header::ACCESS_CONTROL_ALLOW_HEADERS, sent(config, headers))
        .with(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(REMEMBERED));
    if headers.get(ASKS_PRIVATE).is_some_and(|asks| asks == "true") {
        response = response.with(ALLOWS_PRIVATE, HeaderValue::from_static("true"));
    }
    response
}

/// Lets pages of an allowed origin read an answer.
pub(crate) fn share(hosts: &HostPolicy, request: &Parts, answer: &mut HeaderMap) {
    let origin = request.headers.get(header::ORIGIN);
    // A browser may keep the answer to a GET without an origin for a page that has one.
    if origin.is_some() || !matches!(request.method, Method::POST | Method::DELETE) {
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    let Some(origin) = origin else { return };
    if hosts.check_origin(&request.headers).is_err() {
        return;
    }
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(READ));
}

/// The headers a page may send, including those it asks for that begin with `mcp-` or are forwarded.
fn sent(config: &FrontConfig, headers: &HeaderMap) -> HeaderValue {
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).and_then(|value| value.to_str().ok());
    let is_known = |name: &str| SENT.split(", ").any(|known| known == name);
    let mut all = SENT.to_owned();
    for name in asked.unwrap_or_default().split(',').map(|name| name.trim().to_ascii_lowercase()) {
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else { continue };
        if (name.starts_with("mcp-") || config.forward_headers.contains(&header)) && !is_known(&name) {
            all.push_str(", ");
            all.push_str(&name);
        }
    }
    HeaderValue::from_str(&all).unwrap_or_else(|_| HeaderValue::from_static(SENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_may_send_what_agents_send_and_nothing_else() {
        let config = FrontConfig {
            forward_headers: vec![HeaderName::from_static("x-tenant")],
            ..FrontConfig::default()
        };
        let mut headers = HeaderMap::new();
        let asked = "content-type, Mcp-Param-Region, x-tenant, cookie, mcp-session-id";
        headers.insert(header::ACCESS_CONTROL_REQUEST_HEADERS, asked.parse().unwrap());
        let sent = sent(&config, &headers);
        let sent: Vec<&str> = sent.to_str().unwrap().split(", ").collect();
        assert!(sent.contains(&"mcp-param-region") && sent.contains(&"x-tenant"), "{sent:?}");
        assert!(sent.contains(&"authorization") && !sent.contains(&"cookie"), "{sent:?}");
        assert_eq!(sent.iter().filter(|name| **name == "mcp-session-id").count(), 1);
    }
}
