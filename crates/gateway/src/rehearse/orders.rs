//! The orders of requests in which executors break a shared session, unless a pool prevents it.

use std::time::Duration;

use futures::{FutureExt as _, future::BoxFuture, future::join_all};
use mcpool_demo::{
    Agent,
    agent::{AgentConfig, AgentError, Transport},
};

use super::{Errand, Rehearsal, outcome::Outcome};
use crate::embedded::EmbeddedGateway;

/// One order, for direct and pooled runs.
pub(super) struct Order {
    /// Name for programs.
    pub(super) name: &'static str,
    /// Name for people.
    pub(super) title: &'static str,
    transports: &'static [&'static str],
    needs_restart: bool,
    pub(super) direct: Way,
    pub(super) pooled: Way,
}

type Way = for<'a> fn(&'a Stage<'a>, &'a mut Outcome) -> BoxFuture<'a, ()>;

const HTTP: &[&str] = &["http"];
const SSE: &[&str] = &["sse"];
const BOTH: &[&str] = &["http", "sse"];

/// All orders. Their effect on real servers is known; the names are this project's.
pub(super) const ORDERS: &[Order] = &[
    Order {
        name: "early_request",
        title: "calls during the handshake",
        transports: BOTH,
        needs_restart: false,
        direct: |stage, outcome| early(stage, outcome).boxed(),
        pooled: |stage, outcome| own_conversations(stage, outcome).boxed(),
    },
    Order {
        name: "parallel_initialize",
        title: "every executor initializes",
        transports: HTTP,
        needs_restart: false,
        direct: |stage, outcome| initialize_again(stage, outcome).boxed(),
        pooled: |stage, outcome| own_conversations(stage, outcome).boxed(),
    },
    Order {
        name: "duplicate_ids",
        title: "every executor counts ids from 0",
        transports: HTTP,
        needs_restart: false,
        direct: |stage, outcome| same_ids(stage, outcome).boxed(),
        pooled: |stage, outcome| own_conversations(stage, outcome).boxed(),
    },
    Order {
        name: "delete_in_flight",
        title: "one leaves while others call",
        transports: BOTH,
        needs_restart: false,
        direct: |stage, outcome| leave_shared(stage, outcome).boxed(),
        pooled: |stage, outcome| leave_own(stage, outcome).boxed(),
    },
    Order {
        name: "second_stream",
        title: "every executor opens the GET stream",
        transports: HTTP,
        needs_restart: false,
        direct: |stage, outcome| listen_shared(stage, outcome).boxed(),
        pooled: |stage, outcome| listen_own(stage, outcome).boxed(),
    },
    Order {
        name: "silent_reconnect",
        title: "a stream breaks and comes back",
        transports: SSE,
        needs_restart: false,
        direct: |stage, outcome| reconnect(stage, outcome).boxed(),
        pooled: |stage, outcome| reconnect(stage, outcome).boxed(),
    },
    Order {
        name: "restart",
        title: "the server is restarted",
        transports: BOTH,
        needs_restart: true,
        direct: |stage, outcome| restarted(stage, outcome).boxed(),
        pooled: |stage, outcome| restarted(stage, outcome).boxed(),
    },
];

impl Order {
    /// True if the order applies to this server.
    pub(super) fn fits(&self, transport: &str, rehearsal: &Rehearsal) -> bool {
        self.transports.contains(&transport) && (!self.needs_restart || rehearsal.restart.is_some())
    }
}

/// Target of the executors: the server itself, or the pool.
pub(super) struct Stage<'a> {
    config: AgentConfig,
    agents: usize,
    call: &'a Errand,
    patience: Duration,
    restart: Option<&'a str>,
}

impl<'a> Stage<'a> {
    pub(super) fn direct(rehearsal: &'a Rehearsal, transport: &str) -> Self {
        let mut config = AgentConfig::new(rehearsal.url.clone(), wire(transport));
        config.headers.clone_from(&rehearsal.headers);
        Self::new(rehearsal, config)
    }

    pub(super) fn pooled(rehearsal: &'a Rehearsal, transport: &str, inside: &EmbeddedGateway) -> Self {
        let path = if transport == "sse" { "sse" } else { "mcp" };
        Self::new(rehearsal, AgentConfig::new(inside.url(path), wire(transport)))
    }

    fn new(rehearsal: &'a Rehearsal, config: AgentConfig) -> Self {
        Self {
            config: AgentConfig { name: "mcpool-rehearse".to_owned(), ..config }
                .with_timeout(rehearsal.patience),
            agents: rehearsal.agents,
            call: &rehearsal.call,
            patience: rehearsal.patience,
            restart: rehearsal.restart.as_deref(),
        }
    }

    /// An executor that uses another one's session.
    async fn joined(&self, session: &Session) -> Result<Agent, AgentError> {
        let mut config = self.config.clone();
        config.headers.extend(session.headers());
        Agent::connect(config).await
    }

    async fn call(&self, agent: &Agent) -> Result<(), AgentError> {
        agent.request(&self.call.method, self.call.params.clone()).await.map(drop)
    }

    /// Runs all executors at once.
    async fn all<F: Future<Output = Result<(), AgentError>>>(
        &self,
        outcome: &mut Outcome,
        executor: impl Fn(usize) -> F,
    ) {
        for step in join_all((0..self.agents).map(executor)).await {
            outcome.count(step);
        }
    }
}

/// The id and revision by which executors share a session.
struct Session {
    id: Option<String>,
    revision: String,
}

impl Session {
    /// Opens a session correctly.
    async fn open(stage: &Stage<'_>) -> Result<(Agent, Self), AgentError> {
        let leader = Agent::connect(stage.config.clone()).await?;
        let result = leader.initialize().await?;
        let revision = result["protocolVersion"].as_str().unwrap_or_default().to_owned();
        let id = leader.session_id();
        Ok((leader, Self { id, revision }))
    }

    fn headers(&self) -> Vec<(String, String)> {
        let id = self.id.iter().map(|id| ("mcp-session-id".to_owned(), id.clone()));
        id.chain([("mcp-protocol-version".to_owned(), self.revision.clone())]).collect()
    }
}

/// Calls during another executor's handshake.
async fn early(stage: &Stage<'_>, outcome: &mut Outcome) {
    let leader = match Agent::connect(stage.config.clone()).await {
        Ok(leader) => leader,
        Err(error) => return outcome.count::<()>(Err(error)),
    };
    let (leader, over_sse) = (&leader, stage.config.transport == Transport::Sse);
    stage
        .all(outcome, |n| async move {
            match (n, over_sse) {
                (0, _) => leader.initialize().await.map(drop),
                // They share the connection, and nothing told them to wait.
                (_, true) => stage.call(leader).await,
                (_, false) => stage.call(&Agent::connect(stage.config.clone()).await?).await,
            }
        })
        .await;
    leader.close().await;
}

/// Every executor sends `initialize` on an open session, and then calls.
async fn initialize_again(stage: &Stage<'_>, outcome: &mut Outcome) {
    let (leader, session) = match Session::open(stage).await {
        Ok(opened) => opened,
        Err(error) => return outcome.count::<()>(Err(error)),
    };
    let session = &session;
    stage
        .all(outcome, |_| async move {
            let agent = stage.joined(session).await?;
            agent.initialize().await?;
            stage.call(&agent).await
        })
        .await;
    leader.close().await;
}

/// Independent executors use equal request ids.
async fn same_ids(stage: &Stage<'_>, outcome: &mut Outcome) {
    let (leader, session) = match Session::open(stage).await {
        Ok(opened) => opened,
        Err(error) => return outcome.count::<()>(Err(error)),
    };
    let session = &session;
    stage.all(outcome, |_| async move { stage.call(&stage.joined(session).await?).await }).await;
    leader.close().await;
}

/// The first executor to finish ends the shared session.
async fn leave_shared(stage: &Stage<'_>, outcome: &mut Outcome) {
    let (leader, session) = match Session::open(stage).await {
        Ok(opened) => opened,
        Err(error) => return outcome.count::<()>(Err(error)),
    };
    let (session, leader) = (&session, &leader);
    stage
        .all(outcome, |n| async move {
            if n == 0 {
                tokio::time::sleep(MOMENT).await;
                leader.close().await;
                return Ok(());
            }
            match stage.config.transport {
                Transport::Http => {
                    let agent = stage.joined(session).await?;
                    agent.set_ids(mcpool_demo::agent::Ids::Number(1_000 * n as u64));
                    stage.call(&agent).await?;
                    stage.call(&agent).await
                }
                Transport::Sse => {
                    stage.call(leader).await?;
                    tokio::time::sleep(MOMENT).await;
                    stage.call(leader).await
                }
            }
        })
        .await;
}

/// As [`leave_shared`] with separate sessions: none ends another's.
async fn leave_own(stage: &Stage<'_>, outcome: &mut Outcome) {
    stage
        .all(outcome, |n| async move {
            let agent = Agent::ready(stage.config.clone()).await?;
            if n != 0 {
                stage.call(&agent).await?;
                tokio::time::sleep(MOMENT).await;
                stage.call(&agent).await?;
            }
            agent.close().await;
            Ok(())
        })
        .await;
}

/// Every executor opens the server's event stream.
async fn listen_shared(stage: &Stage<'_>, outcome: &mut Outcome) {
    let (leader, session) = match Session::open(stage).await {
        Ok(opened) => opened,
        Err(error) => return outcome.count::<()>(Err(error)),
    };
    let session = &session;
    let agents = join_all((0..stage.agents).map(|_| stage.joined(session))).await;
    let listening = join_all(agents.iter().flatten().map(Agent::listen)).await;
    listening.into_iter().for_each(|step| outcome.count(offered(step)));
    leader.close().await;
}

async fn listen_own(stage: &Stage<'_>, outcome: &mut Outcome) {
    let agents = join_all((0..stage.agents).map(|_| Agent::ready(stage.config.clone()))).await;
    let listening = join_all(agents.iter().flatten().map(Agent::listen)).await;
    listening.into_iter().for_each(|step| outcome.count(offered(step)));
    for agent in agents {
        match agent {
            Ok(agent) => agent.close().await,
            Err(error) => outcome.count::<()>(Err(error)),
        }
    }
}

/// Accepts 405: the stream is optional.
fn offered(step: Result<(), AgentError>) -> Result<(), AgentError> {
    match step {
        Err(AgentError::Http { status: 405, .. }) => Ok(()),
        step => step,
    }
}

/// The stream breaks; the client opens a new one and continues without a handshake, like EventSource.
async fn reconnect(stage: &Stage<'_>, outcome: &mut Outcome) {
    stage
        .all(outcome, |_| async move {
            drop(Agent::ready(stage.config.clone()).await?);
            let again = Agent::connect(stage.config.clone()).await?;
            stage.call(&again).await
        })
        .await;
}

/// Each executor has its own session, the server restarts, and all continue.
async fn restarted(stage: &Stage<'_>, outcome: &mut Outcome) {
    let Some(command) = stage.restart else { return };
    let agents = join_all((0..stage.agents).map(|_| Agent::ready(stage.config.clone()))).await;
    if let Err(why) = restart(command).await {
        outcome.count::<()>(Err(AgentError::Closed(why)));
        return;
    }
    wait_until_up(stage).await;
    let calls = agents.iter().map(|agent| async move {
        match agent {
            Ok(agent) => stage.call(agent).await,
            Err(error) => Err(error.clone()),
        }
    });
    join_all(calls).await.into_iter().for_each(|step| outcome.count(step));
}

async fn restart(command: &str) -> Result<(), String> {
    // The restarted server may hold the output, so it is not awaited.
    let status = tokio::process::Command::new("sh")
        .args(["-c", command])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()
        .await
        .map_err(|why| format!("the restart command: {why}"))?;
    if status.success() { Ok(()) } else { Err(format!("the restart command: {status}")) }
}

/// Waits until the restarted server is up, so that both halves start alike.
async fn wait_until_up(stage: &Stage<'_>) {
    let up = async {
        while Agent::ready(stage.config.clone()).await.is_err() {
            tokio::time::sleep(MOMENT).await;
        }
    };
    // If the server stays down, the calls fail and report it.
    let _ = tokio::time::timeout(stage.patience.max(START), up).await;
}

/// The pooled counterpart of sharing: each executor opens a session, calls and leaves, all at once.
async fn own_conversations(stage: &Stage<'_>, outcome: &mut Outcome) {
    stage
        .all(outcome, |_| async move {
            let agent = Agent::ready(stage.config.clone()).await?;
            stage.call(&agent).await?;
            agent.close().await;
            Ok(())
        })
        .await;
}

fn wire(transport: &str) -> Transport {
    if transport == "sse" { Transport::Sse } else { Transport::Http }
}

/// Time for calls to be in flight.
const MOMENT: Duration = Duration::from_millis(50);
/// Maximum restart time of a server.
const START: Duration = Duration::from_secs(30);
