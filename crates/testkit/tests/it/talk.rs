//! What comes unasked: requests of the server, cancellations, notifications, pings.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde_json::json;

use super::*;
use mcpool_testkit::{AgentError, Answer, CancelAnswer, Lane, PingKiller};

async fn talkative(server: &Server, transport: Transport) -> Agent {
    let everything = json!({ "sampling": {}, "elicitation": {}, "roots": { "listChanged": true } });
    let config = config(server, transport).with_capabilities(everything).listening();
    let agent = Agent::ready(config).await.expect("a handshake");
    agent.on_request(|method, params| {
        Some(match method {
            "sampling/createMessage" => Ok(json!({ "said": params["messages"][0]["content"]["text"] })),
            "elicitation/create" => {
                Ok(json!({ "action": "accept", "content": { "answer": params["message"] } }))
            }
            "roots/list" => Ok(json!({ "roots": [] })),
            _ => Err((-32601, "what?".into())),
        })
    });
    agent
}

#[tokio::test]
async fn questions_reach_the_agent_and_answers_come_back() {
    for (transport, ask_on, answer) in [
        (Transport::Sse, Lane::Post, Answer::Auto),
        (Transport::Http, Lane::Post, Answer::Auto),
        (Transport::Http, Lane::Get, Answer::Auto),
        (Transport::Http, Lane::Post, Answer::Json),
    ] {
        let server = serve(Script { ask_on, answer, ..Script::default() }).await;
        let agent = talkative(&server, transport).await;
        for (kind, expected) in [
            ("sampling", r#"{"said":"hm?"}"#),
            ("elicitation", r#"{"action":"accept","content":{"answer":"hm?"}}"#),
            ("roots", r#"{"roots":[]}"#),
        ] {
            let result = agent.call_tool("ask", json!({ "kind": kind, "text": "hm?" })).await.unwrap();
            assert_eq!(text(&result), expected, "{kind} on {transport:?} by {ask_on:?}, {answer:?}");
        }
        assert_eq!((server.stats().asks, agent.foreign()), (3, 0));
    }
}

#[tokio::test]
async fn questions_in_parallel_get_their_own_answers() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let agent = talkative(&server, transport).await;
        let calls = (0..50).map(|n| {
            let agent = agent.clone();
            async move {
                let result =
                    agent.call_tool("ask", json!({ "kind": "sampling", "text": format!("q{n}") })).await;
                assert_eq!(text(&result.unwrap()), format!("{{\"said\":\"q{n}\"}}"));
            }
        });
        futures::future::join_all(calls).await;
    }
}

#[tokio::test]
async fn nobody_is_asked_what_it_did_not_declare() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let agent = ready(&server, transport).await;
        let result = agent.call_tool("ask", json!({ "kind": "sampling" })).await.unwrap();
        assert_eq!(result["isError"], true);
    }
    assert_eq!(server.stats().asks, 0);
}

#[tokio::test]
async fn a_silent_agent_and_an_error_are_told_apart() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let agent = talkative(&server, transport).await;
        agent.on_request(|_, _| None);
        let silent = agent.call_tool("ask", json!({ "kind": "roots", "timeout_ms": 20 })).await.unwrap();
        assert!(text(&silent).contains("in time"), "{silent}");
        agent.on_request(|_, _| Some(Err((-1, "never".into()))));
        let error = agent.call_tool("ask", json!({ "kind": "roots" })).await.unwrap();
        assert_eq!(text(&error), r#"{"code":-1,"message":"never"}"#);
    }
}

#[tokio::test]
async fn a_cancelled_call_ends_as_the_dialect_says() {
    for transport in BOTH {
        for cancel_answer in
            [CancelAnswer::Error, CancelAnswer::End, CancelAnswer::Silent, CancelAnswer::Ignore]
        {
            let server = serve(Script { cancel_answer, ..Script::default() }).await;
            let agent = ready(&server, transport).await;
            let ms = if cancel_answer == CancelAnswer::Ignore { 100 } else { 60_000 };
            let mut call = agent.start_tool("sleep", json!({ "ms": ms })).unwrap();
            until("the call is in flight", || server.stats().in_flight == 1).await;
            agent.cancel(call.id()).await.unwrap();
            match (cancel_answer, transport) {
                (CancelAnswer::Error, _) => {
                    let end = call.finish().await;
                    assert!(matches!(end, Err(AgentError::Rpc { code: -32800, .. })), "{end:?}");
                }
                (CancelAnswer::Ignore, _) => assert_eq!(text(&call.finish().await.unwrap()), "slept"),
                (CancelAnswer::End, Transport::Http) => {
                    let end = call.finish().await;
                    assert!(matches!(end, Err(AgentError::Closed(_))), "{end:?}");
                }
                (CancelAnswer::End, Transport::Sse) | (CancelAnswer::Silent, _) => {
                    let end = tokio::time::timeout(SILENCE, call.finish()).await;
                    assert!(end.is_err(), "an answer to a cancelled call");
                }
            }
            assert_eq!(server.stats().cancels, 1);
        }
    }
}

#[tokio::test]
async fn a_cancellation_of_nothing_is_only_counted() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let agent = ready(&server, transport).await;
        agent.cancel("12345").await.unwrap();
        agent.cancel("{}").await.unwrap();
        agent.call_tool("echo", json!({})).await.unwrap();
    }
    assert_eq!(server.stats().cancels, 4);
}

#[tokio::test]
async fn notifications_go_to_every_listener_and_updates_to_subscribers() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let (one, two) = (talkative(&server, transport).await, talkative(&server, transport).await);
        until("both listen", || server.notify("notifications/message", &json!({ "data": 1 })) == 2).await;
        for agent in [&one, &two] {
            let note = agent.next_notification("notifications/message", PATIENCE).await.unwrap();
            assert_eq!(note["data"], 1);
        }
        one.request("resources/subscribe", json!({ "uri": "demo://readme" })).await.unwrap();
        assert_eq!(server.resource_updated("demo://readme"), 1);
        let note = one.next_notification("notifications/resources/updated", PATIENCE).await.unwrap();
        assert_eq!(note["uri"], "demo://readme");
        one.request("resources/unsubscribe", json!({ "uri": "demo://readme" })).await.unwrap();
        assert_eq!(server.resource_updated("demo://readme"), 0);
        let session = text(&two.call_tool("session", json!({})).await.unwrap()).to_owned();
        assert!(server.notify_session(&session, "notifications/tools/list_changed", &json!({})));
        two.next_notification("notifications/tools/list_changed", PATIENCE).await.unwrap();
        assert!(one.notifications().iter().all(|(method, _)| method != "notifications/tools/list_changed"));
        one.close().await;
        two.close().await;
        until("both are gone", || server.stats().sessions_open == 0).await;
    }
}

#[tokio::test]
async fn the_ping_killer_spares_who_answers_and_closes_who_does_not() {
    let killer = PingKiller { every: Duration::from_millis(5), within: Duration::from_millis(400) };
    let server = serve(Script { ping_killer: Some(killer), ..Script::default() }).await;
    for transport in BOTH {
        let alive = Agent::ready(config(&server, transport).listening()).await.unwrap();
        let before = server.stats().requests_of("response");
        until("some pings were answered", || server.stats().requests_of("response") > before + 3).await;
        alive.call_tool("echo", json!({})).await.unwrap();
        let missed = server.stats().pings_missed;
        let mut config = config(&server, transport).listening();
        config.answers = false;
        let _dead = Agent::ready(config).await.unwrap();
        until("it is found out", || server.stats().pings_missed == missed + 1).await;
        alive.call_tool("echo", json!({})).await.unwrap();
        alive.close().await;
        until("both are gone", || server.stats().sessions_open == 0).await;
    }
}

#[tokio::test]
async fn an_unanswered_handler_is_asked_once_per_question() {
    let server = serve(Script::default()).await;
    let agent = talkative(&server, Transport::Sse).await;
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    agent.on_request(move |_, _| {
        count.fetch_add(1, Relaxed);
        Some(Ok(json!({})))
    });
    agent.call_tool("ask", json!({ "kind": "roots" })).await.unwrap();
    assert_eq!(asked.load(Relaxed), 1);
}
