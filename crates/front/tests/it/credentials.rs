//! What agents send in headers their backend is given: each call is made with what its own request came with, and an id
//! is worth nothing without it.

use std::sync::atomic::Ordering;

use http::header;
use mcpool_wire::{Forwarded, LinkEvent};
use serde_json::{Value, json};

use crate::{
    client::{Got, Running, Sse, initialize, initialize_as, tool, until},
    lives::Lives,
    modern::{headers, meta, request},
};

const A: &str = "Bearer of-ada";
const B: &str = "Bearer of-bob";

async fn begin(lives: &Lives) -> Running {
    given(lives.begin().await)
}

async fn again(lives: &Lives, before: Running) -> Running {
    given(lives.again(before).await)
}

/// Its backends are given credentials.
fn given(front: Running) -> Running {
    *front.script.forwards.lock().unwrap() = vec![header::AUTHORIZATION];
    front
}

/// A POST under this id with these credentials.
async fn call(front: &Running, session: &str, token: Option<&str>, body: &Value) -> Got {
    let mut headers = vec![("mcp-session-id", session)];
    headers.extend(token.map(|token| ("authorization", token)));
    front.post("/mcp", &headers, body).await
}

async fn say(front: &Running, session: &str, token: Option<&str>, body: &Value) -> u16 {
    let headers: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
    front.post(&format!("/sse?session_id={session}"), &headers, body).await.status.as_u16()
}

async fn session(front: &Running, token: Option<&str>) -> String {
    let headers: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
    let got = front.post("/mcp", &headers, &initialize(0)).await;
    got.headers["mcp-session-id"].to_str().unwrap().to_owned()
}

/// The credentials the last call was made with.
fn last(front: &Running) -> Option<String> {
    let caller = front.script.calls.lock().unwrap().last()?.caller.clone();
    caller.forwarded.first().map(|(_, value)| value.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn each_call_carries_what_its_own_request_came_with_in_every_life() {
    let lives = Lives::new();
    let mut front = begin(&lives).await;
    let id = session(&front, Some(A)).await;
    for life in 0..2 {
        for token in [B, A, A, "Bearer refreshed", A] {
            let got = call(&front, &id, Some(token), &tool(1, "echo")).await;
            assert_eq!((got.status.as_u16(), last(&front).as_deref()), (200, Some(token)), "{life} {got:?}");
        }
        let before = front.script.calls.lock().unwrap().len();
        for body in [tool(1, "echo"), json!({"jsonrpc":"2.0","method":"notifications/initialized"})] {
            let got = call(&front, &id, None, &body).await;
            let unknown = call(&front, "foreign", None, &body).await;
            assert_eq!((got.status.as_u16(), &got.text), (404, &unknown.text), "{life}");
        }
        assert_eq!(front.try_listen(&id, None).await.status(), 404);
        let deleted = front.send("DELETE", "/mcp", &[("mcp-session-id", id.as_str())], "").await;
        assert_eq!((deleted.status().as_u16(), front.script.calls.lock().unwrap().len()), (404, before));
        front = again(&lives, front).await;
    }
    // The first request of a life may be one without: then nothing is restored.
    assert_eq!(call(&front, &id, None, &tool(1, "echo")).await.status, 404);
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 0);
    let headers = [("mcp-session-id", id.as_str()), ("authorization", A)];
    assert_eq!(front.send("DELETE", "/mcp", &headers, "").await.status(), 200);
    assert_eq!(call(&front, &id, Some(A), &tool(1, "echo")).await.status, 404);
}

#[tokio::test]
async fn a_batch_and_a_repeated_handshake_are_of_who_sends_them() {
    let lives = Lives::new();
    let front = begin(&lives).await;
    let headers = [("authorization", A)];
    let got = front.post("/mcp", &headers, &initialize_as(0, "2025-03-26")).await;
    let id = got.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let batch = json!([tool(1, "echo"), tool(2, "echo")]);
    assert_eq!(call(&front, &id, Some(B), &batch).await.status, 200);
    let of: Vec<_> =
        front.script.calls.lock().unwrap().iter().map(|call| call.caller.forwarded[0].1.clone()).collect();
    assert_eq!(of, [B, B]);
    assert_eq!(call(&front, &id, None, &batch).await.status, 404);
    // What the server says of itself may depend on whom it says it to.
    let got = call(&front, &id, Some(B), &initialize(3)).await;
    assert_ne!(got.headers["mcp-session-id"], id.as_str());
    let asked = front.script.hellos.lock().unwrap().last().unwrap().caller.forwarded[0].1.clone();
    assert_eq!(asked, B);
}

#[tokio::test]
async fn a_session_of_an_agents_own_is_unknown_to_other_credentials() {
    let lives = Lives::new();
    let front = begin(&lives).await;
    front.script.own.store(true, Ordering::SeqCst);
    let id = session(&front, Some(A)).await;
    for token in [Some(B), None] {
        assert_eq!(call(&front, &id, token, &tool(1, "echo")).await.status, 404);
    }
    assert_eq!(call(&front, &id, Some(A), &tool(1, "echo")).await.status, 200);
    let mut stream = front.sse("/sse", &[("authorization", A)]).await;
    assert_eq!(say(&front, &stream.session, Some(A), &initialize(0)).await, 202);
    stream.json().await;
    for token in [Some(B), None] {
        assert_eq!(say(&front, &stream.session, token, &tool(1, "echo")).await, 404);
    }
    assert_eq!(say(&front, &stream.session, Some(A), &tool(1, "echo")).await, 202);
    assert_eq!(stream.json().await["id"], 1);
}

#[tokio::test]
async fn posts_of_an_sse_agent_carry_their_own_in_every_life() {
    let lives = Lives::new();
    let mut front = begin(&lives).await;
    let mut stream = front.sse("/sse", &[("authorization", A)]).await;
    for life in 0..2 {
        for token in [A, B, A] {
            assert_eq!(say(&front, &stream.session, Some(token), &tool(1, "echo")).await, 202);
            assert_eq!(stream.json().await["id"], 1);
            assert_eq!(last(&front).as_deref(), Some(token), "{life}");
        }
        assert_eq!(say(&front, &stream.session, None, &tool(1, "echo")).await, 404);
        front = again(&lives, front).await;
        // Back without what it came with it is another, and back with it the same.
        let other = front.sse("/sse", &[("last-event-id", &stream.session)]).await;
        assert_ne!(other.session, stream.session);
        let back = front.sse("/sse", &[("last-event-id", &stream.session), ("authorization", B)]).await;
        assert_eq!(back.session, stream.session);
        stream = back;
    }
}

#[tokio::test]
async fn who_came_without_and_says_more_later_is_served_with_it() {
    let lives = Lives::new();
    let mut front = lives.begin().await;
    let id = session(&front, None).await;
    // Its backend is given more from now on, in this life and the next.
    for _ in 0..2 {
        front = given(front);
        for token in [None, Some(A), None] {
            assert_eq!(call(&front, &id, token, &tool(1, "echo")).await.status, 200);
            assert_eq!(last(&front).as_deref(), token);
        }
        front = lives.again(front).await;
    }
    // And one whose backend is given nothing any more misses nothing.
    let front = given(front);
    let id = session(&front, Some(A)).await;
    front.script.forwards.lock().unwrap().clear();
    assert_eq!(call(&front, &id, None, &tool(1, "echo")).await.status, 200);
    assert_eq!(last(&front), None);
}

#[tokio::test]
async fn a_call_that_waits_for_its_caller_is_of_its_credentials() {
    let lives = Lives::new();
    let front = begin(&lives).await;
    let params = json!({ "name": "ask", "arguments": {}, "_meta": meta(&json!({ "roots": {} })) });
    let body = request(1, "tools/call", &params);
    let ask = async |token: &str, body: &Value| {
        let mut all = headers(body);
        all.push(("authorization".to_owned(), token.to_owned()));
        let all: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        front.post("/mcp", &all, body).await
    };
    let asked = ask(A, &body).await.json()["result"].clone();
    let mut answer = body;
    answer["id"] = json!(2);
    answer["params"]["requestState"] = asked["requestState"].clone();
    answer["params"]["inputResponses"] = json!({ "ask-77": { "roots": [] } });
    assert_eq!(ask(B, &answer).await.code(), -32602);
    assert_eq!(ask(A, &answer).await.json()["result"]["resultType"], "complete");
}

/// What an agent is told that comes back to a session that is over, until it greets again.
async fn told_that_it_ended(front: &Running, stream: &mut Sse) {
    let opened = front.script.opened.load(Ordering::SeqCst);
    for id in 1..=2 {
        front.say(&stream.session, &tool(id, "echo")).await;
        let told = stream.json().await;
        assert_eq!((&told["id"], &told["error"]["code"]), (&json!(id), &json!(-32600)), "{told}");
        assert_eq!(told["error"]["message"], "this agent's session ended: send initialize");
        assert_eq!(told["error"]["data"]["executed"], "no");
    }
    front.say(&stream.session, &json!({"jsonrpc":"2.0","id":"p","method":"ping"})).await;
    assert_eq!(stream.json().await["result"], json!({}));
    assert_eq!(front.script.opened.load(Ordering::SeqCst), opened, "nothing is opened for it");
    front.say(&stream.session, &initialize(8)).await;
    assert_eq!(stream.json().await["id"], 8);
    front.say(&stream.session, &tool(9, "echo")).await;
    assert_eq!(stream.json().await["result"]["tool"], "echo");
}

/// Until everything that was revoked is written down: what is deleted now is behind it.
async fn written(front: &Running) {
    let id = front.session("/mcp").await;
    assert_eq!(front.send("DELETE", "/mcp", &[("mcp-session-id", id.as_str())], "").await.status(), 200);
}

async fn greeted(front: &Running, body: &Value) -> Sse {
    let mut stream = front.sse("/sse", &[]).await;
    front.say(&stream.session, body).await;
    assert_eq!(stream.json().await["id"], body["id"]);
    stream
}

#[tokio::test]
async fn an_sse_agent_whose_session_was_its_own_is_told_that_it_ended() {
    let mut lives = Lives::new();
    lives.times.reconnect_grace = std::time::Duration::from_millis(20);
    let front = lives.begin().await;
    front.script.own.store(true, Ordering::SeqCst);
    let stream = greeted(&front, &initialize(0)).await;
    let before = stream.session.clone();
    drop(stream);
    until("it is given up", || front.script.saw("closed gone") == 1).await;
    // Even where new agents would share by now.
    front.script.own.store(false, Ordering::SeqCst);
    let mut back = front.sse("/sse", &[("last-event-id", &before)]).await;
    assert_ne!(back.session, before);
    told_that_it_ended(&front, &mut back).await;
    let front = lives.again(front).await;
    let mut back = front.sse("/sse", &[("last-event-id", &before)]).await;
    told_that_it_ended(&front, &mut back).await;
    // And where nothing of the life before is known any more.
    let other = Lives::new().begin().await;
    let mut back = other.sse("/sse", &[("last-event-id", &before)]).await;
    told_that_it_ended(&other, &mut back).await;
}

#[tokio::test]
async fn an_sse_agent_that_could_be_asked_things_greets_again() {
    let lives = Lives::new();
    let front = lives.begin().await;
    let mut body = initialize(0);
    body["params"]["capabilities"] = json!({ "sampling": {} });
    let before = greeted(&front, &body).await.session;
    written(&front).await;
    let front = lives.again(front).await;
    let mut back = front.sse("/sse", &[("last-event-id", &before)]).await;
    told_that_it_ended(&front, &mut back).await;
}

#[tokio::test]
async fn an_sse_agent_that_shared_and_would_be_alone_now_greets_again() {
    let lives = Lives::new();
    let front = lives.begin().await;
    let before = greeted(&front, &initialize(0)).await.session;
    let front = lives.again(front).await;
    front.script.own.store(true, Ordering::SeqCst);
    let mut back = front.sse("/sse", &[("last-event-id", &before)]).await;
    assert_eq!(back.session, before);
    front.say(&before, &tool(0, "echo")).await;
    assert_eq!(back.json().await["error"]["code"], -32600);
    until("the link it did not take is dropped", || front.script.links.load(Ordering::SeqCst) == 0).await;
    told_that_it_ended(&front, &mut back).await;
}

#[tokio::test]
async fn an_id_that_becomes_an_agents_own_restores_nothing() {
    let lives = Lives::new();
    let front = lives.begin().await;
    let id = front.session("/mcp").await;
    front.script.outlet().push(LinkEvent::Owned(Forwarded::default())).unwrap();
    assert_eq!(front.call(&id, &tool(1, "echo")).await.status, 200);
    let kept = front.session("/mcp").await;
    written(&front).await;
    let front = lives.again(front).await;
    let status = async |id: &str| front.call(id, &tool(1, "echo")).await.status.as_u16();
    assert_eq!((status(&id).await, status(&kept).await), (404, 200));
}
