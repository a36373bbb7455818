//! Backends that keep to the protocol in their own way, met through a whole gateway: ids as floating-point numbers,
//! comments while a call runs, a name that moves.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use mcpool_router::verbs::Verb;
use mcpool_testkit::agent::{Agent, AgentConfig};
use mcpool_upstream::{
    Endpoint, HttpEndpoint, Limits, ModeChoice, Resolve, Resolver, Times, TransportChoice,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::rig::{Rig, Wanted};

/// A server below HTTP, whose connections are kept for the next request.
struct Odd {
    addr: SocketAddr,
    /// The highest id it was asked under.
    highest: Arc<AtomicU64>,
    _serving: JoinSet<()>,
}

/// How it is odd.
#[derive(Clone, Copy)]
struct Way {
    /// What its tool says.
    name: &'static str,
    /// Comments before the answer to a call, each after 200 ms.
    comments: usize,
    /// How it writes an id.
    id: fn(u64) -> String,
}

impl Odd {
    async fn start(addr: SocketAddr, way: Way) -> Self {
        let listener = TcpListener::bind(addr).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let highest = Arc::new(AtomicU64::new(0));
        let (mut serving, seen) = (JoinSet::new(), Arc::clone(&highest));
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream, way, Arc::clone(&seen)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { addr, highest, _serving: serving }
    }
}

async fn answer(stream: TcpStream, way: Way, highest: Arc<AtomicU64>) {
    let mut stream = BufReader::new(stream);
    // A gateway that goes away is what ends a connection.
    while answer_one(&mut stream, way, &highest).await.is_ok() {}
}

async fn answer_one(stream: &mut BufReader<TcpStream>, way: Way, highest: &AtomicU64) -> io::Result<()> {
    let (mut line, mut length, mut is_post) = (String::new(), 0, false);
    loop {
        line.clear();
        match stream.read_line(&mut line).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            2 => break,
            _ => {}
        }
        is_post |= line.starts_with("POST");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let stream = stream.get_mut();
    let Some(id) = message["id"].as_u64().filter(|_| is_post) else {
        let status = if is_post { "202 Accepted" } else { "405 Method Not Allowed" };
        return stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
    };
    highest.fetch_max(id, Ordering::Relaxed);
    let method = message["method"].as_str();
    let result = match method {
        Some("initialize") => json!({
            "protocolVersion": "2025-06-18",
            "capabilities": { "tools": {} },
            "serverInfo": { "name": way.name, "version": "1" },
        }),
        Some("tools/list") => json!({ "tools": [{ "name": "who", "inputSchema": { "type": "object" } }] }),
        Some("tools/call") => json!({ "content": [{ "type": "text", "text": way.name }] }),
        _ => json!({}),
    };
    let answer = format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{result}}}", (way.id)(id));
    if way.comments == 0 || method != Some("tools/call") {
        let head = format!("content-type: application/json\r\ncontent-length: {}", answer.len());
        return stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{answer}").as_bytes()).await;
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    for _ in 0..way.comments {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stream.write_all(b": still at it\n\n").await?;
    }
    stream.write_all(format!("data: {answer}\n\n").as_bytes()).await?;
    Err(io::ErrorKind::ConnectionAborted.into())
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn wanted(endpoint: HttpEndpoint, times: Times) -> Wanted {
    Wanted {
        endpoint: Endpoint::Http(endpoint),
        transport: TransportChoice::Http,
        times,
        limits: Limits { shared_sessions: 1, ..Limits::default() },
        ..Wanted::shared("http://unused/".to_owned())
    }
}

async fn says(agent: &Agent) -> String {
    agent.call_tool("who", json!({})).await.expect("an answer").to_string()
}

#[tokio::test]
async fn ids_written_as_floating_point_numbers_are_ours_and_fit_thirty_bits() {
    let way = Way { name: "floats", comments: 0, id: |id| format!("{id}.0") };
    let odd = Odd::start(any_port(), way).await;
    let url = format!("http://{}/mcp", odd.addr).parse().expect("a URL");
    let rig = Rig::start(wanted(HttpEndpoint::new(url), Times::default())).await;
    let agent = Agent::ready(AgentConfig::http(rig.url_http())).await.expect("served");
    assert!(says(&agent).await.contains("floats"));
    let highest = odd.highest.load(Ordering::Relaxed);
    assert!(highest > 0 && highest < 1 << 30, "{highest}");
    rig.stop().await;
}

#[tokio::test]
async fn comments_on_a_calls_own_stream_are_signs_of_life() {
    let way = Way { name: "alive", comments: 10, id: |id| id.to_string() };
    let odd = Odd::start(any_port(), way).await;
    let url = format!("http://{}/mcp", odd.addr).parse().expect("a URL");
    let times = Times { call_idle: Duration::from_secs(1), ..Times::default() };
    let rig = Rig::start(wanted(HttpEndpoint::new(url), times)).await;
    let agent = Agent::ready(AgentConfig::http(rig.url_http())).await.expect("served");
    assert!(says(&agent).await.contains("alive"), "two seconds, with one second of silence allowed");
    rig.stop().await;
}

/// One name, at the address that was told last.
struct Name(Arc<Mutex<IpAddr>>);

impl Resolve for Name {
    fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let address = *self.0.lock().expect("no panic before");
        async move { Ok(vec![address]) }.boxed()
    }
}

/// What has a session opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Reconnect,
    Age,
    /// The operator held calls, and lets them go.
    Pause,
    /// The operator ended its sessions, and lets agents in again.
    Drain,
}

#[tokio::test]
async fn a_name_that_moved_is_followed_by_sessions_opened_for_reconnect_age_or_resume_though_the_old_address_answers()
 {
    for cause in [Cause::Reconnect, Cause::Age, Cause::Pause, Cause::Drain] {
        let at = |name| Way { name, comments: 0, id: |id| id.to_string() };
        let old = Odd::start(any_port(), at("the old one")).await;
        let port = old.addr.port();
        let _new = Odd::start(SocketAddr::from(([127, 0, 0, 2], port)), at("the new one")).await;
        let address = Arc::new(Mutex::new(IpAddr::from([127, 0, 0, 1])));
        let mut endpoint =
            HttpEndpoint::new(format!("http://backend.test:{port}/mcp").parse().expect("a URL"));
        endpoint.resolver = Some(Resolver::new(Arc::new(Name(Arc::clone(&address)))));
        let default = Times::default();
        let max_age = if cause == Cause::Age { Duration::from_secs(1) } else { default.max_age };
        let mut wanted = wanted(endpoint, Times { max_age, ..default });
        if cause == Cause::Pause {
            // What there is stays where it is: the agent that comes afterwards has a session opened.
            wanted.mode = ModeChoice::Pinned;
        }
        let rig = Rig::start(wanted).await;
        let agent = Agent::ready(AgentConfig::http(rig.url_http())).await.expect("served");
        assert!(says(&agent).await.contains("the old one"));
        *address.lock().expect("no panic before") = IpAddr::from([127, 0, 0, 2]);
        let backend = rig.gateway.backends()[0].clone();
        let perform = async |verb| {
            let done = backend.perform(verb, Duration::from_secs(20)).await;
            assert!(done.is_done, "{cause:?}: {}", done.sentence);
        };
        match cause {
            Cause::Reconnect => backend.backend.reconnect(false),
            Cause::Age => {}
            Cause::Pause => {
                perform(Verb::Pause).await;
                perform(Verb::Resume).await;
            }
            Cause::Drain => {
                perform(Verb::Drain).await;
                perform(Verb::Resume).await;
            }
        }
        let followed = async {
            loop {
                let comes = Agent::ready(AgentConfig::http(rig.url_http())).await.expect("served");
                if says(&comes).await.contains("the new one") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let followed = tokio::time::timeout(Duration::from_secs(20), followed).await;
        followed.unwrap_or_else(|_| panic!("{cause:?}: it is not followed"));
        rig.stop().await;
    }
}
