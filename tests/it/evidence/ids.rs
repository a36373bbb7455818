//! Ids: servers confuse them, agents choose them all alike (E1 to E7, E19).

use mcpool_testkit::{CancelAnswer, IdDialect, Script, agent::Ids};
use mcpool_upstream::ModeChoice;
use serde_json::{Value, json};

use crate::wires::{PAIRS, WIRES, agent, config, echoes, over, rig, serve, text_of, until};

fn sleeps(nonce: &str, ms: u64) -> Value {
    json!({ "name": "sleep", "arguments": { "ms": ms, "nonce": nonce } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_ids_of_two_agents_are_two_calls() {
    for ids in [IdDialect::Typed, IdDialect::Text] {
        let server = serve(Script { ids, ..Script::default() }).await;
        for (front, back) in PAIRS {
            let rig = rig(&server, back, ModeChoice::Shared).await;
            let (one, two) = (agent(&rig, front).await, agent(&rig, front).await);
            for id in ["7", "\"7\"", "\"\"", "0", "-1", "9223372036854775807"] {
                let calls = (
                    one.request_as(id, "tools/call", sleeps("one", 100)),
                    two.request_as(id, "tools/call", sleeps("two", 50)),
                );
                let (first, second) = tokio::join!(calls.0, calls.1);
                let what = format!("{id} with {ids:?} over {front:?} and {back:?}");
                assert_eq!(text_of(&first.expect(&what)), "one", "{what}");
                assert_eq!(text_of(&second.expect(&what)), "two", "{what}");
            }
            assert_eq!(one.foreign() + two.foreign(), 0);
            over(rig).await;
        }
        assert_eq!(server.stats().duplicate_ids, 0, "the ids upstream are the gateway's own");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_and_its_text_are_two_ids() {
    let server = serve(Script { ids: IdDialect::Text, ..Script::default() }).await;
    for (front, back) in PAIRS {
        let rig = rig(&server, back, ModeChoice::Shared).await;
        let agent = agent(&rig, front).await;
        let (number, text) = tokio::join!(
            agent.request_as("7", "tools/call", sleeps("number", 100)),
            agent.request_as("\"7\"", "tools/call", sleeps("text", 100)),
        );
        assert_eq!(text_of(&number.expect("answered")), "number", "{front:?} {back:?}");
        assert_eq!(text_of(&text.expect("answered")), "text", "{front:?} {back:?}");
        assert_eq!(agent.foreign(), 0);
        over(rig).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_id_of_the_get_stream_is_an_id_like_any_other() {
    let server = serve(Script { ids: IdDialect::Text, ..Script::default() }).await;
    for (front, back) in PAIRS {
        let rig = rig(&server, back, ModeChoice::Shared).await;
        let listening = config(&rig, front).listening();
        let agent = mcpool_testkit::Agent::ready(listening).await.expect("an agent");
        let params =
            json!({ "name": "progress", "arguments": { "steps": 2, "interval_ms": 1, "nonce": "mine" } });
        let mut call = agent.start_as("\"_GET_stream\"", "tools/call", params).expect("started");
        let progress = call.progress().await.expect("progress under its own token");
        assert_eq!(progress["progressToken"], "_GET_stream", "{front:?} {back:?}");
        assert_eq!(text_of(&call.finish().await.expect("answered")), "mine");
        assert_eq!(agent.foreign(), 0);
        over(rig).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_ids_are_refused_and_never_sent_on() {
    const ODD: [&str; 6] = ["null", "1.5", "true", "[1]", "{}", "1e3"];
    let server = serve(Script { ids: IdDialect::Text, ..Script::default() }).await;
    for front in WIRES {
        let rig = rig(&server, mcpool_testkit::Transport::Http, ModeChoice::Shared).await;
        let agent = agent(&rig, front).await;
        let before = server.stats().requests_of("tools/call");
        for id in ODD {
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"add","arguments":{{"nonce":"odd"}}}}}}"#
            );
            let answer = agent.post_bytes(body, &[]).await.expect("an answer");
            let text = String::from_utf8_lossy(&answer.body);
            match front {
                // Told where answers are told: on the stream.
                mcpool_testkit::Transport::Sse => assert_eq!(answer.status, 202, "{id}: {text}"),
                mcpool_testkit::Transport::Http => {
                    assert_eq!(answer.status, 400, "{id}: {text}");
                    assert!(text.contains("-32600") && text.contains("\"id\":null"), "{id}: {text}");
                }
            }
        }
        if front == mcpool_testkit::Transport::Sse {
            // An error without an id answers nothing the agent knows of.
            until("each is told", || agent.garbage() == ODD.len() as u64).await;
        }
        echoes(&agent, "and lives on").await;
        assert_eq!(server.stats().requests_of("tools/call"), before + 1);
        assert_eq!(server.executions("odd"), 0);
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_cancels_its_own_calls_only() {
    for cancel_answer in [CancelAnswer::Silent, CancelAnswer::Error] {
        let server = serve(Script { cancel_answer, ..Script::default() }).await;
        for (front, back) in PAIRS {
            let mut wanted = crate::wires::wanted(&server, back, ModeChoice::Shared);
            wanted.times.cancel_grace = std::time::Duration::from_millis(200);
            let rig = crate::rig::Rig::start(wanted).await;
            let (one, two) = (agent(&rig, front).await, agent(&rig, front).await);
            let told = server.stats().cancels;
            let mut mine = one.start_as("5", "tools/call", sleeps("one", 600)).expect("started");
            until("it runs", || server.stats().in_flight == 1).await;
            // Upstream ids are small numbers too: none of them is reached either.
            for id in ["5", "\"5\"", "0", "1", "2", "3", "4", "6", "7"] {
                two.cancel(id).await.expect("taken");
            }
            assert_eq!(text_of(&mine.finish().await.expect("answered")), "one", "{front:?} {back:?}");
            assert_eq!(server.stats().cancels, told, "nobody's call was cancelled");
            over(rig).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_initialize_is_answered_and_stays_here() {
    for refuse in [true, false] {
        let server = serve(Script { refuse_second_initialize: refuse, ..Script::default() }).await;
        for mode in [ModeChoice::Shared, ModeChoice::Pinned] {
            for (front, back) in PAIRS {
                let rig = rig(&server, back, mode).await;
                let agent = agent(&rig, front).await;
                echoes(&agent, "1").await;
                let before = server.stats().initializes;
                let again = agent.initialize_only().await.expect("answered again");
                assert_eq!(again["serverInfo"]["name"], "mcpool-testkit");
                echoes(&agent, "2").await;
                assert_eq!(server.stats().initializes, before, "{mode:?} {front:?} {back:?}");
                over(rig).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_agent_has_a_stream_and_the_backend_sees_one() {
    let server = serve(Script::default()).await;
    let rig = rig(&server, mcpool_testkit::Transport::Http, ModeChoice::Shared).await;
    let mut agents = Vec::new();
    for _ in 0..5 {
        let agent = agent(&rig, mcpool_testkit::Transport::Http).await;
        agent.set_ids(Ids::Number(0));
        agent.listen().await.expect("a stream");
        // The newest gets it; none is refused.
        agent.listen().await.expect("a second stream");
        echoes(&agent, "served").await;
        agents.push(agent);
    }
    until("one stream per session", || server.stats().streams_open == server.stats().sessions_open).await;
    assert_eq!(server.stats().refused.get(&409), None, "never a second stream upstream");
    server.notify("notifications/tools/list_changed", &json!({}));
    let patience = std::time::Duration::from_secs(10);
    for agent in &agents {
        agent.next_notification("notifications/tools/list_changed", patience).await.expect("told");
    }
    over(rig).await;
}
