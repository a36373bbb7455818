//! The admin listener over a real socket, with a working backend and an unreachable one.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::observe::{Observer, Phase};
use mcpool_admin::{most, run};
use mcpool_router::gateway::Gateway;

struct Rig {
    addr: SocketAddr,
    status: Arc<Status>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    _backend: mcpool_demo::Server,
}

impl Rig {
    async fn start() -> Self {
        Self::with("", None).await
    }

    /// Starts with these lines at the top of the configuration.
    async fn with(lines: &str, reload: Option<ReloadHook>) -> Self {
        let backend = mcpool_demo::Server::start(mcpool_demo::Script::default()).await.unwrap();
        let text = format!(
            "{lines}[backends.works]\nurl = \"{}\"\nheaders = {{ Authorization = \"Bearer ${{TOKEN}}\" }}\n\
             [backends.gone]\nurl = \"http://127.0.0.1:9/mcp\"\n",
            backend.url_http()
        );
        let environment = |name: &str| (name == "TOKEN").then(|| "hunter2".to_owned());
        let config = Config::parse("file.toml", &text, std::path::Path::new(""), &environment).unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let observer = Arc::new(Observer::new(metrics.clone()));
        let gateway = Arc::new(Gateway::start(config.backends.clone(), None, &observer).unwrap());
        let status = Arc::new(Status::new(gateway));
        let admin = Admin {
            status: status.clone(),
            metrics,
            gauges: Arc::default(),
            config: Arc::new(ArcSwap::from_pointee(config)),
            events: observer.events(),
            census: None,
            reload,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(Arc::new(admin), listener, stop.clone()));
        Self { addr, status, stop, running, _backend: backend }
    }

    /// The status, the content type and the body.
    async fn ask(&self, request: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let host = if request.contains("Host:") { "" } else { "Host: localhost\r\n" };
        let request = format!("{}\r\n{host}Connection: close\r\n\r\n", request.trim_end());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
        (head[9..12].parse().unwrap(), kind.to_owned(), body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String, String) {
        self.ask(&format!("GET {path} HTTP/1.1")).await
    }

    async fn json(&self, path: &str) -> Value {
        let (status, kind, body) = self.get(path).await;
        assert_eq!((status, kind.as_str()), (200, "application/json"), "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

#[tokio::test]
async fn it_shows_health_backends_metrics_and_the_masked_configuration() {
    let rig = Rig::start().await;
    rig.status.enter(Phase::Serving);
    let settled = async {
        loop {
            let backends = rig.json("/api/v1/backends").await;
            let states = [0, 1].map(|n| backends["backends"][n]["state"].clone());
            if states == ["down", "ready"] {
                return backends;
            }
        }
    };
    let backends = tokio::time::timeout(Duration::from_secs(20), settled).await.unwrap();
    let gone = &backends["backends"][0];
    assert_eq!(gone["name"], "gone");
    assert!(gone["reason"].as_str().unwrap().contains("cannot connect"), "{gone}");

    let works = rig.json("/api/v1/backends/works").await;
    assert_eq!((&works["transport"], &works["sessions"]["shared"]), (&"http".into(), &1.into()));
    assert_eq!(works["session_list"][0]["state"], "ready");
    let ready = rig.json("/readyz").await;
    assert_eq!(
        (&ready["status"], &ready["backends"]["works"]["state"]),
        (&"degraded".into(), &"ready".into())
    );
    assert_eq!(rig.json("/livez").await["status"], "ok");

    let (status, kind, metrics) = rig.get("/metrics").await;
    assert_eq!((status, kind.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert!(metrics.contains("mcpool_backend_ready{backend=\"works\"} 1\n"), "{metrics}");

    let config = rig.json("/api/v1/config").await;
    assert_eq!(config["environment"]["TOKEN"], true);
    assert_eq!(config["config"]["backends"]["works"]["headers"]["authorization"], "***");
    for path in ["/api/v1/config", "/api/v1/backends", "/api/v1/backends/works", "/readyz", "/metrics"] {
        assert!(!rig.get(path).await.2.contains("hunter2"), "{path}");
    }
}

#[tokio::test]
async fn errors_are_problems() {
    let rig = Rig::start().await;
    for (request, status) in [
        ("GET /nope HTTP/1.1", 404),
        ("GET /api/v1/backends/nope HTTP/1.1", 404),
        ("POST /metrics HTTP/1.1\r\nMcpool-Admin: 1", 405),
        ("GET /api/v1/config HTTP/1.1\r\nHost: evil.example", 421),
        ("GET /api/v1/config HTTP/1.1\r\nOrigin: http://evil.example", 403),
    ] {
        let (got, kind, body) = rig.ask(request).await;
        assert_eq!((got, kind.as_str()), (status, "application/problem+json"), "{request}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["status"], status, "{request}");
        assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{request}");
    }
}

#[tokio::test]
async fn a_page_under_a_foreign_name_learns_nothing_of_backends() {
    let rig = Rig::start().await;
    rig.status.enter(Phase::Serving);
    for host in ["evil.example", "localhost:1@evil.example", "localhost:abc", "10.0.0.7"] {
        let ask = |path: &'static str| format!("GET {path} HTTP/1.1\r\nHost: {host}");
        let (status, _, body) = rig.ask(&ask("/readyz")).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        let words: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!((status, words), (200, vec!["status"]), "{host}");
        assert_eq!(rig.ask(&ask("/livez")).await.0, 200, "{host}");
        // Scrapers may use an address; no page can pose as one.
        let expect = if host == "10.0.0.7" { 200 } else { 421 };
        assert_eq!(rig.ask(&ask("/metrics")).await.0, expect, "{host}");
        assert_eq!(rig.ask(&ask("/api/v1/backends")).await.0, 421, "{host}");
    }
    let image = "GET /metrics HTTP/1.1\r\nSec-Fetch-Site: cross-site";
    assert_eq!(rig.ask(image).await.0, 403);
}

#[tokio::test]
async fn a_verb_is_not_taken_from_a_form_nor_from_a_page_of_another_port() {
    let rig = Rig::start().await;
    rig.status.enter(Phase::Serving);
    let marked = "\r\nMcpool-Admin: 1";
    for (headers, status) in [
        ("", 403),
        ("\r\nContent-Type: text/plain", 403),
        ("\r\nContent-Type: application/x-www-form-urlencoded", 403),
        (&format!("{marked}\r\nOrigin: http://localhost:3000"), 403),
        (&format!("{marked}\r\nOrigin: null"), 403),
        (&format!("{marked}\r\nSec-Fetch-Site: same-site"), 403),
        (marked, 200),
        ("\r\nContent-Type: application/json; charset=utf-8", 200),
        (
            &format!(
                "{marked}\r\nHost: localhost:8801\r\nOrigin: http://localhost:8801\r\nSec-Fetch-Site: same-origin"
            ),
            200,
        ),
    ] {
        let ask = format!("POST /api/v1/backends/works/resume HTTP/1.1\r\nContent-Length: 0{headers}");
        let (got, _, body) = rig.ask(&ask).await;
        assert_eq!(got, status, "{headers}: {body}");
    }
}

#[tokio::test]
async fn metrics_are_packed_for_who_can_unpack_them() {
    let rig = Rig::start().await;
    let mut stream = TcpStream::connect(rig.addr).await.unwrap();
    let ask =
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..at]).to_lowercase();
    assert!(head.contains("content-encoding: gzip") && head.contains("vary: accept-encoding"), "{head}");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&answer[at + 4..]), &mut text).unwrap();
    assert!(text.contains("mcpool_build_info") && text.len() > 2 * answer.len());
    assert!(
        rig.ask("GET /metrics HTTP/1.1\r\nAccept-Encoding: gzip;q=0, br")
            .await
            .2
            .contains("mcpool_build_info")
    );
}

/// Silent connections, half headers and idle keep-alives do not block operators and probes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_holds_connections_does_not_keep_operators_out() {
    let rig = Rig::start().await;
    let mut held = Vec::new();
    let most = most(&mcpool_front::FrontConfig::default());
    for n in 0..(2 * most) {
        let mut stream = TcpStream::connect(rig.addr).await.unwrap();
        match n % 3 {
            0 => {}
            1 => stream.write_all(b"GET /livez HTTP/1.1\r\nHost: loc").await.unwrap(),
            _ => {
                stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
                let mut some = [0; 12];
                // The connection may already have been closed.
                let _ = stream.read_exact(&mut some).await;
            }
        }
        held.push(stream);
        if n % 16 == 0 {
            let asked = tokio::time::timeout(Duration::from_secs(10), rig.get("/livez"));
            assert_eq!(asked.await.expect("it waits for others").0, 200, "{n}");
        }
    }
    let metrics = rig.get("/metrics").await.2;
    let used =
        metrics.lines().find_map(|line| line.strip_prefix("mcpool_limit_used{limit=\"admin_connections\"} "));
    assert!(used.unwrap().parse::<usize>().unwrap() <= most, "{used:?}");
}

#[tokio::test]
async fn readiness_is_off_while_starting_and_draining() {
    let rig = Rig::start().await;
    for (phase, status, word) in
        [(Phase::Starting, 503, "starting"), (Phase::Serving, 200, ""), (Phase::Draining, 503, "draining")]
    {
        rig.status.enter(phase);
        let (got, _, body) = rig.get("/readyz").await;
        assert_eq!(got, status, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(word.is_empty() || body["status"] == word, "{body}");
    }
    assert_eq!(rig.status.readiness(), Readiness::Draining);
}

#[tokio::test]
async fn it_ends_when_told_even_with_a_connection_that_says_nothing() {
    let rig = Rig::start().await;
    let _silent = TcpStream::connect(rig.addr).await.unwrap();
    assert_eq!(rig.get("/livez").await.0, 200);
    rig.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), rig.running).await.unwrap().unwrap();
}

async fn post(rig: &Rig, path: &str, headers: &str) -> (u16, Value) {
    let (status, _, body) =
        rig.ask(&format!("POST {path} HTTP/1.1\r\nMcpool-Admin: 1{headers}\r\nContent-Length: 0")).await;
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn verbs_are_performed_shown_and_told() {
    let rig = Rig::start().await;
    rig.status.enter(Phase::Serving);
    let (status, body) = post(&rig, "/api/v1/backends/works/pause", "").await;
    assert_eq!((status, &body["done"], &body["state"]), (200, &true.into(), &"paused".into()), "{body}");
    let ready = rig.json("/readyz").await;
    assert_eq!(
        (&ready["status"], &ready["backends"]["works"]["state"]),
        (&"degraded".into(), &"paused".into())
    );
    assert!(ready["backends"]["works"]["reason"].as_str().unwrap().contains("by the operator"), "{ready}");
    assert!(rig.get("/metrics").await.2.contains("mcpool_backend_paused{backend=\"works\"} 1\n"));
    assert_eq!(rig.json("/api/v1/backends/works").await["traffic"], "paused");

    let (status, body) = post(&rig, "/api/v1/backends/works/resume", "").await;
    assert_eq!((status, &body["done"]), (200, &true.into()), "{body}");
    let (status, body) = post(&rig, "/api/v1/backends/works/reconnect?wait=20s&pinned=true", "").await;
    assert_eq!((status, &body["done"]), (200, &true.into()), "{body}");
    let (status, body) = post(&rig, "/api/v1/backends/works/drain", "").await;
    assert_eq!((status, &body["sessions"], &body["state"]), (200, &0.into(), &"drained".into()), "{body}");
    assert!(rig.get("/metrics").await.2.contains("mcpool_backend_drained{backend=\"works\"} 1\n"));
    assert_eq!(rig.json("/api/v1/backends/works/sessions").await["sessions"], json!([]));

    let (status, kind, lines) = rig.get("/api/v1/events?follow=false").await;
    assert_eq!((status, kind.as_str()), (200, "application/x-ndjson"));
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let verbs: Vec<_> =
        lines.filter(|line| line["event"] == "operator").map(|line| line["verb"].clone()).collect();
    assert_eq!(verbs, ["pause", "resume", "reconnect", "drain"]);
}

#[tokio::test]
async fn a_verb_that_cannot_be_is_refused_with_what_can() {
    let rig = Rig::start().await;
    for (request, status, words) in [
        ("POST /api/v1/backends/nope/pause", 404, "no backend is named \"nope\"; there are: gone, works"),
        ("GET /api/v1/backends/nope/sessions", 404, "there are: gone, works"),
        ("POST /api/v1/backends/works/stop", 404, "there are: pause, resume, reconnect, drain"),
        ("POST /api/v1/backends/works/pause?wait=soon", 400, "is not a duration"),
        ("POST /api/v1/backends/works/pause?wait=1h", 400, "wait is at most 10m"),
        ("POST /api/v1/backends/works/pause?force=1", 400, "there are: wait, pinned"),
        ("POST /api/v1/backends/works/pause?pinned=true", 400, "an option of reconnect"),
        ("GET /api/v1/backends/works/pause", 405, "only POST"),
        ("POST /api/v1/backends/works/sessions", 405, "only GET"),
        ("GET /api/v1/reload", 405, "only POST"),
        ("POST /api/v1/reload", 501, "restart it"),
    ] {
        let (got, kind, body) =
            rig.ask(&format!("{request} HTTP/1.1\r\nMcpool-Admin: 1\r\nContent-Length: 0")).await;
        assert_eq!((got, kind.as_str()), (status, "application/problem+json"), "{request}: {body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(body["detail"].as_str().unwrap().contains(words), "{request}: {body}");
    }
    for away in ["\r\nHost: evil.example", "\r\nOrigin: http://evil.example"] {
        let (status, _) = post(&rig, "/api/v1/backends/works/pause", away).await;
        assert!(matches!(status, 421 | 403), "{away}: {status}");
    }
    assert_eq!(rig.json("/api/v1/backends/works").await["traffic"], "flowing");
}

#[tokio::test]
async fn with_a_token_everything_under_api_needs_it() {
    let reload: ReloadHook = Arc::new(|| Box::pin(async { Ok("nothing changed".to_owned()) }));
    let rig = Rig::with("admin_token = \"${TOKEN}\"\n", Some(reload)).await;
    rig.status.enter(Phase::Serving);
    let paths =
        ["/api/v1/backends", "/api/v1/backends/works", "/api/v1/config", "/api/v1/events", "/api/v1/nope"];
    for wrong in [
        "",
        "\r\nAuthorization: Bearer wrong",
        "\r\nAuthorization: Basic hunter2",
        "\r\nAuthorization: Bearer",
    ] {
        for path in paths {
            let (status, kind, body) = rig.ask(&format!("GET {path} HTTP/1.1{wrong}")).await;
            assert_eq!((status, kind.as_str()), (401, "application/problem+json"), "{path}{wrong}");
            assert!(body.contains("admin_token") && !body.contains("hunter2"), "{body}");
        }
        assert_eq!(post(&rig, "/api/v1/reload", wrong).await.0, 401);
        assert_eq!(post(&rig, "/api/v1/backends/works/drain", wrong).await.0, 401);
    }
    for path in ["/metrics", "/livez", "/readyz"] {
        assert_eq!(rig.get(path).await.0, 200, "{path} needs none");
    }
    let right = "\r\nAuthorization: Bearer hunter2";
    let (status, _, body) = rig.ask(&format!("GET /api/v1/config HTTP/1.1{right}")).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["config"]["admin_token"]), (200, &"***masked***".into()));
    let (status, body) = post(&rig, "/api/v1/reload", right).await;
    assert_eq!((status, &body["message"]), (200, &"nothing changed".into()));
}
