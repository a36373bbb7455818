//! The layer under tokio's paused time: it admits or rejects, nothing else.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tower::{ServiceExt, service_fn};

use super::*;
use crate::{circuit::Opening, policy::Settings};

#[derive(Debug, PartialEq)]
enum Failure {
    Refused(Rejected),
    Backend(&'static str),
}

impl From<Rejected> for Failure {
    fn from(rejected: Rejected) -> Self {
        Self::Refused(rejected)
    }
}

fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn exact() -> Settings {
    Settings { early_probe: false, hold: Duration::ZERO, ..Settings::default() }
}

fn trip(breaker: &Breaker) {
    (1..=5).for_each(|epoch| breaker.incident(epoch, "broken", clock()));
}

/// A service behind the layer that fails on request and counts its calls.
fn guarded(
    breaker: &Breaker,
) -> (impl Service<bool, Response = &'static str, Error = Failure, Future: Send> + Clone, Arc<AtomicUsize>) {
    let reached = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&reached);
    let inner = service_fn(move |works: bool| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move { if works { Ok("answer") } else { Err(Failure::Backend("no")) } }
    });
    (BreakerLayer::new(breaker.clone(), clock).layer(inner), reached)
}

#[tokio::test(start_paused = true)]
async fn it_lets_calls_through_while_closed() {
    let breaker = Breaker::new(&exact(), clock());
    let (service, reached) = guarded(&breaker);
    assert_eq!(service.clone().oneshot(true).await, Ok("answer"));
    assert_eq!(service.oneshot(false).await, Err(Failure::Backend("no")));
    assert_eq!(reached.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn it_judges_no_answer() {
    let breaker = Breaker::new(&exact(), clock());
    let (service, _) = guarded(&breaker);
    for _ in 0..100 {
        assert_eq!(service.clone().oneshot(false).await, Err(Failure::Backend("no")));
    }
    assert_eq!(breaker.admit(clock()), Ok(()));
    assert_eq!(breaker.snapshot(clock()).incidents, []);
}

#[tokio::test(start_paused = true)]
async fn it_refuses_without_reaching_the_service_until_a_probe_succeeds() {
    let breaker = Breaker::new(&exact(), clock());
    let (service, reached) = guarded(&breaker);
    trip(&breaker);
    let trip_time = clock();
    let refused = |seconds, probing| {
        let retry_after = Duration::from_secs(seconds);
        Err(Failure::Refused(Rejected { retry_after, probing, hold_until: trip_time }))
    };
    assert_eq!(service.clone().oneshot(true).await, refused(60, None));
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(service.clone().oneshot(true).await, refused(1, None));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(service.clone().oneshot(true).await, refused(0, None), "an agent's call is never the probe");
    assert_eq!(breaker.may_open(clock()), Opening::Probe);
    tokio::time::advance(Duration::from_secs(4)).await;
    assert_eq!(service.clone().oneshot(true).await, refused(6, Some(Duration::from_secs(4))));
    assert_eq!(reached.load(Ordering::Relaxed), 0);
    breaker.probe_succeeded(6, clock());
    assert_eq!(service.oneshot(true).await, Ok("answer"));
    assert_eq!(breaker.snapshot(clock()).rejected, 4);
}

#[tokio::test(start_paused = true)]
async fn it_asks_when_called_not_when_ready() {
    let breaker = Breaker::new(&exact(), clock());
    let (mut service, reached) = guarded(&breaker);
    let ready = service.ready().await.unwrap();
    trip(&breaker);
    assert!(matches!(ready.call(true).await, Err(Failure::Refused(_))));
    assert_eq!(reached.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn an_admitted_call_goes_on_when_the_circuit_opens() {
    let breaker = Breaker::new(&exact(), clock());
    let inner = service_fn(|()| async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok::<_, Failure>("late")
    });
    let mut service = BreakerLayer::new(breaker.clone(), clock).layer(inner);
    let call = service.call(());
    trip(&breaker);
    assert_eq!(call.await, Ok("late"));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_holds_back_the_layer() {
    let breaker = Breaker::new(&exact(), clock());
    trip(&breaker);
    let mut waiting = BreakerLayer::new(breaker, clock).layer(NeverReady);
    let ready = futures_poll(|cx| Service::<()>::poll_ready(&mut waiting, cx).is_ready()).await;
    assert!(!ready);
}

#[derive(Clone)]
struct NeverReady;

impl Service<()> for NeverReady {
    type Response = Infallible;
    type Error = Failure;
    type Future = std::future::Pending<Result<Infallible, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Pending
    }

    fn call(&mut self, (): ()) -> Self::Future {
        std::future::pending()
    }
}

/// The result of one poll.
async fn futures_poll(mut poll: impl FnMut(&mut Context<'_>) -> bool) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(poll(cx))).await
}
