//! `retry_after_ms` while the circuit is open: the time until the next probe is over, and little more.

use mcpool_upstream::Times;

use super::*;

/// What it may be more than the time to the next probe: the longest time a probe is given, and the spread.
const BOUND: Duration = Duration::from_secs(5 + 1);

async fn told(agent: &Agent) -> Duration {
    let error = agent.run("write", &json!({})).await.expect_err("down");
    assert_eq!((error.kind, error.executed), (ErrorKind::CircuitOpen, Executed::No));
    error.retry_after.expect("when to come back")
}

/// A backend whose only handshake took so long; its circuit holds nobody.
async fn met(took: Duration, recovery: Duration) -> (Lab, Agent) {
    let (hold, handshake) = (Duration::ZERO, Duration::from_secs(30));
    let defaults = Settings { probe_deadline: handshake, ..Settings::default() };
    let breaker = Settings { hold, recovery_timeout: recovery, ..defaults };
    let times = Times { handshake, first_open: handshake, ..Times::default() };
    let lab = Lab::scripted(Wish { breaker, times, limits: limits(|_| ()), ..Wish::default() });
    lab.memory.delay_connects(took);
    let agent = lab.agent(1).await;
    lab.memory.delay_connects(Duration::ZERO);
    (lab, agent)
}

#[tokio::test(start_paused = true)]
async fn a_retry_when_it_was_told_is_served_by_a_backend_that_is_back() {
    for (took, recovery, down) in [
        (Duration::from_millis(5), 60, 1),
        (Duration::from_millis(5), 60, 45),
        (Duration::from_secs(25), 60, 1),
        (Duration::from_secs(25), 60, 45),
        (Duration::from_secs(25), 240, 400),
    ] {
        let (lab, agent) = met(took, Duration::from_secs(recovery)).await;
        goes_down(&lab);
        lab.until("the trip", |lab| state(lab) == "open").await;
        tokio::time::sleep(Duration::from_secs(down)).await;
        lab.until("a pause", |lab| state(lab) == "open").await;
        let pause = lab.registered.breaker.snapshot(now()).next_probe.expect("a probe") - now();
        let after = told(&agent).await;
        assert!(after >= pause && after <= pause + BOUND, "told {after:?}, the next probe is in {pause:?}");
        lab.memory.is_back();
        tokio::time::sleep(after).await;
        agent.run("write", &json!({})).await.expect("it is back, and this is when to come");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_is_not_waited_for_until_its_timeout() {
    let (lab, agent) = met(Duration::from_millis(5), Duration::from_secs(60)).await;
    goes_down(&lab);
    lab.until("the trip", |lab| state(lab) == "open").await;
    lab.memory.delay_connects(Duration::from_secs(29));
    lab.until("a probe", |lab| state(lab) == "half_open").await;
    let begun = now();
    lab.memory.is_back();
    let mut asked = 0;
    // An agent that waits `retry_after_ms` each time comes back in time, and asks seldom.
    while now() - begun < Duration::from_secs(28) {
        let after = told(&agent).await;
        assert!(after <= BOUND, "told {after:?}, {:?} after the probe began", now() - begun);
        tokio::time::sleep(after).await;
        asked += 1;
    }
    assert!(asked <= 16, "asked {asked} times");
    tokio::time::timeout(BOUND, insists(&agent)).await.expect("served soon after the probe");
    assert!(now() - begun < Duration::from_secs(29) + BOUND);
}
