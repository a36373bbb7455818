//! Sessions that are not there yet, no longer, or not everywhere (E23, E25 to E27).

#![allow(clippy::print_stdout, reason = "the figures are for whoever reads the run")]

use std::time::{Duration, Instant};

use mcpool_testkit::{
    Lost, Script,
    agent::{Agent, AgentError, Transport},
};
use mcpool_upstream::ModeChoice;
use serde_json::json;

use crate::{
    rig::Rig,
    wires::{PAIRS, WIRES, agent, config, echoes, over, rig, serve, text_of, wanted},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_call_does_not_wait_for_a_stream() {
    let server = serve(Script::playwright()).await;
    for front in WIRES {
        let rig = rig(&server, Transport::Http, ModeChoice::Auto).await;
        let able = config(&rig, front).with_capabilities(json!({ "roots": {} }));
        let agent = Agent::ready(able).await.expect("an agent");
        let begun = Instant::now();
        echoes(&agent, "first").await;
        assert!(begun.elapsed() < server_wait() * 4 / 5, "{front:?}: {:?}", begun.elapsed());
        over(rig).await;
    }
}

fn server_wait() -> Duration {
    Script::playwright().roots_wait
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_the_backend_forgot_while_nobody_called_is_replaced() {
    for lost in [Lost::NotFound, Lost::BadRequest] {
        let idle_expiry = Some(Duration::from_millis(200));
        // With a stream open the session would count as in use.
        let server = serve(Script { idle_expiry, lost, get_stream: false, ..Script::default() }).await;
        for front in WIRES {
            let rig = rig(&server, Transport::Http, ModeChoice::Shared).await;
            let agent = agent(&rig, front).await;
            let opened = server.stats().sessions_opened;
            for n in 0..3 {
                echoes(&agent, &n.to_string()).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            echoes(&agent, "at last").await;
            assert!(server.stats().sessions_opened > opened, "nothing was forgotten");
            assert_eq!(agent.refused(), 0);
            over(rig).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_forgotten_with_a_call_in_flight_still_answers_it() {
    for (front, back) in PAIRS {
        let server = serve(Script::default()).await;
        let rig = rig(&server, back, ModeChoice::Shared).await;
        let agent = agent(&rig, front).await;
        let mut calling = agent.start_tool("sleep", json!({ "nonce": "kept", "ms": 700 })).expect("a call");
        let has_it = async {
            while server.stats().requests_of("tools/call") == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), has_it).await.expect("the backend has the call");
        server.forget_sessions(true);
        // Refused by the backend, and made again on a session of its own.
        echoes(&agent, "at once").await;
        let answer = calling.finish().await.expect("an answer over the stream that is still there");
        assert_eq!(text_of(&answer), "kept");
        // The one that was kept, and the one that was refused and made again.
        assert_eq!(
            server.stats().requests_of("tools/call"),
            2,
            "{front:?} {back:?}: made again although answered"
        );
        over(rig).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_a_stream_is_not_forgotten() {
    let server = serve(Script { idle_expiry: Some(Duration::from_millis(100)), ..Script::default() }).await;
    let rig = rig(&server, Transport::Http, ModeChoice::Shared).await;
    let agent = agent(&rig, Transport::Sse).await;
    let opened = server.stats().sessions_opened;
    for n in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        echoes(&agent, &n.to_string()).await;
    }
    assert_eq!(server.stats().sessions_opened, opened, "the gateway listens");
    over(rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_acknowledged_too_early_is_waited_for() {
    for (front, back) in PAIRS {
        // Long enough that a gateway on a busy machine is too early as well.
        let handover_delay = Duration::from_millis(600);
        let server = serve(Script { strict_init: true, handover_delay, ..Script::default() }).await;
        let rig = rig(&server, back, ModeChoice::Shared).await;
        let calls = (0..10).map(async |n: u32| {
            let agent = agent(&rig, front).await;
            echoes(&agent, &n.to_string()).await;
            agent.refused()
        });
        let refused = futures::future::join_all(calls).await;
        assert!(refused.iter().all(|n| *n == 0), "{front:?} {back:?}");
        assert!(rig.seen.failures().is_empty(), "{:?}", rig.seen.failures());
        // Over HTTP+SSE the gateway was too early, and nobody else noticed; calls never are.
        let early = server.stats().too_early;
        assert!((early > 0) == (back == Transport::Sse), "{early} too early over {back:?}");
        over(rig).await;
    }
}

/// What one agent's calls came to.
#[derive(Debug, Default)]
struct Came {
    answered: usize,
    told: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_balancer_without_affinity_agents_are_told_and_never_cut_off() {
    for lost in [Lost::NotFound, Lost::BadRequest] {
        let server = serve(Script { instances: 3, lost, ..Script::default() }).await;
        let rig = Rig::start(wanted(&server, Transport::Http, ModeChoice::Shared)).await;
        let calls = (0..4).map(async |who: u32| {
            let config = config(&rig, WIRES[who as usize % 2]);
            let agent = Agent::connect(config).await.expect("connected");
            let mut came = Came::default();
            match agent.initialize().await {
                Ok(_) => {}
                Err(AgentError::Rpc { code: -31901, .. }) => {
                    came.told += 1;
                    return came;
                }
                Err(error) => panic!("neither a session nor a reason: {error}"),
            }
            for n in 0..10 {
                match agent.call_tool("echo", json!({ "nonce": format!("{who}-{n}") })).await {
                    Ok(_) => came.answered += 1,
                    // Nothing ran: whoever is told may call again.
                    Err(AgentError::Rpc { code: -31905..=-31901, data, .. }) => {
                        assert_eq!(data["executed"], "no", "{data}");
                        came.told += 1;
                    }
                    Err(error) => panic!("neither an answer nor a reason: {error}"),
                }
            }
            assert_eq!(agent.refused(), 0);
            came
        });
        let came = futures::future::join_all(calls).await;
        println!("a balancer over 3 instances, lost sessions {lost:?}: {came:?}");
        // An agent is refused its handshake with a reason, or each of its calls ends one way or the other.
        assert!(came.iter().all(|came| came.answered + came.told == 10 || came.told == 1), "{came:?}");
        over(rig).await;
    }
}
