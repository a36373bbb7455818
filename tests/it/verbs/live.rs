//! The promise: a backend is restarted, and its sessions are replaced, under 200 parallel executors, and no call fails.

#![allow(clippy::print_stdout, reason = "the figures are for whoever reads the run")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mcpool_router::verbs::Verb;
use mcpool_testkit::{
    Script,
    agent::{Agent, AgentError, Transport},
};
use mcpool_upstream::ModeChoice;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    rig::Rig,
    wires::{PAIRS, config, over, rig, serve, text_of, until},
};

const EXECUTORS: u64 = 200;
const WAIT: Duration = Duration::from_secs(60);

/// Executors that call in a loop until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    executors: JoinSet<Result<(), AgentError>>,
}

impl Load {
    fn start(rig: &Rig, front: Transport) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut executors = JoinSet::new();
        for n in 0..EXECUTORS {
            let (config, stop, calls) = (config(rig, front).with_timeout(WAIT), stop.clone(), calls.clone());
            executors.spawn(async move {
                let agent = Agent::ready(config).await?;
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    let nonce = format!("{n}-{turn}");
                    let answer = agent.call_tool("sleep", json!({ "nonce": nonce, "ms": 5 })).await?;
                    assert_eq!(text_of(&answer), nonce, "a foreign answer");
                    calls.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                assert_eq!(agent.refused(), 0);
                agent.close().await;
                Ok(())
            });
        }
        Self { stop, calls, executors }
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    async fn more(&self, many: u64) {
        let wanted = self.calls() + many;
        until("calls are answered", || self.calls() >= wanted).await;
    }

    async fn end(mut self, rig: &Rig) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.executors.join_next().await {
            ended
                .expect("no executor panics")
                .unwrap_or_else(|why| panic!("{why}: {:?}", rig.seen.failures()));
        }
        assert_eq!(rig.seen.failures(), Vec::<String>::new());
        self.calls()
    }
}

async fn restarted(front: Transport, back: Transport) {
    let server = serve(Script::default()).await;
    let rig = rig(&server, back, ModeChoice::Shared).await;
    let load = Load::start(&rig, front);
    load.more(2 * EXECUTORS).await;
    let backend = rig.gateway.backends()[0].clone();
    let paused = backend.perform(Verb::Pause, WAIT).await;
    assert!(paused.is_done, "{}", paused.sentence);
    server.stop().await;
    until("everybody waits", || rig.held().2 >= usize::try_from(EXECUTORS).unwrap_or(0)).await;
    server.restart().await.expect("the same port");
    let before = load.calls();
    let resumed = backend.perform(Verb::Resume, WAIT).await;
    assert!(resumed.is_done, "{}", resumed.sentence);
    load.more(2 * EXECUTORS).await;
    let calls = load.end(&rig).await;
    println!(
        "{front:?} -> {back:?}: 0 of {calls} calls failed, {before} before the restart; {}",
        resumed.details
    );
    assert_eq!(*rig.seen.transitions.lock().expect("not poisoned"), Vec::<String>::new());
    over(rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_when_a_backend_is_restarted_in_a_pause() {
    for (front, back) in PAIRS {
        restarted(front, back).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_when_sessions_are_replaced_under_load() {
    for (front, back) in PAIRS {
        let server = serve(Script::default()).await;
        let rig = rig(&server, back, ModeChoice::Shared).await;
        let load = Load::start(&rig, front);
        load.more(2 * EXECUTORS).await;
        let before = server.session_ids();
        let done = rig.gateway.backends()[0].perform(Verb::Reconnect { pinned: false }, WAIT).await;
        assert!(done.is_done, "{}", done.sentence);
        load.more(2 * EXECUTORS).await;
        until("the old ones are gone", || server.session_ids().iter().all(|id| !before.contains(id))).await;
        let calls = load.end(&rig).await;
        println!("{front:?} -> {back:?}: 0 of {calls} calls failed; {}", done.sentence);
        over(rig).await;
    }
}
