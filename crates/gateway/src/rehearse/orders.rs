//! The orders in which executors that share a session break it (or, through a pool, do not).

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture, future::join_all};
use mcpool_breaker::Transition;
use mcpool_testkit::{
    Agent,
    agent::{AgentConfig, AgentError, Transport},
};
use mcpool_upstream::{Event, Observe, Source};

use super::{Errand, Rehearsal, outcome::Outcome};
use crate::inside::Inside;
use mcpool_router::{gateway::GatewayObserve, stack::StackObserve};

/// One order, directly and through the pool.
pub(super) struct Order {
    /// For programs.
    pub(super) name: &'static str,
    /// For people.
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

/// Every order there is. What happens to real servers in each is known; the names are the project's own.
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
    /// Whether it means something for this server.
    pub(super) fn fits(&self, transport: &str, rehearsal: &Rehearsal) -> bool {
        self.transports.contains(&transport) && (!self.needs_restart || rehearsal.restart.is_some())
    }
}

/// Where executors play: the server itself, or the pool before it.
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

    pub(super) fn pooled(rehearsal: &'a Rehearsal, transport: &str, inside: &Inside) -> Self {
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

    /// An executor that speaks on a session another one opened.
    async fn joined(&self, session: &Session) -> Result<Agent, AgentError> {
        let mut config = self.config.clone();
        config.headers.extend(session.headers());
        Agent::connect(config).await
    }

    async fn call(&self, agent: &Agent) -> Result<(), AgentError> {
        agent.request(&self.call.method, self.call.params.clone()).await.map(drop)
    }

    /// As many executors as there are, all at once.
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

/// What a session is known by, where it can be shared by naming it.
struct Session {
    id: Option<String>,
    revision: String,
}

impl Session {
    /// One opens it, as it should be done.
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

/// The handshake of the one who opens the session is under way, and the others call already.
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
                // They have the connection, and nobody told them to wait.
                (_, true) => stage.call(leader).await,
                (_, false) => stage.call(&Agent::connect(stage.config.clone()).await?).await,
            }
        })
        .await;
    leader.close().await;
}

/// The session is there; every executor begins with `initialize` all the same, and then calls.
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

/// Executors that know nothing of each other number their requests alike.
async fn same_ids(stage: &Stage<'_>, outcome: &mut Outcome) {
    let (leader, session) = match Session::open(stage).await {
        Ok(opened) => opened,
        Err(error) => return outcome.count::<()>(Err(error)),
    };
    let session = &session;
    stage.all(outcome, |_| async move { stage.call(&stage.joined(session).await?).await }).await;
    leader.close().await;
}

/// The first to be done ends the session that is everybody's.
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
                    agent.set_ids(mcpool_testkit::agent::Ids::Number(1_000 * n as u64));
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

/// The same where everybody has a conversation of its own: who leaves ends nobody else's.
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

/// Every executor wants to hear what the server has to say.
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

/// A server may have no such stream at all: 405 is its right.
fn offered(step: Result<(), AgentError>) -> Result<(), AgentError> {
    match step {
        Err(AgentError::Http { status: 405, .. }) => Ok(()),
        step => step,
    }
}

/// The stream breaks; the client takes a new one and goes on without a handshake, as EventSource does.
async fn reconnect(stage: &Stage<'_>, outcome: &mut Outcome) {
    stage
        .all(outcome, |_| async move {
            drop(Agent::ready(stage.config.clone()).await?);
            let again = Agent::connect(stage.config.clone()).await?;
            stage.call(&again).await
        })
        .await;
}

/// Everybody has its own session, the server is restarted, everybody goes on.
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
    // What it starts may hold on to its output, so nobody waits for the end of that.
    let status = tokio::process::Command::new("sh")
        .args(["-c", command])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()
        .await
        .map_err(|why| format!("the restart command: {why}"))?;
    if status.success() { Ok(()) } else { Err(format!("the restart command: {status}")) }
}

/// The restarted server must be there for both halves alike, or the direct one fails for another reason.
async fn wait_until_up(stage: &Stage<'_>) {
    let up = async {
        while Agent::ready(stage.config.clone()).await.is_err() {
            tokio::time::sleep(MOMENT).await;
        }
    };
    // A server that does not come back fails the calls, which says so.
    let _ = tokio::time::timeout(stage.patience.max(START), up).await;
}

/// What agents of the pool do in place of sharing: each opens, calls, and leaves, all at once.
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

/// Long enough that calls are under way.
const MOMENT: Duration = Duration::from_millis(50);
/// A server that was restarted may take this long.
const START: Duration = Duration::from_secs(30);

/// What happens in the pool is judged by its agents.
pub(super) struct Quiet;

impl Observe for Quiet {
    fn on(&self, _: &Source, _: Event<'_>) {}
}

impl GatewayObserve for Quiet {
    fn stack(&self, _: &Source) -> Arc<dyn StackObserve> {
        Arc::new(Self)
    }

    fn transition(&self, _: &Source, _: &Transition) {}
}

impl StackObserve for Quiet {
    fn leased(&self, _: Duration) {}

    fn retried(&self, _: &'static str) {}

    fn rejected(&self, _: &'static str) {}
}
