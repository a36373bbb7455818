//! Who gets through when, on a clock that stands still until somebody waits.

use super::*;

fn elapsed(since: Instant) -> Duration {
    clock::now().saturating_duration_since(since)
}

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn after_a_pause_twice_as_many_get_through_with_every_step() {
    let traffic = TrafficControl::default();
    assert!(matches!(traffic.admit(), Ok(None)), "while calls flow nobody is counted");
    assert!(
        traffic.set(TrafficState::Paused) && !traffic.set(TrafficState::Paused),
        "pausing twice is pausing once"
    );
    assert_eq!(traffic.admit().err(), Some(TrafficState::Paused));
    traffic.set(TrafficState::Resuming);
    assert_eq!(traffic.step(), (FIRST, false), "nobody came, so nothing was learnt");
    let enter_all =
        || std::iter::from_fn(|| traffic.admit().ok().flatten().map(ResumePermit::used)).collect::<Vec<_>>();
    let mut through = enter_all();
    assert_eq!(through.len(), FIRST);
    for steps in 1..8 {
        let (free, _) = traffic.step();
        assert_eq!(free, through.len(), "twice as many as there are");
        through.extend(enter_all());
        assert_eq!(through.len(), FIRST << steps);
    }
    drop(through.split_off(10));
    assert_eq!(traffic.step(), (MOST - 10, true), "nothing is held back any more");
    through.clear();
    assert_eq!(traffic.slow_start.out.load(Ordering::SeqCst), 0, "a call that passed returns its permit");
}

#[tokio::test(start_paused = true)]
async fn time_while_it_is_shut_does_not_count() {
    let traffic = TrafficControl::default();
    let start = clock::now();
    let never = std::future::pending::<()>;
    assert_eq!(traffic.wait(PATIENCE, None, never()).await, Err(Waited::TooLong));
    assert_eq!(elapsed(start), PATIENCE);

    let start = clock::now();
    let pause = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        traffic.set(TrafficState::Paused);
        tokio::time::sleep(Duration::from_secs(300)).await;
        traffic.set(TrafficState::Resuming);
        traffic.set(TrafficState::Flowing);
    };
    let (waited, ()) = futures::join!(traffic.wait(PATIENCE, None, never()), pause);
    assert_eq!((waited, elapsed(start)), (Err(Waited::TooLong), Duration::from_secs(350)));

    let start = clock::now();
    traffic.set(TrafficState::Paused);
    let end = start + Duration::from_secs(40);
    assert_eq!(traffic.wait(PATIENCE, Some(end), never()).await, Err(Waited::TooLong));
    assert_eq!(elapsed(start), Duration::from_secs(40), "a call's own deadline holds all the same");
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_at_once_that_it_is_drained() {
    let traffic = TrafficControl::default();
    traffic.set(TrafficState::Paused);
    let start = clock::now();
    let drain = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        traffic.set(TrafficState::Drained);
    };
    let (waited, ()) = futures::join!(traffic.wait(PATIENCE, None, std::future::pending::<()>()), drain);
    assert_eq!((waited, elapsed(start)), (Err(Waited::Drained), Duration::from_secs(5)));
    assert!(
        !traffic.set_if(TrafficState::Flowing, |now| now.state == TrafficState::Resuming),
        "only what resumes flows again"
    );
    assert_eq!(traffic.state(), TrafficState::Drained);
}
