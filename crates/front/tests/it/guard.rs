//! The guard is asked once for each request, and what it says holds everywhere behind it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mcpool_front::{FrontConfig, Guard, GuardedRequest, Readiness, Refusal, Verdict};
use mcpool_wire::{Identity, IdentityKind};
use serde_json::json;

use crate::{
    client::{Running, cancel, initialize, start_guarded, tool},
    modern,
};

/// Takes the header `x-key` for the name of a key, and admits nobody called `mallory`.
#[derive(Default)]
struct ByHeader(AtomicUsize);

impl Guard for ByHeader {
    fn check(&self, request: &GuardedRequest<'_>) -> Verdict {
        self.0.fetch_add(1, Ordering::SeqCst);
        match request.parts.headers.get("x-key").map(|key| key.to_str().unwrap()) {
            None => Verdict::Admitted(Identity::anonymous()),
            Some("mallory") => Verdict::Refused(Box::new(Refusal {
                status: 401,
                reason: "expired",
                detail: format!("the key ended, also for {:?}", request.backend),
                challenge: Some("Bearer error=\"invalid_token\"".to_owned()),
                retry_after: Some(Duration::from_millis(1_200)),
            })),
            Some(key) => Verdict::Admitted(Arc::new(Identity::new(IdentityKind::Key, key))),
        }
    }
}

async fn start() -> (Running, Arc<ByHeader>) {
    let guard = Arc::<ByHeader>::default();
    let front =
        start_guarded(FrontConfig::default(), Readiness::Ok, Arc::<ByHeader>::clone(&guard) as _).await;
    (front, guard)
}

#[tokio::test]
async fn every_request_is_decided_about_once_and_probes_are_not() {
    let (front, guard) = start().await;
    let asked = |what: &str, times: usize| assert_eq!(guard.0.swap(0, Ordering::SeqCst), times, "{what}");
    let session = front.session("/mcp").await;
    asked("initialize", 1);
    assert_eq!(front.call(&session, &tool(1, "echo")).await.status, 200);
    asked("a call", 1);
    front.call(&session, &cancel(9)).await;
    asked("a notification", 1);
    front.post("/mcp", &[("mcp-session-id", &session)], &json!([tool(2, "echo"), tool(3, "echo")])).await;
    asked("a batch", 1);
    assert_eq!(front.send("DELETE", "/mcp", &[("mcp-session-id", &session)], "").await.status(), 200);
    asked("a DELETE", 1);
    assert_eq!(front.call(&session, &tool(4, "echo")).await.status, 404);
    asked("a call of a session that ended", 1);
    let sse = front.sse("/sse", &[("accept", "text/event-stream")]).await;
    asked("a stream", 1);
    assert_eq!(front.say(&sse.session, &initialize(5)).await.status, 202);
    asked("a message of a stream", 1);
    assert_eq!(front.ask(&modern::call(6, "echo")).await.status, 200);
    asked("a call without session", 1);
    front.get("/api/mcp/servers", &[]).await;
    front.get("/nowhere", &[]).await;
    asked("two pages", 2);
    for probe in ["/health", "/livez", "/readyz"] {
        assert_eq!(front.get(probe, &[("x-key", "mallory")]).await.status, 200);
    }
    front.send("OPTIONS", "/mcp", &[("x-key", "mallory")], "").await;
    asked("probes and a preflight", 0);
}

#[tokio::test]
async fn a_session_is_its_identitys_alone_and_the_backend_is_told_whose() {
    let (front, _) = start().await;
    let got = front.post("/mcp", &[("x-key", "ada")], &initialize(0)).await;
    let session = got.headers["mcp-session-id"].to_str().unwrap();
    for (key, status) in [(Some("bob"), 404), (None, 404), (Some("ada"), 200)] {
        let mut headers = vec![("mcp-session-id", session)];
        headers.extend(key.map(|key| ("x-key", key)));
        assert_eq!(front.post("/mcp", &headers, &tool(1, "echo")).await.status, status, "{key:?}");
    }
    front.ask_with(&[("x-key", "bob")], &modern::call(2, "echo")).await;
    let calls = front.script.calls.lock().unwrap();
    let callers: Vec<_> = calls.iter().map(|call| call.caller.identity.to_string()).collect();
    assert_eq!(callers, ["key/ada", "key/bob"]);
}

#[tokio::test]
async fn a_refusal_says_why_and_nothing_is_opened() {
    let (front, _) = start().await;
    let got = front.post("/a/mcp", &[("x-key", "mallory")], &initialize(0)).await;
    assert_eq!((got.status.as_u16(), got.code()), (401, -31910));
    assert_eq!(got.headers["www-authenticate"], "Bearer error=\"invalid_token\"");
    assert_eq!(got.headers["retry-after"], "2");
    let error = &got.json()["error"];
    assert_eq!(error["message"], "the key ended, also for Some(\"a\")");
    assert_eq!((&error["data"]["reason"], &error["data"]["executed"]), (&json!("expired"), &json!("no")));
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn backends_are_asked_for_the_one_who_calls() {
    let (front, _) = start().await;
    let ada = [("x-key", "ada")];
    let asked = |what: &str| {
        let asked = std::mem::take(&mut *front.script.asked.lock().unwrap());
        assert!(!asked.is_empty() && asked.iter().all(|one| one == "key/ada"), "{what}: {asked:?}");
    };
    let got = front.post("/mcp", &ada, &initialize(0)).await;
    asked("initialize");
    let session = ("mcp-session-id", got.headers["mcp-session-id"].to_str().unwrap());
    front.post("/mcp", &[ada[0], session], &tool(1, "echo")).await;
    asked("a call");
    front.send("DELETE", "/mcp", &[ada[0], session], "").await;
    asked("a DELETE");
    let sse = front.sse("/sse", &[ada[0], ("accept", "text/event-stream")]).await;
    asked("a stream");
    front.post(&format!("/sse?session_id={}", sse.session), &ada, &initialize(2)).await;
    asked("a message of a stream");
    front.ask_with(&ada, &modern::call(3, "echo")).await;
    asked("a call without session");
    assert_eq!(front.post("/nobody/mcp", &ada, &initialize(4)).await.status, 404);
    asked("an unknown backend");
    front.get("/api/mcp/servers", &ada).await;
    asked("the page of servers");
    front.get("/health", &ada).await;
    assert_eq!(*front.script.asked.lock().unwrap(), ["anonymous"], "a probe is nobody");
}
