//! A backend that is paused or drained: who waits, who is refused, what is sent, and what counts.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use mcpool_breaker::{Settings, State};
use mcpool_router::verbs::Verb;
use mcpool_upstream::{Cause, Limits, ModeChoice, Refusal, SendError, SendPhase, TrafficState};
use mcpool_wire::{ErrorKind, Executed, Link as _};
use serde_json::json;

use super::{ready, wish};
use crate::lab::{Lab, Wish, broken, connect_refused, now};

const LONG: Duration = Duration::from_secs(600);

#[tokio::test(start_paused = true)]
async fn a_pause_longer_than_every_timeout_fails_nobody_and_sends_nothing() {
    let (lab, agents) = ready(wish(2, 4), 50).await;
    let lab = &lab;
    let start = now();
    let calls = join_all(agents.iter().enumerate().map(async |(n, agent)| {
        // The first ones run when the pause begins, the others come in it.
        tokio::time::sleep(Duration::from_millis(n as u64 * 50)).await;
        agent.run("write", &json!({"n": n, "ms": 200})).await.map(|_| now().saturating_duration_since(start))
    }));
    let operator = async {
        tokio::time::sleep(Duration::from_millis(330)).await;
        let paused = lab.perform(Verb::Pause).await;
        assert!(paused.is_done, "{}", paused.sentence);
        assert_eq!(lab.held().in_flight, 0, "an answer means that it is at rest");
        assert_eq!(lab.state(), "paused");
        let sent = lab.sent();
        tokio::time::sleep(LONG).await;
        assert_eq!(lab.sent(), sent, "nothing is sent to a backend that rests");
        assert!(lab.perform(Verb::Pause).await.is_done, "twice is once");
        let resumed = lab.perform(Verb::Resume).await;
        assert!(resumed.is_done, "{}", resumed.sentence);
        assert!(lab.perform(Verb::Resume).await.is_done, "twice is once");
    };
    let (times, ()) = futures::join!(calls, operator);
    let times: Vec<_> = times.into_iter().map(|took| took.expect("an answer")).collect();
    assert_eq!(times.iter().filter(|took| **took < Duration::from_secs(1)).count(), 7, "{times:?}");
    assert!(times.iter().all(|took| *took < LONG + Duration::from_secs(10)), "{times:?}");
    assert_eq!((lab.seen.count("transition"), lab.seen.count("closed")), (0, 0), "the session was kept");
    let pings = |method: &&String| method.as_str() == "ping";
    assert_eq!(
        lab.memory.sessions()[0].methods().iter().filter(pings).count(),
        2,
        "its own ladder, and one look"
    );
    assert_eq!(lab.state(), "ready");
}

#[tokio::test(start_paused = true)]
async fn who_waited_goes_on_in_order_few_at_first() {
    let (lab, agents) = ready(wish(1, 64), 64).await;
    lab.perform(Verb::Pause).await;
    let start = now();
    let calls = join_all(agents.iter().enumerate().map(async |(n, agent)| {
        tokio::time::sleep(Duration::from_millis(n as u64)).await;
        agent.run("echo", &json!({"n": n, "ms": 10_000})).await.expect("an answer");
        now().saturating_duration_since(start)
    }));
    let resume = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        lab.perform(Verb::Resume).await;
    };
    let (times, ()) = futures::join!(calls, resume);
    // Each call takes ten seconds: when it ended says when it began.
    let began: Vec<_> = times.iter().map(|took| *took - Duration::from_secs(10)).collect();
    assert!(began.is_sorted(), "{began:?}");
    // How many had begun at each moment at which some did.
    let moments: BTreeSet<_> = began.iter().collect();
    let by = |moment: &Duration| began.iter().filter(|at| *at <= moment).count();
    assert_eq!(moments.iter().map(|at| by(at)).collect::<Vec<_>>(), [4, 8, 16, 32, 64], "{began:?}");
    assert!(**moments.last().expect("some") < Duration::from_millis(1250), "{began:?}");
}

#[tokio::test(start_paused = true)]
async fn the_room_is_as_large_in_a_pause_and_a_calls_own_deadline_holds() {
    let limits = Limits { queue: 3, ..wish(1, 4).limits };
    let (lab, agents) = ready(Wish { limits, ..wish(1, 4) }, 4).await;
    lab.perform(Verb::Pause).await;
    let mut hurried = agents[0].tool("echo", &json!({}));
    hurried.hard_deadline = now() + Duration::from_secs(90);
    let start = now();
    let hurried = agents[0].link.call(hurried);
    let others = join_all(agents[1..3].iter().map(async |agent| agent.run("echo", &json!({})).await));
    let operator = async {
        lab.until("three wait", |lab| lab.held().waiting == 3).await;
        let error = agents[3].run("echo", &json!({})).await.expect_err("there is no place");
        assert_eq!((error.kind, error.executed), (ErrorKind::Overloaded, Executed::No));
        tokio::time::sleep(LONG).await;
        lab.perform(Verb::Resume).await;
    };
    let hurried = async {
        let error = hurried.await.expect_err("its time is up");
        (error.kind, now().saturating_duration_since(start).as_secs())
    };
    let (hurried, others, ()) = futures::join!(hurried, others, operator);
    assert_eq!(hurried, (ErrorKind::Deadline, 90));
    assert!(others.iter().all(Result::is_ok), "{others:?}");
}

#[tokio::test(start_paused = true)]
async fn waiting_is_bounded_again_after_the_pause() {
    let (lab, agents) = ready(wish(1, 1), 2).await;
    lab.perform(Verb::Pause).await;
    let start = now();
    let long = async { agents[0].run("echo", &json!({"ms": 50_000})).await };
    let second = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let error = agents[1].run("echo", &json!({})).await.expect_err("the only slot is taken");
        (error.kind, now().saturating_duration_since(start).as_secs())
    };
    let resume = async {
        tokio::time::sleep(LONG).await;
        lab.perform(Verb::Resume).await;
    };
    let (long, second, ()) = futures::join!(long, second, resume);
    long.expect("an answer");
    assert_eq!(second, (ErrorKind::QueueTimeout, LONG.as_secs() + 30));
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_dies_in_a_pause_is_no_incident_and_is_not_called() {
    for die in [broken(), connect_refused()] {
        let (lab, agents) = ready(wish(2, 4), 20).await;
        lab.perform(Verb::Pause).await;
        let calls = join_all(agents.iter().map(async |agent| agent.run("write", &json!({})).await));
        let operator = async {
            lab.until("all wait", |lab| lab.held().waiting == 20).await;
            lab.memory.last().fail(die.clone());
            lab.until("it is gone", |lab| lab.standings().is_empty()).await;
            tokio::time::sleep(LONG).await;
            assert_eq!(lab.memory.sessions().len(), 1, "no handshake in a pause");
            assert_eq!(lab.seen.count("closed_by_incident"), 0);
            lab.perform(Verb::Resume).await;
        };
        let (answers, ()) = futures::join!(calls, operator);
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert_eq!(lab.seen.count("transition"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_forgotten_or_does_not_answer_is_not_lent() {
    let refusal = Refusal { status: 404, message: "no".to_owned(), code: None, retry_after: None };
    let lost = SendError { phase: SendPhase::Refused, cause: Cause::SessionLost(refusal) };
    for error in [lost, broken(), connect_refused()] {
        let (lab, agents) = ready(wish(2, 4), 8).await;
        lab.perform(Verb::Pause).await;
        lab.memory.last().refuse(usize::from(u8::MAX), &error);
        let calls = join_all(agents.iter().map(async |agent| agent.run("write", &json!({})).await));
        let operator = async {
            lab.until("all wait", |lab| lab.held().waiting == 8).await;
            lab.perform(Verb::Resume).await;
        };
        let (answers, ()) = futures::join!(calls, operator);
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        let calls_on = |n: usize| {
            lab.memory.sessions()[n].methods().iter().filter(|method| *method == "tools/call").count()
        };
        assert_eq!(calls_on(0), 0, "{error}");
        assert_eq!(
            (lab.seen.count("closed_by_incident"), lab.seen.count("retried_refused")),
            (0, 0),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn resuming_closes_an_open_circuit_and_lets_those_through_who_waited_for_it() {
    let breaker = Settings { failure_threshold: 1, ..Settings::default() };
    let (lab, agents) = ready(Wish { breaker, ..wish(2, 4) }, 8).await;
    lab.memory.fail_connects(usize::from(u16::MAX), &connect_refused());
    lab.memory.last().fail(broken());
    lab.until("the circuit is open", |lab| lab.registered.breaker.snapshot(now()).state != State::Closed)
        .await;
    let calls = join_all(agents.iter().map(async |agent| agent.run("write", &json!({})).await));
    let operator = async {
        lab.until("all wait", |lab| lab.held().waiting == 8).await;
        lab.perform(Verb::Pause).await;
        let tried = lab.seen.count("opening");
        tokio::time::sleep(LONG).await;
        assert_eq!(lab.seen.count("opening"), tried, "nothing is probed");
        lab.memory.mend();
        lab.perform(Verb::Resume).await;
    };
    let (answers, ()) = futures::join!(calls, operator);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(lab.seen.lines().iter().any(|line| line.contains("Reset")), "{:?}", lab.seen.lines());
    assert_eq!(lab.registered.breaker.snapshot(now()).state, State::Closed);
}

#[tokio::test(start_paused = true)]
async fn new_agents_are_told_who_the_server_is_in_a_pause_or_wait_for_it() {
    let (lab, _agents) = ready(wish(1, 4), 1).await;
    lab.perform(Verb::Pause).await;
    let start = now();
    lab.agent(2).await;
    assert_eq!(now(), start, "what is known is told at once");

    let lab = Lab::scripted(Wish::default());
    lab.registered.backend.pause();
    let resume = async {
        tokio::time::sleep(LONG).await;
        assert_eq!(lab.memory.sessions().len(), 0);
        lab.perform(Verb::Resume).await;
    };
    futures::join!(lab.agent(1), resume);
    assert_eq!(lab.memory.sessions().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drained_backend_finishes_refuses_and_has_no_session_until_it_is_resumed() {
    let (lab, agents) = ready(wish(2, 1), 8).await;
    let lab = &lab;
    let calls = join_all(agents.iter().map(async |agent| agent.run("write", &json!({"ms": 500})).await));
    let operator = async {
        lab.until("two run, six wait", |lab| (lab.held().in_flight, lab.held().waiting) == (2, 6)).await;
        lab.perform(Verb::Drain).await
    };
    let (answers, drained) = futures::join!(calls, operator);
    assert!(drained.is_done, "{}", drained.sentence);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 2, "those that run finish");
    for error in answers.into_iter().filter_map(Result::err) {
        assert_eq!(
            (error.kind, error.executed, error.kind.code()),
            (ErrorKind::Draining, Executed::No, -31909)
        );
    }
    assert_eq!((lab.state(), lab.held().places), ("drained", 0));
    assert!(lab.memory.sessions().iter().all(mcpool_upstream::transport::memory::MemorySession::is_closed));
    let error = agents[0].run("write", &json!({})).await.expect_err("drained");
    assert_eq!(error.kind, ErrorKind::Draining);
    let error = lab.try_agent(99, None, json!({})).await.err().expect("drained");
    assert_eq!(error.kind, ErrorKind::Draining);
    tokio::time::sleep(LONG).await;
    assert_eq!(lab.memory.sessions().len(), 2, "none is kept warm");
    lab.perform(Verb::Resume).await;
    agents[0].run("write", &json!({})).await.expect("an answer");
    assert_eq!(lab.seen.count("closed_by_incident"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pause_keeps_the_sessions_of_agents_that_have_their_own() {
    let lab = Lab::scripted(Wish { mode: ModeChoice::Pinned, ..Wish::default() });
    let agent = lab.try_agent(1, None, json!({"roots": {}})).await.expect("a link");
    agent.run("write", &json!({})).await.expect("an answer");
    lab.perform(Verb::Pause).await;
    let call = async { agent.run("write", &json!({})).await };
    let operator = async {
        tokio::time::sleep(LONG).await;
        lab.perform(Verb::Resume).await;
    };
    let (answer, ()) = futures::join!(call, operator);
    answer.expect("an answer");
    assert_eq!(lab.memory.sessions().len(), 1);
    assert_eq!(lab.registered.backend.traffic(), TrafficState::Flowing);
}
