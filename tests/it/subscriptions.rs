//! Random subscriptions of many agents over a backend that keeps restarting, against a model (RELIABILITY.md C6): at
//! rest the backend knows exactly the resources somebody wants, everybody who may have missed a change was told, and
//! nobody else was told anything.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use mcpool_testkit::{Agent, AgentConfig, Script, Server, Transport};
use serde_json::json;
use tokio::time::Instant;

use crate::rig::{Rig, Wanted};

const UPDATED: &str = "notifications/resources/updated";

/// How much: agents, resources, restarts, and changes between two restarts.
struct Size {
    agents: usize,
    uris: usize,
    restarts: usize,
    changes: usize,
}

impl Size {
    fn wanted() -> Self {
        if std::env::var_os("MCPOOL_LONG").is_some() {
            Self { agents: 100, uris: 100, restarts: 20, changes: 400 }
        } else {
            Self { agents: 12, uris: 20, restarts: 3, changes: 60 }
        }
    }
}

/// A small generator with a known seed, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % sides
    }
}

struct World {
    server: Server,
    agents: Vec<Agent>,
    /// What each agent is subscribed to.
    model: Vec<BTreeSet<String>>,
}

impl World {
    fn wanted(&self) -> BTreeSet<String> {
        self.model.iter().flatten().cloned().collect()
    }

    async fn change(&mut self, dice: &mut Dice, size: &Size) {
        let (at, uri) = (dice.roll(size.agents), format!("demo://r/{}", dice.roll(size.uris)));
        let subscribes = dice.roll(3) > 0;
        let method = if subscribes { "resources/subscribe" } else { "resources/unsubscribe" };
        let answer = self.agents[at].request(method, json!({ "uri": uri })).await;
        assert_eq!(answer.unwrap_or_else(|e| panic!("{method} {uri}: {e}")), json!({}));
        if subscribes {
            self.model[at].insert(uri);
        } else {
            self.model[at].remove(&uri);
        }
    }

    /// Waits until the backend knows exactly what is wanted.
    async fn settled(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.server.subscriptions() != self.wanted() {
            let (there, wanted) = (self.server.subscriptions(), self.wanted());
            assert!(Instant::now() < until, "the backend has {there:?}, wanted is {wanted:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes the updates each agent must have got by now, and checks that no other came.
    async fn updates(&self, expected: &[BTreeSet<String>], what: &str) {
        for (at, (agent, expected)) in self.agents.iter().zip(expected).enumerate() {
            let mut got = BTreeSet::new();
            while got.len() < expected.len() {
                let note = agent.next_notification(UPDATED, Duration::from_secs(30)).await;
                let note = note.unwrap_or_else(|e| panic!("{what}: agent {at} got {got:?} only: {e}"));
                got.insert(note["uri"].as_str().expect("a uri").to_owned());
            }
            assert_eq!(&got, expected, "{what}: agent {at}");
        }
    }

    /// Throws away what came twice.
    async fn forget_updates(&self) {
        for (agent, model) in self.agents.iter().zip(&self.model) {
            while let Ok(note) = agent.next_notification(UPDATED, Duration::from_millis(1)).await {
                let uri = note["uri"].as_str().expect("a uri");
                assert!(model.contains(uri), "an update of {uri} for an agent that did not want it");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_survive_restarts_of_the_backend() {
    let size = Size::wanted();
    let server = Server::start(Script::default()).await.expect("a backend");
    let mut wanted = Wanted::shared(server.url_http());
    wanted.breaker.failure_threshold = u32::MAX;
    let rig = Rig::start(wanted).await;
    let mut agents = Vec::new();
    for at in 0..size.agents {
        let (transport, url) = match at % 2 {
            0 => (Transport::Http, rig.url_http()),
            _ => (Transport::Sse, rig.url_sse()),
        };
        let mut config = AgentConfig::new(url, transport);
        config.listen = true;
        agents.push(Agent::ready(config).await.expect("an agent"));
    }
    let mut world = World { server, model: vec![BTreeSet::new(); size.agents], agents };
    let mut dice = Dice(20_240_806);
    for restart in 0..size.restarts {
        for _ in 0..size.changes {
            world.change(&mut dice, &size).await;
        }
        // What nobody wants any more lingers for a while.
        world.settled().await;
        world.forget_updates().await;
        world.server.restart().await.expect("the same port");
        world.settled().await;
        world.updates(&world.model.clone(), &format!("restart {restart}")).await;
        world.forget_updates().await;
        // One change of everything: every subscriber hears of it once, and nobody else.
        for uri in world.wanted() {
            assert_eq!(world.server.resource_updated(&uri), 1, "one session carries {uri}");
        }
        world.updates(&world.model.clone(), &format!("changes after restart {restart}")).await;
        world.forget_updates().await;
    }
    leave_one_by_one(&mut world).await;
    for agent in &world.agents {
        agent.close().await;
    }
    rig.stop().await;
}

/// Agents that leave take their subscriptions along.
async fn leave_one_by_one(world: &mut World) {
    let counts: HashMap<usize, usize> = world.model.iter().map(BTreeSet::len).enumerate().collect();
    assert!(counts.values().any(|n| *n > 0), "the walk left nothing to give up: {counts:?}");
    for (agent, model) in world.agents.iter().zip(&mut world.model) {
        agent.close().await;
        model.clear();
    }
    world.settled().await;
}
