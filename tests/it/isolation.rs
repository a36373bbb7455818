//! Who meets whom on a stateful backend (S1 to S4): in a mode that isolates, nobody; where sessions are shared, exactly
//! those the contract names.

use std::collections::BTreeSet;

use mcpool_testkit::{
    IdDialect, Script, Server,
    agent::{Agent, Ids, Transport},
};
use mcpool_upstream::ModeChoice;
use serde_json::json;

use crate::{
    rig::Rig,
    wires::{PAIRS, agent, config, over, rig, said, serve, text_of, until, wanted},
};

/// Every mode, and whether each agent has a session of its own in it.
const MODES: [(ModeChoice, bool); 2] = [(ModeChoice::Shared, false), (ModeChoice::Pinned, true)];

const AGENTS: usize = 4;
const CALLS: usize = 10;

async fn keeper() -> Server {
    serve(Script { state_tools: true, ids: IdDialect::Text, ..Script::default() }).await
}

/// A gateway whose agents share one session if they share at all.
async fn small_rig(server: &Server, back: Transport, mode: ModeChoice) -> Rig {
    let mut wanted = wanted(server, back, mode);
    wanted.limits.shared_sessions = 1;
    Rig::start(wanted).await
}

async fn agents(rig: &Rig, front: Transport) -> Vec<Agent> {
    let mut all = Vec::new();
    for _ in 0..AGENTS {
        all.push(agent(rig, front).await);
    }
    all
}

/// Every agent counts at the same time, all with the same ids; what each saw.
async fn counts(agents: &[Agent]) -> Vec<Vec<usize>> {
    let counting = agents.iter().map(async |agent: &Agent| {
        let mut seen = Vec::new();
        for _ in 0..CALLS {
            seen.push(said(agent, "count", json!({})).await.parse().expect("a number"));
        }
        seen
    });
    futures::future::join_all(counting).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_counts_for_whom_the_mode_says() {
    for (mode, isolates) in MODES {
        for (front, back) in PAIRS {
            let server = keeper().await;
            let rig = small_rig(&server, back, mode).await;
            let seen = counts(&agents(&rig, front).await).await;
            let what = format!("{mode:?} {front:?} {back:?}: {seen:?}");
            if isolates {
                let own: Vec<usize> = (1..=CALLS).collect();
                assert!(seen.iter().all(|seen| *seen == own), "{what}");
            } else {
                // One counter: each value is seen once, and in the order of the agent's own calls.
                let all: BTreeSet<usize> = seen.iter().flatten().copied().collect();
                assert_eq!(all, (1..=AGENTS * CALLS).collect(), "{what}");
                assert!(seen.iter().all(|seen| seen.is_sorted()), "{what}");
            }
            assert_eq!(server.stats().duplicate_ids, 0);
            over(rig).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cart_holds_what_the_mode_says() {
    for (mode, isolates) in MODES {
        for (front, back) in PAIRS {
            let server = keeper().await;
            let rig = small_rig(&server, back, mode).await;
            let agents = agents(&rig, front).await;
            for (n, agent) in agents.iter().enumerate() {
                said(agent, "set_state", json!({ "key": "cart", "value": format!("of-{n}") })).await;
            }
            for (n, agent) in agents.iter().enumerate() {
                let expected = if isolates { n } else { AGENTS - 1 };
                let cart = said(agent, "get_state", json!({ "key": "cart" })).await;
                assert_eq!(cart, format!("of-{expected}"), "{mode:?} {front:?} {back:?}");
            }
            // A session that had an owner serves nobody after it.
            if isolates {
                let opened = server.stats().sessions_opened;
                agents[0].close().await;
                let next = agent(&rig, front).await;
                assert_eq!(said(&next, "get_state", json!({ "key": "cart" })).await, "");
                assert_eq!(server.stats().sessions_opened, opened + 1);
            }
            over(rig).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_toggle_is_everybodys_where_sessions_are_shared_and_ones_own_elsewhere() {
    for (mode, isolates) in MODES {
        for (front, back) in PAIRS {
            let server = keeper().await;
            let rig = small_rig(&server, back, mode).await;
            let (one, two) = (agent(&rig, front).await, agent(&rig, front).await);
            assert_eq!(said(&one, "toggle", json!({})).await, "on");
            let expected = if isolates { "on" } else { "off" };
            assert_eq!(said(&two, "toggle", json!({})).await, expected, "{mode:?} {front:?} {back:?}");
            over(rig).await;
        }
    }
}

async fn sees_hidden(agent: &Agent) -> bool {
    agent.request("tools/list", json!({})).await.expect("a list").to_string().contains("\"hidden\"")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revealed_tool_is_seen_as_the_mode_says() {
    for (mode, isolates) in MODES {
        for (front, back) in PAIRS {
            let server = keeper().await;
            let rig = small_rig(&server, back, mode).await;
            let (one, two) = (agent(&rig, front).await, agent(&rig, front).await);
            assert!(!sees_hidden(&one).await && !sees_hidden(&two).await);
            said(&one, "reveal", json!({})).await;
            // The server says so on another stream than the one of the answer: kept lists follow.
            let seen = async {
                while !sees_hidden(&one).await {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            };
            let patience = std::time::Duration::from_secs(20);
            tokio::time::timeout(patience, seen).await.expect("whoever revealed it sees it");
            assert_eq!(sees_hidden(&two).await, !isolates, "{mode:?} {front:?} {back:?}");
            over(rig).await;
        }
    }
}

/// S1 and S2: in each mode, with the dialect that confuses them, equal and nearly equal ids at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_of_any_kind_cross_in_no_mode() {
    for (mode, _) in MODES {
        for (front, back) in PAIRS {
            let server = keeper().await;
            let rig = small_rig(&server, back, mode).await;
            let agents = agents(&rig, front).await;
            agents[1].set_ids(Ids::Text(String::new(), 0));
            agents[2].set_ids(Ids::Mixed(0));
            let calls = agents.iter().enumerate().flat_map(|(who, agent)| {
                (0..CALLS).map(move |n| async move {
                    let nonce = format!("{who}-{n}");
                    let arguments = json!({ "ms": 20 + 5 * (n % 3), "nonce": nonce });
                    let answer = agent.call_tool("sleep", arguments).await.expect("answered");
                    assert_eq!(text_of(&answer), nonce, "a foreign answer");
                })
            });
            futures::future::join_all(calls).await;
            assert!(agents.iter().all(|agent| agent.foreign() == 0), "{mode:?} {front:?} {back:?}");
            assert_eq!(server.stats().duplicate_ids, 0);
            over(rig).await;
        }
    }
}

/// S3: those who name different affinities share nothing; those who name the same one share exactly that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn affinities_are_kept_apart_and_kept_together() {
    for (front, back) in PAIRS {
        let server = keeper().await;
        let rig = rig(&server, back, ModeChoice::Shared).await;
        let mut groups = Vec::new();
        for affinity in ["red", "blue"] {
            let mut config = config(&rig, front);
            config.headers.push(("mcpool-affinity".into(), affinity.into()));
            let pair = [Agent::ready(config.clone()).await, Agent::ready(config).await];
            groups.push(pair.map(|agent| agent.expect("an agent")));
        }
        let (red, blue) = tokio::join!(counts(&groups[0]), counts(&groups[1]));
        for seen in [red, blue] {
            let all: BTreeSet<usize> = seen.iter().flatten().copied().collect();
            assert_eq!(all, (1..=2 * CALLS).collect(), "{front:?} {back:?}: {seen:?}");
        }
        until("none of them is anybody else's", || server.stats().in_flight == 0).await;
        over(rig).await;
    }
}
