//! The words of transports: whole messages that say what became of a request before anything ran.
//!
//! A row is believed only if status, code and the whole message fit. Part of a message is never enough: a tool that
//! speaks of sessions, versions or limits of its own uses the same words in other sentences. An error under the id of
//! the call is a tool's as much as a transport's: only rows that a transport is known to send under that id are believed
//! there; all others are sent with `null`, a word, or no id.

/// What a transport says with one of its own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The session is not known (any more).
    SessionLost,
    /// The session is not known, and the message may have been taken before that was noticed.
    SessionHalfGone,
    /// The protocol version in the header is refused.
    WrongVersion,
    /// The handshake is not through on its side.
    NotInitialized,
}

/// One message of one or more transports.
struct Phrase {
    statuses: &'static [u16],
    /// Codes of the JSON-RPC error it comes in; empty: it is the whole body.
    codes: &'static [i64],
    message: &'static str,
    meaning: Meaning,
    /// Whether the origin sends it under the id of the request.
    own_id: bool,
    /// Where it was read or seen.
    #[cfg_attr(not(test), expect(dead_code, reason = "for whoever reads or extends the table"))]
    origin: &'static str,
}

const fn rpc(codes: &'static [i64], message: &'static str, origin: &'static str) -> Phrase {
    Phrase { statuses: &[400, 404], codes, message, meaning: Meaning::SessionLost, own_id: false, origin }
}

/// What a transport sends under the id of the request.
const fn own(
    statuses: &'static [u16],
    codes: &'static [i64],
    message: &'static str,
    origin: &'static str,
) -> Phrase {
    Phrase { statuses, own_id: true, ..rpc(codes, message, origin) }
}

const fn text(statuses: &'static [u16], message: &'static str, origin: &'static str) -> Phrase {
    Phrase { statuses, codes: &[], ..rpc(&[], message, origin) }
}

const PHRASES: &[Phrase] = &[
    // The first two send `null`; ToolHive sends the id of the request, and copies of the TypeScript SDK may.
    own(
        &[400, 404],
        &[-32001],
        "Session not found",
        "TypeScript SDK streamableHttp.ts, C# SDK StreamableHttpHandler.cs, ToolHive transport/session",
    ),
    own(&[404], &[-32600], "Session not found", "Helidon MCP McpServerFeature.java"),
    rpc(&[-32000, -32600], "Session not found", "Python SDK streamable_http_manager.py, Kotlin SDK"),
    rpc(&[-32000], "Bad Request: Server not initialized", "TypeScript SDK streamableHttp.ts, Kotlin SDK"),
    rpc(
        &[-32000, -32600],
        "Bad Request: Mcp-Session-Id header is required",
        "TypeScript SDK streamableHttp.ts, C# SDK, Kotlin SDK",
    ),
    rpc(
        &[-32000],
        "Bad Request: No valid session ID provided",
        "TypeScript SDK examples, server-everything, supergateway, mcp-proxy",
    ),
    rpc(&[-32000], "Bad Request: Session ID required", "TypeScript SDK 2 reference server"),
    rpc(&[-32600], "Bad Request: Missing session ID", "Python SDK streamable_http.py"),
    rpc(&[-32600], "Not Found: Invalid or expired session ID", "Python SDK streamable_http.py"),
    rpc(&[-32600], "Not Found: Session has been terminated", "Python SDK streamable_http.py"),
    rpc(
        &[-32000],
        "Bad Request: A new session can only be created by an initialize request. Include a valid \
         Mcp-Session-Id header for non-initialize requests.",
        "C# SDK StreamableHttpHandler.cs",
    ),
    rpc(&[-32602], "Invalid session ID", "mcp-go sse.go"),
    rpc(&[-32602], "Missing sessionId", "mcp-go sse.go"),
    text(&[400, 404], "Bad Request: No valid session ID provided", "Python SDK before 1.26"),
    text(&[400, 401], "Bad Request: Session ID is required", "Rust SDK tower.rs"),
    text(&[404], "Not Found: Session not found", "Rust SDK tower.rs"),
    text(&[401], "Unauthorized: Session ID is required", "Rust SDK before 0.9"),
    text(&[401], "Unauthorized: Session not found", "Rust SDK before 0.9"),
    text(&[400, 404], "Session not found", "TypeScript SDK examples"),
    text(&[400, 404], "session not found", "Go SDK streamable.go"),
    text(&[404], "Session terminated", "mcp-go streamable_http.go"),
    text(&[400, 404], "Invalid session ID", "Python SDK sse.py, mcp-go streamable_http.go"),
    text(&[400], "Invalid or missing session ID", "TypeScript SDK examples"),
    text(&[400, 404], "No transport found for sessionId", "TypeScript SDK examples"),
    text(&[400], "session_id is required", "Python SDK sse.py"),
    text(&[404], "Could not find session", "Python SDK sse.py"),
    text(&[400], r#"{"error":"Missing session ID"}"#, "Ruby SDK streamable_http_transport.rb"),
    text(&[400, 404], r#"{"error":"Session not found"}"#, "Ruby SDK streamable_http_transport.rb"),
    Phrase {
        statuses: &[500],
        codes: &[],
        message: "SSE connection not established",
        meaning: Meaning::SessionHalfGone,
        own_id: false,
        origin: "TypeScript SDK sse.ts",
    },
    Phrase {
        statuses: &[500],
        codes: &[-32603],
        message: "Error handling POST request:",
        meaning: Meaning::SessionHalfGone,
        own_id: false,
        origin: "Python SDK streamable_http.py, whose streams are closed already",
    },
    Phrase {
        statuses: &[400],
        codes: &[],
        message: "Received request before initialization was complete",
        meaning: Meaning::NotInitialized,
        own_id: false,
        origin: "Python SDK session.py",
    },
    Phrase {
        statuses: &[400],
        codes: &[-32602, -32600, -32000],
        message: "Received request before initialization was complete",
        meaning: Meaning::NotInitialized,
        own_id: false,
        origin: "Python SDK session.py",
    },
];

/// Beginnings of the refusal of a version header; what follows names versions and nothing else. No SDK of the revisions
/// with a handshake sends it under the id of the request.
const VERSION: &[&str] =
    &["Bad Request: Unsupported protocol version", "Bad Request: Unsupported MCP-Protocol-Version"];
const VERSION_CODES: &[i64] = &[-32000, -32600];

/// What this message of a transport means, if it is one. `code` is that of its JSON-RPC error, if it came in one, and
/// `own_id` whether that has the id of the request; `message` has its white space made single.
pub(super) fn meaning(status: u16, code: Option<i64>, own_id: bool, message: &str) -> Option<Meaning> {
    let in_words = |codes: &[i64]| match code {
        Some(code) => codes.contains(&code),
        None => codes.is_empty(),
    };
    let phrase = PHRASES.iter().find(|phrase| {
        (phrase.own_id || !own_id)
            && phrase.statuses.contains(&status)
            && in_words(phrase.codes)
            && phrase.message == message
    });
    if let Some(phrase) = phrase {
        return Some(phrase.meaning);
    }
    let of_version = status == 400 && !own_id && code.is_none_or(|code| VERSION_CODES.contains(&code));
    let names_versions = VERSION.iter().filter_map(|begins| message.strip_prefix(begins)).any(is_versions);
    (of_version && names_versions).then_some(Meaning::WrongVersion)
}

/// Whether the rest of a sentence is a list of versions.
fn is_versions(rest: &str) -> bool {
    rest.split(|c: char| c.is_whitespace() || ":.,()[]'\"".contains(c)).all(|word| {
        word.chars().all(|c| c.is_ascii_digit() || c == '-')
            || ["supported", "Supported", "versions"].contains(&word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_found_by_its_whole_message_alone() {
        for row in PHRASES {
            let code = row.codes.first().copied();
            for status in row.statuses {
                assert_eq!(meaning(*status, code, false, row.message), Some(row.meaning), "{}", row.origin);
                for other in [format!("{} 12", row.message), format!("shell {}", row.message)] {
                    assert_eq!(meaning(*status, code, false, &other), None, "{other}");
                }
                assert_eq!(meaning(*status, Some(-32099), false, row.message), None, "{}", row.message);
            }
            assert_eq!(meaning(200, code, false, row.message), None, "{}", row.message);
        }
    }

    #[test]
    fn under_the_id_of_the_request_only_two_rows_are_believed() {
        let mut believed = Vec::new();
        for row in PHRASES {
            for status in [400, 401, 404, 500] {
                for code in row.codes {
                    if meaning(status, Some(*code), true, row.message).is_some() {
                        believed.push((status, *code, row.message));
                    }
                }
            }
        }
        believed.dedup();
        let lost = "Session not found";
        assert_eq!(believed, [(400, -32001, lost), (404, -32001, lost), (404, -32600, lost)]);
        let version = "Bad Request: Unsupported protocol version: 2025-11-25";
        assert_eq!(meaning(400, Some(-32000), true, version), None);
    }

    #[test]
    fn a_refused_version_names_versions_and_nothing_else() {
        let refused = |message: &str| meaning(400, None, false, message) == Some(Meaning::WrongVersion);
        assert!(refused(
            "Bad Request: Unsupported protocol version: 2025-11-25. Supported versions: 2025-06-18"
        ));
        assert!(!refused("Bad Request: Unsupported protocol version of the archive"));
        assert!(!refused("Unsupported protocol version: 3"));
    }
}
