//! A panic ends what it happened in and nothing else: the calls of its session are told whether they may have run, the
//! place in the budget is free again, and the others do not notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mcpool_upstream::{
    Backend, BackendSpec, Endpoint, Event, Gate, HttpEndpoint, Limits, ModeChoice, Observe, Opening, Origin,
    Sharing, Source, StaticHeaders, Times, TransportChoice,
    transport::memory::{Memory, Turn},
};
use mcpool_wire::{
    BackendId, ClientHello, ErrorKind, Executed, Hello, Identity, LinkEvent, Method, Outlet, OutletFull,
    Target,
};
use serde_json::json;

use crate::lab::{Lab, Wish};

/// Answers as an ordinary server; a call of `boom` panics in whoever reads the session, `never` is not answered.
async fn boom(turn: Turn) -> Vec<bytes::Bytes> {
    let message = String::from_utf8_lossy(&turn.message).into_owned();
    assert!(!message.contains("\"boom\""), "as the test wants it");
    if message.contains("\"never\"") {
        return std::future::pending().await;
    }
    turn.reply().into_iter().collect()
}

#[tokio::test(start_paused = true)]
async fn the_panic_of_a_session_ends_that_session_only() {
    let limits = Limits {
        shared_sessions: 2,
        max_sessions: 3,
        // One slot is kept for agents with nothing in flight; none of these tests is about that.
        calls_per_session: 16,
        min_idle: 2,
        ..Limits::default()
    };
    let lab = Lab::start(Memory::new(boom), Wish { limits, ..Wish::default() });
    lab.until("two sessions", |lab| lab.standings() == ["ready", "ready"]).await;
    // Agents until there is one on each session.
    let mut agents = Vec::new();
    for number in 1..=16 {
        agents.push(lab.agent(number).await);
    }
    let mut calls = Vec::new();
    for agent in agents.iter().take(6) {
        calls.push(agent.start("never", &json!({})));
    }
    lab.until("they are under way", |lab| lab.held().in_flight == 6).await;
    let sessions = lab.registered.backend.status().sessions;
    let victim = agents.last().expect("agents");
    let error = victim.run("boom", &json!({})).await.expect_err("its session is over");
    assert_eq!((error.kind, error.executed), (ErrorKind::Lost, Executed::Maybe), "{error:?}");
    lab.until("a session in its place", |lab| lab.standings() == ["ready", "ready"]).await;
    let now: Vec<u64> = lab.registered.backend.status().sessions.iter().map(|s| s.epoch).collect();
    let kept: Vec<_> = sessions.iter().filter(|s| now.contains(&s.epoch)).collect();
    assert_eq!(kept.len(), 1, "one of {sessions:?} is left in {now:?}");
    // Whoever waited on the other session waits on; on the broken one each was told, once.
    let (mut waiting, mut told) = (0, 0);
    for call in calls {
        match tokio::time::timeout(Duration::from_millis(1), call).await {
            Err(_) => waiting += 1,
            Ok(Err(why)) => panic!("{why}"),
            Ok(Ok(Err(error))) => {
                assert_eq!((error.kind, error.executed), (ErrorKind::Lost, Executed::Maybe));
                told += 1;
            }
            Ok(Ok(Ok(answer))) => panic!("{answer:?}"),
        }
    }
    assert_eq!((waiting + told, kept[0].in_flight), (6, waiting));
    assert_eq!(lab.held().places, 2);
    for agent in &agents {
        agent.run("echo", &json!({})).await.expect("the others, and it too, are served");
    }
    let lines = lab.seen.lines();
    assert_eq!(lab.seen.count("panicked_session"), 1, "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("Closed") && line.contains("Fault")), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_session_is_opened_is_a_failed_handshake() {
    let failing = Arc::new(AtomicBool::new(true));
    let memory = Memory::new({
        let failing = failing.clone();
        move |turn: Turn| {
            let greets = turn.method() == Some(Method::Initialize);
            assert!(!(greets && failing.swap(false, Ordering::SeqCst)), "as the test wants it");
            async move { turn.reply().into_iter().collect() }
        }
    });
    let lab = Lab::start(memory, Wish::default());
    lab.agent(1).await.run("echo", &json!({})).await.expect("the next handshake does it");
    let lines = lab.seen.lines();
    assert_eq!((lab.seen.count("panicked_opener"), lab.seen.count("open_failed")), (1, 1), "{lines:?}");
    assert_eq!(lab.held().places, 1, "the place of the first one came back");
}

/// Panics as often as it is told to.
struct Shaky(AtomicUsize);

impl Gate for Shaky {
    fn may_open(&self, _: std::time::Instant) -> Opening {
        let left = self.0.load(Ordering::SeqCst);
        if left > 0 {
            self.0.store(left - 1, Ordering::SeqCst);
            panic!("as the test wants it");
        }
        Opening::Free
    }

    fn wants_probe(&self, _: std::time::Instant) -> bool {
        false
    }
}

#[derive(Default)]
struct Panics(AtomicUsize);

impl Observe for Panics {
    fn on(&self, _: &Source, event: Event<'_>) {
        if let Event::Panicked { task: "opener", .. } = event {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct Deaf;

impl Outlet for Deaf {
    fn push(&self, _: LinkEvent) -> Result<(), OutletFull> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn an_opener_that_panics_goes_on_with_who_waits() {
    let spec = BackendSpec {
        id: BackendId(0),
        name: "shaky".into(),
        durable_id: None,
        origin: Origin::Cli,
        generation: 1,
        endpoint: Endpoint::Http(HttpEndpoint::new("http://unused/".parse().expect("a URL"))),
        transport: TransportChoice::Auto,
        mode: ModeChoice::Pinned,
        sharing: Sharing::default(),
        fan_out_logs: false,
        times: Times { first_open: Duration::from_secs(20), ..Times::default() },
        limits: Limits::default(),
    };
    let (panics, gate) = (Arc::new(Panics::default()), Arc::new(Shaky(AtomicUsize::new(3))));
    let backend = Backend::start(
        spec,
        Arc::new(Memory::echo()),
        StaticHeaders::holding(&[]),
        gate.clone(),
        panics.clone(),
    )
    .expect("a backend");
    let caller = mcpool_wire::Caller {
        identity: Identity::anonymous(),
        is_local: true,
        agent: mcpool_wire::AgentKey(1),
        affinity: None,
        forwarded: Arc::default(),
    };
    let hello = Hello {
        caller: Arc::new(caller),
        target: Target::named("shaky"),
        client: ClientHello::neutral(),
        outlet: Arc::new(Deaf),
    };
    let before = tokio::time::Instant::now();
    backend.bind(&hello).await.expect("it came to it");
    assert_eq!((panics.0.load(Ordering::SeqCst), gate.0.load(Ordering::SeqCst)), (3, 0));
    // 50, 100 and 200 ms of rest: not a busy loop, and not long.
    let took = before.elapsed();
    assert!(took >= Duration::from_millis(350) && took < Duration::from_secs(2), "{took:?}");
    assert_eq!(backend.shutdown(Duration::from_secs(20)).await, std::collections::BTreeMap::new());
}
