//! Pages in a browser, and where clients POST that were told a query alone.

use http::{HeaderMap, StatusCode};
use mcpool_front::FrontConfig;
use serde_json::json;

use crate::client::{Running, Sse, initialize, start, start_with, tool, tool_with_token};

const PAGE: &str = "https://app.example";

async fn front() -> Running {
    start_with(FrontConfig { allowed_origins: vec![PAGE.to_owned()], ..FrontConfig::default() }).await
}

fn is_shared(headers: &HeaderMap) -> bool {
    let has = |name: &str, value: &str| headers.get(name).is_some_and(|given| given == value);
    assert!(has("vary", "Origin"), "{headers:?}");
    has("access-control-allow-origin", PAGE)
        && has("access-control-expose-headers", "mcp-session-id, www-authenticate")
}

#[tokio::test]
async fn a_browser_is_told_what_a_page_may_send() {
    let front = front().await;
    let asks = [
        ("origin", PAGE),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,mcp-protocol-version,mcp-param-region"),
        ("access-control-request-private-network", "true"),
    ];
    for path in ["/mcp", "/sse", "/b/mcp", "/api/mcp/servers", "/?session_id=x", "/health"] {
        let response = front.send("OPTIONS", path, &asks, "").await;
        let headers = response.headers();
        assert_eq!(response.status(), StatusCode::NO_CONTENT, "{path}");
        assert!(is_shared(headers), "{path} {headers:?}");
        assert_eq!(headers["access-control-allow-private-network"], "true");
        let allowed = headers["access-control-allow-headers"].to_str().unwrap();
        for name in ["content-type", "accept", "authorization", "last-event-id", "mcp-param-region"] {
            assert!(allowed.split(", ").any(|one| one == name), "{allowed}");
        }
        let methods = headers["access-control-allow-methods"].to_str().unwrap();
        assert!(methods.contains(if path.starts_with("/?") { "POST" } else { "GET" }), "{path} {methods}");
    }
    let refused = front.send("OPTIONS", "/mcp", &[("origin", "https://evil.example"), asks[1]], "").await;
    assert_eq!(refused.status(), 403);
    assert!(!is_shared(refused.headers()) && !refused.headers().contains_key("access-control-allow-methods"));
}

#[tokio::test]
async fn every_answer_can_be_read_by_a_page_that_is_served_and_by_no_other() {
    let front = front().await;
    let page = ("origin", PAGE);
    let got = front.post("/mcp", &[page], &initialize(1)).await;
    assert!(got.status == 200 && is_shared(&got.headers));
    let session = got.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let id = ("mcp-session-id", session.as_str());
    let streamed = front.start_post("/mcp", &[page, id], &tool_with_token(1, "progress-now")).await;
    assert!(is_shared(streamed.headers()));
    assert_eq!(Sse::over(streamed).json().await["method"], "notifications/progress");
    let listening = front.send("GET", "/mcp", &[page, id, ("accept", "text/event-stream")], "").await;
    assert!(listening.status() == 200 && is_shared(listening.headers()));
    assert!(is_shared(front.send("GET", "/sse", &[page], "").await.headers()));
    for (method, path, headers, status) in [
        ("POST", "/mcp", vec![page], 415),
        ("POST", "/nobody/mcp", vec![page, ("content-type", "application/json")], 400),
        ("GET", "/nowhere", vec![page], 404),
        ("PUT", "/mcp", vec![page], 405),
        ("GET", "/mcp", vec![page, ("mcp-session-id", "unknown")], 404),
        ("GET", "/mcp", vec![page, ("host", "evil.example")], 421),
        ("GET", "/api/mcp/servers", vec![page], 200),
    ] {
        let response = front.send(method, path, &headers, "").await;
        assert_eq!(response.status(), status, "{method} {path}");
        assert!(is_shared(response.headers()), "{method} {path} {:?}", response.headers());
    }
    let foreign = front.post("/mcp", &[("origin", "https://evil.example")], &initialize(1)).await;
    assert!(foreign.status == 403 && !is_shared(&foreign.headers));
    assert!(!is_shared(&front.get("/api/mcp/servers", &[]).await.headers));
}

#[tokio::test]
async fn a_session_in_the_query_leads_to_its_backend_wherever_the_client_resolved_it() {
    let front = start().await;
    for (stream, paths) in [("/sse", ["/", "/a", "/a/"]), ("/b/sse", ["/", "/b", "/b/"])] {
        let mut agent = front.sse(stream, &[]).await;
        let backend = if stream == "/sse" { "a" } else { "b" };
        for (id, path) in paths.into_iter().enumerate() {
            let path = format!("{path}?session_id={}", agent.session);
            assert_eq!(front.post(&path, &[], &tool(id, "echo")).await.status, 202, "{path}");
            let answer = agent.json().await;
            assert_eq!((&answer["id"], &answer["result"]["backend"]), (&json!(id), &json!(backend)));
        }
        let elsewhere = if backend == "a" { "/b" } else { "/a/" };
        let path = format!("{elsewhere}?session_id={}", agent.session);
        assert_eq!(front.post(&path, &[], &tool(9, "echo")).await.status, 404);
        assert_eq!(front.get(&path, &[]).await.status, 405);
    }
    let http = front.session("/mcp").await;
    for session in [http.as_str(), "unknown", ""] {
        let got = front.post(&format!("/?session_id={session}"), &[], &tool(1, "echo")).await;
        assert_eq!(got.status, 404, "{got:?}");
    }
    assert_eq!(front.post("/", &[], &tool(1, "echo")).await.status, 404);
}
