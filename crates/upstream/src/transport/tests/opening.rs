//! What a backend may do while it is met: redirect the GET, say other things first, take a POST for a GET.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::transport::TransportKind;

/// An open stream of HTTP+SSE that says this before its endpoint, and then the answer to `initialize`.
fn stream(before: &str, endpoint: &str) -> Answer {
    let (tx, rx) = mpsc::channel(4);
    tx.try_send(format!("{before}event: endpoint\ndata: {endpoint}\n\n")).unwrap();
    tx.try_send(format!("data: {INITIALIZED}\n\n")).unwrap();
    tokio::spawn(async move {
        tx.closed().await;
    });
    Answer::streaming(rx)
}

fn paths(server: &Server) -> Vec<String> {
    server.seen().iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
}

#[tokio::test]
async fn other_events_before_the_endpoint_are_passed_over() {
    for before in ["event: ping\ndata: 1\n\n", "event: open\ndata:\n\n: x\n\nretry: 5\n\nid: 3\ndata\n\n"] {
        let server = Server::start(move |seen: Seen| async move {
            if seen.is("GET") { stream(before, "/m") } else { Answer::status(202) }
        })
        .await;
        let opened = server.connect("/sse", TransportChoice::Sse).await;
        assert_eq!(opened.answer, INITIALIZED);
    }
}

#[tokio::test]
async fn an_endpoint_that_never_comes_is_not_waited_for_without_end() {
    let server = Server::start(|_| async {
        let (tx, rx) = mpsc::channel(1);
        tokio::spawn(async move { while tx.send("event: ping\ndata: 1\n\n".to_owned()).await.is_ok() {} });
        Answer::streaming(rx)
    })
    .await;
    let times = Times { handshake: Duration::from_millis(200), ..Times::default() };
    let endpoint = HttpEndpoint::new(server.url("/sse"));
    let transport = http_transport(
        &"b".into(),
        &endpoint,
        &configured(&endpoint),
        TransportChoice::Sse,
        &times,
        &Limits::default(),
    )
    .unwrap();
    let error = failed(transport.connect(initialize(INITIALIZE)).await);
    assert!(error.to_string().contains("`endpoint`"), "{error}");
}

#[tokio::test]
async fn a_get_follows_redirects_within_the_origin_and_the_endpoint_is_relative_to_where_they_led() {
    for status in [301, 302, 303, 307, 308] {
        let server = Server::start(move |seen: Seen| async move {
            match (seen.method.as_str(), seen.path.as_str()) {
                ("GET", "/sse") => Answer::status(status).with("location", "/v2/"),
                ("GET", "/v2/") => Answer::status(status).with("location", "sse/"),
                ("GET", "/v2/sse/") => stream("", "messages?s=1"),
                _ => Answer::status(202),
            }
        })
        .await;
        let transport = server.transport("/sse", TransportChoice::Sse);
        transport.connect(initialize(INITIALIZE)).await.unwrap();
        assert_eq!(paths(&server), ["GET /sse", "GET /v2/", "GET /v2/sse/", "POST /v2/sse/messages?s=1"]);
        transport.connect(initialize(INITIALIZE)).await.unwrap();
        let again = if matches!(status, 301 | 308) { "GET /v2/sse/" } else { "GET /sse" };
        assert_eq!(paths(&server)[4], again, "{status}");
    }
}

#[tokio::test]
async fn where_a_post_is_redirected_like_a_page_the_get_is_tried() {
    for status in [301, 302, 303] {
        let server = Server::start(move |seen: Seen| async move {
            match (seen.method.as_str(), seen.path.as_str()) {
                (_, "/sse") => Answer::status(status).with("location", "/sse/"),
                ("GET", _) => stream("", "/m"),
                _ => Answer::status(202),
            }
        })
        .await;
        let opened = server.connect("/sse", TransportChoice::Auto).await;
        assert_eq!(opened.kind, TransportKind::Sse);
        assert_eq!(paths(&server), ["POST /sse", "GET /sse", "GET /sse/", "POST /m"]);
    }
}

#[tokio::test]
async fn circles_and_long_ways_end() {
    let server = Server::start(|seen: Seen| async move {
        let to = if seen.path == "/a" { "/b" } else { "/a" };
        Answer::status(307).with("location", to)
    })
    .await;
    for choice in [TransportChoice::Http, TransportChoice::Sse] {
        let error = failed(server.transport("/a", choice).connect(initialize(INITIALIZE)).await);
        assert!(error.to_string().contains("redirected more than 5 times"), "{error}");
    }
    assert_eq!(server.seen().len(), 12);
}

#[tokio::test]
async fn while_a_session_is_opened_no_word_is_a_lost_one() {
    for (status, body) in [
        (404, "could not find session"),
        (400, "session_id is required"),
        (
            400,
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"},"id":null}"#,
        ),
        (400, r#"{"error":{"code":-32600,"message":"Received request before initialization was complete"}}"#),
        (200, r#"{"error":"session_id is required"}"#),
        (409, "no active session"),
        (410, "session terminated"),
        (422, r#"{"detail":[{"loc":["query","session_id"],"msg":"field required"}]}"#),
    ] {
        let server = Server::start(move |seen: Seen| async move {
            match (seen.method.as_str(), seen.path.as_str()) {
                ("GET", "/x") => stream("", "/m"),
                ("POST", "/m") => Answer::status(202),
                _ => Answer::new(status, "application/json", body),
            }
        })
        .await;
        let transport = server.transport("/x", TransportChoice::Auto);
        let opened = transport.connect(initialize(INITIALIZE)).await.unwrap();
        assert_eq!(opened.kind, TransportKind::Sse, "{status} {body}");
        let before = server.seen().len();
        transport.connect(initialize(INITIALIZE)).await.unwrap();
        assert_eq!(paths(&server)[before..], ["GET /x", "POST /m"], "straight");
    }
}

/// A server of HTTP+SSE that takes every request for its stream, and has room for one; it notices the end of one when
/// its connection is closed, a little later where `lag` says so.
async fn single(lag: Duration) -> (Server, Arc<AtomicUsize>) {
    let (taken, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&refused);
    let server = Server::start(move |seen: Seen| {
        let (taken, count) = (Arc::clone(&taken), Arc::clone(&count));
        async move {
            if seen.path == "/m" {
                return Answer::status(202);
            }
            if taken.swap(true, Ordering::SeqCst) {
                count.fetch_add(1, Ordering::SeqCst);
                return Answer::new(500, "text/plain", "already connected to a transport");
            }
            let (tx, rx) = mpsc::channel(4);
            tx.try_send("event: ping\ndata: 1\n\nevent: endpoint\ndata: /m\n\n".to_owned()).unwrap();
            if seen.is("GET") {
                tx.try_send(format!("data: {INITIALIZED}\n\n")).unwrap();
            }
            tokio::spawn(async move {
                tx.closed().await;
                tokio::time::sleep(lag).await;
                taken.store(false, Ordering::SeqCst);
            });
            Answer::streaming(rx)
        }
    })
    .await;
    (server, refused)
}

#[tokio::test]
async fn an_endpoint_event_for_a_post_says_which_transport_it_is_and_the_place_is_given_back() {
    for lag in [Duration::ZERO, Duration::from_millis(250)] {
        let (server, _refused) = single(lag).await;
        let opened =
            within(server.transport("/x", TransportChoice::Auto).connect(initialize(INITIALIZE))).await;
        assert_eq!(opened.unwrap().kind, TransportKind::Sse);
    }
    let (server, _) = single(Duration::ZERO).await;
    let error = failed(server.transport("/x", TransportChoice::Http).connect(initialize(INITIALIZE)).await);
    assert!(
        matches!(error.cause, Cause::WrongTransport(_)) && error.to_string().contains("HTTP+SSE"),
        "{error}"
    );
}

#[tokio::test]
async fn a_version_that_is_refused_in_the_header_gives_way_to_one_that_is_listed() {
    for (listed, said) in [
        (
            "Bad Request: Unsupported protocol version (supported versions: 2025-06-18, 2025-03-26)",
            Some("2025-06-18"),
        ),
        ("Unsupported protocol version: 2025-11-25. Supported versions: 2024-11-05, 2025-03-26", None),
    ] {
        let server = Server::start(move |seen: Seen| async move {
            match seen.header("mcp-protocol-version") {
                _ if seen.is_initialize() => Answer::json(INITIALIZED).with("mcp-session-id", "s"),
                Some("2025-11-25") => Answer::new(400, "text/plain", listed),
                _ => Answer::json(ANSWER),
            }
        })
        .await;
        let opened = server.connect("/mcp", TransportChoice::Http).await;
        opened.outbound.agreed(mcpool_wire::Revision::V2025_11_25);
        for _ in 0..2 {
            assert_eq!(messages(opened.outbound.send(CALL.into())).await, [ANSWER]);
        }
        let seen = server.seen();
        let versions: Vec<_> = seen[1..].iter().map(|seen| seen.header("mcp-protocol-version")).collect();
        assert_eq!(versions, [Some("2025-11-25"), said, said], "{listed}");
    }
    let server = Server::start(|seen: Seen| async move {
        match seen.is_initialize() {
            true => Answer::json(INITIALIZED).with("mcp-session-id", "s"),
            false => Answer::new(400, "text/plain", "Bad Request: Unsupported protocol version: 2025-06-18"),
        }
    })
    .await;
    let opened = server.connect("/mcp", TransportChoice::Http).await;
    opened.outbound.agreed(mcpool_wire::Revision::V2025_11_25);
    let items = all(opened.outbound.send(CALL.into())).await;
    assert!(matches!(&items[..], [Err(SendError { cause: Cause::WrongVersion(_), .. })]), "{items:?}");
    assert_eq!(server.seen().len(), 3, "once");
}

#[tokio::test]
async fn a_session_id_is_said_back_as_it_came_and_an_empty_one_is_none() {
    for (given, said) in
        [("a blank inside", Some("a blank inside")), ("a!b~c=/+:;,", Some("a!b~c=/+:;,")), ("", None)]
    {
        let server = Server::start(move |seen: Seen| async move {
            let answer = Answer::json(if seen.is_initialize() { INITIALIZED } else { ANSWER });
            if seen.is_initialize() { answer.with("mcp-session-id", given) } else { answer }
        })
        .await;
        let opened = server.connect("/mcp", TransportChoice::Http).await;
        assert_eq!(opened.has_session, said.is_some(), "{given:?}");
        messages(opened.outbound.send(CALL.into())).await;
        assert_eq!(server.seen()[1].header("mcp-session-id"), said);
    }
}

#[tokio::test]
async fn initialize_is_answered_by_json_of_any_name_and_in_an_array() {
    let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#;
    let array = format!("[{note},{INITIALIZED}]");
    for (kind, body) in [
        ("application/json-rpc", INITIALIZED.to_owned()),
        ("Application/Vnd.Mcp+JSON; charset=utf-8", INITIALIZED.to_owned()),
        ("application/json", array.clone()),
        ("text/event-stream", format!("data: {array}\n\n")),
    ] {
        let server = Server::start(move |_| {
            let answer = Answer::new(200, kind, body.clone());
            async { answer }
        })
        .await;
        assert_eq!(server.connect("/mcp", TransportChoice::Http).await.answer, INITIALIZED, "{kind}");
    }
}
