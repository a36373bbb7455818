//! What a URL means. Every agent URL speaks every transport, in both spellings; nothing is redirected.

/// First segments that are never backends.
pub const RESERVED: &[&str] = &[
    "mcp",
    "sse",
    "messages",
    "message",
    "ws",
    "api",
    "health",
    "healthz",
    "livez",
    "readyz",
    "metrics",
    "admin",
    "status",
    "oauth",
    "authorize",
    "token",
    "register",
    ".well-known",
];

/// A known path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// An agent URL: the unnamed one, or that of one backend.
    Agent(Option<&'a str>),
    Servers,
    Health,
    Livez,
    Readyz,
    Unknown,
}

impl<'a> Route<'a> {
    pub(crate) fn of(path: &'a str) -> Self {
        let path = path.strip_prefix('/').unwrap_or(path);
        match path.strip_suffix('/').unwrap_or(path) {
            "mcp" | "sse" => Self::Agent(None),
            "api/mcp/servers" => Self::Servers,
            "health" | "healthz" => Self::Health,
            "livez" => Self::Livez,
            "readyz" => Self::Readyz,
            other => match other.split_once('/') {
                Some((name, "mcp" | "sse")) if !name.is_empty() && !RESERVED.contains(&name) => {
                    Self::Agent(Some(name))
                }
                _ => Self::Unknown,
            },
        }
    }

    /// Whether a probe may come here under any host name.
    pub(crate) fn is_health(&self) -> bool {
        matches!(self, Self::Health | Self::Livez | Self::Readyz)
    }
}

/// The session named by the query of an HTTP+SSE message.
pub(crate) fn session_of(query: Option<&str>) -> Option<&str> {
    query?.split('&').find_map(|pair| pair.strip_prefix("session_id="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_mean_the_same() {
        for (path, route) in [
            ("/mcp", Route::Agent(None)),
            ("/sse/", Route::Agent(None)),
            ("/search/mcp", Route::Agent(Some("search"))),
            ("/search/sse/", Route::Agent(Some("search"))),
            ("/api/mcp", Route::Unknown),
            ("/api/mcp/servers/", Route::Servers),
            ("//mcp", Route::Unknown),
            ("/", Route::Unknown),
            ("/a/b/mcp", Route::Unknown),
            ("/readyz", Route::Readyz),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }

    #[test]
    fn the_session_is_found_among_other_parameters() {
        assert_eq!(session_of(Some("a=b&session_id=xyz&c=d")), Some("xyz"));
        assert_eq!(session_of(Some("sessionid=xyz")), None);
        assert_eq!(session_of(None), None);
    }
}
