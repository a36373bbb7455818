//! A complete gateway with its demo server: start, drain, and what does not finish.

use mcpool_demo::agent::{Agent, AgentConfig};
use serde_json::{Value, json};

use super::*;

struct Rig {
    agents: SocketAddr,
    admin: SocketAddr,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Vec<String>>,
}

impl Rig {
    /// A complete gateway with its demo server.
    async fn start(grace: Duration) -> Self {
        let mut config = Config { grace, ..Config::default() };
        config.front.times.drain = grace;
        config.listen.set_port(0);
        config.admin_listen.set_port(0);
        let listeners = Listeners::bind(&config).unwrap();
        let (agents, admin) = listeners.addresses().unwrap();
        let serving = Serving::start(config).await.unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(serving.run(listeners, stop.clone(), None));
        Self { agents, admin, stop, running }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.agents)
    }

    async fn ready_page(&self) -> (u16, Value) {
        let page = Agent::connect(AgentConfig::http(format!("http://{}/readyz", self.admin))).await.unwrap();
        let answer = page.get("/readyz", &[]).await.unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }
}

#[tokio::test]
async fn the_first_run_shows_two_agents_sharing_one_session() {
    let rig = Rig::start(Duration::from_secs(10)).await;
    let sse = Agent::ready(AgentConfig::sse(rig.url("sse"))).await.unwrap();
    let http = Agent::ready(AgentConfig::http(rig.url("demo/mcp"))).await.unwrap();
    for agent in [&sse, &http] {
        let answer = agent.call_tool("echo", json!({ "text": "hello" })).await.unwrap();
        assert!(answer.to_string().contains("hello"), "{answer}");
    }
    let (status, page) = rig.ready_page().await;
    assert_eq!((status, &page["status"]), (200, &"ok".into()), "{page}");
    let demo = &page["backends"]["demo"];
    assert_eq!((&demo["agents"], &demo["sessions"]), (&2.into(), &1.into()), "{page}");
    sse.close().await;
    http.close().await;
    rig.stop.cancel();
    assert_eq!(rig.running.await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn an_end_waits_for_calls_and_is_unready_meanwhile() {
    let rig = Rig::start(Duration::from_secs(20)).await;
    let agent = Agent::ready(AgentConfig::sse(rig.url("sse"))).await.unwrap();
    let mut call = agent.start_tool("sleep", json!({ "ms": 2_000 })).unwrap();
    let in_flight =
        async { while rig.ready_page().await.1["status"] != "ok" || call_count(&rig).await == 0 {} };
    tokio::time::timeout(Duration::from_secs(10), in_flight).await.unwrap();
    rig.stop.cancel();
    // The running call prolongs the drain, so the page is visible.
    while rig.ready_page().await.0 != 503 {}
    call.finish().await.unwrap();
    assert_eq!(rig.running.await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn what_outlives_the_grace_is_named() {
    let rig = Rig::start(Duration::from_millis(200)).await;
    let agent = Agent::ready(AgentConfig::sse(rig.url("sse"))).await.unwrap();
    let _call = agent.start_tool("sleep", json!({ "ms": 60_000 })).unwrap();
    let in_flight = async { while call_count(&rig).await == 0 {} };
    tokio::time::timeout(Duration::from_secs(10), in_flight).await.unwrap();
    rig.stop.cancel();
    let unfinished = tokio::time::timeout(Duration::from_secs(10), rig.running).await.unwrap().unwrap();
    assert!(unfinished.contains(&"1 calls".to_owned()), "{unfinished:?}");
}

async fn call_count(rig: &Rig) -> u64 {
    let page = Agent::connect(AgentConfig::http(format!("http://{}/x", rig.admin))).await.unwrap();
    let answer = page.get("/api/v1/backends/demo", &[]).await.unwrap();
    let demo: Value = serde_json::from_slice(&answer.body).unwrap();
    demo["calls"]["in_flight"].as_u64().unwrap()
}

#[tokio::test]
async fn a_port_in_use_names_the_flag_to_change() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = "127.0.0.1:0".parse().unwrap();
    for (listen, admin_listen, flag) in [
        (taken.local_addr().unwrap(), free, "--listen IP:PORT, MCPOOL_LISTEN"),
        (free, taken.local_addr().unwrap(), "--admin-listen IP:PORT, MCPOOL_ADMIN_LISTEN"),
    ] {
        let config = Config { listen, admin_listen, ..Config::default() };
        let why = Listeners::bind(&config).map(|_| ()).unwrap_err();
        assert!(why.contains(flag) && why.contains("in use"), "{why}");
    }
}

#[tokio::test]
async fn a_backend_that_is_down_does_not_keep_it_from_starting() {
    let backend =
        crate::config::BackendFlag { name: "gone".into(), url: "http://127.0.0.1:9/mcp".parse().unwrap() };
    let overrides = Overrides { backends: vec![backend], ..Overrides::default() };
    let mut config = Config::load(None, overrides).unwrap();
    config.listen.set_port(0);
    let serving = Serving::start(config).await.unwrap();
    assert!(serving.demo.is_none());
    assert_eq!(serving.gateway.backends().len(), 1);
}
