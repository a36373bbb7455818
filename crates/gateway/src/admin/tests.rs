//! The admin listener over a real socket, in front of a backend that works and one that is not there.

use std::time::Duration;

use mcpool_front::Readiness;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    build::Gateway,
    observe::{Observer, Phase},
};

struct Rig {
    addr: SocketAddr,
    status: Arc<Status>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    _backend: mcpool_testkit::Server,
}

impl Rig {
    async fn start() -> Self {
        let backend = mcpool_testkit::Server::start(mcpool_testkit::Script::default()).await.unwrap();
        let text = format!(
            "[backends.works]\nurl = \"{}\"\nheaders = {{ Authorization = \"Bearer ${{TOKEN}}\" }}\n\
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
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(admin.run(listener, stop.clone()));
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
        ("POST /metrics HTTP/1.1", 405),
        ("GET /api/v1/config HTTP/1.1\r\nHost: evil.example", 421),
        ("GET /api/v1/config HTTP/1.1\r\nOrigin: http://evil.example", 403),
    ] {
        let (got, kind, body) = rig.ask(request).await;
        assert_eq!((got, kind.as_str()), (status, "application/problem+json"), "{request}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["status"], status, "{request}");
        assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{request}");
    }
    for path in ["/metrics", "/livez"] {
        let (status, ..) = rig.ask(&format!("GET {path} HTTP/1.1\r\nHost: scraper.example")).await;
        assert_eq!(status, 200, "{path} is exempt from the Host check");
    }
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
