//! Who may reach this listener: host names, origins and peers (DESIGN.md 2, "Hosts").
//!
//! A page in a browser can send requests to a loopback port under any host name it resolves there; only the names
//! tell such a request from an honest one.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, StatusCode, Uri, header};

use crate::config::{FrontConfig, Unauthenticated};

/// The rules of one listener.
pub struct HostPolicy {
    hosts: Vec<String>,
    origins: Vec<String>,
    peers: Unauthenticated,
}

/// Why a request is turned away.
pub struct TurnedAway {
    /// The HTTP status that says so.
    pub status: StatusCode,
    /// What was wrong: `peer`, `host`, `origin`.
    pub kind: &'static str,
    /// One sentence that names the key to change.
    pub message: String,
}

impl HostPolicy {
    /// What the configuration allows.
    #[must_use]
    pub fn new(config: &FrontConfig) -> Self {
        let lower = |list: &[String]| list.iter().map(|entry| entry.to_ascii_lowercase()).collect();
        Self {
            hosts: lower(&config.allowed_hosts),
            origins: lower(&config.allowed_origins),
            peers: config.unauthenticated,
        }
    }

    /// Whether this peer is served.
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
            message: "without authentication only loopback addresses are served; \
                      set unauthenticated = \"allow\" to serve others"
                .to_owned(),
        })
    }

    /// Whether the host named by the request is served.
    ///
    /// # Errors
    /// Why not.
    pub fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), TurnedAway> {
        let named = uri.authority().map(|authority| authority.as_str());
        let host = named.or_else(|| headers.get(header::HOST).and_then(|value| value.to_str().ok()));
        let host = host.unwrap_or_default().to_ascii_lowercase();
        let (name, _) = split_port(&host);
        if is_loopback_name(name) || self.hosts.iter().any(|allowed| *allowed == host || allowed == name) {
            return Ok(());
        }
        let shown: String = host.chars().filter(|c| c.is_ascii_graphic()).take(100).collect();
        Err(TurnedAway {
            status: StatusCode::MISDIRECTED_REQUEST,
            kind: "host",
            message: format!(
                "the host {shown:?} is not served here; add it to allowed_hosts, for instance \
                 allowed_hosts = [{shown:?}]"
            ),
        })
    }

    /// Whether pages of this origin are served.
    ///
    /// # Errors
    /// Why not.
    pub fn check_origin(&self, headers: &HeaderMap) -> Result<(), TurnedAway> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if host.is_some_and(|host| is_loopback_name(split_port(host).0)) || self.origins.contains(&origin) {
            return Ok(());
        }
        let shown: String = origin.chars().filter(|c| c.is_ascii_graphic()).take(100).collect();
        Err(TurnedAway {
            status: StatusCode::FORBIDDEN,
            kind: "origin",
            message: format!(
                "the origin {shown:?} is not served here; add it to allowed_origins, for instance \
                 allowed_origins = [{shown:?}]"
            ),
        })
    }
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
