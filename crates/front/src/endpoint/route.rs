//! Routes: the meaning of a URL path. Every agent URL speaks every transport, in both spellings; nothing is redirected.

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
    /// A path to which some clients POST messages of an HTTP+SSE session, because the endpoint event gave them only a
    /// query: the folder of its stream, that of the origin, or a path that names a backend. With the session.
    Messages(Option<&'a str>, &'a str),
    Servers,
    Health,
    Livez,
    Readyz,
    Unknown,
}

impl<'a> Route<'a> {
    pub(crate) fn of(path: &'a str, query: Option<&'a str>) -> Self {
        let route = Self::of_path(path);
        if route != Self::Unknown {
            return route;
        }
        let Some(session) = session_of(query) else { return route };
        match path.trim_matches('/') {
            "" => Self::Messages(None, session),
            name if name.contains('/') || RESERVED.contains(&name) => Self::Unknown,
            name => Self::Messages(Some(name), session),
        }
    }

    fn of_path(path: &'a str) -> Self {
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

    /// The methods allowed on this path.
    pub(crate) fn methods(&self) -> Option<&'static str> {
        match self {
            Self::Agent(_) => Some("GET, POST, DELETE, OPTIONS"),
            Self::Messages(..) => Some("POST, OPTIONS"),
            Self::Servers | Self::Health | Self::Livez | Self::Readyz => Some("GET, HEAD, OPTIONS"),
            Self::Unknown => None,
        }
    }

    /// The backend named in the URL.
    pub(crate) fn backend(&self) -> Option<&'a str> {
        match self {
            Self::Agent(name) | Self::Messages(name, _) => *name,
            Self::Servers | Self::Health | Self::Livez | Self::Readyz | Self::Unknown => None,
        }
    }

    /// Whether probes may use this path under any host name.
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
            assert_eq!(Route::of(path, None), route, "{path}");
        }
    }

    #[test]
    fn a_session_in_the_query_is_enough_at_the_root_and_under_a_name() {
        let query = Some("session_id=x");
        for (path, route) in [
            ("/", Route::Messages(None, "x")),
            ("", Route::Messages(None, "x")),
            ("/search", Route::Messages(Some("search"), "x")),
            ("/search/", Route::Messages(Some("search"), "x")),
            ("/sse", Route::Agent(None)),
            ("/search/sse", Route::Agent(Some("search"))),
            ("/api", Route::Unknown),
            ("/a/b", Route::Unknown),
            ("/health", Route::Health),
        ] {
            assert_eq!(Route::of(path, query), route, "{path}");
        }
    }

    #[test]
    fn the_session_is_found_among_other_parameters() {
        assert_eq!(session_of(Some("a=b&session_id=xyz&c=d")), Some("xyz"));
        assert_eq!(session_of(Some("sessionid=xyz")), None);
        assert_eq!(session_of(None), None);
    }
}
