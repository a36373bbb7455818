//! Streamable HTTP: what goes out, and every shape of what comes back.

use mcpool_wire::Revision;

use super::*;

pub(super) const ID: &str = "s-1";

/// A server with a session; `more` answers everything but the handshake.
pub(super) async fn server(more: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Server {
    Server::start(move |seen| {
        let answer = if seen.is_initialize() {
            Answer::json(INITIALIZED).with("mcp-session-id", ID)
        } else if seen.is("DELETE") {
            Answer::status(200)
        } else {
            more(&seen)
        };
        async { answer }
    })
    .await
}

pub(super) async fn connect(server: &Server) -> Opened {
    server.connect("/mcp", TransportChoice::Http).await
}

#[tokio::test]
async fn messages_carry_the_session_the_revision_and_nothing_of_an_agent() {
    let server = server(|_| Answer::json(ANSWER)).await;
    let opened = connect(&server).await;
    assert!(opened.has_session);
    assert_eq!(opened.answer, INITIALIZED);
    assert_eq!(messages(opened.outbound.send(CALL.into())).await, [ANSWER]);
    opened.outbound.agreed(Revision::V2025_06_18);
    assert_eq!(messages(opened.outbound.send(CALL.into())).await, [ANSWER]);
    within(opened.outbound.close()).await;

    let seen = server.seen();
    let [initialize, before, after, delete] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(initialize.header("mcp-session-id"), None);
    assert_eq!(before.header("mcp-protocol-version"), None);
    assert_eq!(after.header("mcp-protocol-version"), Some("2025-06-18"));
    assert_eq!(delete.method, Method::DELETE);
    for request in [before, after, delete] {
        assert_eq!(request.header("mcp-session-id"), Some(ID));
    }
    for request in &seen {
        assert_eq!(request.header("authorization"), Some("Bearer t"));
        assert_eq!(request.header("origin"), None);
    }
    assert_eq!(after.header("accept"), Some("application/json, text/event-stream"));
    assert_eq!(after.header("content-type"), Some("application/json"));
    assert_eq!(after.body, CALL);
    // POSTs have a client of their own; GET and DELETE share the other.
    assert!(seen.iter().all(|request| request.connection <= 1), "two connections were enough");
}

#[tokio::test]
async fn headers_of_agents_go_with_every_request_of_their_session() {
    for (path, choice) in [("/mcp", TransportChoice::Http), ("/sse", TransportChoice::Sse)] {
        let hello =
            "event: endpoint\ndata: /messages\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{}}\n\n";
        let server = Server::start(move |seen| async move {
            match seen.path.as_str() {
                "/sse" => Answer::events(hello),
                "/messages" => Answer::status(202),
                _ if seen.is_initialize() => Answer::json(INITIALIZED),
                _ => Answer::json(ANSWER),
            }
        })
        .await;
        let headers = [("x-tenant".parse().unwrap(), "red".parse().unwrap())].into();
        let opened = server
            .transport(path, choice)
            .connect(ConnectRequest { headers, ..initialize(INITIALIZE) })
            .await
            .unwrap();
        opened.outbound.agreed(Revision::V2025_06_18);
        accepted(&mut opened.outbound.send(CALL.into())).await;
        within(opened.outbound.close()).await;
        let seen = server.seen();
        assert!(seen.len() >= 2 && seen.iter().all(|one| one.header("x-tenant") == Some("red")), "{seen:?}");
    }
}

#[tokio::test]
async fn an_old_revision_carries_no_version_header() {
    let server = server(|_| Answer::json(ANSWER)).await;
    let opened = connect(&server).await;
    opened.outbound.agreed(Revision::V2025_03_26);
    messages(opened.outbound.send(CALL.into())).await;
    assert_eq!(server.seen()[1].header("mcp-protocol-version"), None);
}

#[tokio::test]
async fn nothing_happens_before_the_first_poll() {
    let server = server(|_| Answer::json(ANSWER)).await;
    let opened = connect(&server).await;
    drop(opened.outbound.send(CALL.into()));
    assert_eq!(messages(opened.outbound.send(CALL.into())).await, [ANSWER]);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_server_without_session_id_is_stateless() {
    let server = Server::start(|seen: Seen| async move {
        Answer::json(if seen.is_initialize() { INITIALIZED } else { ANSWER })
    })
    .await;
    let opened = connect(&server).await;
    assert!(!opened.has_session);
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    assert!(next(&mut inbound).now_or_never().is_none());
    within(opened.outbound.close()).await;
    assert_eq!(server.seen().len(), 1, "neither GET nor DELETE");
}

#[tokio::test]
async fn the_session_id_of_an_error_is_never_used() {
    let server = server(|seen| match seen.number {
        1 => Answer::new(400, "text/plain", "Bad Request: nonsense").with("mcp-session-id", "dead"),
        _ => Answer::json(ANSWER).with("mcp-session-id", "other"),
    })
    .await;
    let opened = connect(&server).await;
    for _ in 0..3 {
        all(opened.outbound.send(CALL.into())).await;
    }
    assert!(server.seen()[1..].iter().all(|seen| seen.header("mcp-session-id") == Some(ID)));
}

#[tokio::test]
async fn initialize_may_be_answered_by_events_and_earlier_messages_are_kept() {
    let server = Server::start(|seen: Seen| async move {
        if seen.is("GET") {
            return Answer::status(405);
        }
        Answer::events(
            "id: 0\nretry: 3000\ndata:\n\n\
             data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n\
             event: message\nid: 1\ndata: {\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{}}\n\n",
        )
        .with("mcp-session-id", ID)
    })
    .await;
    let opened = connect(&server).await;
    assert_eq!(opened.answer, INITIALIZED);
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    let heard = hear(&mut inbound).await.unwrap().unwrap();
    assert_eq!(heard, r#"{"jsonrpc":"2.0","method":"notifications/message"}"#);
    // 405: then the stream never yields.
    assert!(next(&mut inbound).now_or_never().is_none());
}

#[tokio::test]
async fn a_call_may_be_answered_by_events() {
    let server = server(|_| {
        Answer::events(
            ": hello\n\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n\
             event: other\ndata: x\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"n\":1}}\n\n",
        )
    })
    .await;
    let opened = connect(&server).await;
    assert_eq!(messages(opened.outbound.send(CALL.into())).await, [PROGRESS, ANSWER]);
}

#[tokio::test]
async fn a_202_and_an_empty_200_have_no_messages() {
    for status in [200, 202, 204] {
        let server = server(move |_| Answer::status(status)).await;
        let opened = connect(&server).await;
        assert!(messages(opened.outbound.send(PROGRESS.into())).await.is_empty());
        assert!(messages(opened.outbound.send(PROGRESS.into())).await.is_empty());
        assert!(server.seen().iter().all(|seen| seen.connection == 0), "the connection was used again");
    }
}

#[tokio::test]
async fn a_lost_session_is_refused_before_execution() {
    let server =
        server(|_| Answer::new(404, "application/json", r#"{"error":{"message":"Session not found"}}"#))
            .await;
    let opened = connect(&server).await;
    let items = all(opened.outbound.send(CALL.into())).await;
    let [Err(error)] = &items[..] else { panic!("{items:?}") };
    assert_eq!(error.phase, SendPhase::Refused);
    assert!(matches!(&error.cause, Cause::SessionLost(r) if r.status == 404), "{error}");
}

#[tokio::test]
async fn a_response_is_passed_on_whatever_its_status_and_type() {
    const BODY: &str =
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"shell session not found"}}"#;
    for status in [200, 201, 202, 302, 400, 401, 404, 409, 410, 429, 500, 502, 503, 599] {
        for kind in ["application/json", "text/event-stream", "text/plain"] {
            let body =
                if kind == "text/event-stream" { format!("data: {BODY}\n\n") } else { BODY.to_owned() };
            let server = server(move |_| Answer::new(status, kind, body.clone())).await;
            let opened = connect(&server).await;
            assert_eq!(messages(opened.outbound.send(CALL.into())).await, [BODY], "{status} {kind}");
            assert_eq!(server.seen().len(), 2, "{status} {kind}");
        }
    }
}

#[tokio::test]
async fn half_a_body_says_nothing_about_the_session() {
    let server = Server::start(|seen: Seen| async move {
        if seen.is_initialize() {
            return Answer::json(INITIALIZED).with("mcp-session-id", ID);
        }
        let (tx, rx) = mpsc::channel(1);
        tx.try_send(r#"{"jsonrpc":"2.0","id":1,"err"#.to_owned()).unwrap();
        drop(tx);
        let mut answer = Answer::streaming(rx).with("content-length", "100");
        answer.status = 404;
        answer.headers[0].1 = "application/json".to_owned();
        answer
    })
    .await;
    let opened = connect(&server).await;
    let items = all(opened.outbound.send(CALL.into())).await;
    let [Err(error)] = &items[..] else { panic!("{items:?}") };
    assert_eq!(error.phase, SendPhase::MaybeSent);
    assert!(matches!(error.cause, Cause::Broken(_)), "{error}");
}

#[tokio::test]
async fn an_answer_above_the_limit_is_refused_in_both_shapes() {
    let big = "x".repeat(65 * 1024);
    let json = format!(r#"{{"jsonrpc":"2.0","id":1,"result":"{big}"}}"#);
    let array = format!("[{json}]");
    for body in [json, array] {
        refused_in_both_shapes(&body).await;
    }
}

async fn refused_in_both_shapes(json: &str) {
    let events = format!("data: {json}\n\n");
    for (kind, body) in [("application/json", json.to_owned()), ("text/event-stream", events)] {
        let server = server(move |_| Answer::new(200, kind, body.clone())).await;
        let opened = connect(&server).await;
        let items = all(opened.outbound.send(CALL.into())).await;
        assert_eq!(items[0].as_ref().unwrap(), &Received::Accepted);
        match &items[1] {
            Ok(Received::TooLarge { answers, limit }) if *answers == [1] => {
                assert_eq!(
                    (kind, *limit),
                    ("text/event-stream", 64 * 1024),
                    "an event says whose answer it was"
                );
            }
            Err(error) => assert_eq!(
                (&error.cause, error.phase),
                (&Cause::TooLarge(64 * 1024), SendPhase::MaybeSent),
                "{kind}"
            ),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stream_cut_before_its_answer_is_resumed_by_its_event_id() {
    let server = server(|seen| match (seen.is("POST"), seen.header("last-event-id")) {
        (true, _) => Answer::events("id: a\nretry: 1\ndata:\n\n"),
        (false, Some("a")) => {
            Answer::events("id: b\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n")
        }
        (false, Some("b")) => {
            Answer::events("id: c\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"n\":1}}\n\n")
        }
        (false, _) => Answer::status(400),
    })
    .await;
    let opened = connect(&server).await;
    let paused = |millis| Received::Paused(Duration::from_millis(millis));
    let said = |text: &'static str| Received::Message(text.into());
    let items = all(opened.outbound.send(CALL.into())).await.into_iter().map(Result::unwrap);
    let expected = [Received::Accepted, paused(100), said(PROGRESS), paused(200), said(ANSWER)];
    assert_eq!(
        items.collect::<Vec<_>>(),
        expected,
        "each end is told, and the pause is no shorter than 0.1 s"
    );
    assert_eq!(server.seen().iter().filter(|seen| seen.is("POST")).count(), 2, "executed once");
}

#[tokio::test]
async fn a_stream_that_cannot_be_resumed_says_that_the_call_may_have_run() {
    let server = server(|seen| match seen.is("POST") {
        true => Answer::events("id: a\nretry: 1\ndata:\n\n"),
        false => Answer::new(404, "application/json", r#"{"error":{"message":"Session not found"}}"#),
    })
    .await;
    let opened = connect(&server).await;
    let items = all(opened.outbound.send(CALL.into())).await;
    let error = items[2].as_ref().unwrap_err();
    assert_eq!(error.phase, SendPhase::MaybeSent);
    assert!(matches!(error.cause, Cause::SessionLost(_)), "{error}");
}

#[tokio::test]
async fn resuming_is_bounded() {
    let server = server(|seen| match seen.is("POST") {
        true => Answer::events("id: a\nretry: 1\ndata:\n\n"),
        false => Answer::status(502),
    })
    .await;
    let opened = connect(&server).await;
    let items = all(opened.outbound.send(CALL.into())).await;
    assert!(matches!(items[2].as_ref().unwrap_err().cause, Cause::Gateway(_)));
    assert_eq!(server.seen().iter().filter(|seen| seen.is("GET")).count(), 5);
}

#[tokio::test]
async fn dropping_an_exchange_closes_its_request_and_nothing_else() {
    let (gone_tx, mut gone) = mpsc::channel::<()>(1);
    let hold = Arc::new(Mutex::new(Some(gone_tx)));
    let server = Server::start(move |seen: Seen| {
        let hold = hold.lock().unwrap().clone();
        async move {
            match seen.number {
                0 => Answer::json(INITIALIZED).with("mcp-session-id", ID),
                1 => {
                    let (tx, rx) = mpsc::channel(1);
                    tokio::spawn(async move {
                        tx.closed().await;
                        hold.unwrap().send(()).await.unwrap();
                    });
                    Answer::streaming(rx)
                }
                _ => Answer::json(ANSWER),
            }
        }
    })
    .await;
    let opened = connect(&server).await;
    let mut exchange = opened.outbound.send(CALL.into());
    accepted(&mut exchange).await;
    drop(exchange);
    within(gone.recv()).await.unwrap();
    assert_eq!(messages(opened.outbound.send(CALL.into())).await, [ANSWER]);
}
