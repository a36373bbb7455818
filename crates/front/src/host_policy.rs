//! Host policy: which host names, origins and peers may reach this listener.
//!
//! A page in a browser can send requests to a loopback port under any host name that resolves there; only the name
//! tells such a request from an honest one.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use http::{HeaderMap, HeaderName, StatusCode, Uri, header};

use crate::config::{FrontConfig, Unauthenticated};

/// The rules of one listener.
pub struct HostPolicy {
    hosts: Vec<String>,
    origins: Vec<String>,
    peers: Unauthenticated,
}

/// The reason a request is refused.
pub struct TurnedAway {
    /// The HTTP status of the answer.
    pub status: StatusCode,
    /// The kind of refusal: `peer`, `host`, `origin`.
    pub kind: &'static str,
    /// One sentence that names the key to change.
    pub message: String,
}

static FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

impl HostPolicy {
    /// The policy of this configuration.
    #[must_use]
    pub fn new(config: &FrontConfig) -> Self {
        let lower = |list: &[String]| list.iter().map(|entry| entry.to_ascii_lowercase()).collect();
        Self {
            hosts: lower(&config.allowed_hosts),
            origins: lower(&config.allowed_origins),
            peers: config.unauthenticated,
        }
    }

    /// Checks whether this peer is served.
    ///
    /// # Errors
    /// Why not.
    pub fn check_peer(&self, peer: SocketAddr) -> Result<(), TurnedAway> {
        if self.peers == Unauthenticated::Allow || peer.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(TurnedAway {
            status: StatusCode::FORBIDDEN,
            kind: "peer",
            message: "without authentication only loopback addresses are response; \
                      set unauthenticated = \"allow\" to serve others"
                .to_owned(),
        })
    }

    /// Checks whether the host named by the request is served.
    ///
    /// # Errors
    /// Why not.
    pub fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), TurnedAway> {
        let host = host_of(uri, headers);
        if let Some(name) = name_of(&host)
            && (is_loopback_name(name)
                || self.hosts.iter().any(|allowed| allowed == &host || allowed == name))
        {
            return Ok(());
        }
        let shown: String = host.chars().filter(|c| c.is_ascii_graphic()).take(100).collect();
        let message = match name_of(&host) {
            Some(_) => format!(
                "the host {shown:?} is not response here; add it to allowed_hosts, for instance \
                 allowed_hosts = [{shown:?}]"
            ),
            None => format!(
                "{shown:?} is no host (a name or an address, and a port if need be), so allowed_hosts cannot name it"
            ),
        };
        Err(TurnedAway { status: StatusCode::MISDIRECTED_REQUEST, kind: "host", message })
    }

    /// Checks whether pages of this origin are served.
    ///
    /// # Errors
    /// Why not.
    pub fn check_origin(&self, headers: &HeaderMap) -> Result<(), TurnedAway> {
        let away = |message| TurnedAway { status: StatusCode::FORBIDDEN, kind: "origin", message };
        let Some(origin) = headers.get(header::ORIGIN) else {
            // A page's request that needs no permission, such as an image, does not name its origin, but says whether
            // it is cross-site.
            return match headers.get(&FETCH_SITE) {
                Some(site) if site.as_bytes().eq_ignore_ascii_case(b"cross-site") => {
                    Err(away("pages of other sites are not response here".to_owned()))
                }
                _ => Ok(()),
            };
        };
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let is_known = origin_host(&origin).is_some_and(is_loopback_name) || self.origins.contains(&origin);
        if is_known && origin != "null" {
            return Ok(());
        }
        let shown: String = origin.chars().filter(|c| c.is_ascii_graphic()).take(100).collect();
        Err(away(match check_allowed_origin(&origin) {
            Ok(()) => format!(
                "the origin {shown:?} is not response here; add it to allowed_origins, for instance \
                 allowed_origins = [{shown:?}]"
            ),
            Err(why) => format!("the origin {shown:?} is not response here: {why}"),
        }))
    }
}

/// The host a request names, in lower case: from its target, else from its header.
#[must_use]
pub fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Cow<'a, str> {
    let named = uri.authority().map(|authority| authority.as_str());
    let host = named.or_else(|| headers.get(header::HOST).and_then(|value| value.to_str().ok()));
    let host = host.unwrap_or_default();
    match host.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    }
}

/// Checks whether an origin can be allowed.
///
/// # Errors
/// Why not, as a sentence.
pub fn check_allowed_origin(origin: &str) -> Result<(), &'static str> {
    match origin.trim() {
        "null" => Err(
            "\"null\" is the origin of every page that has none of its own: sandboxed frames, files, redirects",
        ),
        "*" => Err("\"*\" would serve the pages of every site; name each origin"),
        origin if origin_host(&origin.to_ascii_lowercase()).is_none() => Err(
            "an origin is a scheme, a host and a port if it is not the usual one, such as \"https://example.org\"",
        ),
        _ => Ok(()),
    }
}

/// Checks whether a host can be allowed.
///
/// # Errors
/// Why not, as a sentence.
pub fn check_allowed_host(host: &str) -> Result<(), &'static str> {
    match host {
        _ if host.contains('*') => {
            Err("patterns are not supported, since any name can be pointed at this machine; name each host")
        }
        _ if host.parse::<std::net::Ipv6Addr>().is_ok() => Ok(()),
        _ if name_of(&host.to_ascii_lowercase()).is_none() => Err(
            "a host is a name or an address, and a port if need be, such as \"gateway\" or \"gateway:8800\"",
        ),
        _ => Ok(()),
    }
}

/// The name in an authority without user (`name`, `name:port`, `[address]:port`); `None` if it is malformed.
fn name_of(host: &str) -> Option<&str> {
    let (name, port) = split_port(host);
    let is_port = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    let is_name = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    let is_bracketed = host.starts_with('[');
    let known = match is_bracketed {
        true => name.parse::<std::net::Ipv6Addr>().is_ok(),
        false => !name.is_empty() && name.bytes().all(is_name),
    };
    (known && port.is_none_or(|port| is_port(port) && port.parse::<u16>().is_ok())).then_some(name)
}

/// The host in an origin, which consists of scheme, host and optional port.
fn origin_host(origin: &str) -> Option<&str> {
    let (scheme, host) = origin.split_once("://")?;
    let is_scheme = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.');
    let name = name_of(host)?;
    (!scheme.is_empty() && scheme.bytes().all(is_scheme)).then_some(name)
}

/// The name and the port of `host[:port]`, brackets of an IPv6 address removed.
fn split_port(host: &str) -> (&str, Option<&str>) {
    if let Some(rest) = host.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((name, "")) => (name, None),
            Some((name, port)) if port.starts_with(':') => (name, Some(&port[1..])),
            _ => ("", None),
        };
    }
    match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    }
}

fn is_loopback_name(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_status(allowed: &[&str], host: &str) -> Result<(), (u16, String)> {
        let config = FrontConfig {
            allowed_hosts: allowed.iter().map(|s| (*s).to_owned()).collect(),
            ..FrontConfig::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        HostPolicy::new(&config)
            .check_host(&Uri::from_static("/mcp"), &headers)
            .map_err(|away| (away.status.as_u16(), away.message))
    }

    #[test]
    fn only_loopback_names_pass_unless_allowed() {
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8800", "127.9.9.9", "[::1]", "[::1]:8800"] {
            assert!(host_status(&[], host).is_ok(), "{host}");
            assert!(host_status(&["gateway"], host).is_ok(), "{host}");
        }
        for host in
            ["gateway:8800", "10.0.0.1", "localhost.evil.example", "evil.example", "[::2]", "[::1", ""]
        {
            let (status, message) = host_status(&[], host).unwrap_err();
            assert_eq!(status, 421, "{host}");
            assert!(message.contains("allowed_hosts"), "{message}");
        }
    }

    #[test]
    fn an_authority_is_read_strictly() {
        for host in [
            "localhost:1@evil.example",
            "evil.example@localhost",
            "localhost:abc",
            "localhost:",
            "localhost:99999",
            "localhost:1:2",
            "localhost/",
            "localhost evil.example",
            "[::1]evil.example",
            "[::1]:x",
            "::1",
            "[127.0.0.1]",
        ] {
            assert_eq!(host_status(&["localhost"], host).unwrap_err().0, 421, "{host}");
        }
        for origin in [
            "http://127.0.0.1:1@evil.example",
            "http://localhost:abc",
            "http://localhost/",
            "http://localhost#",
            "localhost",
            "://localhost",
        ] {
            assert!(origin_host(origin).is_none(), "{origin}");
        }
    }

    #[test]
    fn what_would_let_everybody_in_is_refused_and_never_suggested() {
        for origin in ["null", "*", "https://*.example.org", "https://example.org/path", "example.org", ""] {
            assert!(check_allowed_origin(origin).is_err(), "{origin}");
        }
        for origin in ["https://example.org", "http://localhost:3000", "vscode-webview://abc"] {
            assert_eq!(check_allowed_origin(origin), Ok(()), "{origin}");
        }
        for (host, good) in
            [("gateway", true), ("gateway:8800", true), ("*", false), ("http://gateway", false)]
        {
            assert_eq!(check_allowed_host(host).is_ok(), good, "{host}");
        }
        let policy = HostPolicy::new(&FrontConfig {
            allowed_origins: vec!["null".to_owned(), "https://ok.example".to_owned()],
            ..FrontConfig::default()
        });
        let asked = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            policy.check_origin(&headers).map_err(|away| away.message)
        };
        let why = asked("origin", "null").unwrap_err();
        assert!(!why.contains("allowed_origins") && why.contains("sandboxed"), "{why}");
        assert!(asked("origin", "https://evil.example").unwrap_err().contains("allowed_origins"));
        assert!(asked("sec-fetch-site", "cross-site").is_err());
        for site in ["same-origin", "same-site", "none"] {
            assert!(asked("sec-fetch-site", site).is_ok(), "{site}");
        }
    }

    #[test]
    fn an_allowed_host_passes_with_its_port_or_with_any() {
        assert!(host_status(&["gateway:8800"], "gateway:8800").is_ok());
        assert!(host_status(&["Gateway"], "gateway:8800").is_ok());
        assert!(host_status(&["gateway"], "GATEWAY").is_ok());
        assert_eq!(host_status(&["gateway:8800"], "gateway:9999").unwrap_err().0, 421);
        assert!(host_status(&[], "gateway:8800").unwrap_err().1.contains("\"gateway:8800\""));
    }

    #[test]
    fn foreign_origins_and_peers_are_refused() {
        let config =
            FrontConfig { allowed_origins: vec!["https://ok.example".to_owned()], ..FrontConfig::default() };
        let policy = HostPolicy::new(&config);
        let origin = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, value.parse().unwrap());
            policy.check_origin(&headers).is_ok()
        };
        assert!(policy.check_origin(&HeaderMap::new()).is_ok());
        assert!(
            origin("http://localhost:3000") && origin("https://127.0.0.1") && origin("https://OK.example")
        );
        assert!(
            !origin("https://evil.example") && !origin("null") && !origin("http://localhost.evil.example")
        );
        let peer = |text: &str| policy.check_peer(text.parse().unwrap()).is_ok();
        assert!(peer("127.0.0.1:1") && peer("[::1]:1") && peer("[::ffff:127.0.0.1]:1"));
        assert!(!peer("10.0.0.1:1") && !peer("[2001:db8::1]:1"));
        let open = HostPolicy::new(&FrontConfig {
            unauthenticated: Unauthenticated::Allow,
            ..FrontConfig::default()
        });
        assert!(open.check_peer("10.0.0.1:1".parse().unwrap()).is_ok());
    }
}
