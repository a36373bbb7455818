//! What goes over the wire besides ids: bodies, hosts, credentials, mounts, and streams nobody reads (E18, E21, E22,
//! E28, E30).

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use mcpool_testkit::{
    Script,
    agent::{Agent, AgentError, Transport},
};
use mcpool_upstream::{Endpoint, ModeChoice, TransportChoice};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    rig::{Rig, Wanted},
    wires::{PAIRS, WIRES, agent, config, echoes, over, rig, serve, until, wanted},
};

/// Opens an HTTP+SSE session and never reads its stream again; where it posts, and the connection.
async fn deaf(rig: &Rig) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(rig.addr).await.expect("connected");
    let get = format!("GET /sse HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n\r\n", rig.addr);
    stream.write_all(get.as_bytes()).await.expect("written");
    let mut head = String::new();
    let path = loop {
        let mut piece = [0; 512];
        let read = stream.read(&mut piece).await.expect("the endpoint event");
        assert_ne!(read, 0, "closed: {head}");
        head.push_str(&String::from_utf8_lossy(&piece[..read]));
        if let Some((_, rest)) = head.split_once("data: ")
            && let Some((path, _)) = rest.split_once('\n')
        {
            // Relative to the stream's own path.
            break format!("/sse{}", path.trim());
        }
    };
    (path, stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_read_delays_nobody() {
    let big = r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"big","arguments":{"bytes":200000}}}"#;
    for back in WIRES {
        let server = serve(Script { no_backpressure: true, ..Script::default() }).await;
        let rig = rig(&server, back, ModeChoice::Shared).await;
        let (path, _stream) = deaf(&rig).await;
        let other = agent(&rig, Transport::Sse).await;
        // 40 MB for somebody who takes none of it; posted by somebody who can.
        let poster = Agent::connect(config(&rig, Transport::Http)).await.expect("connected");
        let posts = async {
            let mut last = 202;
            for id in 0..200 {
                let body = Bytes::from(big.replace("ID", &id.to_string()));
                last = poster.raw(Method::POST, &path, &[], body).await.expect("an answer").status;
                if last != 202 {
                    break;
                }
            }
            last
        };
        let calls = async {
            let mut slowest = Duration::ZERO;
            for n in 0..50 {
                let begun = Instant::now();
                echoes(&other, &n.to_string()).await;
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        };
        let (_, slowest) = tokio::join!(posts, calls);
        assert!(slowest < Duration::from_secs(5), "{back:?}: an answer took {slowest:?}");
        let closed = async {
            let ping = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
            while poster.raw(Method::POST, &path, &[], ping.into()).await.expect("an answer").status != 404 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(40), closed).await.expect("it is closed at the limit");
        echoes(&other, "and nobody else is").await;
        rig.idle().await;
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streamable_where_sse_is_expected_is_found_out() {
    let script = Script {
        http_paths: vec!["/sse/".into()],
        redirect_slash: true,
        require_accept: true,
        ..Script::default()
    };
    let server = serve(script).await;
    for url in [server.url_http(), server.url_http().trim_end_matches('/').to_owned()] {
        let rig = Rig::start(Wanted { transport: TransportChoice::Auto, ..Wanted::shared(url) }).await;
        for front in WIRES {
            echoes(&agent(&rig, front).await, "served").await;
        }
        over(rig).await;
    }
    assert_eq!(server.stats().refused.get(&400), None, "no GET without a session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_credential_of_a_session_is_the_gateways() {
    for (front, back) in PAIRS {
        let server = serve(Script { bind_credential: true, ..Script::default() }).await;
        let mut wanted = wanted(&server, back, ModeChoice::Shared);
        wanted.headers.push(("authorization", "Bearer the-gateways"));
        let rig = Rig::start(wanted).await;
        for who in 0..4 {
            let mut config = config(&rig, front);
            config.headers.push(("authorization".into(), format!("Bearer agent-{who}")));
            let agent = Agent::ready(config).await.expect("an agent");
            for n in 0..5 {
                echoes(&agent, &format!("{who}-{n}")).await;
            }
        }
        assert_eq!(server.stats().refused_total(), 0, "{front:?} {back:?}: {:?}", server.stats().refused);
        assert_eq!(server.stats().sessions_opened, 1);
        over(rig).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_bodies_end_at_the_gateway() {
    const BAD: [&[u8]; 5] = [
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"add\",\"arguments\":{\"nonce\":\"\xff\"}}}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"tools/call\",\"params\":{\"name\":\"add\",\"arguments\":{\"nonce\":\"bad\"}}}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"method\":\"ping\",\"params\":{\"name\":\"add\"}}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"add\"}} trailing",
        b"\"a string\"",
    ];
    let server = serve(Script::default()).await;
    let rig = rig(&server, Transport::Http, ModeChoice::Shared).await;
    for front in WIRES {
        let agent = agent(&rig, front).await;
        for body in BAD {
            let answer = agent.post_bytes(body, &[]).await.expect("an answer");
            let text = String::from_utf8_lossy(&answer.body);
            assert_eq!(answer.status, 400, "{front:?} {:?}: {text}", String::from_utf8_lossy(body));
            assert!(text.contains("-32700") || text.contains("-32600"), "{text}");
        }
        echoes(&agent, "and lives on").await;
    }
    assert_eq!((server.stats().executions, server.stats().refused_total()), (0, 0));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_is_the_one_that_was_configured() {
    let server = serve(Script::default()).await;
    let port = server.addr().port();
    server.tune(|s| s.only_host = Some(format!("localhost:{port}")));
    for back in WIRES {
        let mut right = wanted(&server, back, ModeChoice::Shared);
        if let Endpoint::Http(http) = &mut right.endpoint {
            http.url.set_host(Some("localhost")).expect("a host");
        }
        let rig = Rig::start(right).await;
        echoes(&agent(&rig, Transport::Http).await, "served").await;
        over(rig).await;

        // By its address the server does not want to be called: that is told, and no outage.
        let mut wrong = wanted(&server, back, ModeChoice::Shared);
        wrong.times.first_open = Duration::from_millis(500);
        let rig = Rig::start(wrong).await;
        let refused = Agent::ready(config(&rig, Transport::Http)).await.expect_err("not served");
        let AgentError::Rpc { code: -31901, message, .. } = &refused else { panic!("{refused}") };
        assert!(message.contains("403"), "{message}");
        let transitions = rig.seen.transitions.lock().expect("not poisoned").clone();
        assert!(transitions.is_empty(), "{transitions:?}");
        rig.stop().await;
    }
    until("nothing is left", || server.stats().sessions_open == 0).await;
}
