//! Cookies go with the session they were set for, on every request of it, and with no other.

use super::*;

/// A balancer that knows a session by its cookie alone, as those with stickiness do. Both transports.
async fn sticky() -> Server {
    Server::start(|seen: Seen| async move {
        let number = seen.number;
        let knows = seen.header("cookie").is_some_and(|line| line.contains("AWSALB="));
        match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/sse") => {
                let (tx, rx) = mpsc::channel(2);
                tx.try_send("event: endpoint\ndata: /messages\n\n".to_owned()).unwrap();
                tx.try_send(format!("data: {INITIALIZED}\n\n")).unwrap();
                Answer::streaming(rx).with("set-cookie", format!("AWSALB={number}; Path=/"))
            }
            _ if seen.is_initialize() && seen.path == "/mcp" => Answer::json(INITIALIZED)
                .with("mcp-session-id", "s")
                .with("set-cookie", format!("AWSALB={number}; Path=/"))
                .with("set-cookie", "AWSALBCORS=x; Path=/; Secure"),
            _ if !knows => Answer::new(404, "text/plain", "no such instance"),
            ("POST", "/mcp") if seen.body == CALL => Answer::json(ANSWER),
            ("POST", _) => Answer::status(202),
            ("GET", _) => Answer::status(405),
            _ => Answer::status(200),
        }
    })
    .await
}

#[tokio::test]
async fn a_cookie_goes_with_every_request_of_its_session_and_with_no_other() {
    let server = sticky().await;
    let transport = server.transport("/mcp", TransportChoice::Http);
    let first = transport.connect(initialize(INITIALIZE)).await.unwrap();
    let second = transport.connect(initialize(INITIALIZE)).await.unwrap();
    for opened in [&first, &second] {
        assert_eq!(messages(opened.outbound.send(CALL.into())).await, [ANSWER]);
        let mut inbound = within(opened.outbound.listen()).await.unwrap();
        tokio::select! {
            _ = inbound.next() => {}
            () = within(opened.outbound.listening()) => {}
        }
        within(opened.outbound.close()).await;
    }
    let seen = server.seen();
    let lines: Vec<_> = seen.iter().map(|seen| (seen.method.as_str(), seen.header("cookie"))).collect();
    let (one, two) = (Some("AWSALB=0"), Some("AWSALB=1"));
    let expected = [("POST", None), ("POST", None)]
        .into_iter()
        .chain([one, two].into_iter().flat_map(|line| [("POST", line), ("GET", line), ("DELETE", line)]));
    assert_eq!(lines, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_cookie_of_an_sse_stream_goes_with_its_messages() {
    let server = sticky().await;
    let opened = server.connect("/sse", TransportChoice::Sse).await;
    messages(opened.outbound.send(CALL.into())).await;
    let seen = server.seen();
    let lines: Vec<_> = seen.iter().map(|seen| seen.header("cookie")).collect();
    assert_eq!(lines, [None, Some("AWSALB=0"), Some("AWSALB=0")]);
}

#[tokio::test]
async fn where_there_are_no_sessions_no_cookie_is_kept() {
    let server = Server::start(|seen: Seen| async move {
        let message: serde_json::Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let result = serde_json::json!({ "supportedVersions": ["2026-07-28"], "capabilities": {} });
        let answer = serde_json::json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
        Answer::new(200, "application/json", answer.to_string()).with("set-cookie", "user=alice; Path=/")
    })
    .await;
    let transport = transport_of(server.url("/mcp"), TransportChoice::Http, EraChoice::Modern);
    let opened = transport.connect(initialize(INITIALIZE)).await.unwrap();
    messages(opened.outbound.send(CALL.into())).await;
    assert!(server.seen().len() > 1 && server.seen().iter().all(|seen| seen.header("cookie").is_none()));
}
