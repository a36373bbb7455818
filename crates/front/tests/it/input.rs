//! Bad input: a clear error with the right status, the id echoed where there is one, and nothing forwarded.

use bytes::Bytes;
use mcpool_front::{FrontConfig, FrontLimits};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::client::{Got, PATIENCE, Running, initialize, start, start_with, tool, until};

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
        (Bytes::from(call(&format!("\"{}\"", "x".repeat(257)))), -32600, Value::Null),
        (Bytes::from(call("\"\\ud800\"")), -32600, Value::Null),
    ];
    for (body, code, id) in rows {
        let got = raw(&front, &[("mcp-session-id", &session)], body.clone()).await;
        assert_eq!((got.status.as_u16(), got.code(), &got.json()["id"]), (400, code, &id), "{body:?}");
        assert_eq!(got.headers["content-type"], "application/json");
    }
    assert!(front.script.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_call_beyond_the_limits_is_told_so_and_its_session_lives_on() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let deep = format!("{}{}", "[".repeat(70), "]".repeat(70));
    for (params, why) in [
        (format!(r#"{{"name":"{}"}}"#, "x".repeat(129)), "params.name is longer than 128 characters"),
        (format!(r#"{{"name":"a","uri":"{}"}}"#, "x".repeat(8193)), "params.uri is longer than 8 KiB"),
        (format!(r#"{{"name":"a","arguments":{deep}}}"#), "the message nests deeper than 64 levels"),
        (r#"{"name":"\ud800"}"#.to_owned(), "params.name, uri and protocolVersion must be valid Unicode"),
        (
            r#"{"name":"a","_meta":{"progressToken":[]}}"#.to_owned(),
            "a progressToken must be a string of at most 256 bytes or an integer",
        ),
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":"k","method":"tools/call","params":{params}}}"#);
        let got = raw(&front, &[("mcp-session-id", &session)], body.clone()).await;
        // A 4xx would end the connection of some agents for good.
        assert_eq!((got.status.as_u16(), got.code(), got.json()["id"].clone()), (200, -32602, json!("k")));
        assert_eq!(got.json()["error"]["message"], why);
        assert_eq!(got.json()["error"]["data"]["executed"], "no");
    }
    assert!(front.script.calls.lock().unwrap().is_empty());
    assert_eq!(front.post("/mcp", &[("mcp-session-id", &session)], &tool(1, "echo")).await.status, 200);
}

#[tokio::test]
async fn keys_that_only_look_like_ours_are_400() {
    let front = start().await;
    let session = front.session("/mcp").await;
    for params in [r#"{"name":"echo","Name":"x"}"#, r#"{"name":"echo","arguments":{},"arguments":{}}"#] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{params}}}"#);
        let got = raw(&front, &[("mcp-session-id", &session)], body).await;
        assert_eq!((got.status.as_u16(), got.code(), got.json()["id"].clone()), (400, -32600, json!(5)));
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
        assert_eq!(listen.status(), 404, "{path} {session}");
    }
    assert_eq!(front.say(foreign, &tool("q", "echo")).await.status, 404);
    assert_eq!(front.say(&of_b, &tool("q", "echo")).await.status, 404);
    let got = front.post("/zzz/mcp", &[("mcp-session-id", &of_b)], &tool("q", "echo")).await;
    assert_eq!((got.status.as_u16(), got.json()["error"]["data"]["backends"][0].clone()), (404, json!("a")));
    // Under every URL that means the same backend, and the unnamed one means another.
    assert_eq!(front.post("/mcp", &[("mcp-session-id", &of_b)], &tool(1, "echo")).await.status, 404);
    for path in ["/b/mcp", "/b/sse/"] {
        assert_eq!(
            front.post(path, &[("mcp-session-id", &of_b)], &tool(1, "echo")).await.status,
            200,
            "{path}"
        );
    }
}

#[tokio::test]
async fn probes_that_are_not_whole_fall_back_and_unknown_revisions_are_refused() {
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
                (400, -32602, json!("server-discover-probe-1"))
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

/// Params that are refused, with what the refusal names.
fn refused_params() -> Vec<(&'static str, Value, &'static str)> {
    let mut rows = vec![
        ("tools/call", json!({"name": "x".repeat(129)}), "name"),
        ("resources/read", json!({"uri": format!("u:{}", "x".repeat(8 << 10))}), "uri"),
    ];
    for token in [json!(true), json!([1]), json!({"a":1}), json!(1.5), json!("x".repeat(257))] {
        rows.push(("tools/call", json!({"name":"echo","_meta":{"progressToken":token}}), "progressToken"));
    }
    rows
}

#[tokio::test]
async fn names_uris_and_tokens_beyond_the_limits_are_refused_and_never_forwarded() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let mut sse = front.sse("/sse", &[]).await;
    front.say(&sse.session, &initialize(0)).await;
    assert_eq!(sse.json().await["id"], 0);
    for (method, params, named) in refused_params() {
        let message = json!({"jsonrpc":"2.0","id":"q","method":method,"params":params});
        let got = front.call(&session, &message).await;
        assert_eq!((got.status.as_u16(), got.code(), got.json()["id"].clone()), (200, -32602, json!("q")));
        // On an HTTP+SSE session nothing that is well-formed has another status than 202.
        assert_eq!(front.say(&sse.session, &message).await.status, 202);
        for error in [got.json(), sse.json().await] {
            assert!(error["error"]["message"].as_str().unwrap().contains(named), "{error}");
            assert_eq!(error["error"]["data"]["executed"], "no");
        }
    }
    assert!(front.script.calls.lock().unwrap().is_empty());
    // The longest that are allowed, counted in characters.
    for name in ["x".repeat(128), "ü".repeat(128)] {
        assert_eq!(front.call(&session, &tool(1, &name)).await.json()["result"]["tool"], name);
    }
}

/// The status of a request written byte for byte, and whether the connection was closed behind the answer.
async fn status_of(front: &Running, request: &str) -> (String, bool) {
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut heard)).await.is_ok();
    let text = String::from_utf8(heard).unwrap();
    (text.split(' ').nth(1).unwrap_or_default().to_owned(), ended)
}

#[tokio::test]
async fn headers_that_leave_open_what_is_meant_are_refused() {
    let front = start().await;
    let body = initialize(1).to_string();
    let post = |headers: &str, body: &str| {
        format!(
            "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}\r\n{body}"
        )
    };
    let length = format!("content-length: {}\r\n", body.len());
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    assert_eq!(status_of(&front, &post(&format!("{length}connection: close\r\n"), &body)).await.0, "200");
    for headers in [
        format!("{length}content-length: 1\r\n"),
        format!("{length}x:\r\n folded\r\n"),
        "transfer-encoding: gzip\r\n".to_owned(),
        format!("{length}Mcp-Session-Id: a\r\nmcp-session-id: a\r\n"),
        format!("{length}Mcp-Anything: a\r\nmcp-anything: b\r\n"),
        format!("{length}Host: localhost\r\n"),
        format!("{length}Content-Type: application/json\r\n"),
        format!("{length}Authorization: a\r\nauthorization: b\r\n"),
    ] {
        let request = post(&format!("{headers}connection: close\r\n"), &body);
        assert_eq!(status_of(&front, &request).await.0, "400", "{headers}");
    }
    // A length beside chunks is ignored, and nothing that follows on the connection is read as a request.
    for both in
        [format!("{length}transfer-encoding: chunked\r\n"), format!("transfer-encoding: chunked\r\n{length}")]
    {
        let smuggled = format!("{}GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n", post(&both, &chunked));
        assert_eq!(status_of(&front, &smuggled).await, ("200".to_owned(), true), "{both}");
    }
    assert_eq!(front.script.saw("responded other 200"), 0);
}

#[tokio::test]
async fn other_methods_paths_and_doubled_headers_are_refused() {
    let front = start().await;
    for method in ["PUT", "PATCH", "HEAD"] {
        let got = front.send(method, "/b/mcp/", &[], "").await;
        assert_eq!(
            (got.status().as_u16(), &got.headers()["allow"]),
            (405, &"GET, POST, DELETE, OPTIONS".parse().unwrap())
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
