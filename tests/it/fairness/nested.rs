//! Agents that call the backend from inside a call of it (F14): each level holds a slot while the next one needs one.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Either, select},
};
use mcpool_upstream::transport::memory::{Memory, Turn};
use mcpool_wire::{CallError, ErrorKind};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::one_session;
use crate::lab::{Lab, now};

const DEPTH: usize = 8;

/// A level of the nest: its call has begun, and may end.
#[derive(Default)]
struct Level {
    begun: Notify,
    may_end: Notify,
}

type Levels = Arc<[Level; DEPTH]>;

/// A backend whose tool `nest` runs until the level inside it is done; other tools take as long as they are told.
fn nesting(levels: &Levels) -> Memory {
    let levels = levels.clone();
    Memory::new(move |turn: Turn| {
        let levels = levels.clone();
        async move {
            let message: Value = serde_json::from_slice(&turn.message).unwrap_or_default();
            let arguments = &message["params"]["arguments"];
            if let Some(level) = arguments["level"].as_u64().and_then(|level| usize::try_from(level).ok()) {
                levels[level].begun.notify_one();
                levels[level].may_end.notified().await;
            }
            if let Some(ms) = arguments["ms"].as_u64() {
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
            turn.reply().into_iter().collect()
        }
    })
}

/// The call of an agent of its own at this level, and those inside it.
fn nested<'a>(lab: &'a Lab, levels: &'a Levels, level: usize) -> BoxFuture<'a, Result<(), CallError>> {
    async move {
        if level == DEPTH {
            return Ok(());
        }
        let agent = lab.agent(100 + level as u64).await;
        let arguments = json!({ "level": level });
        let outer = pin!(agent.run("nest", &arguments));
        let begun = pin!(levels[level].begun.notified());
        match select(outer, begun).await {
            Either::Left((refused, _)) => refused.map(drop),
            Either::Right(((), outer)) => {
                let inner = nested(lab, levels, level + 1).await;
                levels[level].may_end.notify_one();
                outer.await.expect("its level is done");
                inner
            }
        }
    }
    .boxed()
}

async fn run(slots: usize) -> (Result<(), CallError>, Duration) {
    let levels = Levels::default();
    let lab = Lab::start(nesting(&levels), one_session(slots));
    let start = now();
    let outcome = nested(&lab, &levels, 0).await;
    let took = now() - start;
    lab.until("rest", |lab| (lab.held().in_flight, lab.held().waiting) == (0, 0)).await;
    (outcome, took)
}

#[tokio::test(start_paused = true)]
async fn as_deep_as_there_are_slots_is_served() {
    let (outcome, took) = run(DEPTH).await;
    outcome.expect("a slot for each level, the last ones too");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn deeper_than_there_are_slots_ends_with_an_error_in_time() {
    for slots in [1, 2, DEPTH - 1] {
        let (outcome, took) = run(slots).await;
        let error = outcome.expect_err("no slot for the last level");
        assert_eq!(error.kind, ErrorKind::QueueTimeout, "{slots}: {error}");
        let after = error.retry_after.expect("when to come back");
        assert!((Duration::from_millis(50)..=Duration::from_secs(60)).contains(&after), "{after:?}");
        assert!(took < Duration::from_secs(31), "{slots}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn beside_an_agent_with_many_long_calls_the_kept_slots_serve_them() {
    let levels = Levels::default();
    // A tenth of the slots are kept: one for each level.
    let lab = Lab::start(nesting(&levels), one_session(10 * DEPTH));
    let busy = lab.agent(1).await;
    let arguments = json!({"ms": 10_000});
    let long = futures::future::join_all((0..200).map(|_| busy.run("long", &arguments)));
    let nest = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(lab.held().in_flight, 9 * DEPTH, "the last ones are not for who has some");
        let start = now();
        let outcome = nested(&lab, &levels, 0).await;
        (outcome, now() - start)
    };
    let (long, (nest, took)) = tokio::join!(long, nest);
    nest.expect("served by what is kept");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(long.iter().all(Result::is_ok));
}
