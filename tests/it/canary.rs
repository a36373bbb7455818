//! Canary cross-talk (C4): a thousand agents, each with a secret of its own, all with the same ids, on four shared
//! sessions. No secret may be seen by another agent, in an answer, an error, a progress or a log line; no answer may be
//! lost; nothing may be held when all is quiet. Figures are printed; `MCPOOL_LONG=1` runs ten times as many calls.

#![allow(clippy::print_stdout, reason = "the figures are for whoever reads the run")]

use std::time::Instant;

use mcpool_testkit::{
    IdDialect, Script,
    agent::{Agent, AgentConfig, AgentError, Ids, Started, Transport},
};
use mcpool_upstream::ModeChoice;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    rig::Rig,
    wires::{config, over, serve, text_of, until, wanted},
};

const AGENTS: u32 = 1_000;

/// Calls of each agent over each of the four pairs: 10^5 in all, 10^6 in the long form.
fn calls_per_agent() -> u32 {
    if std::env::var_os("MCPOOL_LONG").is_some() { 250 } else { 25 }
}

/// One agent and what it has seen.
struct Spy {
    agent: Agent,
    who: u32,
    /// What only this agent says.
    secret: String,
    /// Cancelled calls, kept so that whatever still comes for them is looked at.
    cancelled: Vec<Started>,
    seen: Tally,
}

/// What the agents of one run have seen.
#[derive(Debug, Default)]
struct Tally {
    calls: u64,
    /// Texts that hold a secret which is not the agent's own, or not its own where it must be.
    foreign: u64,
    /// Calls without an answer.
    lost: u64,
    progress: u64,
    logs: u64,
    errors: u64,
    cancels: u64,
    refused: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.foreign += other.foreign;
        self.lost += other.lost;
        self.progress += other.progress;
        self.logs += other.logs;
        self.errors += other.errors;
        self.cancels += other.cancels;
        self.refused += other.refused;
    }
}

impl Spy {
    fn new(agent: Agent, who: u32) -> Self {
        agent.set_ids(if who.is_multiple_of(2) { Ids::Number(0) } else { Ids::Mixed(0) });
        // The closing bar: agent 1 must not look like agent 10.
        let secret = format!("canary-{who}|");
        Self { agent, who, secret, cancelled: Vec::new(), seen: Tally::default() }
    }

    /// Every canary in the text is the agent's own, and there is one.
    fn look(&mut self, text: &str) {
        let others =
            text.split("canary-").skip(1).any(|rest| !rest.starts_with(&self.secret["canary-".len()..]));
        if others || !text.contains(&self.secret) {
            println!("{} saw {text}", self.secret);
            self.seen.foreign += 1;
        }
    }

    async fn run(mut self, calls: u32) -> Tally {
        for n in 0..calls {
            self.seen.calls += 1;
            if let Err(error) = self.call(n).await {
                println!("{} lost: {error}", self.secret);
                self.seen.lost += 1;
            }
        }
        self.finish().await
    }

    async fn call(&mut self, n: u32) -> Result<(), AgentError> {
        let nonce = format!("{}{n}", self.secret);
        // Not everybody at once: a session with too many cancelled calls is replaced, which is another test's affair.
        if (n + self.who) % 25 == 3 {
            return self.cancel(&nonce).await;
        }
        match n % 5 {
            0 => self.progress(json!({ "steps": 2, "nonce": nonce, "log": true })).await,
            1 => {
                let answer = self.agent.call_tool("fail", json!({ "text": nonce })).await?;
                self.seen.errors += 1;
                self.look(text_of(&answer));
                Ok(())
            }
            2 => match self.agent.call_tool("rpc_error", json!({ "code": -32050, "text": nonce })).await {
                Err(AgentError::Rpc { code: -32050, message, .. }) => {
                    self.seen.errors += 1;
                    self.look(&message);
                    Ok(())
                }
                Err(error) => Err(error),
                Ok(answer) => Err(AgentError::Closed(format!("no error but {answer}"))),
            },
            _ => {
                let answer = self.agent.call_tool("echo", json!({ "nonce": nonce })).await?;
                self.look(text_of(&answer));
                Ok(())
            }
        }
    }

    async fn progress(&mut self, arguments: Value) -> Result<(), AgentError> {
        let (answer, progress) = self.agent.call_with_progress("progress", arguments).await?;
        self.look(text_of(&answer));
        for part in progress {
            self.seen.progress += 1;
            self.look(part["message"].as_str().unwrap_or_default());
        }
        Ok(())
    }

    /// Starts a call that would last, and cancels it once it has shown that it runs.
    async fn cancel(&mut self, nonce: &str) -> Result<(), AgentError> {
        let arguments = json!({ "steps": 10_000, "interval_ms": 20, "nonce": nonce });
        let mut call = self.agent.start_tool("progress", arguments)?;
        let Some(part) = call.progress().await else {
            return call.finish().await.map(drop);
        };
        self.look(part["message"].as_str().unwrap_or_default());
        self.agent.cancel(call.id()).await?;
        self.seen.cancels += 1;
        self.cancelled.push(call);
        Ok(())
    }

    async fn finish(mut self) -> Tally {
        for mut call in std::mem::take(&mut self.cancelled) {
            while let Some(part) = call.try_progress() {
                self.look(part["message"].as_str().unwrap_or_default());
            }
            self.cancelled.push(call);
        }
        for (_, line) in self.agent.notifications() {
            self.seen.logs += 1;
            self.look(line["data"].as_str().unwrap_or_default());
        }
        self.seen.foreign += self.agent.foreign() + self.agent.garbage();
        self.seen.refused += self.agent.refused();
        self.agent.close().await;
        self.seen
    }
}

async fn everybody(rig: &Rig, front: Transport) -> Tally {
    let calls = calls_per_agent();
    let mut set = JoinSet::new();
    for who in 0..AGENTS {
        // Patient: the machine may be busy, and an answer that is late is not lost.
        let config: AgentConfig = config(rig, front).with_timeout(std::time::Duration::from_secs(120));
        set.spawn(async move {
            match Agent::ready(config).await {
                Ok(agent) => Spy::new(agent, who).run(calls).await,
                Err(error) => {
                    println!("agent {who} did not start: {error}");
                    Tally { lost: u64::from(calls), ..Tally::default() }
                }
            }
        });
    }
    let mut all = Tally::default();
    while let Some(done) = set.join_next().await {
        all.add(&done.expect("no agent panics"));
    }
    all
}

async fn no_canary_is_seen(front: Transport, back: Transport) {
    // The dialect that confuses `1` with `"1"`: only rewriting keeps callers apart.
    let server = serve(Script { ids: IdDialect::Text, ..Script::default() }).await;
    let mut wanted = wanted(&server, back, ModeChoice::Shared);
    (wanted.limits.shared_sessions, wanted.limits.min_idle) = (4, 4);
    wanted.times.queue = std::time::Duration::from_secs(120);
    let rig = Rig::start(wanted).await;
    let began = Instant::now();
    let all = everybody(&rig, front).await;
    rig.idle().await;
    let stats = server.stats();
    println!(
        "canaries {front:?} -> {back:?}: {AGENTS} agents in {:?}, {} sessions: {all:?}, held when idle {:?}, {} ids \
         twice upstream",
        began.elapsed(),
        stats.sessions_opened,
        rig.held(),
        stats.duplicate_ids,
    );
    assert_eq!((all.foreign, all.lost, all.refused), (0, 0, 0), "{:?}", rig.seen.failures());
    assert_eq!(all.calls, u64::from(AGENTS * calls_per_agent()));
    assert!(all.progress > 0 && all.errors > 0 && all.cancels >= u64::from(AGENTS), "{all:?}");
    // Log lines are correlated on the stream of a call alone; elsewhere they are nobody's.
    assert_eq!(all.logs > 0, back == Transport::Http, "{all:?}");
    assert_eq!((stats.duplicate_ids, stats.in_flight), (0, 0));
    until("no more sessions than asked for", || server.stats().sessions_open <= 4).await;
    over(rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_of_an_agent_reaches_another_from_sse_to_sse() {
    no_canary_is_seen(Transport::Sse, Transport::Sse).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_of_an_agent_reaches_another_from_sse_to_http() {
    no_canary_is_seen(Transport::Sse, Transport::Http).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_of_an_agent_reaches_another_from_http_to_sse() {
    no_canary_is_seen(Transport::Http, Transport::Sse).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_of_an_agent_reaches_another_from_http_to_http() {
    no_canary_is_seen(Transport::Http, Transport::Http).await;
}
