//! The client: redirects, what a broken connection says about execution, many calls at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A server below HTTP: each connection gets the closure's bytes once its request is there, then is closed.
async fn raw(answers: Vec<&'static [u8]>) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/mcp", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        for answer in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await.unwrap();
            socket.write_all(answer).await.unwrap();
        }
    });
    url
}

const OPENED: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmcp-session-id: s\r\n\
    content-length: 36\r\nconnection: close\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{}}";

async fn connect(url: Url) -> Result<Opened, SendError> {
    within(transport(url, TransportChoice::Http).connect(initialize(INITIALIZE))).await
}

#[tokio::test]
async fn nobody_listening_means_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/mcp", listener.local_addr().unwrap())).unwrap();
    drop(listener);
    for choice in [TransportChoice::Http, TransportChoice::Sse, TransportChoice::Auto] {
        let error = failed(within(transport(url.clone(), choice).connect(initialize(INITIALIZE))).await);
        assert_eq!(error.phase, SendPhase::NotSent);
        assert!(matches!(&error.cause, Cause::Connect(why) if why.contains("refused")), "{error}");
    }
}

#[tokio::test]
async fn tls_against_a_plain_server_means_not_sent() {
    let mut url = raw(vec![b"HTTP/1.1 400 Bad Request\r\n\r\n"]).await;
    url.set_scheme("https").unwrap();
    let error = failed(connect(url).await);
    assert_eq!(error.phase, SendPhase::NotSent);
    assert!(matches!(error.cause, Cause::Tls(_)), "{error}");
}

#[tokio::test]
async fn a_connection_closed_under_a_request_may_have_carried_it() {
    let opened = connect(raw(vec![OPENED, b""]).await).await.unwrap();
    let items = all(opened.outbound.send(CALL.into())).await;
    let error = items[0].as_ref().unwrap_err();
    assert_eq!(error.phase, SendPhase::MaybeSent);
    assert!(matches!(error.cause, Cause::Broken(_)), "{error}");
}

#[tokio::test]
async fn a_body_that_breaks_off_was_sent() {
    let cut: [&[u8]; 2] = [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"jso",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:",
    ];
    for answer in cut {
        let opened = connect(raw(vec![OPENED, answer]).await).await.unwrap();
        let items = all(opened.outbound.send(CALL.into())).await;
        assert_eq!(items[0].as_ref().unwrap(), &Received::Accepted);
        let error = items[1].as_ref().unwrap_err();
        assert_eq!(error.phase, SendPhase::MaybeSent);
        assert!(matches!(error.cause, Cause::Broken(_)), "{error}");
    }
}

#[tokio::test]
async fn a_redirect_within_the_origin_is_followed_once_and_remembered() {
    let server = Server::start(|seen: Seen| async move {
        match seen.path.as_str() {
            "/mcp/" => {
                let to = format!("http://{}/mcp", seen.header("host").unwrap());
                Answer::status(307).with("location", to)
            }
            _ if seen.is_initialize() => Answer::json(INITIALIZED).with("mcp-session-id", "s"),
            _ => Answer::json(ANSWER),
        }
    })
    .await;
    let transport = server.transport("/mcp/", TransportChoice::Http);
    let opened = transport.connect(initialize(INITIALIZE)).await.unwrap();
    messages(opened.outbound.send(CALL.into())).await;
    transport.connect(initialize(INITIALIZE)).await.unwrap();
    let paths: Vec<_> = server.seen().iter().map(|seen| seen.path.clone()).collect();
    assert_eq!(paths, ["/mcp/", "/mcp", "/mcp", "/mcp"]);
    assert_eq!(server.seen()[1].body, INITIALIZE);
}

#[tokio::test]
async fn an_sse_stream_and_its_endpoint_may_redirect() {
    let server = Server::start(|seen: Seen| async move {
        match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/sse/") => Answer::status(307).with("location", "/sse"),
            ("GET", "/sse") => {
                let (tx, rx) = mpsc::channel(2);
                tx.try_send("event: endpoint\ndata: /messages?s=1\n\n".to_owned()).unwrap();
                tx.try_send(format!("data: {INITIALIZED}\n\n")).unwrap();
                Answer::streaming(rx)
            }
            ("POST", "/messages?s=1") => Answer::status(307).with("location", "/messages/?s=1"),
            _ => Answer::status(202),
        }
    })
    .await;
    let opened = server.connect("/sse/", TransportChoice::Sse).await;
    messages(opened.outbound.send(CALL.into())).await;
    let paths: Vec<_> = server.seen().iter().map(|seen| seen.path.clone()).collect();
    assert_eq!(paths, ["/sse/", "/sse", "/messages?s=1", "/messages/?s=1", "/messages/?s=1"]);
}

#[tokio::test]
async fn other_redirects_are_refused() {
    let elsewhere = Server::start(|_| async { Answer::json(INITIALIZED) }).await;
    let foreign = elsewhere.url("/mcp").to_string();
    for (status, to) in
        [(307, foreign.clone()), (308, "http://evil.example/".to_owned()), (302, "/other".to_owned())]
    {
        let location = to.clone();
        let server = Server::start(move |_| {
            let location = location.clone();
            async move { Answer::status(status).with("location", location) }
        })
        .await;
        let error = failed(connect(server.url("/mcp")).await);
        assert!(matches!(&error.cause, Cause::Status(r) if r.status == status), "{to}: {error}");
        // Many a framework answers a POST with 302 once it has acted on it.
        assert_eq!(error.phase == SendPhase::Refused, status != 302);
    }
    let circle = Server::start(|_| async { Answer::status(307).with("location", "/mcp") }).await;
    failed(connect(circle.url("/mcp")).await);
    assert_eq!(circle.seen().len(), 1);
    assert!(elsewhere.seen().is_empty(), "our credential never went there");
}

#[tokio::test]
async fn three_hundred_calls_at_once_use_and_keep_their_own_connections() {
    const CALLS: usize = 300;
    let waiting = Arc::new(AtomicUsize::new(0));
    let barrier = Arc::new(tokio::sync::Barrier::new(CALLS));
    let server = Server::start(move |seen: Seen| {
        let (waiting, barrier) = (Arc::clone(&waiting), Arc::clone(&barrier));
        async move {
            if seen.is_initialize() {
                return Answer::json(INITIALIZED).with("mcp-session-id", "s");
            }
            waiting.fetch_add(1, Ordering::SeqCst);
            barrier.wait().await;
            Answer::json(ANSWER)
        }
    })
    .await;
    let opened = connect(server.url("/mcp")).await.unwrap();
    for _ in 0..2 {
        let calls = (0..CALLS).map(|_| messages(opened.outbound.send(CALL.into())));
        assert!(within(futures::future::join_all(calls)).await.iter().all(|answer| answer == &[ANSWER]));
    }
    let connections = server.seen().iter().map(|seen| seen.connection).max().unwrap() + 1;
    assert!(connections <= CALLS + 1, "{connections} connections for two rounds of {CALLS} calls");
}

#[test]
fn what_cannot_be_reached_by_http_is_refused_with_a_reason() {
    let build = |url: &str, ca_pem: Option<&str>| {
        let ca_pem = ca_pem.map(|pem| pem.as_bytes().to_vec());
        let endpoint = HttpEndpoint { ca_pem, ..HttpEndpoint::new(Url::parse(url).unwrap()) };
        http_transport(
            &"b".into(),
            &endpoint,
            &configured(&endpoint),
            TransportChoice::Auto,
            &Times::default(),
            &Limits::default(),
        )
        .err()
    };
    assert!(build("ftp://a/b", None).unwrap().contains("ftp"));
    assert!(build("https://a/b", Some("nonsense")).unwrap().contains("tls.ca_file"));
    assert_eq!(build("http://a/b", None), None);
}

/// Every name is this address, and from then on another.
struct Moving(Mutex<Vec<std::net::IpAddr>>);

impl crate::config::Resolve for Moving {
    fn resolve(&self, _: &str) -> BoxFuture<'static, std::io::Result<Vec<std::net::IpAddr>>> {
        let mut addresses = self.0.lock().unwrap();
        let address = if addresses.len() > 1 { addresses.remove(0) } else { addresses[0] };
        async move { Ok(vec![address]) }.boxed()
    }
}

#[tokio::test]
async fn sessions_opened_after_a_renewal_ask_for_the_name_again_and_older_ones_stay_where_they_are() {
    let server = Server::start(|seen: Seen| async move {
        match seen.is_initialize() {
            true => Answer::json(INITIALIZED).with("mcp-session-id", "s"),
            false => Answer::json(ANSWER),
        }
    })
    .await;
    let elsewhere = TcpListener::bind(("127.0.0.2", server.addr.port())).await.unwrap();
    let moving = Moving(Mutex::new(vec!["127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()]));
    let mut endpoint =
        HttpEndpoint::new(Url::parse(&format!("http://backend.test:{}/mcp", server.addr.port())).unwrap());
    endpoint.resolver = Some(crate::config::Resolver::new(Arc::new(moving)));
    let (times, limits) = (Times::default(), Limits::default());
    let transport = http_transport(
        &"b".into(),
        &endpoint,
        &configured(&endpoint),
        TransportChoice::Auto,
        &times,
        &limits,
    )
    .unwrap();
    let old = transport.connect(initialize(INITIALIZE)).await.unwrap();
    transport.connect(initialize(INITIALIZE)).await.unwrap();
    assert_eq!(server.seen().len(), 2, "the old address still answers");
    transport.renew();
    let mut connecting = transport.connect(initialize(INITIALIZE));
    tokio::select! {
        _ = &mut connecting => panic!("answered by the old address"),
        accepted = within(elsewhere.accept()) => drop(accepted.unwrap()),
    }
    assert_eq!(messages(old.outbound.send(CALL.into())).await, [ANSWER], "the old session goes on");
}
