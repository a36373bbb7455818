//! Agents that bring credentials of their own (`forward_headers`): nothing one of them is, is told or waits for reaches
//! another, and no message is sent with any but its own.

use std::{sync::Arc, time::Duration};

use mcpool_breaker::Settings;
use mcpool_testkit::agent::{Agent, AgentConfig, AgentError, Transport};
use mcpool_upstream::{Limits, ModeChoice, Sharing, Times, TransportChoice};
use serde_json::{Value, json};

use crate::{
    guarded::Guarded,
    rig::{Rig, Wanted},
};

fn wanted(server: &Guarded, mode: ModeChoice) -> Wanted {
    let sharing = Sharing { forward_headers: vec![http::header::AUTHORIZATION], ..Sharing::default() };
    Wanted { sharing, mode, transport: TransportChoice::Http, ..Wanted::shared(server.url()) }
}

fn with_token(rig: &Rig, front: Transport, token: &str) -> AgentConfig {
    let mut config = match front {
        Transport::Sse => AgentConfig::sse(rig.url_sse()),
        Transport::Http => AgentConfig::http(rig.url_http()),
    };
    config.headers.push(("authorization".to_owned(), token.to_owned()));
    config
}

async fn whoami(agent: &Agent) -> Result<String, AgentError> {
    let answer = agent.call_tool("whoami", json!({})).await?;
    Ok(answer["content"][0]["text"].as_str().unwrap_or_default().to_owned())
}

/// What the discovery endpoint and readiness say.
async fn pages(rig: &Rig, agent: &Agent) -> String {
    let mut all = String::new();
    for path in ["/api/mcp/servers", "/readyz"] {
        all += &String::from_utf8_lossy(&agent.get(path, &[]).await.expect("a page").body);
    }
    all + &format!("{:?}", rig.gateway.backends()[0].state())
}

fn code_of(error: &AgentError) -> Option<i64> {
    match error {
        AgentError::Rpc { code, .. } => Some(*code),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_tokens_that_keep_coming_keep_no_good_one_waiting_and_are_told_to_nobody_else() {
    let server = Guarded::start().await;
    let rig = Arc::new(Rig::start(wanted(&server, ModeChoice::Shared)).await);
    let bad: Vec<_> = (0..2)
        .map(|number| {
            let rig = rig.clone();
            tokio::spawn(async move {
                let mut told = Vec::new();
                loop {
                    let token = format!("bad-{number}");
                    let agent =
                        Agent::connect(with_token(&rig, Transport::Http, &token)).await.expect("a socket");
                    let why = agent.initialize().await.expect_err("refused");
                    told.push((code_of(&why), why.to_string()));
                    if told.len() == 12 {
                        return told;
                    }
                }
            })
        })
        .collect();
    let good = (0..15).map(|number| {
        let rig = &rig;
        async move {
            let token = format!("good-{number}");
            let front = if number % 2 == 0 { Transport::Http } else { Transport::Sse };
            let agent = Agent::ready(with_token(rig, front, &token)).await.expect("served");
            assert_eq!(whoami(&agent).await.expect("answered"), token);
            agent
        }
    });
    let good = tokio::time::timeout(Duration::from_secs(20), futures::future::join_all(good));
    let good = good.await.expect("all of them are in");
    let pages_while_bad = pages(&rig, &good[0]).await;
    for (number, bad) in bad.into_iter().enumerate() {
        for (code, told) in bad.await.expect("no panic") {
            assert_eq!(code, Some(-31910), "{told}");
            assert!(told.contains(&format!("bad-{number} has no licence")), "{told}");
        }
    }
    for page in [pages_while_bad, pages(&rig, &good[0]).await] {
        assert!(!page.contains("licence") && page.contains("sessions ready for 15 agents"), "{page}");
    }
    let status = rig.gateway.backends()[0].backend.status();
    assert_eq!(
        (status.trouble.map(|trouble| trouble.why), rig.seen.transitions.lock().unwrap().len()),
        (None, 0)
    );
    {
        let book = server.book();
        assert_eq!(book.greeted.get(&None), None, "the gateway has no credential of its own");
        assert!(book.greeted.len() == 17 && book.mixed.is_empty(), "{:?} {:?}", book.greeted, book.mixed);
    }
    drop(good);
    Arc::into_inner(rig).expect("ours").stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_credential_is_told_is_a_number_to_all_others() {
    let server = Guarded::start().await;
    // Long enough that who is refused is still remembered when the page is read.
    let rig = Rig::start(wanted(&server, ModeChoice::Shared)).await;
    let one = Agent::connect(with_token(&rig, Transport::Http, "bad-ada")).await.expect("a socket");
    one.initialize().await.expect_err("refused");
    let page = pages(&rig, &one).await;
    assert!(page.contains("1 of 1 credentials is refused") && !page.contains("licence"), "{page}");
    assert!(!page.contains("down"), "who refuses is there: {page}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_agent_is_served_by_a_session_of_its_own_key_whatever_it_can_do() {
    for (capabilities, mode) in
        [(json!({}), "shared"), (json!({ "sampling": {}, "elicitation": {} }), "pinned")]
    {
        let server = Guarded::start().await;
        let rig = Rig::start(wanted(&server, ModeChoice::Auto)).await;
        // Nothing is opened that no agent waits for.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(server.book().greeted.is_empty());
        let config = with_token(&rig, Transport::Http, "good-ada").with_capabilities(capabilities);
        let agent = Agent::connect(config).await.expect("a socket");
        let hello = agent.initialize().await.expect("served");
        assert_eq!(hello["instructions"], "for good-ada");
        assert_eq!(whoami(&agent).await.expect("answered"), "good-ada");
        let status = rig.gateway.backends()[0].backend.status();
        let modes: Vec<_> = status.sessions.iter().map(|session| session.mode.as_str()).collect();
        assert_eq!(modes, [mode], "one handshake, and it serves");
        assert_eq!(server.book().greeted.values().sum::<usize>(), 1);
        // The next one that can be asked things, of another credential.
        let config =
            with_token(&rig, Transport::Http, "bad-bob").with_capabilities(json!({ "sampling": {} }));
        let other = Agent::connect(config).await.expect("a socket");
        assert!(
            other.initialize().await.expect_err("refused").to_string().contains("bad-bob has no licence")
        );
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_hang_or_are_told_to_wait_keep_no_other_waiting() {
    let server = Guarded::start().await;
    let rig = Arc::new(Rig::start(wanted(&server, ModeChoice::Shared)).await);
    let slow: Vec<_> = ["hang-1", "hang-2", "busy-1", "busy-2"]
        .map(|token| {
            let config = with_token(&rig, Transport::Http, token);
            tokio::spawn(async move { Agent::connect(config).await.expect("a socket").initialize().await })
        })
        .into();
    let hang = async {
        while server.book().greeted.len() < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), hang).await.expect("they are dialled");
    let good = (0..6).map(|number| {
        let config = with_token(&rig, Transport::Http, &format!("good-{number}"));
        async move { Agent::ready(config).await.expect("served") }
    });
    // The handshakes that hang are given up after ten seconds.
    let good = tokio::time::timeout(Duration::from_secs(8), futures::future::join_all(good));
    let good = good.await.expect("all of them are in");
    assert_eq!(whoami(&good[0]).await.expect("answered"), "good-0");
    for slow in slow {
        let why = slow.await.expect("no panic").expect_err("not served").to_string();
        assert!(!why.contains("licence"), "{why}");
    }
    assert_eq!(rig.seen.transitions.lock().unwrap().len(), 0, "who hangs for one serves the others");
    assert_eq!(server.book().greeted[&Some("busy-1".to_owned())], 1, "it is left alone");
    drop(good);
    Arc::into_inner(rig).expect("ours").stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_credential_is_refused_meanwhile_is_told_at_once() {
    let server = Guarded::start().await;
    let rig = Rig::start(wanted(&server, ModeChoice::Shared)).await;
    let ada = Agent::ready(with_token(&rig, Transport::Http, "good-ada")).await.expect("served");
    let bob = Agent::ready(with_token(&rig, Transport::Http, "good-bob")).await.expect("served");
    server.book().revoked.insert("good-ada".to_owned());
    server.forget();
    let told =
        tokio::time::timeout(Duration::from_secs(10), whoami(&ada)).await.expect("it does not wait on");
    let told = told.expect_err("refused");
    assert_eq!(code_of(&told), Some(-31910), "{told}");
    assert_eq!(whoami(&bob).await.expect("answered"), "good-bob");
    rig.stop().await;
}

/// A call of the tool with this token, under the id of a session that was opened with another or none.
async fn post(agent: &Agent, id: String, token: &str) -> (u16, Value) {
    let call = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call",
                       "params": { "name": "whoami", "arguments": {} } });
    let answer = agent.post_bytes(call.to_string(), &[("authorization", token)]).await.expect("an answer");
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_sent_with_a_token_that_did_not_come_with_it() {
    let server = Guarded::start().await;
    let rig = Rig::start(wanted(&server, ModeChoice::Shared)).await;
    let http = Agent::ready(with_token(&rig, Transport::Http, "good-ada")).await.expect("served");
    let sse = Agent::ready(with_token(&rig, Transport::Sse, "good-ada")).await.expect("served");
    for turn in 0..200 {
        if turn == 100 {
            server.forget();
        }
        let token = ["good-bob", "good-ada", "good-refreshed"][turn % 3];
        let id = |of: &str| format!("{of}-{turn}");
        let both = futures::future::join(post(&http, id("one"), token), post(&http, id("two"), "good-ada"));
        for ((status, answer), token) in <[_; 2]>::from(both.await).into_iter().zip([token, "good-ada"]) {
            assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!(token)), "{answer}");
        }
        assert_eq!(post(&sse, id("one"), token).await.0, 202);
        let without = (post(&http, id("no"), "").await.0, post(&sse, id("no"), "").await.0);
        assert_eq!(without, (404, 404));
        assert_eq!(whoami(&sse).await.expect("answered"), "good-ada");
    }
    {
        let book = server.book();
        assert!(
            book.mixed.is_empty() && !book.greeted.contains_key(&None),
            "{:?} {:?}",
            book.mixed,
            book.greeted
        );
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circuit_is_probed_with_the_credential_of_agents_that_are_there() {
    let server = Guarded::start().await;
    let addr = server.addr();
    let breaker = Settings { hold: Duration::ZERO, ..Settings::default() };
    let rig = Rig::start(Wanted { breaker, ..wanted(&server, ModeChoice::Shared) }).await;
    let agent = Agent::ready(with_token(&rig, Transport::Http, "good-ada")).await.expect("served");
    let bad = Agent::connect(with_token(&rig, Transport::Http, "bad-bob")).await.expect("a socket");
    bad.initialize().await.expect_err("refused");
    server.stop().await;
    let is_open = || rig.seen.transitions.lock().unwrap().iter().any(|one| one.contains("Open"));
    while !is_open() {
        whoami(&agent).await.expect_err("nobody is there");
    }
    // Nobody calls: it is found by itself.
    let server = Guarded::start_at(addr).await;
    let served = async {
        while !rig.seen.transitions.lock().unwrap().iter().any(|one| one.contains("ProbeSucceeded")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), served).await.expect("it is found");
    assert_eq!(whoami(&agent).await.expect("answered"), "good-ada");
    assert_eq!(server.book().greeted.keys().cloned().collect::<Vec<_>>(), [Some("good-ada".to_owned())]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_credentials_than_places_take_turns_and_take_nothing_that_is_in_use() {
    let server = Guarded::start().await;
    let limits = Limits { max_sessions: 4, ..Limits::default() };
    let times = Times { first_open: Duration::from_secs(20), ..Times::default() };
    let rig = Rig::start(Wanted { limits, times, ..wanted(&server, ModeChoice::Shared) }).await;
    let agents = (0..8).map(|number| {
        let rig = &rig;
        async move {
            let token = format!("good-{number}");
            let agent = Agent::ready(with_token(rig, Transport::Http, &token)).await.expect("served");
            assert_eq!(whoami(&agent).await.expect("answered"), token);
        }
    });
    futures::future::join_all(agents).await;
    {
        let book = server.book();
        assert!(
            book.greeted.values().all(|times| *times == 1),
            "nobody's was taken before it was used: {:?}",
            book.greeted
        );
    }
    rig.stop().await;
}
