//! HTTP+SSE: the endpoint, the handshake over two connections, refusals, the end.

use mcpool_wire::Revision;

use super::*;

/// A server whose stream the test feeds through the sender; the stream says this first.
async fn server(
    first: &'static str,
    post: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
) -> (Server, mpsc::Sender<String>) {
    let (tx, rx) = mpsc::channel(64);
    tx.try_send(first.to_owned()).unwrap();
    let rx = Mutex::new(Some(rx));
    let server = Server::start(move |seen: Seen| {
        let answer = match seen.is("GET") {
            true => Answer::streaming(rx.lock().unwrap().take().unwrap()),
            false => post(&seen),
        };
        async { answer }
    })
    .await;
    (server, tx)
}

const HELLO: &str = ": welcome\n\nevent: endpoint\ndata: /messages/?session_id=a%2Fb&x=1\n\n";

async fn connected(
    post: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
) -> (Server, mpsc::Sender<String>, Opened) {
    let (server, tx) = server(HELLO, post).await;
    tx.send(format!("event: message\ndata: {INITIALIZED}\n\n")).await.unwrap();
    let opened = server.connect("/sse", TransportChoice::Sse).await;
    (server, tx, opened)
}

fn accepted(_: &Seen) -> Answer {
    Answer::new(202, "text/plain", "Accepted")
}

#[tokio::test]
async fn messages_go_to_the_endpoint_verbatim_and_answers_come_by_the_stream() {
    let (server, tx, opened) = connected(accepted).await;
    assert_eq!(opened.answer, INITIALIZED);
    assert!(opened.has_session && opened.connect_took.is_some());
    opened.outbound.agreed(Revision::V2024_11_05);
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    assert!(messages(opened.outbound.send(CALL.into())).await.is_empty());
    tx.send(format!(": ping\r\n\r\nevent: message\r\ndata: {ANSWER}\r\n\r\n")).await.unwrap();
    assert_eq!(next(&mut inbound).await.unwrap().unwrap(), Heard::Alive);
    assert_eq!(next(&mut inbound).await.unwrap().unwrap(), Heard::Message(ANSWER.into()));
    let seen = server.seen();
    let posts: Vec<_> = seen.iter().filter(|seen| seen.is("POST")).collect();
    assert_eq!(posts.len(), 2);
    for post in posts {
        assert_eq!(post.path, "/messages/?session_id=a%2Fb&x=1");
        assert_eq!(post.header("authorization"), Some("Bearer t"));
        assert_eq!(post.header("mcp-protocol-version"), None);
        assert_eq!(post.connection, 1, "one connection carries all messages");
    }
}

#[tokio::test]
async fn messages_before_the_answer_to_initialize_are_delivered_first() {
    let (server, tx) = server(HELLO, accepted).await;
    for data in [PROGRESS, INITIALIZED, ANSWER] {
        tx.send(format!("data: {data}\n\n")).await.unwrap();
    }
    let opened = server.connect("/sse", TransportChoice::Sse).await;
    assert_eq!(opened.answer, INITIALIZED);
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    assert_eq!(hear(&mut inbound).await.unwrap().unwrap(), PROGRESS);
    assert_eq!(hear(&mut inbound).await.unwrap().unwrap(), ANSWER);
    assert!(within(opened.outbound.listen()).await.is_err(), "there is one stream");
}

#[tokio::test]
async fn a_server_may_answer_before_it_acknowledges() {
    let (tx, rx) = mpsc::channel(8);
    tx.try_send(HELLO.to_owned()).unwrap();
    let rx = Mutex::new(Some(rx));
    let server = Server::start(move |seen: Seen| {
        let (body, tx) = (rx.lock().unwrap().take(), tx.clone());
        async move {
            if seen.is("GET") {
                return Answer::streaming(body.unwrap());
            }
            tx.send(format!("data: {INITIALIZED}\n\n")).await.unwrap();
            // Acknowledged only once everything the stream had to say was taken from it.
            while tx.capacity() < tx.max_capacity() {
                tokio::task::yield_now().await;
            }
            Answer::status(202)
        }
    })
    .await;
    assert_eq!(server.connect("/sse", TransportChoice::Sse).await.answer, INITIALIZED);
}

#[tokio::test]
async fn a_bad_endpoint_is_refused_and_nothing_is_sent_there() {
    let table = [
        ("event: endpoint\ndata: http://127.0.0.1:1/messages\n\n", "another origin"),
        ("event: endpoint\ndata: https://127.0.0.1/messages\n\n", "another origin"),
        ("event: endpoint\ndata: //evil.example/messages\n\n", "another origin"),
        ("event: endpoint\ndata: http://[\n\n", "not a URL"),
    ];
    for (first, why) in table {
        let (server, _tx) = server(first, accepted).await;
        let transport = server.transport("/sse", TransportChoice::Sse);
        let error = failed(within(transport.connect(initialize(INITIALIZE))).await);
        assert!(matches!(&error.cause, Cause::Protocol(text) if text.contains(why)), "{first:?}: {error}");
        assert_eq!(error.phase, SendPhase::NotSent);
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn refusals_of_a_message_are_classified() {
    let (_server, _tx, opened) = connected(|seen| match seen.is_initialize() {
        true => accepted(seen),
        false => Answer::new(404, "text/plain", "Could not find session"),
    })
    .await;
    let items = all(opened.outbound.send(CALL.into())).await;
    let error = items[0].as_ref().unwrap_err();
    assert!(matches!(error.cause, Cause::SessionLost(_)) && error.phase == SendPhase::Refused, "{error}");
}

#[tokio::test]
async fn the_end_of_the_stream_ends_the_session() {
    let (_server, tx, opened) = connected(accepted).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    tx.send(format!("data: {PROGRESS}\n\ndata: half")).await.unwrap();
    drop(tx);
    assert_eq!(hear(&mut inbound).await.unwrap().unwrap(), PROGRESS);
    let error = hear(&mut inbound).await.unwrap().unwrap_err();
    assert!(matches!(error.cause, Cause::Broken(_)), "{error}");
    assert!(next(&mut inbound).await.is_none());
}

#[tokio::test]
async fn a_broken_connection_ends_the_session() {
    let (server, _tx, opened) = connected(accepted).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    server.kill();
    let error = hear(&mut inbound).await.unwrap().unwrap_err();
    assert!(matches!(error.cause, Cause::Broken(_)), "{error}");
}

#[tokio::test]
async fn dropping_everything_closes_the_stream() {
    let (_server, tx, opened) = connected(accepted).await;
    drop(opened);
    within(tx.closed()).await;

    let (_server, tx, opened) = connected(accepted).await;
    within(opened.outbound.close()).await;
    within(tx.closed()).await;

    let (_server, tx, opened) = connected(accepted).await;
    let inbound = within(opened.outbound.listen()).await.unwrap();
    drop(inbound);
    within(tx.closed()).await;
}

#[tokio::test]
async fn a_connect_that_is_dropped_closes_what_it_opened() {
    let (server, tx) = server(HELLO, accepted).await;
    let transport = server.transport("/sse", TransportChoice::Sse);
    let mut connecting = transport.connect(initialize(INITIALIZE));
    // Until initialize is on its way; it is never answered.
    while server.seen().len() < 2 {
        assert!((&mut connecting).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(connecting);
    within(tx.closed()).await;
}

#[tokio::test]
async fn an_answer_above_the_limit_concerns_the_call_it_answers_and_no_other() {
    let (_server, tx, opened) = connected(accepted).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    let filler = "x".repeat(100 * 1024);
    for (message, answers) in [
        (format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"text":"{filler}"}}}}"#), vec![7]),
        (format!(r#"{{"jsonrpc":"2.0","result":{{"id":8,"text":"{filler}"}},"id":9}}"#), vec![9]),
        (format!(r#"[{{"id":3,"result":"{filler}"}},{{"id":4,"error":{{}}}}]"#), vec![3, 4]),
        (format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":"{filler}"}}"#), Vec::new()),
    ] {
        tx.send(format!("event: message\ndata: {message}\n\n")).await.unwrap();
        assert_eq!(within(said(&mut inbound)).await, Heard::TooLarge { answers, limit: 64 * 1024 });
    }
    tx.send(format!("data: {ANSWER}\n\n")).await.unwrap();
    assert_eq!(hear(&mut inbound).await.unwrap().unwrap(), ANSWER, "the session lives");
}
