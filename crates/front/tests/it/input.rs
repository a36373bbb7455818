//! Bad input: a clear error with the right status, the id echoed where there is one, and nothing forwarded.

use bytes::Bytes;
use mcpool_front::{FrontConfig, FrontLimits};
use serde_json::{Value, json};

use crate::client::{Got, Running, initialize, start, start_with, tool, until};

async fn raw(front: &Running, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Got {
    let mut all = vec![("content-type", "application/json")];
    all.retain(|(name, _)| !headers.iter().any(|(given, _)| given == name));
    all.extend_from_slice(headers);
    Got::read(front.send("POST", "/mcp", &all, body).await).await
}

#[tokio::test]
async fn broken_messages_are_400_and_never_forwarded() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let call = |id: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo"}}}}"#)
    };
    let rows: Vec<(Bytes, i64, Value)> = vec![
        (Bytes::from_static(b"{\"jsonrpc\":"), -32700, Value::Null),
        (Bytes::from_static(b""), -32700, Value::Null),
        (Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}"), -32700, Value::Null),
        (Bytes::from(format!("{}x", call("1"))), -32700, Value::Null),
        (Bytes::from(format!("[{}]", call("1"))), -32600, Value::Null),
        (Bytes::from_static(b"{\"jsonrpc\":\"1.0\",\"id\":7,\"method\":\"ping\"}"), -32600, json!(7)),
        (Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"id\":\"k\"}"), -32600, json!("k")),
        (
            Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"a\",\"method\":\"b\"}"),
            -32600,
            json!(2),
        ),
        (Bytes::from(call("null")), -32600, Value::Null),
        (Bytes::from(call("1.5")), -32600, Value::Null),
        (Bytes::from(call("true")), -32600, Value::Null),
        (Bytes::from(call("{}")), -32600, Value::Null),
        (Bytes::from(call("[1]")), -32600, Value::Null),
        (Bytes::from(call("99999999999999999999")), -32600, Value::Null),
    ];
    for (body, code, id) in rows {
        let got = raw(&front, &[("mcp-session-id", &session)], body.clone()).await;
        assert_eq!((got.status.as_u16(), got.code(), &got.json()["id"]), (400, code, &id), "{body:?}");
        assert_eq!(got.headers["content-type"], "application/json");
    }
    assert!(front.script.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn content_types_are_checked() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let body = tool(1, "echo").to_string();
    for (content_type, status) in [
        ("text/plain", 415),
        ("", 415),
        ("application/jsonx", 415),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
    ] {
        let headers = [("mcp-session-id", session.as_str()), ("content-type", content_type)];
        assert_eq!(raw(&front, &headers, body.clone()).await.status, status, "{content_type}");
    }
    assert_eq!(Got::read(front.send("POST", "/mcp", &[], body).await).await.status, 415);
}

#[tokio::test]
async fn accept_is_read_leniently() {
    let front = start().await;
    let session = front.session("/mcp").await;
    for (accept, content_type) in [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/event-stream", "text/event-stream"),
        ("application/json, text/event-stream;q=0.5", "application/json"),
        ("text/html", "application/json"),
    ] {
        let headers = [("mcp-session-id", session.as_str()), ("accept", accept)];
        let got = raw(&front, &headers, tool(1, "echo").to_string()).await;
        assert_eq!(
            (got.status.as_u16(), &got.headers["content-type"]),
            (200, &content_type.parse().unwrap()),
            "{accept}"
        );
        assert!(got.text.contains("\"backend\":\"a\""), "{got:?}");
    }
}

#[tokio::test]
async fn sessions_are_asked_for_and_never_crossed() {
    let front = start().await;
    let got = front.post("/mcp", &[], &tool(3, "echo")).await;
    assert_eq!((got.status.as_u16(), got.code(), got.json()["id"].clone()), (400, -32600, json!(3)));
    assert!(got.text.contains("initialize"));

    let stream = front.sse("/sse", &[]).await;
    let of_b = front.session("/b/mcp").await;
    let foreign = "0b0e8f0e-0000-4000-8000-000000000000";
    for (path, session) in
        [("/mcp", foreign), ("/mcp", ""), ("/mcp", stream.session.as_str()), ("/a/mcp", of_b.as_str())]
    {
        let got = front.post(path, &[("mcp-session-id", session)], &tool("q", "echo")).await;
        assert_eq!((got.status.as_u16(), got.json()["id"].clone()), (404, json!("q")), "{path} {session}");
        let got = front.post(path, &[("mcp-session-id", session)], &initialize(1)).await;
        assert_eq!(got.status, 404);
        let listen = front
            .send("GET", path, &[("mcp-session-id", session), ("accept", "text/event-stream")], "")
            .await;
        assert_eq!(listen.status(), if session == of_b { 200 } else { 404 });
    }
    assert_eq!(front.say(foreign, &tool("q", "echo")).await.status, 404);
    assert_eq!(front.say(&of_b, &tool("q", "echo")).await.status, 404);
    let got = front.post("/zzz/mcp", &[("mcp-session-id", &of_b)], &tool("q", "echo")).await;
    assert_eq!((got.status.as_u16(), got.json()["error"]["data"]["backends"][0].clone()), (404, json!("a")));
    // Under every URL that means the same backend.
    for path in ["/b/mcp", "/b/sse/", "/mcp"] {
        assert_eq!(
            front.post(path, &[("mcp-session-id", &of_b)], &tool(1, "echo")).await.status,
            200,
            "{path}"
        );
    }
}

#[tokio::test]
async fn modern_requests_fall_back_and_unknown_revisions_are_refused() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let discover =
        json!({"jsonrpc":"2.0","id":"server-discover-probe-1","method":"server/discover","params":{}});
    let mut enveloped = tool("server-discover-probe-1", "echo");
    enveloped["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion":"2026-07-28"});
    let with_header = tool("server-discover-probe-1", "echo");
    let modern = [("mcp-protocol-version", "2026-07-28")];
    for (headers, body) in [
        (&modern[..], &discover),
        (&[], &discover),
        (&[("mcp-session-id", session.as_str())], &discover),
        (&[], &enveloped),
        (&modern, &with_header),
    ] {
        for path in ["/mcp", "/sse", "/sse/", "/b/sse"] {
            let got = front.post(path, headers, body).await;
            let id = got.json()["id"].clone();
            assert_eq!(
                (got.status.as_u16(), got.code(), id),
                (404, -32601, json!("server-discover-probe-1"))
            );
        }
    }
    let get = front.get("/sse", &modern).await;
    assert_eq!((get.status.as_u16(), &get.headers["allow"]), (405, &"POST".parse().unwrap()));
    for (version, status) in [("1999-01-01", 400), ("", 400), ("2024-11-05", 200), ("2025-11-25", 200)] {
        let headers = [("mcp-protocol-version", version), ("mcp-session-id", &session)];
        let got = front.post("/mcp", &headers, &tool(8, "echo")).await;
        assert_eq!((got.status.as_u16(), got.json()["id"].clone()), (status, json!(8)), "{version}");
    }
}

#[tokio::test]
async fn duplicate_ids_in_flight_are_refused_by_value() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let (one, text) = (tool(1, "gated"), tool("1", "gated"));
    let second = async {
        until("both run", || front.script.calls.lock().unwrap().len() == 2).await;
        let got = front.call(&session, &tool(1, "echo")).await;
        assert_eq!((got.status.as_u16(), got.code(), got.json()["id"].clone()), (200, -32600, json!(1)));
        let request_id = got.json()["error"]["data"]["request_id"].as_str().unwrap().to_owned();
        assert_eq!(front.script.saw(&request_id), 1);
        front.script.gate.open();
    };
    let (a, b, ()) = tokio::join!(front.call(&session, &one), front.call(&session, &text), second);
    assert_eq!((a.json()["id"].clone(), b.json()["id"].clone()), (json!(1), json!("1")));
    // Free again.
    assert_eq!(front.call(&session, &tool(1, "echo")).await.json()["id"], 1);
}

#[tokio::test]
async fn oversized_bodies_are_413() {
    let limits = FrontLimits { body_bytes: 100_000, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let session = front.session("/mcp").await;
    let mut fits = tool(1, "echo");
    fits["params"]["pad"] = "x".repeat(90_000).into();
    assert_eq!(front.call(&session, &fits).await.status, 200);
    let mut large = tool(1, "echo");
    large["params"]["pad"] = "x".repeat(150_000).into();
    let got = front.call(&session, &large).await;
    assert_eq!((got.status.as_u16(), got.code()), (413, -32600));
    assert_eq!(front.script.calls.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn other_methods_paths_and_doubled_headers_are_refused() {
    let front = start().await;
    for method in ["OPTIONS", "PUT", "PATCH", "HEAD"] {
        let got = front.send(method, "/b/mcp/", &[], "").await;
        assert_eq!(
            (got.status().as_u16(), &got.headers()["allow"]),
            (405, &"GET, POST, DELETE".parse().unwrap())
        );
    }
    assert_eq!(front.get("/nothing", &[]).await.status, 404);
    assert_eq!(front.get("/sse", &[("accept", "application/json")]).await.status, 406);
    let doubled = [("mcp-session-id", "a"), ("mcp-session-id", "b")];
    assert_eq!(front.post("/mcp", &doubled, &tool(1, "echo")).await.status, 400);
    for (method, path) in [("GET", "/zzz/sse"), ("POST", "/zzz/mcp")] {
        let headers = [("content-type", "application/json")];
        let got = Got::read(front.send(method, path, &headers, initialize(4).to_string()).await).await;
        assert_eq!(
            (got.status.as_u16(), got.json()["error"]["data"]["backends"].clone()),
            (404, json!(["a", "b"]))
        );
        assert!(method == "GET" || got.json()["id"] == 4);
    }
}
