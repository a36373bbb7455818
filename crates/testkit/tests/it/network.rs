//! The fault proxy, seen from both of its sides: each thing it does wrong, byte by byte, and that it does nothing else.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mcpool_testkit::fault_proxy::{End, FaultProxy, Flow, Shot, Strike, Way, Weather};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::{BOTH, PATIENCE, SILENCE, config, serve, text, until};
use mcpool_testkit::{Agent, AgentConfig, Script};

/// Both ends of one connection through a proxy.
struct Ends {
    proxy: FaultProxy,
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Ends {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = FaultProxy::start(listener.local_addr().expect("an address")).await.expect("a proxy");
        let client = TcpStream::connect(proxy.addr()).await.expect("connected");
        let (server, _) = listener.accept().await.expect("connected");
        Self { proxy, listener, client, server }
    }

    /// Sends this to the client; what it gets of it before the connection ends or falls silent.
    async fn down(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.server.write_all(bytes).await.expect("sent");
        all(&mut self.client).await
    }
}

/// What can be read until the end, a reset, or silence.
async fn all(socket: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    while let Ok(Ok(read)) = timeout(SILENCE, socket.read_buf(&mut got)).await {
        if read == 0 {
            break;
        }
    }
    got
}

async fn read(socket: &mut TcpStream) -> Option<std::io::Result<usize>> {
    timeout(SILENCE, socket.read(&mut [0; 64])).await.ok()
}

async fn exactly(socket: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut got = vec![0; bytes];
    timeout(PATIENCE, socket.read_exact(&mut got)).await.expect("in time").expect("all of it");
    got
}

#[tokio::test]
async fn in_fine_weather_bytes_and_ends_pass_both_ways() {
    let mut ends = Ends::new().await;
    let large: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let (sent, got) = tokio::join!(ends.client.write_all(&large), exactly(&mut ends.server, large.len()));
    sent.expect("sent");
    assert!(got == large, "bytes were changed");
    ends.client.shutdown().await.expect("ended");
    assert_eq!(read(&mut ends.server).await.expect("an end").expect("no reset"), 0);
    // The other direction is open still.
    assert_eq!(ends.down(b"late").await, b"late");
    drop(ends.server);
    let open = || ends.proxy.stats().open;
    until("both ends are seen", || open() == 0).await;
    let stats = ends.proxy.stats();
    assert_eq!((stats.to_server, stats.to_client, stats.accepted), (1_200_000, 4, 1));
    assert_eq!((stats.struck, stats.swallowed, stats.doubled, stats.refused), (0, 0, 0, 0));
}

#[tokio::test]
async fn a_cut_lets_exactly_so_many_bytes_pass() {
    for after in [0, 1, 5, 9, 10] {
        let mut ends = Ends::new().await;
        assert!(ends.proxy.strike(Strike { way: Way::ToClient, after, shot: Shot::Cut(End::Close) }));
        // The other direction is not counted.
        ends.client.write_all(b"a long question").await.expect("sent");
        exactly(&mut ends.server, 15).await;
        let got = ends.down(b"0123456789").await;
        assert_eq!(got, &b"0123456789"[..usize::try_from(after).expect("small")]);
        assert_eq!(read(&mut ends.client).await.expect("an end").expect("no reset"), 0);
        assert_eq!(read(&mut ends.server).await.expect("an end").expect("no reset"), 0);
        assert_eq!(ends.proxy.stats().struck, 1);
    }
}

#[tokio::test]
async fn a_cut_can_be_a_reset_and_happens_once() {
    let mut ends = Ends::new().await;
    ends.proxy.strike(Strike { way: Way::ToServer, after: 3, shot: Shot::Cut(End::Reset) });
    ends.client.write_all(b"123456").await.expect("sent");
    let error = read(&mut ends.client).await.expect("an end").expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let mut next = TcpStream::connect(ends.proxy.addr()).await.expect("connected");
    let (mut server, _) = ends.listener.accept().await.expect("connected");
    next.write_all(b"123456").await.expect("sent");
    assert_eq!(exactly(&mut server, 6).await, b"123456");
}

#[tokio::test]
async fn a_held_connection_is_half_open_and_nobody_elses() {
    let mut ends = Ends::new().await;
    ends.proxy.strike(Strike { way: Way::ToClient, after: 2, shot: Shot::Hold });
    assert_eq!(ends.down(b"0123").await, b"01");
    ends.client.shutdown().await.expect("ended");
    assert!(read(&mut ends.server).await.is_none(), "the end was heard of");
    let mut next = TcpStream::connect(ends.proxy.addr()).await.expect("connected");
    let (mut server, _) = ends.listener.accept().await.expect("connected");
    next.write_all(b"hello").await.expect("sent");
    assert_eq!(exactly(&mut server, 5).await, b"hello");
    ends.proxy.end_all(End::Reset);
    until("all have ended", || ends.proxy.stats().open == 0).await;
}

#[tokio::test]
async fn held_weather_loses_nothing() {
    let mut ends = Ends::new().await;
    ends.proxy.set(Weather { flow: Flow::Held, ..Weather::default() });
    // It may have begun to read when the weather changed.
    ends.server.write_all(b"0123").await.expect("sent");
    assert_eq!(all(&mut ends.client).await, b"");
    ends.proxy.clear();
    assert_eq!(exactly(&mut ends.client, 4).await, b"0123");
}

#[tokio::test]
async fn a_black_hole_takes_everything_and_gives_nothing_back() {
    let mut ends = Ends::new().await;
    ends.proxy.set(Weather { flow: Flow::Swallowed, ..Weather::default() });
    assert_eq!(ends.down(b"0123").await, b"");
    let mut next = TcpStream::connect(ends.proxy.addr()).await.expect("accepted");
    next.write_all(b"hello").await.expect("sent");
    until("both were swallowed", || ends.proxy.stats().swallowed == 9).await;
    ends.proxy.clear();
    // Who lost a byte is never heard again, not even its end.
    assert_eq!(ends.down(b"4567").await, b"");
    drop(ends.server);
    assert!(read(&mut ends.client).await.is_none());
    assert!(read(&mut next).await.is_none());
}

#[tokio::test]
async fn refused_connections_are_reset_and_the_others_flow() {
    let mut ends = Ends::new().await;
    ends.proxy.set(Weather { flow: Flow::Refused, ..Weather::default() });
    let mut next = TcpStream::connect(ends.proxy.addr()).await.expect("accepted");
    assert!(read(&mut next).await.expect("an end").is_err(), "no reset");
    assert_eq!(ends.down(b"0123").await, b"0123");
}

#[tokio::test]
async fn a_server_that_is_gone_is_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = FaultProxy::start(listener.local_addr().expect("an address")).await.expect("a proxy");
    drop(listener);
    let mut client = TcpStream::connect(proxy.addr()).await.expect("accepted");
    assert!(timeout(PATIENCE, client.read(&mut [0; 1])).await.expect("in time").is_err());
    assert_eq!(proxy.stats().refused, 1);
}

#[tokio::test]
async fn a_delay_is_not_a_throttle() {
    let mut ends = Ends::new().await;
    ends.proxy.set(Weather { delay: Duration::from_millis(300), ..Weather::default() });
    let began = Instant::now();
    for _ in 0..20 {
        ends.server.write_all(b"0123456789").await.expect("sent");
        tokio::task::yield_now().await;
    }
    exactly(&mut ends.client, 200).await;
    let took = began.elapsed();
    // One after the other they would take six seconds.
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_throttle_lets_so_many_bytes_pass_per_second() {
    let mut ends = Ends::new().await;
    ends.proxy.set(Weather { bytes_per_second: Some(1000), ..Weather::default() });
    let began = Instant::now();
    ends.server.write_all(&[7; 600]).await.expect("sent");
    exactly(&mut ends.client, 600).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(500), "{took:?}");
    ends.proxy.set(Weather { bytes_per_second: Some(1), ..Weather::default() });
    ends.server.write_all(&[7; 600]).await.expect("sent");
    let got = timeout(Duration::from_millis(1500), ends.client.read_exact(&mut [0; 10])).await;
    assert!(got.is_err(), "ten bytes in less than two seconds");
}

#[tokio::test]
async fn bytes_can_come_twice() {
    let mut ends = Ends::new().await;
    ends.proxy.strike(Strike { way: Way::ToClient, after: 3, shot: Shot::Double(2) });
    assert_eq!(ends.down(b"01234567").await, b"0123434567");
    assert_eq!(ends.proxy.stats().doubled, 2);
}

#[tokio::test]
async fn a_connection_can_reach_the_server_twice() {
    let ends = Ends::new().await;
    ends.proxy.set(Weather { twice: true, ..Weather::default() });
    let mut client = TcpStream::connect(ends.proxy.addr()).await.expect("connected");
    let (mut first, _) = ends.listener.accept().await.expect("connected");
    let (mut second, _) = ends.listener.accept().await.expect("the same again");
    client.write_all(b"hello").await.expect("sent");
    assert_eq!(exactly(&mut first, 5).await, b"hello");
    assert_eq!(exactly(&mut second, 5).await, b"hello");
    // Only the first one is heard.
    second.write_all(b"second").await.expect("sent");
    first.write_all(b"first").await.expect("sent");
    assert_eq!(exactly(&mut client, 5).await, b"first");
    assert_eq!(all(&mut client).await, b"");
}

#[tokio::test]
async fn an_agent_talks_through_it_over_both_wires() {
    for transport in BOTH {
        let server = serve(Script::default()).await;
        let proxy = FaultProxy::start(server.addr()).await.expect("a proxy");
        let path = config(&server, transport).url.rsplit_once('/').expect("a path").1.to_owned();
        let agent = Agent::ready(AgentConfig::new(proxy.url(&format!("/{path}")), transport)).await;
        let agent = agent.expect("a handshake");
        let answer = agent.call_tool("echo", serde_json::json!({ "nonce": "through" })).await;
        assert_eq!(text(&answer.expect("an answer")), "through");
        agent.close().await;
        until("nothing is open", || proxy.stats().open == 0).await;
    }
}
