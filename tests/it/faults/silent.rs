//! Backends that accept and never answer: at each step of a handshake, to a call, to a probe (F2).

use super::*;

use mcpool_testkit::{Fault, FaultKind, Script, Stage};
use mcpool_upstream::Limits;
use tokio_util::sync::CancellationToken;

use crate::wires::{WIRES, config, over, serve, until};

/// Steps a handshake can hang at, and how.
const STEPS: [(Stage, FaultKind); 5] = [
    (Stage::Connect, FaultKind::Hang),
    (Stage::Initialize, FaultKind::Silent),
    (Stage::Initialized, FaultKind::Hang),
    (Stage::Listen, FaultKind::Hang),
    (Stage::Ping, FaultKind::Silent),
];

/// A healthy backend beside the one under test, and an agent that never stops calling it.
async fn beside<T>(back: Transport, bad: Wanted, test: impl AsyncFnOnce(&Rig) -> T) -> T {
    let healthy = serve(Script::default()).await;
    let good = hasty(wanted(&healthy, back, ModeChoice::Shared));
    let rig = Rig::start_all(vec![("bad", bad), ("good", good)]).await;
    let other = agent_of(&rig, "good", Transport::Http).await;
    is_served(&other, "warm").await;
    let stop = CancellationToken::new();
    let run = async {
        let done = test(&rig).await;
        stop.cancel();
        done
    };
    let (done, (longest, calls)) = tokio::join!(run, keeps_calling(&other, &stop));
    assert!(calls > 5 && longest < UNHURT, "{calls} calls of another agent, the longest took {longest:?}");
    drop(other);
    over(rig).await;
    done
}

async fn silent_at(back: Transport, stage: Stage, kind: FaultKind) {
    let server = serve(Script { faults: vec![Fault::always(stage, kind)], ..Script::default() }).await;
    let what = format!("{stage:?} over {back:?}");
    let bad = hasty(wanted(&server, back, ModeChoice::Shared));
    beside(back, bad, async |rig| {
        let began = Instant::now();
        let url = rig.url_of("bad", "mcp");
        let refused = Agent::ready(AgentConfig::http(url)).await.expect_err("nobody answers");
        let took = began.elapsed();
        let AgentError::Rpc { code, data, .. } = refused else { panic!("{what}: {refused:?}") };
        assert_eq!(data["executed"], "no", "{what}: {code} {data}");
        // `first_open`, or the whole handshake if that is what it waited for.
        assert!(took > FIRST * 9 / 10 && took < HANDSHAKE + SLACK, "{what}: {took:?}");
        let failed = || {
            let events = rig.seen.events.lock().expect("not poisoned");
            events.iter().any(|event| event.starts_with("OpenFailed"))
        };
        until(&format!("{what}: the handshake is given up"), failed).await;
        let took = began.elapsed();
        assert!(took < HANDSHAKE * 2 + SLACK, "{what}: the handshake was given up after {took:?}");
        server.clear_faults();
        let patience = Instant::now();
        loop {
            match Agent::ready(AgentConfig::http(rig.url_of("bad", "mcp"))).await {
                Ok(agent) => break is_served(&agent, "recovered").await,
                Err(error) => assert!(patience.elapsed() < Duration::from_secs(20), "{what}: {error}"),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_hangs_ends_at_its_own_deadline_and_delays_nobody_else() {
    for back in WIRES {
        let all = STEPS.iter().map(|(stage, kind)| silent_at(back, *stage, kind.clone()));
        futures::future::join_all(all).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_never_answered_ends_at_its_own_deadline_and_delays_nobody_else() {
    for back in WIRES {
        for kind in [FaultKind::Silent, FaultKind::Hang] {
            let server = serve(Script { state_tools: true, ..Script::default() }).await;
            // The session is shared with the agent that is not concerned.
            let limits = Limits { shared_sessions: 1, ..Limits::default() };
            let rig = Rig::start(Wanted { limits, ..hasty(wanted(&server, back, ModeChoice::Shared)) }).await;
            let one = Agent::ready(config(&rig, Transport::Http)).await.expect("an agent");
            let other = Agent::ready(config(&rig, Transport::Http)).await.expect("an agent");
            is_served(&one, "warm").await;
            let what = format!("{kind:?} over {back:?}");
            server.set_fault(Fault::once(Stage::Call, kind));
            let stop = CancellationToken::new();
            let silent = async {
                let began = Instant::now();
                let outcome = one.call_tool("store", json!({ "value": "silent", "ms": 0 })).await;
                stop.cancel();
                (outcome, began.elapsed())
            };
            let calling = async {
                until("the fault has hit", || server.stats().faults > 0).await;
                keeps_calling(&other, &stop).await
            };
            let ((outcome, took), (longest, calls)) = tokio::join!(silent, calling);
            let (code, data) = refusal(outcome);
            assert_eq!((code, &data["executed"]), (-31906, &json!("maybe")), "{what}: {data}");
            assert!(took > CALL * 9 / 10 && took < CALL + SLACK, "{what}: {took:?}");
            assert!(calls > 5 && longest < UNHURT, "{what}: {calls} calls, the longest took {longest:?}");
            drop((one, other));
            over(rig).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_probes_are_never_answered_is_replaced_before_anybody_calls_it() {
    for back in WIRES {
        let server = serve(Script::default()).await;
        let rig = Rig::start(hasty(wanted(&server, back, ModeChoice::Shared))).await;
        let agent = Agent::ready(config(&rig, Transport::Http)).await.expect("an agent");
        is_served(&agent, "warm").await;
        let opened = server.stats().sessions_opened;
        // Two in a row: one is not enough to give a session up.
        let two = Fault { times: Some(2), ..Fault::always(Stage::Ping, FaultKind::Silent) };
        let began = Instant::now();
        server.set_fault(two);
        until("a new session", || server.stats().sessions_opened > opened).await;
        let took = began.elapsed();
        let least = rig.gateway.backends()[0].backend.spec().times.probe_timeout * 2;
        assert!(took > least && took < least * 4 + SLACK, "{back:?}: {took:?}");
        let began = Instant::now();
        is_served(&agent, "on the new one").await;
        assert!(began.elapsed() < UNHURT, "{back:?}: {:?}", began.elapsed());
        drop(agent);
        over(rig).await;
    }
}
