//! The GET stream of a session: what opens it, what says that there is none, and what a session loses by that.

use super::{
    streamable::{connect, server},
    *,
};

/// How often the stream was asked for.
fn gets(server: &Server) -> usize {
    server.seen().iter().filter(|seen| seen.is("GET")).count()
}

#[tokio::test]
async fn an_older_stream_is_waited_for() {
    let (tx, rx) = mpsc::channel(8);
    let rx = Mutex::new(Some(rx));
    let server = server(move |seen| match seen.number {
        1 | 2 => Answer::new(
            409,
            "application/json",
            r#"{"error":{"message":"Conflict: Only one SSE stream is allowed per session"}}"#,
        ),
        _ => Answer::streaming(rx.lock().unwrap().take().unwrap()),
    })
    .await;
    let opened = connect(&server).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    tx.send(format!(": ping\n\ndata: {PROGRESS}\n\n")).await.unwrap();
    assert_eq!(hear(&mut inbound).await.unwrap().unwrap(), PROGRESS);
    assert_eq!(server.seen()[3].header("accept"), Some("text/event-stream"));
}

#[tokio::test]
async fn it_goes_on_after_the_stream_ends() {
    let server = server(|seen| match seen.header("last-event-id") {
        None => Answer::events("retry: 1\n\nid: 7\ndata: {\"n\":1}\n\n"),
        Some("7") => Answer::events("id: 8\ndata: {\"n\":2}\n\n"),
        Some(_) => Answer::status(405),
    })
    .await;
    let opened = connect(&server).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    assert_eq!(hear(&mut inbound).await.unwrap().unwrap(), r#"{"n":1}"#);
    assert_eq!(hear(&mut inbound).await.unwrap().unwrap(), r#"{"n":2}"#);
}

#[tokio::test]
async fn it_ends_when_a_session_that_had_it_open_is_lost() {
    let server = server(|seen| match seen.number {
        1 => Answer::events(": hi\n\n"),
        _ => Answer::new(404, "text/plain", "Not Found: Session not found"),
    })
    .await;
    let opened = connect(&server).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    let error = hear(&mut inbound).await.unwrap().unwrap_err();
    assert!(matches!(error.cause, Cause::SessionLost(_)), "{error}");
    assert!(next(&mut inbound).await.is_none());
}

#[tokio::test]
async fn it_ends_when_nobody_listens_over_there() {
    let (tx, rx) = mpsc::channel(8);
    let rx = Mutex::new(Some(rx));
    let server = server(move |_| Answer::streaming(rx.lock().unwrap().take().unwrap())).await;
    let opened = connect(&server).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    tx.send(": hi\n\n".to_owned()).await.unwrap();
    assert_eq!(next(&mut inbound).await.unwrap().unwrap(), Heard::Alive);
    server.kill();
    let error = hear(&mut inbound).await.unwrap().unwrap_err();
    assert!(matches!(error.cause, Cause::Connect(_)), "{error}");
}

#[tokio::test]
async fn whatever_refuses_it_it_is_asked_for_again_and_used() {
    let refusals = [
        (400, "GET is not supported"),
        (401, ""),
        (403, ""),
        (404, "Cannot GET /mcp"),
        (404, "Session not found"),
        (302, ""),
        (200, "<html>"),
        (500, ""),
        (501, ""),
        (502, ""),
        (503, ""),
        (504, ""),
    ];
    let asked_again = refusals.map(|(status, body)| async move {
        let server = server(move |seen| match seen.number {
            1 => Answer::new(status, "text/html", body),
            _ => Answer::events("data: {\"n\":1}\n\n"),
        })
        .await;
        let opened = connect(&server).await;
        let mut inbound = within(opened.outbound.listen()).await.unwrap();
        let refused = next(&mut inbound).await.unwrap().unwrap();
        assert!(matches!(refused, Heard::NoStream(_)), "{status}: {refused:?}");
        within(opened.outbound.listening()).await;
        assert_eq!(hear(&mut inbound).await.unwrap().unwrap(), r#"{"n":1}"#, "{status}");
    });
    futures::future::join_all(asked_again).await;
}

#[tokio::test]
async fn a_server_that_says_that_there_is_none_is_not_asked_again() {
    let server = server(|_| Answer::status(405)).await;
    let opened = connect(&server).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(400), next(&mut inbound)).await.is_err());
    within(opened.outbound.listening()).await;
    assert_eq!(gets(&server), 1);
}

#[tokio::test]
async fn headers_that_are_held_back_hold_up_nothing_and_are_used_when_they_come() {
    let (tx, rx) = tokio::sync::watch::channel(false);
    let server = Server::start(move |seen: Seen| {
        let mut rx = rx.clone();
        async move {
            if seen.is_initialize() {
                return Answer::json(INITIALIZED).with("mcp-session-id", "s-1");
            }
            if seen.is("GET") {
                rx.wait_for(|is_sent| *is_sent).await.unwrap();
                return Answer::events("data: {\"n\":1}\n\n");
            }
            Answer::json(ANSWER)
        }
    })
    .await;
    let opened = connect(&server).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    let hearing = tokio::spawn(async move { hear(&mut inbound).await.unwrap().unwrap() });
    assert_eq!(messages(opened.outbound.send(CALL.into())).await, [ANSWER]);
    assert!(opened.outbound.listening().now_or_never().is_none(), "nobody knows yet");
    tx.send_replace(true);
    assert_eq!(within(hearing).await.unwrap(), r#"{"n":1}"#);
    within(opened.outbound.listening()).await;
}

#[tokio::test]
async fn a_stream_that_ends_at_once_is_asked_for_with_growing_pauses() {
    for text in ["retry: 0\nid: 1\ndata: {\"n\":1}\n\n", "retry: 0\nid: 1\ndata:\n\n", ": hi\n\n"] {
        let server = server(move |_| Answer::events(text)).await;
        let opened = connect(&server).await;
        let mut inbound = within(opened.outbound.listen()).await.unwrap();
        let reading = async {
            loop {
                next(&mut inbound).await.unwrap().unwrap();
            }
        };
        let reading: Result<(), _> = tokio::time::timeout(Duration::from_millis(1_500), reading).await;
        assert!(reading.is_err());
        assert!((2..=5).contains(&gets(&server)), "{} in 1.5 s: {text:?}", gets(&server));
    }
}

#[tokio::test]
async fn any_success_acknowledges_what_has_no_answer_and_its_body_is_not_judged() {
    const NOTIFICATION: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let bodies = [
        (200, "text/plain", "ok"),
        (200, "text/html", "<html>"),
        (200, "", "what"),
        (200, "application/json", "{\"ok\":true}"),
        (200, "application/json", "no json"),
        (202, "application/json", "null"),
        (204, "text/plain", ""),
        (200, "text/event-stream", ": hi\n\n"),
    ];
    for (status, kind, body) in bodies {
        let server = server(move |_| Answer::new(status, kind, body)).await;
        let opened = connect(&server).await;
        let items = all(opened.outbound.tell(NOTIFICATION.into())).await;
        let [Ok(Received::Accepted)] = &items[..] else { panic!("{status} {kind}: {items:?}") };
    }
}

#[tokio::test]
async fn a_stream_in_place_of_an_acknowledgement_is_heard_and_not_waited_for() {
    let (tx, rx) = mpsc::channel(8);
    let rx = Mutex::new(Some(rx));
    let server = server(move |_| Answer::streaming(rx.lock().unwrap().take().unwrap())).await;
    let opened = connect(&server).await;
    let mut exchange = opened.outbound.tell(PROGRESS.into());
    assert_eq!(next(&mut exchange).await.unwrap().unwrap(), Received::Accepted);
    tx.send(format!("id: 1\ndata: {PROGRESS}\n\n")).await.unwrap();
    assert_eq!(next(&mut exchange).await.unwrap().unwrap(), Received::Message(PROGRESS.into()));
    drop(tx);
    assert!(next(&mut exchange).await.is_none());
    assert_eq!(gets(&server), 0, "nothing is resumed");
}

#[tokio::test]
async fn a_call_taken_without_a_body_may_be_answered_on_the_stream() {
    let (tx, rx) = mpsc::channel(8);
    let rx = Mutex::new(Some(rx));
    let server = server(move |seen| {
        if seen.is("GET") {
            return Answer::streaming(rx.lock().unwrap().take().unwrap());
        }
        Answer::status(202)
    })
    .await;
    let opened = connect(&server).await;
    // Nobody hears anything yet.
    let mut early = opened.outbound.send(CALL.into());
    waits_for_the_stream(&mut early).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    tx.send(format!("data: {PROGRESS}\n\n")).await.unwrap();
    assert_eq!(hear(&mut inbound).await.unwrap().unwrap(), PROGRESS);
    waits_for_the_stream(&mut opened.outbound.send(CALL.into())).await;
}

/// It was taken, and nothing more comes where it was posted.
async fn waits_for_the_stream(exchange: &mut Exchange) {
    let mut said = Vec::new();
    while !said.contains(&Received::Elsewhere) {
        said.push(next(exchange).await.expect("it waits").expect("it was taken"));
    }
    assert_eq!(said.iter().filter(|said| **said != Received::Left).count(), 2, "{said:?}");
    assert!(tokio::time::timeout(Duration::from_millis(200), exchange.next()).await.is_err());
}

#[tokio::test]
async fn a_call_taken_without_a_body_ends_when_the_server_says_that_it_has_no_stream() {
    let (tx, rx) = tokio::sync::watch::channel(false);
    let server = Server::start(move |seen: Seen| {
        let mut rx = rx.clone();
        async move {
            if seen.is_initialize() {
                return Answer::json(INITIALIZED).with("mcp-session-id", "s-1");
            }
            if seen.is("GET") {
                rx.wait_for(|is_told| *is_told).await.unwrap();
                return Answer::status(405);
            }
            Answer::status(202)
        }
    })
    .await;
    let opened = connect(&server).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    let mut call = opened.outbound.send(CALL.into());
    waits_for_the_stream(&mut call).await;
    tx.send_replace(true);
    assert!(tokio::time::timeout(Duration::from_millis(400), next(&mut inbound)).await.is_err());
    assert!(within(call.next()).await.is_none());
    let items = all(opened.outbound.send(CALL.into())).await;
    assert!(matches!(&items[..], [Ok(Received::Accepted)]), "nothing more will come: {items:?}");
}
