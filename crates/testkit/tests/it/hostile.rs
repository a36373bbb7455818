//! Bad input: each gets a clear refusal, none of it disturbs the next caller.

use bytes::Bytes;
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn bad_bodies_are_refused_on_streamable() {
    let server = serve(Script::default()).await;
    let agent = ready(&server, Transport::Http).await;
    let deep = "[".repeat(100_000);
    let cases: [(&[u8], u16, &str); 11] = [
        (b"{", 400, "-32700"),
        (b"", 400, "-32700"),
        (b"\xef\xbb\xbf{}", 400, "-32700"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}", 400, "-32"),
        (deep.as_bytes(), 400, "-32700"),
        (b"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]", 400, "-32600"),
        (b"{\"id\":1,\"id\":2,\"method\":\"ping\"}", 400, "-32600"),
        (b"{\"id\":\"x\",\"method\":7}", 400, "\"id\":\"x\""),
        (b"{\"jsonrpc\":\"2.0\"}", 400, "-32600"),
        (b" [1,\"ping\"]", 400, "-32600"),
        (b"{\"id\":7,\"method\":\"tools/call\",\"params\":[\"echo\"]}", 400, "\"id\":7"),
    ];
    for (body, status, part) in cases {
        let answer = agent.post_bytes(Bytes::copy_from_slice(body), &[]).await.unwrap();
        let shown = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{shown}");
        assert!(shown.contains(part), "{part} in {shown}");
    }
    agent.call_tool("echo", json!({})).await.unwrap();
}

#[tokio::test]
async fn bad_bodies_are_refused_on_sse() {
    let server = serve(Script::default()).await;
    let agent = ready(&server, Transport::Sse).await;
    for body in [&b"{"[..], b"", b"[]", b"null", b"{\"id\":1}", b"{\"id\":1,\"method\":[]}"] {
        assert_eq!(agent.post_bytes(Bytes::copy_from_slice(body), &[]).await.unwrap().status, 400);
    }
    let plain = agent.post_bytes("{}", &[("content-type", "text/plain")]).await.unwrap();
    assert_eq!((plain.status, &plain.body[..]), (400, &b"Invalid Content-Type header"[..]));
    agent.call_tool("echo", json!({})).await.unwrap();
}

#[tokio::test]
async fn wrong_sessions_paths_and_methods_are_named() {
    let server = serve(Script::default()).await;
    let agent = ready(&server, Transport::Http).await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let unknown = "0".repeat(32);
    let post = |path: String| agent.raw(Method::POST, path.leak(), &[], ping.into());
    assert_eq!(post("/messages/".into()).await.unwrap().body, "session_id is required");
    assert_eq!(post("/messages/?session_id=zz".into()).await.unwrap().body, "Invalid session ID");
    assert_eq!(post(format!("/messages/?session_id={unknown}")).await.unwrap().status, 404);
    // the id of a session of the other transport is no session here
    let own = agent.session_id().unwrap();
    assert_eq!(post(format!("/messages/?session_id={own}")).await.unwrap().status, 404);
    assert_eq!(post("/nowhere".into()).await.unwrap().status, 404);
    assert_eq!(post("/sse".into()).await.unwrap().status, 405);
    let put = agent.raw(Method::PUT, "/mcp", &[], ping.into()).await.unwrap();
    assert_eq!((put.status, put.headers["allow"].to_str().unwrap()), (405, "GET, POST, DELETE"));
    for (headers, status) in [
        (("mcp-session-id", unknown.as_str()), 404),
        (("mcp-session-id", ""), 400),
        (("content-type", "text/plain"), 415),
        (("mcp-protocol-version", "1999-01-01"), 400),
    ] {
        assert_eq!(agent.post_bytes(ping, &[headers]).await.unwrap().status, status, "{headers:?}");
    }
    for method in [Method::GET, Method::DELETE] {
        let answer = agent.raw(method, "/mcp", &[("mcp-session-id", "")], Bytes::new()).await.unwrap();
        assert_eq!(answer.status, 400);
    }
    assert_eq!(post("/mcp".into()).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_announced_or_not() {
    let server = serve(Script::default()).await;
    for chunked in [false, true] {
        let mut tcp = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
        let size = 5 << 20;
        let length =
            if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {size}") };
        let head =
            format!("POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{length}\r\n\r\n");
        tcp.write_all(head.as_bytes()).await.unwrap();
        let (mut read, mut write) = tcp.split();
        let send = async {
            if chunked {
                let piece = [b"10000\r\n".as_slice(), &vec![b' '; 0x1_0000], b"\r\n"].concat();
                for _ in 0..size / 0x1_0000 {
                    if write.write_all(&piece).await.is_err() {
                        break;
                    }
                }
            }
            std::future::pending::<()>().await;
        };
        let mut answer = [0u8; 12];
        tokio::select! {
            () = send => {}
            got = read.read_exact(&mut answer) => { got.unwrap(); }
        }
        assert_eq!(&answer, b"HTTP/1.1 413");
    }
}

#[tokio::test]
async fn bytes_that_are_no_http_hurt_nobody() {
    let server = serve(Script::default()).await;
    let agent = ready(&server, Transport::Sse).await;
    for garbage in
        [&b"\x00\x01\x02\r\n\r\n"[..], b"GET\r\n\r\n", b"POST /mcp HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
    {
        let mut tcp = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
        tcp.write_all(garbage).await.unwrap();
        let mut all = Vec::new();
        tcp.read_to_end(&mut all).await.unwrap();
        assert!(all.starts_with(b"HTTP/1.1 400"), "{:?}", String::from_utf8_lossy(&all));
    }
    agent.call_tool("echo", json!({})).await.unwrap();
}

#[tokio::test]
async fn bad_arguments_are_tool_errors_and_bad_params_invalid_requests() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let agent = ready(&server, transport).await;
        for (tool, arguments) in [
            ("sleep", json!({ "ms": -1 })),
            ("sleep", json!({ "ms": "long" })),
            ("echo", json!([1])),
            ("add", json!({})),
            ("ask", json!({ "kind": "what" })),
            ("no-such-tool", json!({})),
        ] {
            let result = agent.call_tool(tool, arguments.clone()).await.unwrap();
            assert_eq!(result["isError"], true, "{tool} {arguments}");
        }
        let odd = agent.call_tool("echo", json!({ "nonce": { "a": [1, "\n"] } })).await.unwrap();
        assert_eq!(text(&odd), r#"{"a":[1,"\n"]}"#);
        for (method, params) in [
            ("resources/read", json!({})),
            ("resources/subscribe", json!({})),
            ("logging/setLevel", json!({})),
        ] {
            let answer = agent.request(method, params).await;
            assert!(
                matches!(answer, Err(mcpool_testkit::AgentError::Rpc { code: -32602, .. })),
                "{answer:?}"
            );
        }
        assert_eq!(agent.foreign() + agent.garbage(), 0);
    }
}

#[tokio::test]
async fn arguments_spread_over_lines_do_not_break_an_event() {
    let server = serve(Script::default()).await;
    let agent = ready(&server, Transport::Sse).await;
    let body = "{\n\"jsonrpc\":\"2.0\",\n\"id\":\n99,\"method\":\"tools/call\",\"params\":{\"name\":\"echo\",\"arguments\":{\"nonce\":{\n\"a\":\r\n1}}}}";
    assert_eq!(agent.post_bytes(body, &[]).await.unwrap().status, 202);
    until("the answer came", || agent.unknown_answers() == 1).await;
    assert_eq!(agent.garbage(), 0);
}

#[tokio::test]
async fn a_client_that_never_reads_holds_back_only_itself() {
    let server = serve(Script::default()).await;
    let mut deaf = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    deaf.write_all(b"GET /sse HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    until("its session is open", || server.stats().sessions_open == 1).await;
    let session = server.session_ids().remove(0);
    let poster = Agent::connect(config(&server, Transport::Http).with_timeout(SILENCE)).await.unwrap();
    let path = format!("/messages/?session_id={session}");
    let big = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"big","arguments":{"bytes":100000}}}"#;
    let mut held = false;
    for _ in 0..4000 {
        held = poster.raw(Method::POST, &path, &[], big.into()).await.is_err();
        if held {
            break;
        }
    }
    assert!(held, "the posts of a deaf client are held back");
    let agent = ready(&server, Transport::Sse).await;
    agent.call_tool("echo", json!({})).await.unwrap();
    drop(deaf);
    until("its session is gone", || server.stats().sessions_open == 1).await;
}
