//! Callers that go away. A call is dropped after each of its polls in turn; whatever it held must come back, with the
//! answer of the backend or after the grace, and nobody else may notice.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use mcpool_upstream::{Cause, Limits, ModeChoice, Times};
use mcpool_wire::{Answer, CallError, Link as _};
use serde_json::json;

use crate::lab::{Agent, Held, Lab, Wish, broken, connect_refused, refused};

/// Runs a call for at most `polls` polls; `None` if it was dropped then.
async fn for_polls(
    polls: usize,
    call: impl Future<Output = Result<Answer, CallError>>,
) -> Option<Result<Answer, CallError>> {
    let mut call = pin!(call);
    let mut done = 0;
    poll_fn(move |cx| {
        if done == polls {
            return Poll::Ready(None);
        }
        done += 1;
        match call.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending if done == polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn wish() -> Wish {
    let limits = Limits { min_idle: 1, shared_sessions: 1, calls_per_session: 1, ..Limits::default() };
    Wish { limits, ..Wish::default() }
}

/// A call with everything on its way: it waits for the slot of another call, is refused once (and pauses), waits for a
/// slot again behind a third call, and is answered after a while.
async fn obstacle_course(lab: &Lab, agents: &[Agent; 3], polls: usize) -> Option<Result<Answer, CallError>> {
    let [one, other, third] = agents;
    let arguments = json!({"ms": 20});
    let first = one.run("echo", &arguments);
    let call = async {
        // The slot is taken when the call begins.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let call = other.link.call(other.tool("echo", &json!({"ms": 50})));
        let refuse = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            lab.memory.last().refuse(1, &refused(Cause::Pressure));
        };
        tokio::join!(for_polls(polls, call), refuse).0
    };
    let last = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        third.run("echo", &json!({"ms": 300})).await
    };
    let (first, outcome, last) = tokio::join!(first, call, last);
    first.expect("the first call is not concerned");
    last.expect("the last call is not concerned");
    outcome
}

async fn drop_everywhere(lab: Lab) -> usize {
    let agents = [lab.agent(1).await, lab.agent(2).await, lab.agent(3).await];
    lab.until("one session", |lab| lab.standings() == ["ready"]).await;
    let before = lab.held();
    assert_eq!((before.in_flight, before.pending, before.waiting, before.places), (0, 0, 0, 1));
    for polls in 0..100 {
        let outcome = obstacle_course(&lab, &agents, polls).await;
        let took = lab.until("everything is given back", |lab| lab.held() == before).await;
        assert!(
            took <= Duration::from_millis(400),
            "dropped after {polls} polls: took {took:?}, not the grace"
        );
        if let Some(outcome) = outcome {
            outcome.expect("an answer");
            return polls;
        }
        agents[0].run("echo", &json!({})).await.expect("the session works on");
    }
    panic!("it never ended");
}

/// Waiting for the slot, pausing after the refusal, waiting for the answer.
const SUSPENSIONS: usize = 3;

#[tokio::test(start_paused = true)]
async fn a_call_dropped_anywhere_gives_everything_back_when_answers_come_on_the_stream() {
    let polls = drop_everywhere(Lab::scripted(wish())).await;
    assert!(polls > SUSPENSIONS, "only {polls} polls: the path is not covered");
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_anywhere_gives_everything_back_when_answers_come_in_the_exchange() {
    let polls = drop_everywhere(Lab::scripted_in_exchange(wish())).await;
    assert!(polls > SUSPENSIONS, "only {polls} polls: the path is not covered");
}

async fn hang(lab: Lab) {
    let agent = lab.agent(1).await;
    lab.until("one session", |lab| lab.standings() == ["ready"]).await;
    let before = lab.held();
    assert!(for_polls(1, agent.link.call(agent.tool("hang", &json!({})))).await.is_none());
    assert_eq!((lab.held().in_flight, lab.held().pending), (1, 1), "the backend still works on it");
    let grace = Times::default().cancel_grace;
    let took = lab.until("the grace is over", |lab| lab.held() == before).await;
    assert!(took >= grace && took < grace + Duration::from_millis(100), "{took:?}");
    let cancelled = lab.memory.last().methods().iter().filter(|m| *m == "notifications/cancelled").count();
    assert_eq!(cancelled, 1, "the backend was told once");
    agent.run("echo", &json!({})).await.expect("the slot is free again");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_answered_holds_its_slot_for_the_grace_and_no_longer() {
    hang(Lab::scripted(wish())).await;
    hang(Lab::scripted_in_exchange(wish())).await;
}

/// The session breaks and the circuit opens; the call waits that out.
async fn outage(lab: &Lab, agent: &Agent, polls: usize) -> Option<Result<Answer, CallError>> {
    lab.memory.fail_connects(7, &connect_refused());
    lab.memory.last().fail(broken());
    lab.until("the session is over", |lab| lab.standings().is_empty()).await;
    for_polls(polls, agent.link.call(agent.tool("write", &json!({"ms": 10})))).await
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_anywhere_in_an_outage_gives_everything_back() {
    let lab = Lab::scripted(wish());
    let agent = lab.agent(1).await;
    lab.until("one session", |lab| lab.standings() == ["ready"]).await;
    let before = lab.held();
    for polls in 0..100 {
        let outcome = outage(&lab, &agent, polls).await;
        lab.until("the backend is back and everything is given back", |lab| {
            lab.standings() == ["ready"] && lab.held() == before
        })
        .await;
        if let Some(outcome) = outcome {
            outcome.expect("held until the backend is back");
            assert!(polls > 3, "only {polls} polls: trip, probe, recovery and answer each wake it");
            return;
        }
    }
    panic!("it never ended");
}

#[tokio::test(start_paused = true)]
async fn agents_that_leave_while_they_wait_for_their_own_session_leave_nothing_behind() {
    let limits = Limits { min_idle: 0, max_sessions: 1, ..Limits::default() };
    let lab = Lab::scripted(Wish { limits, mode: ModeChoice::Pinned, ..Wish::default() });
    lab.memory.delay_connects(Duration::from_millis(200));
    let interactive = json!({"sampling": {}});
    for millis in [0, 1, 100, 199, 200, 201, 202] {
        let opening = lab.try_agent(1, None, interactive.clone());
        drop(tokio::time::timeout(Duration::from_millis(millis), opening).await);
        let empty = |lab: &Lab| {
            let Held { in_flight, pending, waiting, places, .. } = lab.held();
            (in_flight, pending, waiting, places) == (0, 0, 0, 0)
        };
        lab.until("its session is closed", empty).await;
    }
    lab.try_agent(2, None, interactive).await.expect("the only place is free");
}

/// Prints the seed when the test fails, wherever that happens.
struct ToldOnFailure(u64);

impl Drop for ToldOnFailure {
    #[allow(clippy::print_stderr, reason = "a failed run must be repeatable")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

/// A small generator: the seed is all there is to know about a run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// One agent's day: calls, some of them dropped; a safe call that stays must be answered.
async fn a_day(lab: &Lab, agent: u64, seed: u64) -> usize {
    let mut dice = Dice(seed ^ agent.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let affinity = agent.is_multiple_of(5).then_some("together");
    let me = lab.try_agent(agent, affinity, json!({})).await.expect("a link");
    let mut answered = 0;
    for _ in 0..60 {
        let arguments = json!({"ms": dice.below(3)});
        let call = me.run("echo", &arguments);
        if dice.below(3) == 0 {
            drop(tokio::time::timeout(Duration::from_micros(dice.below(3_000)), call).await);
        } else {
            let outcome = tokio::time::timeout(Duration::from_secs(20), call).await;
            outcome.expect("no call is forgotten").expect("a safe call is answered");
            answered += 1;
        }
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_agents_on_many_threads_come_and_go_and_nothing_is_forgotten() {
    let seed = u64::from(std::process::id());
    let _told = ToldOnFailure(seed);
    for in_exchange in [false, true] {
        let limits = Limits {
            min_idle: 1,
            shared_sessions: 3,
            calls_per_session: 4,
            max_sessions: 4,
            ..Limits::default()
        };
        let times = Times { cancel_grace: Duration::from_millis(300), ..Times::default() };
        let wish = Wish { limits, times, ..Wish::default() };
        let lab = if in_exchange { Lab::scripted_in_exchange(wish) } else { Lab::scripted(wish) };
        let days = futures::future::join_all((0..40).map(|agent| a_day(&lab, agent, seed)));
        let trouble = async {
            for _ in 0..6 {
                tokio::time::sleep(Duration::from_millis(40)).await;
                lab.memory.last().fail(broken());
            }
        };
        let (answered, ()) = tokio::join!(days, trouble);
        assert!(answered.iter().all(|n| *n > 0), "seed {seed}");
        lab.until("everything is given back", |lab| {
            let held = lab.held();
            (held.in_flight, held.pending, held.waiting) == (0, 0, 0)
        })
        .await;
        assert!(lab.held().places <= 4);
        let left = lab.registered.backend.shutdown(Duration::from_secs(10)).await;
        assert!(left.is_empty(), "seed {seed}: {left:?}");
    }
}
