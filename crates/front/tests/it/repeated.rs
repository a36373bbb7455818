//! Requests that come again because their connection died, and two readers of one stream.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::json;

use crate::{
    client::{Running, Sse, start, tool, tool_with_token, until},
    hangup::posted,
};

const BOTH: &str = "application/json, text/event-stream";

async fn left_alone(front: &Running) {
    until("nobody is connected", || front.gauges.connections.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn the_same_request_takes_over_the_call_whose_connection_died() {
    let front = start().await;
    let session = front.session("/mcp").await;
    // Before anything was said, and after.
    for (id, name) in [(1, "gated"), (2, "progress")] {
        let headers = [("mcp-session-id", session.as_str()), ("accept", BOTH)];
        let body = tool_with_token(id, name);
        let first = posted(&front, "/mcp", &headers, &body).await;
        until("the call runs", || front.gauges.calls.load(Ordering::SeqCst) == 1).await;
        drop(first);
        let mut stream = Sse::over(front.start_post("/mcp", &headers, &body).await);
        if name == "progress" {
            for step in 1..=2 {
                assert_eq!(stream.json().await["params"]["progress"], step);
            }
        }
        front.script.gate.open();
        assert_eq!(stream.json().await["id"], id);
        assert!(stream.event().await.is_none());
        front.script.gate.close();
    }
    assert_eq!((front.calls(), front.script.finished_calls.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn the_answer_nobody_heard_is_given_to_the_same_request_once() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let headers = [("mcp-session-id", session.as_str()), ("accept", BOTH)];
    let body = tool(1, "gated");
    let first = posted(&front, "/mcp", &headers, &body).await;
    until("the call runs", || front.gauges.calls.load(Ordering::SeqCst) == 1).await;
    drop(first);
    until("the call is adopted", || front.gauges.adopted.load(Ordering::SeqCst) == 1).await;
    left_alone(&front).await;
    front.script.gate.open();
    until("the call has ended", || front.gauges.calls.load(Ordering::SeqCst) == 0).await;
    let mut stream = Sse::over(front.start_post("/mcp", &headers, &body).await);
    assert_eq!(stream.json().await["result"]["tool"], "gated");
    assert_eq!(front.calls(), 1);
    // It was heard now: the same once more is a new request, and another under the id was one all the time.
    assert_eq!(front.call(&session, &body).await.json()["result"]["tool"], "gated");
    assert_eq!(front.call(&session, &tool(1, "echo")).await.json()["result"]["tool"], "echo");
    assert_eq!(front.calls(), 3);
}

#[tokio::test]
async fn the_same_request_beside_one_that_is_attended_may_have_run() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let body = tool(1, "gated");
    let first = front.call(&session, &body);
    let again = async {
        until("the call runs", || front.gauges.calls.load(Ordering::SeqCst) == 1).await;
        let got = front.call(&session, &body).await;
        assert_eq!(
            (got.code(), &got.json()["error"]["data"]["executed"]),
            (-32600, &json!("maybe")),
            "{got:?}"
        );
        let other = front.call(&session, &tool(1, "echo")).await;
        assert_eq!((other.code(), &other.json()["error"]["data"]["executed"]), (-32600, &json!("no")));
        front.script.gate.open();
    };
    let (got, ()) = tokio::join!(first, again);
    assert_eq!((&got.json()["result"]["tool"], front.calls()), (&json!("gated"), 1));
}

/// The same request, as a client writes it that builds it anew.
fn written_anew(id: u32, name: &str, token: &str) -> String {
    format!(
        r#"{{ "id": {id}, "method": "tools/call", "jsonrpc": "2.0",
             "params": {{ "_meta": {{ "progressToken": "{token}" }}, "arguments": {{ "n": 1 }}, "name": "{name}" }} }}"#
    )
}

#[tokio::test]
async fn the_same_request_in_other_bytes_takes_over_as_well() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let headers = [("mcp-session-id", session.as_str()), ("accept", BOTH)];
    let as_json = [&headers[..], &[("content-type", "application/json")]].concat();
    // While the first copy runs, and when it ended unheard.
    for (id, ends_unheard) in [(1, false), (2, true)] {
        let first = posted(&front, "/mcp", &headers, &tool_with_token(id, "gated")).await;
        until("the call runs", || front.gauges.calls.load(Ordering::SeqCst) == 1).await;
        drop(first);
        until("the call is adopted", || front.gauges.adopted.load(Ordering::SeqCst) == 1).await;
        left_alone(&front).await;
        if ends_unheard {
            front.script.gate.open();
            until("the call has ended", || front.gauges.calls.load(Ordering::SeqCst) == 0).await;
        }
        let again = front.send("POST", "/mcp", &as_json, written_anew(id, "gated", "second")).await;
        let mut stream = Sse::over(again);
        front.script.gate.open();
        assert_eq!(stream.json().await["result"]["tool"], "gated");
        front.script.gate.close();
    }
    assert_eq!(front.calls(), 2, "each ran once");
}

#[tokio::test]
async fn over_http_sse_the_same_request_is_answered_once() {
    let front = start().await;
    let mut agent = front.sse("/sse", &[]).await;
    for body in [tool(1, "gated"), tool_with_token(1, "gated"), tool(1, "gated")] {
        assert_eq!(front.say(&agent.session, &body).await.status, 202);
    }
    until("the call runs", || front.calls() == 1).await;
    front.say(&agent.session, &tool(2, "echo")).await;
    assert_eq!(agent.json().await["id"], 2);
    front.script.gate.open();
    assert_eq!(agent.json().await["id"], 1);
    front.say(&agent.session, &tool(3, "echo")).await;
    assert_eq!(agent.json().await["id"], 3);
    assert_eq!(front.calls(), 3);
}

#[tokio::test]
async fn of_two_that_listen_the_newer_stays_and_the_older_is_sent_away() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let push = |list: &str| {
        let note = json!({"jsonrpc":"2.0","method":format!("notifications/{list}/list_changed")});
        let event = mcpool_wire::LinkEvent::Notification(note.to_string().into());
        front.script.outlet().push(event).unwrap();
    };
    let mut older = front.listen(&session, None).await;
    push("tools");
    let seen = older.event().await.unwrap().id;
    let mut newer = front.listen(&session, None).await;
    assert!(older.event().await.is_none(), "it is over");
    for last in [None, seen.as_deref()] {
        assert_eq!(front.try_listen(&session, last).await.status(), 405);
    }
    push("prompts");
    let event = newer.event().await.unwrap();
    assert!(event.data.contains("prompts"));
    // The newer one over another connection: only it was sent this.
    let mut newer = (front.listen(&session, event.id.as_deref()).await, newer).0;
    push("resources");
    assert!(newer.event().await.unwrap().data.contains("resources"));
    // Once it has gone, anybody may listen.
    drop(newer);
    tokio::time::timeout(Duration::from_secs(5), async {
        while front.try_listen(&session, None).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn of_two_streams_of_one_http_sse_session_the_older_is_sent_away() {
    let front = start().await;
    let mut older = front.sse("/sse", &[]).await;
    let id = older.session.clone();
    let newer = front.sse("/sse", &[("last-event-id", &id)]).await;
    assert_eq!(newer.session, id);
    assert!(older.event().await.is_none());
    assert_eq!(front.send("GET", "/sse", &[("last-event-id", &id)], "").await.status(), 405);
}
