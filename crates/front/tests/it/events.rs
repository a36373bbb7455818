//! What reaches an agent outside its answers: notifications, server requests, the end of its link.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use mcpool_wire::{CallError, ErrorKind, LinkEvent};
use serde_json::{Value, json};

use crate::{
    client::{Running, Sse, initialize, start, tool, tool_with_token, until},
    script::message_of,
};

async fn interactive(front: &Running) -> String {
    let mut greeting = initialize(0);
    greeting["params"]["capabilities"] = json!({"roots":{}});
    let got = front.post("/mcp", &[], &greeting).await;
    got.headers["mcp-session-id"].to_str().unwrap().to_owned()
}

fn changed() -> LinkEvent {
    LinkEvent::Notification(Bytes::from_static(
        b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}",
    ))
}

/// Answers the server request `asked` with a root.
fn roots(asked: &Value) -> Value {
    json!({"jsonrpc":"2.0","id":asked["id"],"result":{"roots":["r"]}})
}

#[tokio::test]
async fn notifications_reach_the_stream_that_is_open_and_are_dropped_without() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let outlet = front.script.outlet();
    assert!(outlet.push(changed()).is_err());
    assert_eq!(front.script.saw("Dropped { kind: \"notification\" }"), 1);
    let mut stream = front.listen(&session, None).await;
    outlet.push(changed()).unwrap();
    assert_eq!(stream.json().await["method"], "notifications/tools/list_changed");
    // The newest stream gets what comes.
    let mut newer = front.listen(&session, None).await;
    assert!(stream.event().await.is_none());
    outlet.push(changed()).unwrap();
    assert_eq!(newer.json().await["method"], "notifications/tools/list_changed");

    let mut sse = front.sse("/sse", &[]).await;
    front.say(&sse.session, &initialize(1)).await;
    assert_eq!(sse.json().await["id"], 1);
    front.script.outlet().push(changed()).unwrap();
    assert_eq!(sse.json().await["method"], "notifications/tools/list_changed");
}

#[tokio::test]
async fn a_server_request_in_a_call_goes_out_and_its_answer_comes_back() {
    let front = start().await;
    let session = interactive(&front).await;
    let call = front.start_post("/mcp", &[("mcp-session-id", &session)], &tool(1, "ask")).await;
    let mut stream = Sse::over(call);
    let asked = stream.json().await;
    assert_eq!(asked["method"], "roots/list");
    assert_ne!(asked["id"], "s1");
    assert_eq!(front.call(&session, &roots(&asked)).await.status, 202);
    assert_eq!(stream.json().await["result"]["heard"], json!({"roots":["r"]}));
    assert!(stream.event().await.is_none());
    // Said twice: only the first counts.
    assert_eq!(front.call(&session, &roots(&asked)).await.status, 202);
    assert_eq!(front.script.saw("agent_response"), 1);

    let mut sse = front.sse("/sse", &[]).await;
    front.say(&sse.session, &tool(1, "ask")).await;
    let asked = sse.json().await;
    front.say(&sse.session, &roots(&asked)).await;
    assert_eq!(sse.json().await["result"]["heard"], json!({"roots":["r"]}));
}

#[tokio::test]
async fn a_server_request_outside_a_call_uses_the_listening_stream() {
    let front = start().await;
    let session = interactive(&front).await;
    let request = json!({"jsonrpc":"2.0","id":"s","method":"roots/list"}).to_string();
    let ask = || LinkEvent::Request { id: 5, message: message_of(request.clone()) };
    assert!(front.script.outlet().push(ask()).is_err());
    let mut stream = front.listen(&session, None).await;
    front.script.outlet().push(ask()).unwrap();
    let asked = stream.json().await;
    assert!(asked["id"].is_i64());
}

#[tokio::test]
async fn a_client_that_takes_only_json_never_gets_a_stream() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let headers = [("mcp-session-id", session.as_str()), ("accept", "application/json")];
    let got = front.post("/mcp", &headers, &tool_with_token(1, "progress-now")).await;
    assert_eq!(got.headers["content-type"], "application/json");
    assert_eq!(got.json()["result"]["tool"], "progress-now");
    // The same for one that takes both: what was said before the answer comes first, even in the same moment.
    let both = [("mcp-session-id", session.as_str())];
    let mut stream = Sse::over(front.start_post("/mcp", &both, &tool_with_token(1, "progress-now")).await);
    assert_eq!(stream.json().await["method"], "notifications/progress");
    assert_eq!(stream.json().await["result"]["tool"], "progress-now");
}

#[tokio::test]
async fn agent_notifications_are_passed_on_but_not_the_handshake() {
    let front = start().await;
    let session = front.session("/mcp").await;
    for method in ["notifications/initialized", "notifications/roots/list_changed"] {
        front.call(&session, &json!({"jsonrpc":"2.0","method":method})).await;
    }
    let notified = front.script.notified.lock().unwrap().clone();
    assert_eq!(notified.len(), 1);
    assert!(notified[0].contains("roots/list_changed"));
}

#[tokio::test]
async fn when_the_link_ends_the_agent_has_to_begin_again() {
    let front = start().await;
    let ended = || LinkEvent::Ended(CallError::not_sent(ErrorKind::Lost, "pinned session broke"));
    let session = front.session("/mcp").await;
    front.script.outlet().push(ended()).unwrap();
    assert_eq!(front.call(&session, &tool(1, "echo")).await.status, 404);

    let mut sse = front.sse("/sse", &[]).await;
    front.say(&sse.session, &tool(1, "gated")).await;
    until("the call runs", || front.script.calls.lock().unwrap().len() == 1).await;
    front.script.outlet().push(ended()).unwrap();
    front.script.gate.open();
    // Its last call still tells its end.
    assert_eq!(sse.json().await["id"], 1);
    assert!(sse.event().await.is_none());
    until("both links are dropped", || front.script.links.load(Ordering::SeqCst) == 0).await;
    assert_eq!(front.script.saw("closed link_ended"), 2);
}
