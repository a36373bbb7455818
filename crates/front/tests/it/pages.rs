//! Discovery, health, and who may reach the listener.

use mcpool_front::{FrontConfig, Readiness};
use serde_json::json;

use crate::client::{initialize, start, start_ready, start_with};

#[tokio::test]
async fn servers_are_listed_with_urls_as_the_caller_reaches_us() {
    let front = start().await;
    let got = front.get("/api/mcp/servers", &[("host", "localhost:1234")]).await;
    let servers = got.json()["servers"].clone();
    assert_eq!(servers.as_array().unwrap().len(), 2);
    assert_eq!(
        servers[1],
        json!({"name":"b","transport":"sse","mode":"shared","state":"ready","reason":"scripted",
               "urls":{"mcp":"http://localhost:1234/b/mcp","sse":"http://localhost:1234/b/sse"}})
    );
    assert_eq!(front.send("POST", "/api/mcp/servers", &[], "").await.status(), 405);
}

#[tokio::test]
async fn health_pages_say_how_it_is() {
    let front = start().await;
    let health = front.get("/health", &[]).await.json();
    assert_eq!((health["status"].clone(), health["service"].clone()), (json!("ok"), json!("mcpool")));
    assert_eq!(health["version"], "9.9.9");
    assert_eq!(health["backends"].as_array().unwrap().len(), 2);
    assert!(health["timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(front.get("/livez", &[]).await.status, 200);
    for (readiness, status) in [
        (Readiness::Ok, 200),
        (Readiness::Degraded, 200),
        (Readiness::Starting, 503),
        (Readiness::Draining, 503),
    ] {
        let front = start_ready(FrontConfig::default(), readiness).await;
        let got = front.get("/readyz/", &[]).await;
        assert_eq!((got.status.as_u16(), got.json()["status"].clone()), (status, json!(readiness.as_str())));
        assert_eq!(got.json()["backends"]["a"], "ready");
    }
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused_but_probes_are_not() {
    let front = start().await;
    let foreign = [("host", "gateway:8800")];
    let got = front.post("/mcp", &foreign, &initialize(1)).await;
    assert_eq!(got.status, 421);
    assert!(got.json()["error"]["message"].as_str().unwrap().contains("allowed_hosts = [\"gateway:8800\"]"));
    assert_eq!(front.get("/api/mcp/servers", &foreign).await.status, 421);
    for path in ["/livez", "/readyz", "/health"] {
        let got = front.get(path, &foreign).await;
        assert_eq!(got.status, 200, "{path}");
        assert!(!got.json().to_string().contains("\"a\""), "{path} names no backend: {}", got.json());
    }
    assert_eq!(
        front.get("/readyz", &[("host", "localhost:1@evil.example")]).await.json(),
        json!({"status": "ok"})
    );
    let page = [("sec-fetch-site", "cross-site")];
    assert_eq!(front.get("/api/mcp/servers", &page).await.status, 403);
    let got = front.post("/mcp", &[("origin", "https://evil.example")], &initialize(1)).await;
    assert_eq!(got.status, 403);
    assert_eq!(front.post("/mcp", &[("origin", "http://localhost:6274")], &initialize(1)).await.status, 200);

    for allowed in ["gateway:8800", "gateway"] {
        let config = FrontConfig { allowed_hosts: vec![allowed.to_owned()], ..FrontConfig::default() };
        let front = start_with(config).await;
        assert_eq!(front.post("/mcp", &foreign, &initialize(1)).await.status, 200, "{allowed}");
        assert_eq!(front.post("/mcp", &[("host", "other")], &initialize(1)).await.status, 421);
    }
}

#[tokio::test]
async fn credentials_that_go_nowhere_are_counted() {
    let front = start().await;
    front.post("/mcp", &[("authorization", "Bearer secret")], &initialize(1)).await;
    assert_eq!(front.script.saw("AuthorizationIgnored"), 1);
    assert_eq!(front.script.saw("secret"), 0);
}
