//! Servers that answer `initialize` and lack something of what a gateway would like to have: a stream of their own, a
//! ping, a list, a proper acknowledgement. Each is ready as soon as for a client of its own, and stays.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use mcpool_testkit::agent::Transport;
use mcpool_upstream::{
    Cause, Limits, ModeChoice, Refusal, SendError, Times, TransportChoice,
    transport::memory::{Memory, Turn},
};
use mcpool_wire::Method;
use serde_json::{Value, json};

use crate::{
    lab::{Lab, Wish, now},
    raw::{Reply, Server},
    rig::{Rig, Wanted},
    wires::{agent, said},
};

/// Longest time until the first call of an agent is answered by a server that answers at once.
const SOON: Duration = Duration::from_secs(1);

/// What a server does with a request, where it is not the ordinary thing.
#[derive(Clone, Debug)]
enum Odd {
    Silent,
    /// Says this, or nothing, and is done.
    Says(Option<Value>),
}

/// An ordinary backend with this capability, but for one method.
fn odd(capabilities: &Value, method: &'static str, odd: Odd) -> Memory {
    let capabilities = Arc::new(capabilities.clone());
    Memory::new(move |turn: Turn| {
        let (odd, capabilities) = (odd.clone(), capabilities.clone());
        async move {
            let asked = turn.method();
            if asked == Some(Method::Initialize) {
                let mut answer: Value =
                    serde_json::from_slice(&turn.reply().expect("an answer")).expect("JSON");
                answer["result"]["capabilities"] = (*capabilities).clone();
                return vec![answer.to_string().into()];
            }
            if asked.is_none_or(|asked| asked.as_str() != method) {
                return turn.reply().into_iter().collect();
            }
            match odd {
                Odd::Silent => std::future::pending().await,
                Odd::Says(what) => what.map(|what| what.to_string().into()).into_iter().collect(),
            }
        }
    })
}

/// Nobody calls for long; the session ends by its probes or not at all.
fn patient() -> Wish {
    let mut wish = Wish { mode: ModeChoice::Shared, ..Wish::default() };
    (wish.times.idle, wish.times.max_age) = (Duration::from_secs(7_200), Duration::from_secs(7_200));
    wish
}

/// The backend serves an agent soon, and minutes without a call cost it no session.
async fn serves_soon_and_stays(memory: Memory, what: &str) -> Lab {
    let lab = Lab::start(memory, patient());
    let started = tokio::time::Instant::now();
    let agent = lab.agent(1).await;
    agent.run("echo", &json!({})).await.expect(what);
    assert!(started.elapsed() < SOON, "{what}: {:?}", started.elapsed());
    tokio::time::sleep(Duration::from_secs(300)).await;
    agent.run("echo", &json!({})).await.expect(what);
    assert_eq!(lab.memory.sessions().len(), 1, "{what}: {:?}", lab.seen.lines());
    assert_eq!((lab.seen.count("closed_by_incident"), lab.seen.count("transition")), (0, 0), "{what}");
    lab
}

#[tokio::test(start_paused = true)]
async fn a_server_without_ping_is_ready_at_once_and_stays() {
    let answers = [
        Odd::Silent,
        Odd::Says(None),
        Odd::Says(Some(json!({}))),
        Odd::Says(Some(
            json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32601, "message": "no" } }),
        )),
        Odd::Says(Some(json!({ "jsonrpc": "2.0", "id": 4_000_000_000_u64, "result": {} }))),
    ];
    let capabilities = [json!({ "tools": {} }), json!({ "prompts": {} }), json!({})];
    for answer in answers {
        for capabilities in &capabilities {
            let what = format!("{answer:?} {capabilities}");
            let memory = odd(capabilities, "ping", answer.clone());
            serves_soon_and_stays(memory, &what).await;
            let memory = odd(capabilities, "ping", answer.clone()).answering_in_exchange();
            serves_soon_and_stays(memory, &format!("{what}, in the exchange")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_that_is_slower_than_a_list_is_a_ping() {
    let memory = Memory::new(|turn: Turn| async move {
        if turn.method() == Some(Method::Ping) {
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        turn.reply().into_iter().collect()
    });
    let lab = serves_soon_and_stays(memory, "slow").await;
    let asked = |method: &str| lab.memory.last().methods().iter().filter(|asked| *asked == method).count();
    assert!(asked("ping") > 2 && asked("tools/list") == 1, "{:?}", lab.memory.last().methods());
}

#[tokio::test(start_paused = true)]
async fn sessions_that_are_lost_before_they_are_ready_are_opened_with_growing_pauses() {
    let lab = Lab::start(Memory::echo(), warm());
    lab.agent(1).await.run("echo", &json!({})).await.expect("served");
    lab.memory.goes_down(&refused(404, SendError::refused, Cause::SessionLost));
    lab.memory.last().fail(SendError::maybe_sent(Cause::Broken("gone".to_owned())));
    tokio::time::sleep(Duration::from_secs(300)).await;
    let times = lab.seen.count("open_failed");
    assert!((20..=120).contains(&times), "{times} in five minutes");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_list_its_tools_is_ready_at_once_and_stays() {
    for answer in [Odd::Silent, Odd::Says(None), Odd::Says(Some(json!({})))] {
        let what = format!("{answer:?}");
        let memory = odd(&json!({ "tools": {} }), "tools/list", answer.clone()).answering_in_exchange();
        serves_soon_and_stays(memory, &what).await;
    }
    serves_soon_and_stays(odd(&json!({ "tools": {} }), "tools/list", Odd::Silent), "silent").await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_headers_are_late_delays_nothing() {
    let memory = Memory::echo();
    memory.delay_listens(Duration::from_secs(14));
    serves_soon_and_stays(memory, "late").await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_silent_to_its_probes_is_still_found_dead() {
    let memory = odd(&json!({ "tools": {} }), "ping", Odd::Silent);
    let lab = Lab::start(memory, patient());
    lab.agent(1).await.run("echo", &json!({})).await.expect("served");
    let session = lab.memory.last();
    let asked = session.methods().iter().filter(|method| *method == "tools/list").count();
    tokio::time::sleep(Duration::from_secs(120)).await;
    let later = session.methods().iter().filter(|method| *method == "tools/list").count();
    assert!(later > asked, "it is asked for its tools: {:?}", session.methods());
}

#[tokio::test(start_paused = true)]
async fn pages_are_walked_once_whatever_their_cursors_say() {
    for cursor in [json!("again"), json!("")] {
        let page = move |turn: Turn| {
            let cursor = cursor.clone();
            async move {
                let Some(answer) = turn.reply() else { return Vec::new() };
                let mut answer: Value = serde_json::from_slice(&answer).expect("JSON");
                if turn.method() == Some(Method::ToolsList) {
                    answer["result"]["nextCursor"] = cursor;
                }
                vec![answer.to_string().into()]
            }
        };
        let lab = serves_soon_and_stays(Memory::new(page), "pages").await;
        let lists = lab.memory.last().methods().iter().filter(|method| *method == "tools/list").count();
        assert!(lists <= 2, "{lists}");
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_that_end_as_soon_as_they_are_ready_are_opened_with_growing_pauses() {
    let memory = Memory::new(|turn: Turn| async move {
        if turn.method() == Some(Method::ToolsList) {
            turn.session.end();
        }
        turn.reply().into_iter().collect()
    });
    let lab = Lab::start(memory, warm());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let opened = lab.memory.sessions().len();
    assert!((5..=40).contains(&opened), "{opened} in a minute");
}

/// Shared, with a session kept warm.
fn warm() -> Wish {
    let limits = Limits { min_idle: 1, ..Limits::default() };
    Wish { mode: ModeChoice::Shared, limits, ..Wish::default() }
}

fn refused(status: u16, phase: fn(Cause) -> SendError, cause: fn(Refusal) -> Cause) -> SendError {
    phase(cause(Refusal { status, message: "no".to_owned(), code: None, retry_after: None }))
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_every_handshake_opens_the_circuit() {
    let lab = Lab::start(Memory::echo(), warm());
    let agent = lab.agent(1).await;
    agent.run("echo", &json!({})).await.expect("served");
    lab.memory.goes_down(&refused(500, SendError::maybe_sent, Cause::Status));
    let lost = Refusal { status: 404, message: "gone".to_owned(), code: None, retry_after: None };
    lab.memory.last().fail(SendError::refused(Cause::SessionLost(lost)));
    lab.until("the circuit opens", |lab| lab.registered.breaker.would_admit(now()).is_err()).await;
    let started = tokio::time::Instant::now();
    agent.run("echo", &json!({})).await.expect_err("nobody serves");
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn refused_handshakes_are_repeated_with_growing_pauses_and_calls_do_not_wait_for_them_for_long() {
    for (status, cause) in
        [(404, Cause::WrongTransport as fn(Refusal) -> Cause), (401, Cause::Credential), (410, Cause::Status)]
    {
        let lab = Lab::start(Memory::echo(), warm());
        let agent = lab.agent(1).await;
        agent.run("echo", &json!({})).await.expect("served");
        lab.memory.goes_down(&refused(status, SendError::refused, cause));
        let lost = Refusal { status: 404, message: "gone".to_owned(), code: None, retry_after: None };
        lab.memory.last().fail(SendError::refused(Cause::SessionLost(lost)));
        let started = tokio::time::Instant::now();
        agent.run("echo", &json!({})).await.expect_err("nobody serves");
        assert!(started.elapsed() < Duration::from_secs(15), "{status}: {:?}", started.elapsed());
        let opened = |lab: &Lab| lab.seen.count("opening");
        let before = opened(&lab);
        for _ in 0..6 {
            let _ = agent.run("echo", &json!({})).await;
        }
        let (times, took) = (opened(&lab) - before, started.elapsed());
        assert!(times <= 15, "{status}: {times} handshakes in {took:?}");
        lab.memory.is_back();
        agent.run("echo", &json!({})).await.expect("it is back");
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_with_nothing_behind_it_does_not_close_the_circuit() {
    let lab = Lab::start(Memory::echo(), warm());
    let agent = lab.agent(1).await;
    agent.run("echo", &json!({})).await.expect("served");
    lab.memory.goes_down(&SendError::not_sent(Cause::Connect("refused".to_owned())));
    lab.memory.last().fail(SendError::not_sent(Cause::Connect("refused".to_owned())));
    lab.until("the circuit opens", |lab| lab.registered.breaker.would_admit(now()).is_err()).await;
    lab.memory.goes_down(&refused(404, SendError::refused, Cause::WrongTransport));
    let incidents = |lab: &Lab| lab.registered.breaker.snapshot(now()).incidents;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = incidents(&lab);
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(lab.registered.breaker.would_admit(now()).is_err(), "it stays open");
    }
    assert_eq!(incidents(&lab), before, "and nothing is counted");
    lab.memory.is_back();
    tokio::time::sleep(Duration::from_secs(70)).await;
    agent.run("echo", &json!({})).await.expect("it is back");
}

/// An agent is served by this server at once, over one session.
async fn is_served(what: String, odd: impl Fn(&str, &Value) -> Option<Reply> + Send + Sync + 'static) {
    let server = Server::start(odd).await;
    let wanted = Wanted {
        transport: TransportChoice::Http,
        times: Times { handshake: Duration::from_secs(20), ..Times::default() },
        ..Wanted::shared(server.url.clone())
    };
    let rig = Rig::start(wanted).await;
    let agent = agent(&rig, Transport::Http).await;
    assert_eq!(said(&agent, "echo", json!({ "n": 1 })).await, r#"{"n":1}"#, "{what}");
    assert_eq!(server.count("initialize"), 1, "{what}: {:?}", rig.seen.events.lock());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_or_silent_get_stream_delays_nothing() {
    let replies =
        [401, 403, 404, 405, 500, 502, 503, 504, 302].map(|status| Some(Reply::new(status, "", "no")));
    let cases = replies.into_iter().chain([None]).map(|reply| {
        let what = format!("{reply:?}");
        is_served(what, move |method, _| (method == "GET").then(|| reply.clone().unwrap_or(Reply::Never)))
    });
    join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_acknowledges_initialized_is_not_judged() {
    let replies = [
        Reply::new(200, "text/plain", "ok"),
        Reply::new(200, "text/html", "<html>"),
        Reply::new(200, "", "?"),
        Reply::new(200, "application/json", "{}"),
        Reply::Open,
        Reply::new(400, "text/plain", "no"),
        Reply::new(404, "text/plain", "no"),
        Reply::new(500, "text/plain", "no"),
    ];
    let cases = replies.into_iter().map(|reply| {
        let what = format!("{reply:?}");
        is_served(what, move |method, _| (method == "notifications/initialized").then(|| reply.clone()))
    });
    join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_answers_ping_or_the_list_is_not_judged() {
    let statuses = [202, 204, 400, 404, 405, 422, 500, 501].map(|status| Reply::new(status, "", ""));
    let replies = statuses.into_iter().chain([
        Reply::new(200, "application/json", ""),
        Reply::new(200, "application/json", "{}"),
        Reply::new(200, "text/html", "<html>"),
        Reply::Never,
    ]);
    let cases = replies.into_iter().map(|reply| {
        let what = format!("{reply:?}");
        is_served(what, move |method, _| (method == "ping").then(|| reply.clone()))
    });
    join_all(cases).await;
    is_served("both".to_owned(), |method, _| {
        matches!(method, "ping" | "tools/list").then(|| Reply::new(500, "text/plain", "no"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_or_silent_stream_of_news_delays_nothing() {
    let replies = [401, 403, 404, 429, 500, 503].map(|status| Reply::new(status, "", "no"));
    let cases = replies.into_iter().chain([Reply::Never, Reply::Open]).map(|news| async move {
        let what = format!("{news:?}");
        let server = Server::start(move |method, message| match method {
            "initialize" | "GET" => {
                let error = json!({ "code": -32022, "message": "only 2026-07-28 is spoken here" });
                let body = json!({ "jsonrpc": "2.0", "id": message["id"], "error": error });
                Some(Reply::new(400, "application/json", &body.to_string()))
            }
            "subscriptions/listen" => Some(news.clone()),
            _ => None,
        })
        .await;
        let rig = Rig::start(Wanted { mode: ModeChoice::Auto, ..Wanted::shared(server.url.clone()) }).await;
        let agent = agent(&rig, Transport::Http).await;
        assert_eq!(said(&agent, "echo", json!({ "n": 1 })).await, r#"{"n":1}"#, "{what}");
        // Once to open it, and perhaps to probe it.
        assert!(server.count("server/discover") <= 2, "{what}");
        assert_eq!(server.count("initialize"), 1, "{what}");
        rig.stop().await;
    });
    join_all(cases).await;
}
