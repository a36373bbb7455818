//! What a refused caller is told is true: who comes back then is served.

use std::time::Duration;

use mcpool_breaker::Settings;
use mcpool_wire::ErrorKind;
use serde_json::json;

use super::{agents, is_overload, one_session};
use crate::lab::{Lab, broken, connect_refused, now};

#[tokio::test(start_paused = true)]
async fn who_comes_back_to_a_full_room_when_told_to_finds_a_place() {
    let mut wish = one_session(10);
    wish.limits.queue = 50;
    let lab = Lab::scripted(wish);
    // As many as the backend and the room hold, each with a call always.
    let residents = agents(&lab, 1..61).await;
    let late = agents(&lab, 100..130).await;
    let until = now() + Duration::from_secs(5);
    let arguments = json!({"ms": 100});
    let crowd = futures::future::join_all(residents.iter().map(|agent| async {
        while now() < until {
            let outcome = agent.run("echo", &arguments).await;
            // Whoever is called up still counts for a moment.
            if is_overload(&outcome) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            } else {
                outcome.expect("an answer");
            }
        }
    }));
    let refused = async {
        tokio::time::sleep_until((until - Duration::from_millis(40)).into()).await;
        futures::future::join_all(late.iter().map(|agent| async {
            let first = agent.run("echo", &arguments).await;
            assert!(is_overload(&first), "{first:?}");
            let after = first.err().and_then(|error| error.retry_after).expect("when");
            tokio::time::sleep(after).await;
            (after, agent.run("echo", &arguments).await.is_ok())
        }))
        .await
    };
    let ((), told) = tokio::join!(async { drop(crowd.await) }, refused);
    assert_eq!(told.iter().filter(|(_, is_ok)| *is_ok).count(), told.len(), "{told:?}");
    // A hundred calls a second: the thirtieth place is free in 0.3 s. To wait ten times as long would be no art.
    let longest = told.iter().map(|(after, _)| *after).max().expect("some");
    assert!((0.2..0.6).contains(&longest.as_secs_f64()), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_after_an_open_circuit_when_told_to_is_served() {
    let mut wish = one_session(10);
    wish.breaker = Settings {
        failure_threshold: 3,
        recovery_timeout: Duration::from_secs(20),
        early_probe: false,
        hold: Duration::ZERO,
        ..Settings::default()
    };
    let lab = Lab::scripted(wish);
    lab.memory.delay_connects(Duration::from_millis(300));
    let agent = lab.agent(1).await;
    agent.run("echo", &json!({})).await.expect("it works");
    // The loss, and the two handshakes after it.
    lab.memory.fail_connects(2, &connect_refused());
    lab.memory.last().fail(broken());
    lab.until("the circuit opens", |lab| lab.seen.count("transition") == 1).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    let error = agent.run("echo", &json!({})).await.expect_err("open");
    let after = error.retry_after.expect("when");
    assert_eq!(error.kind, ErrorKind::CircuitOpen);
    // 13 s to the probe, and what it takes; spread by a tenth and half a second at most.
    assert!((13.0..16.0).contains(&after.as_secs_f64()), "{after:?}");
    tokio::time::sleep(after).await;
    agent.run("echo", &json!({})).await.expect("the probe is through");
}
