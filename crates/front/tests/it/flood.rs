//! Floods: peers with too many connections and sessions, bodies that come by drops, and too few descriptors. Whoever
//! behaves is served meanwhile.

use std::{sync::atomic::Ordering, time::Duration};

use mcpool_front::{FrontConfig, FrontLimits, FrontTimes};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use crate::client::{PATIENCE, Running, initialize, start_with, tool, until};

/// A front that counts its peers, although all of them are on this machine.
async fn counting(limits: FrontLimits) -> Running {
    let limits = FrontLimits { count_loopback: true, ..limits };
    start_with(FrontConfig { limits, ..FrontConfig::default() }).await
}

/// What a connection is told that says this.
async fn told(front: &Running, text: &str) -> String {
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    let _ = stream.write_all(text.as_bytes()).await;
    let mut heard = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut heard)).await.expect("never closed").unwrap();
    heard
}

#[tokio::test]
async fn a_peer_with_too_many_connections_is_told_429_and_comes_back() {
    let front = counting(FrontLimits { connections_per_peer: 3, ..FrontLimits::default() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(front.addr).await.unwrap());
    }
    until("they are in", || front.gauges.connections.load(Ordering::SeqCst) == 3).await;
    let heard = told(&front, "").await;
    assert!(heard.starts_with("HTTP/1.1 429") && heard.contains("retry-after: 2"), "{heard}");
    assert!(heard.contains("-31903"), "{heard}");
    assert_eq!(front.script.saw("Refused { kind: \"peer_connections\" }"), 1);
    held.pop();
    until("one is gone", || front.gauges.connections.load(Ordering::SeqCst) == 2).await;
    assert_eq!(front.get("/livez", &[]).await.status, 200);
}

#[tokio::test]
async fn a_peer_with_too_many_sessions_is_told_429_and_its_sessions_go_on() {
    let front = counting(FrontLimits { sessions_per_peer: 2, ..FrontLimits::default() }).await;
    let (one, two) = (front.session("/mcp").await, front.session("/mcp").await);
    let got = front.post("/mcp", &[], &initialize("i")).await;
    assert_eq!((got.status.as_u16(), got.code(), &got.json()["id"]), (429, -31903, &json!("i")));
    assert!(got.headers.contains_key("retry-after"));
    assert_eq!(front.get("/sse", &[]).await.status, 429);
    assert_eq!(front.call(&one, &tool(1, "echo")).await.status, 200);
    let gone = front.send("DELETE", "/mcp", &[("mcp-session-id", two.as_str())], "").await;
    assert_eq!(gone.status(), 200);
    assert_eq!(front.post("/mcp", &[], &initialize(2)).await.status, 200);
    assert_eq!(front.script.saw("Refused { kind: \"peer_sessions\" }"), 2);
}

#[tokio::test]
async fn peers_on_this_machine_are_not_counted_apart() {
    let limits = FrontLimits { connections_per_peer: 1, sessions_per_peer: 1, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let sessions = [front.session("/mcp").await, front.session("/mcp").await, front.session("/mcp").await];
    assert_eq!(sessions.len(), front.gauges.http_agents.load(Ordering::SeqCst));
}

#[tokio::test]
async fn with_too_few_descriptors_new_connections_are_told_503_and_it_passes() {
    let limits = FrontLimits { descriptors: 64, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let session = front.session("/mcp").await;
    let mut warm = TcpStream::connect(front.addr).await.unwrap();
    let mut idle = Vec::new();
    until("there is room", || front.gauges.connections.load(Ordering::SeqCst) == 1).await;
    for _ in 1..48 {
        idle.push(TcpStream::connect(front.addr).await.unwrap());
    }
    until("three quarters are taken", || front.gauges.connections.load(Ordering::SeqCst) == 48).await;
    for _ in 0..3 {
        let heard = told(&front, "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 503") && heard.contains("retry-after"), "{heard}");
    }
    assert_eq!(front.script.saw("Refused { kind: \"descriptors\" }"), 3);
    // Who is in is served.
    let ping = json!({"jsonrpc":"2.0","id":1,"method":"ping"}).to_string();
    let post = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nmcp-session-id: {session}\r\n\
         content-length: {}\r\n\r\n{ping}",
        ping.len()
    );
    warm.write_all(post.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    tokio::time::timeout(PATIENCE, warm.read_exact(&mut start)).await.unwrap().unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    drop(idle);
    until("they are gone", || front.gauges.connections.load(Ordering::SeqCst) == 1).await;
    assert_eq!(front.call(&session, &tool(2, "echo")).await.status, 200);
}

#[tokio::test]
async fn a_body_that_comes_by_drops_is_408_though_it_never_stands_still() {
    let times = FrontTimes { body_idle: Duration::from_millis(400), ..FrontTimes::default() };
    let limits = FrontLimits { body_rate: 1_000, ..FrontLimits::default() };
    let front = start_with(FrontConfig { times, limits, ..FrontConfig::default() }).await;
    let send = async |step: usize, pause: u64| {
        let mut stream = TcpStream::connect(front.addr).await.unwrap();
        let head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                    connection: close\r\ncontent-length: 3000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let begun = Instant::now();
        let drip = async {
            for _ in 0..3_000 / step {
                if writer.write_all(&vec![b' '; step]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            std::future::pending::<()>().await;
        };
        let mut heard = String::new();
        tokio::select! {
            () = drip => {}
            done = tokio::time::timeout(PATIENCE, reader.read_to_string(&mut heard)) => {
                let _ = done.expect("never closed");
            }
        }
        (heard, begun.elapsed())
    };
    // 50 bytes a second: what it earned is used up soon after the first delay.
    let (heard, took) = send(1, 20).await;
    assert!(heard.starts_with("HTTP/1.1 408"), "{heard}");
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(5), "{took:?}");
    // Ten times the rate that is asked for: read to its end, where it turns out to be no message.
    let (heard, _) = send(300, 20).await;
    assert!(heard.starts_with("HTTP/1.1 400"), "{heard}");
}

/// Each of many connections sends one byte now and then, in its header or in its body; an agent that behaves is served
/// all the time, and they are gone at their limits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_connections_that_drip_cost_an_agent_nothing() {
    let long = std::env::var_os("MCPOOL_LONG").is_some();
    let many = if long { 4_000 } else { 300 };
    let limit = Duration::from_secs(3);
    let times = FrontTimes { header: limit, body_idle: limit, ..FrontTimes::default() };
    let front = start_with(FrontConfig { times, ..FrontConfig::default() }).await;
    let session = front.session("/mcp").await;
    let mut quiet = Vec::new();
    for n in 0..50 {
        let begun = Instant::now();
        assert_eq!(front.call(&session, &tool(n, "echo")).await.json()["id"], n);
        quiet.push(begun.elapsed());
    }
    let mut dripping = tokio::task::JoinSet::new();
    for n in 0..many {
        let addr = front.addr;
        dripping.spawn(async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let text = if n % 2 == 0 {
                "GET /livez HTTP/1.1\r\nhost: localhost\r\nx: ".to_owned()
            } else {
                "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                 content-length: 4000000\r\n\r\n{"
                    .to_owned()
            };
            stream.write_all(text.as_bytes()).await.unwrap();
            // Until it is closed.
            while stream.write_all(b"y").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }
    until("they are in", || front.gauges.connections.load(Ordering::SeqCst) > many / 2).await;
    let (mut loud, mut n) = (Vec::new(), 100);
    while !dripping.is_empty() {
        let begun = Instant::now();
        let got = front.call(&session, &tool(n, "echo")).await;
        assert_eq!((got.status.as_u16(), got.json()["id"].as_u64()), (200, Some(n)));
        loud.push(begun.elapsed());
        n += 1;
        while let Some(done) = dripping.try_join_next() {
            done.unwrap();
        }
        assert!(n < 100_000, "they are never closed");
    }
    quiet.sort_unstable();
    loud.sort_unstable();
    let (before, meanwhile) = (quiet[quiet.len() / 2], loud[loud.len() / 2]);
    // The promise is twice on a quiet machine; here others work too.
    assert!(meanwhile < before * 10 + Duration::from_millis(20), "{before:?} became {meanwhile:?}");
    until("they are gone", || front.gauges.connections.load(Ordering::SeqCst) == 0).await;
}

/// Streams that are opened and left at once: the table stays bounded, and an agent that behaves is served throughout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_streams_and_sessions_is_bounded_and_an_agent_is_served_throughout() {
    let limits = FrontLimits { agent_sessions: 64, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let session = front.session("/mcp").await;
    let mut served = 0;
    let flood = async {
        for n in 0..400 {
            let status = if n % 2 == 0 {
                front.send("GET", "/sse", &[], "").await.status().as_u16()
            } else {
                front.post("/mcp", &[], &initialize(n)).await.status.as_u16()
            };
            assert!(status == 200 || status == 503, "{status}");
            let agents = front.gauges.sse_agents.load(Ordering::SeqCst)
                + front.gauges.http_agents.load(Ordering::SeqCst);
            assert!(agents <= 64 + 2, "{agents}");
        }
    };
    let behaved = async {
        loop {
            assert_eq!(front.call(&session, &tool(served, "echo")).await.json()["id"], served);
            served += 1;
        }
    };
    tokio::select! {
        () = flood => {}
        () = behaved => {}
    }
    // Of the streams at most a quarter is waited for, and sessions give way: nobody is refused.
    let evicted = front.script.saw("closed evicted");
    assert!(evicted > 0 && served > 10, "{evicted} evicted, {served} served");
}
