//! Agent sessions that outlive the gateway: what comes back, for whom, and what never does.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::StatusCode;
use mcpool_wire::{CallError, ErrorKind, LinkEvent, Revision};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::{
    client::{Got, Running, initialize, initialize_as, tool, until},
    lives::Lives,
};

const DAY: i64 = 24 * 60 * 60;

async fn status(front: &Running, session: &str) -> u16 {
    front.call(session, &tool(1, "echo")).await.status.as_u16()
}

#[tokio::test]
async fn a_session_is_served_by_the_next_life_without_a_handshake() {
    let lives = Lives::new();
    let front = lives.begin().await;
    let (new, old) = (front.session_of("2025-11-25").await, front.session_of("2025-03-26").await);
    let front = lives.again(front).await;
    let got = front.call(&new, &tool(7, "echo")).await;
    assert_eq!((got.status, &got.json()["result"]["tool"]), (StatusCode::OK, &json!("echo")), "{got:?}");
    {
        let hellos = front.script.hellos.lock().unwrap();
        assert_eq!((hellos.len(), hellos[0].client.revision), (1, Revision::V2025_11_25));
        assert!(!hellos[0].client.is_interactive());
        assert_eq!(&*hellos[0].target.name, "a");
    }
    // Its revision came with it: this one may send batches, the other may not.
    let batch = json!([tool(1, "echo"), tool(2, "echo")]);
    assert_eq!(front.call(&old, &batch).await.json().as_array().unwrap().len(), 2);
    assert_eq!(front.call(&new, &batch).await.status, 400);
    // `ping`, a repeated handshake, and the stream for what belongs to no call.
    let ping = json!({"jsonrpc":"2.0","id":3,"method":"ping"});
    assert_eq!(front.call(&new, &ping).await.json()["result"], json!({}));
    let hello = front.call(&new, &initialize(4)).await;
    assert_eq!(hello.headers["mcp-session-id"], new.as_str());
    assert_eq!(front.gauges.http_agents.load(Ordering::SeqCst), 2);
    assert_eq!(front.script.saw("Restored"), 2);
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_stream_can_be_the_first_to_come_back_and_hears_what_belongs_to_no_call() {
    let lives = Lives::new();
    let front = lives.begin().await;
    let session = front.session("/b/mcp").await;
    let front = lives.again(front).await;
    let headers =
        [("mcp-session-id", session.as_str()), ("accept", "text/event-stream"), ("last-event-id", "0-17")];
    let mut stream = crate::client::Sse::over(front.send("GET", "/b/mcp", &headers, "").await);
    let note = json!({"jsonrpc":"2.0","method":"notifications/tools/list_changed"}).to_string();
    front.script.outlet().push(LinkEvent::Notification(note.into())).unwrap();
    assert_eq!(stream.json().await["method"], "notifications/tools/list_changed");
    let got = front.post("/b/mcp", &[("mcp-session-id", &session)], &tool(1, "echo")).await;
    assert_eq!(got.json()["result"]["backend"], "b");
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn all_that_comes_at_once_opens_one_link() {
    let lives = Lives::new();
    let front = lives.begin().await;
    let session = front.session("/mcp").await;
    let front = lives.again(front).await;
    let gate = Arc::new(Semaphore::new(0));
    *front.script.open_gate.lock().unwrap() = Some(Arc::clone(&gate));
    let messages: Vec<_> = (0..20).map(|id| tool(id, "echo")).collect();
    let calls = futures::future::join_all(messages.iter().map(|message| front.call(&session, message)));
    let release = async {
        until("a link is opened", || front.script.opened.load(Ordering::SeqCst) == 1).await;
        gate.add_permits(100);
    };
    let (answers, ()) = tokio::join!(calls, release);
    for (id, got) in answers.iter().enumerate() {
        assert_eq!(got.json()["id"], id, "{got:?}");
    }
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 1);
    assert_eq!(front.gauges.http_agents.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_request_whose_agent_leaves_meanwhile_is_acted_on_and_leaves_nothing_behind() {
    let lives = Lives::new();
    let front = lives.begin().await;
    let session = front.session("/mcp").await;
    let front = lives.again(front).await;
    let gate = Arc::new(Semaphore::new(0));
    *front.script.open_gate.lock().unwrap() = Some(Arc::clone(&gate));
    {
        let message = tool(1, "echo");
        let call = std::pin::pin!(front.call(&session, &message));
        let opening = until("a link is opened", || front.script.opened.load(Ordering::SeqCst) == 1);
        futures::future::select(call, std::pin::pin!(opening)).await;
    }
    gate.add_permits(100);
    until("it has run", || front.script.finished_calls.load(Ordering::SeqCst) == 1).await;
    until("its connection is gone", || front.gauges.connections.load(Ordering::SeqCst) == 0).await;
    assert_eq!(status(&front, &session).await, 200);
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 1);
    assert_eq!(front.script.links.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn who_had_a_session_of_its_own_begins_again_knowingly() {
    let lives = Lives::new();
    let front = lives.begin().await;
    let mut asked = initialize_as(0, "2025-06-18");
    asked["params"]["capabilities"] = json!({"sampling": {}});
    let asked = front.post("/mcp", &[], &asked).await.headers["mcp-session-id"].clone();
    front.script.own.store(true, Ordering::SeqCst);
    let pinned = front.session("/mcp").await;
    front.script.own.store(false, Ordering::SeqCst);
    let shared = front.session("/mcp").await;
    let front = lives.again(front).await;
    assert_eq!(status(&front, asked.to_str().unwrap()).await, 404);
    assert_eq!(status(&front, &pinned).await, 404);
    // What the backend is may have changed meanwhile.
    front.script.own.store(true, Ordering::SeqCst);
    assert_eq!(status(&front, &shared).await, 404);
    front.script.own.store(false, Ordering::SeqCst);
    assert_eq!(status(&front, &shared).await, 200);
    assert_eq!((front.script.saw("Own"), front.script.saw("Restored")), (3, 1));
    assert_eq!(front.script.links.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn whatever_is_wrong_with_an_id_it_is_answered_like_an_unknown_one() {
    let lives = Lives::new();
    let front = lives.begin().await;
    let of_b = front.session("/b/mcp").await;
    let deleted = front.session("/mcp").await;
    let headers = [("mcp-session-id", deleted.as_str())];
    assert_eq!(front.send("DELETE", "/mcp", &headers, "").await.status(), 200);
    let other_gateway = Lives::new();
    let foreign = other_gateway.begin().await.session("/mcp").await;
    let of_sse = front.sse("/sse", &[]).await.session;
    let flip = |id: &str, at: usize| {
        let mut bytes = id.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let good = front.session("/mcp").await;
    let bad = [flip(&good, 0), flip(&good, 30), flip(&good, 63), of_b.clone(), deleted, foreign, of_sse];
    for front in [front, lives.begin_beside().await] {
        let unknown = "0b0e8f0e-0000-4000-8000-000000000000";
        for id in &bad {
            for (method, body) in
                [("POST", tool(1, "echo").to_string()), ("GET", String::new()), ("DELETE", String::new())]
            {
                let ask = |id: String| {
                    let (front, body) = (&front, body.clone());
                    async move {
                        let headers = [
                            ("mcp-session-id", id.as_str()),
                            ("content-type", "application/json"),
                            ("accept", "application/json, text/event-stream"),
                        ];
                        Got::read(front.send(method, "/mcp", &headers, body).await).await
                    }
                };
                let (got, expect) = (ask(id.clone()).await, ask(unknown.to_owned()).await);
                let names = |got: &Got| got.headers.keys().map(ToString::to_string).collect::<Vec<_>>();
                assert_eq!((got.status.as_u16(), &got.text), (404, &expect.text), "{method} {id}");
                assert_eq!(names(&got), names(&expect));
            }
        }
        assert_eq!(status(&front, &good).await, 200);
        let got = front.post("/b/mcp", &[("mcp-session-id", &of_b)], &tool(1, "echo")).await;
        assert_eq!(got.status, 200, "where it belongs it is not harmed");
    }
}

#[tokio::test]
async fn a_deleted_session_stays_deleted_held_or_not_in_every_life() {
    let lives = Lives::new();
    let front = lives.begin().await;
    let (held, unheld, kept) =
        (front.session("/mcp").await, front.session("/mcp").await, front.session("/mcp").await);
    let delete = async |front: &Running, id: &str| {
        front.send("DELETE", "/mcp", &[("mcp-session-id", id)], "").await.status().as_u16()
    };
    assert_eq!((delete(&front, &held).await, delete(&front, &held).await), (200, 404));
    let front = lives.again(front).await;
    assert_eq!(status(&front, &held).await, 404);
    // One that nobody has asked for in this life.
    assert_eq!((delete(&front, &unheld).await, delete(&front, &unheld).await), (200, 404));
    assert_eq!(status(&front, &unheld).await, 404);
    let front = lives.again(front).await;
    assert_eq!([status(&front, &held).await, status(&front, &unheld).await], [404, 404]);
    assert_eq!(status(&front, &kept).await, 200);
    assert_eq!(front.script.saw("Deleted"), 2);
}

#[tokio::test]
async fn a_session_deleted_while_it_comes_back_does_not() {
    let lives = Lives::new();
    let front = lives.begin().await;
    let session = front.session("/mcp").await;
    let front = lives.again(front).await;
    let gate = Arc::new(Semaphore::new(0));
    *front.script.open_gate.lock().unwrap() = Some(Arc::clone(&gate));
    let message = tool(1, "echo");
    let delete = async {
        until("a link is opened", || front.script.opened.load(Ordering::SeqCst) == 1).await;
        let headers = [("mcp-session-id", session.as_str())];
        assert_eq!(front.send("DELETE", "/mcp", &headers, "").await.status(), 200);
        gate.add_permits(100);
    };
    let (got, ()) = tokio::join!(front.call(&session, &message), delete);
    assert_eq!(got.status, 404);
    assert_eq!(status(&front, &session).await, 404);
    assert_eq!(front.gauges.http_agents.load(Ordering::SeqCst), 0);
    until("the link is dropped", || front.script.links.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_clock_set_by_a_day_ends_nothing_and_an_old_id_is_worth_nothing() {
    let mut lives = Lives::new();
    lives.times.session_lifetime = Duration::from_secs(60);
    let front = lives.begin().await;
    let sessions = [front.session("/mcp").await, front.session("/mcp").await, front.session("/mcp").await];
    let held = front.session("/mcp").await;
    for (off, session) in [(DAY, &sessions[0]), (-DAY, &sessions[1])] {
        lives.off.store(off, Ordering::SeqCst);
        // Held in this life, whatever the clock says, and restored in the next.
        assert_eq!(status(&front, &held).await, 200);
        let next = lives.begin_beside().await;
        assert_eq!(status(&next, session).await, 200, "{off}");
    }
    for off in [DAY + 120, -DAY - 120] {
        lives.off.store(off, Ordering::SeqCst);
        assert_eq!(status(&front, &held).await, 200, "a session that is held has no age");
        let next = lives.begin_beside().await;
        assert_eq!(status(&next, &sessions[2]).await, 404, "{off}");
        assert_eq!(next.script.saw("Expired"), 1);
    }
}

#[tokio::test]
async fn a_backend_that_is_not_there_fails_the_call_not_the_session() {
    let lives = Lives::new();
    let front = lives.begin().await;
    let session = front.session("/mcp").await;
    let front = lives.again(front).await;
    *front.script.open_error.lock().unwrap() =
        Some(CallError::not_sent(ErrorKind::Unavailable, "backend is down"));
    let got = front.call(&session, &tool(5, "echo")).await;
    assert_eq!((got.status.as_u16(), got.code(), got.json()["id"].clone()), (200, -31901, json!(5)));
    assert_eq!(got.json()["error"]["data"]["executed"], "no");
    assert_eq!(front.script.saw("call tools/call a rejected executed=no"), 1);
    let listen = front.try_listen(&session, None).await;
    assert_eq!((listen.status().as_u16(), listen.headers()["retry-after"].as_bytes()), (503, &b"2"[..]));
    let note = json!({"jsonrpc":"2.0","method":"notifications/initialized"});
    assert_eq!(front.call(&session, &note).await.status, 202);
    *front.script.open_error.lock().unwrap() = None;
    assert_eq!(status(&front, &session).await, 200);
    assert_eq!(front.script.saw("Failed"), 3);
}

#[tokio::test]
async fn those_who_come_back_count_against_the_limit() {
    let mut lives = Lives::new();
    let front = lives.begin().await;
    let sessions = [front.session("/mcp").await, front.session("/mcp").await];
    lives.limits.agent_sessions = 1;
    let front = lives.again(front).await;
    assert_eq!(status(&front, &sessions[0]).await, 200);
    // Who is idle gives way to who comes back; who listens does not.
    assert_eq!(status(&front, &sessions[1]).await, 200);
    assert_eq!((front.script.saw("closed evicted"), front.script.saw("Full")), (1, 0));
    let stream = front.try_listen(&sessions[1], None).await;
    assert_eq!(stream.status(), 200);
    let got = front.call(&sessions[0], &tool(1, "echo")).await;
    assert_eq!((got.status.as_u16(), got.code()), (503, -31903));
    assert_eq!(front.script.saw("Full"), 1);
}

#[tokio::test]
async fn an_sse_agent_that_comes_back_to_its_stream_keeps_its_session() {
    let lives = Lives::new();
    let front = lives.begin().await;
    let mut stream = front.sse("/sse", &[]).await;
    front.say(&stream.session, &initialize(0)).await;
    stream.json().await;
    let session = stream.session.clone();
    let front = lives.again(front).await;
    // What is posted before the stream is there has nobody to answer to.
    assert_eq!(front.say(&session, &tool(1, "echo")).await.status, 404);
    let elsewhere = front.sse("/b/sse", &[("last-event-id", &session)]).await;
    assert_ne!(elsewhere.session, session);
    drop(elsewhere);
    let mut stream = front.sse("/sse", &[("last-event-id", &session)]).await;
    assert_eq!(stream.session, session);
    front.say(&session, &tool(2, "echo")).await;
    assert_eq!(stream.json().await["id"], 2);
    assert_eq!((front.script.opened.load(Ordering::SeqCst), front.script.saw("Restored")), (1, 1));
}

#[tokio::test]
async fn ten_minutes_of_sleep_end_nobody() {
    let lives = Lives::new();
    let front = lives.begin().await;
    let mut sessions = Vec::new();
    for _ in 0..50 {
        sessions.push(front.session("/mcp").await);
    }
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(front.sse("/sse", &[]).await);
    }
    // As a machine that was suspended sees it: every timer is ten minutes later at once, and so is the wall clock.
    lives.off.store(600, Ordering::SeqCst);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(600)).await;
    tokio::time::resume();
    for session in &sessions {
        assert_eq!(status(&front, session).await, 200);
    }
    for stream in &mut streams {
        assert_eq!(front.say(&stream.session, &tool("s", "echo")).await.status, 202);
        assert_eq!(stream.json().await["id"], "s");
    }
    assert_eq!(front.script.saw("closed"), 0);
    assert_eq!(front.script.saw("Restore"), 0, "nobody had to be restored");
    assert_eq!(front.gauges.sse_agents.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn what_a_replica_gives_out_says_which_one_it_is() {
    let slot = mcpool_wire::Slot::new(0x5a).unwrap();
    let sessions = mcpool_front::SessionsConfig { slot, ..Default::default() };
    let front = crate::client::start_with(mcpool_front::FrontConfig { sessions, ..Default::default() }).await;
    let session = front.session("/mcp").await;
    assert_eq!(mcpool_front::AgentSessionId::parse(&session).unwrap().owner(), slot);
    assert_eq!(front.call(&session, &tool(1, "echo")).await.status, 200);
    let failed = front.call(&session, &tool(2, "fail")).await.json();
    let request_id = failed["error"]["data"]["request_id"].as_str().unwrap();
    assert!(request_id.starts_with("05a"), "{request_id}");
}
