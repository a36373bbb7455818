//! The bodies of real servers, each with what it means.
//!
//! P1 = Python SDK 1.30, P2 = Python SDK 2.3, T1 = TypeScript SDK 1.32 (server-everything), T2 = TypeScript SDK 2.4,
//! R = rmcp 3.9, S = Python servers over HTTP+SSE.

use SendPhase::{MaybeSent, Refused as Before};

use super::*;

const OPEN: Asked = Asked::Open;
const CALL: Asked = Asked::Message { has_session: true };
const STATELESS: Asked = Asked::Message { has_session: false };

fn verdict(asked: Asked, status: u16, body: &str) -> (&'static str, SendPhase) {
    let error = classify(asked, &Refused { status, body: body.as_bytes(), retry_after: None });
    (name(&error.cause), error.phase)
}

fn name(cause: &Cause) -> &'static str {
    match cause {
        Cause::SessionLost(_) => "lost",
        Cause::Pressure(_) => "pressure",
        Cause::Gateway(_) => "gateway",
        Cause::Credential(_) => "credential",
        Cause::NotInitialized(_) => "not_initialized",
        Cause::WrongVersion(_) => "wrong_version",
        Cause::WrongTransport(_) => "wrong_transport",
        Cause::Status(_) => "status",
        other => panic!("no refusal: {other:?}"),
    }
}

fn rpc(id: &str, code: i32, message: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}"}}}}"#)
}

#[test]
fn a_refused_version_is_recognised_but_for_initialize() {
    for body in [
        rpc(r#""server-error""#, -32600, "Bad Request: Unsupported protocol version: 2025-11-25"),
        rpc("null", -32000, "Bad Request: Unsupported protocol version (supported versions: 2025-06-18)"),
        "Bad Request: Unsupported MCP-Protocol-Version: 2025-11-25".to_owned(),
    ] {
        for asked in [CALL, STATELESS, Asked::Listen] {
            assert_eq!(verdict(asked, 400, &body), ("wrong_version", Before), "{body}");
            assert!(!is_answer(400, body.as_bytes()));
        }
        assert_eq!(verdict(OPEN, 400, &body), ("wrong_transport", Before), "{body}");
    }
}

#[test]
fn a_lost_session_is_recognised_in_every_dialect() {
    let bodies = [
        ("P1", 400, rpc(r#""server-error""#, -32600, "Bad Request: Missing session ID")),
        ("P2", 400, rpc("null", -32600, "Bad Request: Missing session ID")),
        ("T1", 400, rpc("null", -32000, "Bad Request: Server not initialized")),
        ("T1", 400, rpc("null", -32000, "Bad Request: No valid session ID provided")),
        ("T1", 400, rpc("null", -32000, "Bad Request: Mcp-Session-Id header is required")),
        ("T2", 400, rpc("null", -32000, "Bad Request: Session ID required")),
        ("R", 400, "Bad Request: Session ID is required".to_owned()),
        ("P1", 404, rpc(r#""server-error""#, -32600, "Session not found")),
        ("P1", 404, rpc(r#""server-error""#, -32600, "Not Found: Session has been terminated")),
        ("T2", 404, rpc("null", -32001, "Session not found")),
        ("R", 404, "Not Found: Session not found".to_owned()),
        ("S", 404, "Could not find session".to_owned()),
        ("S", 400, "session_id is required".to_owned()),
        ("S", 400, "Invalid session ID".to_owned()),
        ("a proxy or framework", 404, "<html><body>Not Found</body></html>".to_owned()),
        ("nothing", 404, String::new()),
    ];
    for (server, status, body) in bodies {
        assert_eq!(verdict(CALL, status, &body), ("lost", Before), "{server}: {status} {body}");
        assert!(!is_answer(status, body.as_bytes()), "{server}: {body}");
    }
    // What failed inside a server may have run.
    assert_eq!(verdict(CALL, 500, "SSE connection not established"), ("lost", MaybeSent));
    let half_gone = rpc(r#""server-error""#, -32603, "Error handling POST request: ");
    assert_eq!(verdict(CALL, 500, &half_gone), ("lost", MaybeSent));
    assert!(!is_answer(500, half_gone.as_bytes()));
}

#[test]
fn other_refusals_keep_the_session() {
    let already = rpc("null", -32600, "Invalid Request: Server already initialized");
    let table = [
        (CALL, 400, already.as_str(), "status", MaybeSent),
        (
            CALL,
            400,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}"#,
            "status",
            MaybeSent,
        ),
        (CALL, 302, "", "status", MaybeSent),
        (CALL, 400, "{\"error\":\"quota\"}", "status", MaybeSent),
        (CALL, 409, "shell session not found", "status", MaybeSent),
        (CALL, 410, "session expired", "status", MaybeSent),
        (CALL, 405, "Method Not Allowed", "status", Before),
        (CALL, 406, "Not Acceptable: Client must accept both", "status", Before),
        (CALL, 413, "Payload too large", "status", Before),
        (CALL, 421, "Invalid Host header", "status", Before),
        (CALL, 401, r#"{"error":"invalid_token"}"#, "credential", Before),
        (CALL, 403, "Invalid Origin header", "credential", Before),
        (CALL, 429, "slow down", "pressure", Before),
        (CALL, 503, r#"{"error":{"code":-32603,"message":"Too many open sessions"}}"#, "gateway", MaybeSent),
        (CALL, 503, "database is busy, try again", "gateway", MaybeSent),
        (CALL, 500, "session expired", "status", MaybeSent),
        (CALL, 503, "no healthy upstream", "gateway", MaybeSent),
        (CALL, 502, "Bad Gateway", "gateway", MaybeSent),
        (CALL, 504, "", "gateway", MaybeSent),
        (CALL, 500, "Internal Server Error", "status", MaybeSent),
        (CALL, 400, "Received request before initialization was complete", "not_initialized", Before),
        (STATELESS, 404, "Not Found", "wrong_transport", MaybeSent),
        (STATELESS, 405, "", "wrong_transport", Before),
        (Asked::Listen, 404, "Cannot GET /mcp", "wrong_transport", MaybeSent),
        (Asked::Listen, 404, "Session not found", "lost", Before),
    ];
    for (asked, status, body, cause, phase) in table {
        assert_eq!(verdict(asked, status, body), (cause, phase), "{asked:?}: {status} {body}");
    }
}

#[test]
fn a_server_of_the_other_transport_says_so_when_opening() {
    let table = [
        (405, "Method Not Allowed", "wrong_transport"),
        (404, "<!DOCTYPE html><pre>Cannot POST /sse</pre>", "wrong_transport"),
        (400, "Bad Request", "wrong_transport"),
        (406, "", "wrong_transport"),
        (415, "", "wrong_transport"),
        (503, "Too many open sessions", "pressure"),
        (502, "", "gateway"),
        (500, "boom", "status"),
        // The user's own case: a streamable server asked for a stream without a session.
        (
            400,
            r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Bad Request: Missing session ID"}}"#,
            "wrong_transport",
        ),
        (404, "Could not find session", "wrong_transport"),
        (400, "session_id is required", "wrong_transport"),
    ];
    for (status, body, cause) in table {
        assert_eq!(verdict(OPEN, status, body).0, cause, "{status} {body}");
    }
}

#[test]
fn retry_after_makes_a_503_pressure() {
    let refused = Refused { status: 503, body: b"", retry_after: Some(Duration::from_secs(2)) };
    let error = classify(CALL, &refused);
    assert!(matches!(&error.cause, Cause::Pressure(r) if r.retry_after == Some(Duration::from_secs(2))));
    assert_eq!(error.phase, MaybeSent, "a server that failed may have run it before");
}

#[test]
fn a_response_is_the_answer_whatever_its_status_unless_a_transport_says_it() {
    for status in (200..600).filter(|status| !matches!(status, 401 | 403)) {
        for id in ["17", "null", r#""server-error""#, r#""17""#] {
            for words in [
                "Issue 12 not found",
                "shell session not found",
                "session expired, start a new one",
                "no active session: tab 3 was closed",
                "Unsupported protocol version of the archive",
                "Method not found",
            ] {
                assert!(is_answer(status, rpc(id, -32000, words).as_bytes()), "{status} {id} {words}");
            }
            let result = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
            assert!(is_answer(status, result.as_bytes()), "{status} {id}");
        }
        let lost = rpc("17", -32001, "Session not found");
        assert_eq!(is_answer(status, lost.as_bytes()), !matches!(status, 400 | 404), "{status}");
        assert!(!is_answer(status, b"<html>"));
        assert!(!is_answer(status, br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#));
    }
    for status in [401, 403] {
        assert!(is_answer(status, rpc("17", -32000, "not yours").as_bytes()));
        assert!(!is_answer(status, rpc("null", -32000, "not yours").as_bytes()));
    }
}

#[test]
fn answers_before_initialization_are_recognised() {
    let yes = [
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Invalid request parameters","data":""}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Invalid request parameters"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Received request before initialization was complete"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"Server not initialized"}}"#,
    ];
    let no = [
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Invalid request parameters","data":"name"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unknown tool: x"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        "no json",
    ];
    for text in yes {
        assert!(says_before_initialized(text.as_bytes()), "{text}");
    }
    for text in no {
        assert!(!says_before_initialized(text.as_bytes()), "{text}");
    }
}

#[test]
fn messages_are_cut_at_a_character_and_kept_on_one_line() {
    let long = "é".repeat(150);
    let cut = message_of(long.as_bytes());
    assert!(cut.len() <= 200 && cut.chars().all(|c| c == 'é'));
    assert_eq!(message_of(b"a\r\nb\tc"), "a b c");
}
