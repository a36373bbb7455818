//! Bodies that are coded although nothing was asked for, and what stands before JSON.

use async_compression::tokio::write::{DeflateEncoder, GzipEncoder, ZlibEncoder};
use tokio::io::AsyncWriteExt as _;

use super::*;

/// The body as a server with this coding writes it.
async fn coded(coding: &str, body: &[u8]) -> Bytes {
    macro_rules! written {
        ($encoder:expr) => {{
            let mut encoder = $encoder;
            encoder.write_all(body).await.unwrap();
            encoder.shutdown().await.unwrap();
            encoder.into_inner().into()
        }};
    }
    match coding {
        "gzip" | "x-gzip" => written!(GzipEncoder::new(Vec::new())),
        "deflate" => written!(ZlibEncoder::new(Vec::new())),
        "bare deflate" => written!(DeflateEncoder::new(Vec::new())),
        "deflate, gzip" => {
            let inner: Bytes = Box::pin(coded("deflate", body)).await;
            Box::pin(coded("gzip", &inner)).await
        }
        other => panic!("{other}"),
    }
}

/// A server that answers calls so.
async fn answering(coding: &'static str, content: &'static str, body: Bytes) -> (Server, Opened) {
    let server = Server::start(move |seen: Seen| {
        let body = body.clone();
        async move {
            match seen.is_initialize() {
                true => Answer::json(INITIALIZED).with("mcp-session-id", "s"),
                false => Answer::new(200, content, body).with("content-encoding", coding),
            }
        }
    })
    .await;
    let opened = server.connect("/mcp", TransportChoice::Http).await;
    (server, opened)
}

#[tokio::test]
async fn no_coding_is_asked_for_and_what_comes_coded_is_read() {
    for (name, coding) in [
        ("gzip", "gzip"),
        ("x-gzip", "X-GZip"),
        ("deflate", "deflate"),
        ("bare deflate", "deflate"),
        ("deflate, gzip", "deflate, gzip"),
        ("gzip", "identity, gzip"),
    ] {
        let body = coded(name, ANSWER.as_bytes()).await;
        let (server, opened) = answering(coding, "application/json", body).await;
        assert_eq!(messages(opened.outbound.send(CALL.into())).await, [ANSWER], "{name}");
        let events = coded(name, format!(": hi\n\ndata: {PROGRESS}\n\ndata: {ANSWER}\n\n").as_bytes()).await;
        let (_events, opened) = answering(coding, "text/event-stream", events).await;
        assert_eq!(messages(opened.outbound.send(CALL.into())).await, [PROGRESS, ANSWER], "{name}");
        within(opened.outbound.close()).await;
        for seen in server.seen() {
            assert_eq!(seen.header("accept-encoding"), Some("identity"), "{}", seen.method);
        }
    }
}

#[tokio::test]
async fn a_coding_that_is_not_understood_is_named_with_the_remedy() {
    let (_server, opened) = answering("br", "application/json", Bytes::from_static(b"\x0b")).await;
    let items = all(opened.outbound.send(CALL.into())).await;
    let error = items[1].as_ref().unwrap_err().to_string();
    assert!(error.contains("\"br\"") && error.contains("Accept-Encoding: identity"), "{error}");
    let (_server, opened) = answering("gzip", "application/json", ANSWER.into()).await;
    let items = all(opened.outbound.send(CALL.into())).await;
    assert!(items[1].as_ref().unwrap_err().to_string().contains("not coded as it says"), "{items:?}");
}

#[tokio::test]
async fn a_body_without_the_last_bytes_of_its_coding_is_read() {
    let whole = coded("gzip", ANSWER.as_bytes()).await;
    let (_server, opened) = answering("gzip", "application/json", whole.slice(..whole.len() - 8)).await;
    assert_eq!(messages(opened.outbound.send(CALL.into())).await, [ANSWER]);
}

#[tokio::test]
async fn a_bomb_ends_at_the_limit_of_a_message() {
    let bomb = coded("gzip", &vec![b' '; 64 << 20]).await;
    assert!(bomb.len() < 128 << 10);
    let (_server, opened) = answering("gzip", "application/json", bomb).await;
    let items = all(opened.outbound.send(CALL.into())).await;
    assert!(matches!(&items[1], Err(SendError { cause: Cause::TooLarge(_), .. })), "{items:?}");

    let bomb = coded("gzip", &[b"data: ".as_slice(), &vec![b'x'; 8 << 20], b"\n\n"].concat()).await;
    let (_server, opened) = answering("gzip", "text/event-stream", bomb).await;
    let items = all(opened.outbound.send(CALL.into())).await;
    let last = items.last().unwrap();
    assert!(matches!(last, Err(SendError { cause: Cause::TooLarge(_), .. })), "{last:?}");
}

#[tokio::test]
async fn an_event_is_there_when_it_was_sent_though_its_stream_is_coded() {
    let (feed, chunks) = mpsc::channel::<Bytes>(8);
    let chunks = Mutex::new(Some(chunks));
    let server = Server::start(move |seen: Seen| {
        let chunks = chunks.lock().unwrap().take_if(|_| seen.is("GET"));
        async move {
            let Some(chunks) = chunks else { return Answer::status(202) };
            let frames = futures::stream::unfold(chunks, |mut chunks| async {
                Some((Ok::<_, Infallible>(Frame::data(chunks.recv().await?)), chunks))
            });
            Answer {
                status: 200,
                headers: vec![
                    ("content-type", "text/event-stream".to_owned()),
                    ("content-encoding", "gzip".to_owned()),
                ],
                body: BodyExt::boxed_unsync(StreamBody::new(frames)),
            }
        }
    })
    .await;
    let mut encoder = GzipEncoder::new(Vec::new());
    let mut said = 0;
    for event in ["event: endpoint\ndata: /m\n\n".to_owned(), format!("data: {INITIALIZED}\n\n")] {
        encoder.write_all(event.as_bytes()).await.unwrap();
        encoder.flush().await.unwrap();
        feed.send(Bytes::copy_from_slice(&encoder.get_ref()[said..])).await.unwrap();
        said = encoder.get_ref().len();
    }
    // The stream has not ended: what was flushed is enough.
    let transport = server.transport("/sse", TransportChoice::Sse);
    let opened = within(transport.connect(initialize(INITIALIZE))).await.unwrap();
    assert_eq!(opened.answer, INITIALIZED);
}

#[tokio::test]
async fn a_byte_order_mark_before_json_is_passed_over() {
    let server = Server::start(|seen: Seen| async move {
        let body = if seen.is_initialize() { INITIALIZED } else { ANSWER };
        Answer::new(200, "application/json", format!("\u{feff}{body}"))
    })
    .await;
    let opened = server.connect("/mcp", TransportChoice::Http).await;
    assert_eq!(opened.answer, INITIALIZED);
    assert_eq!(messages(opened.outbound.send(CALL.into())).await, [ANSWER]);
}
