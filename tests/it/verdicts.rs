//! Errors of a tool that look like errors of its transport, under any status, over real sockets: each is the answer to
//! its call, which runs once, and costs nobody a session.

use std::time::Duration;

use mcpool_testkit::agent::{AgentError, Transport};
use mcpool_upstream::{Endpoint, EraChoice, ModeChoice};
use serde_json::{Value, json};

use crate::{
    raw::{Reply, Server, ordinary},
    rig::{Rig, Wanted},
    wires::{agent, said},
};

const STATUSES: [u16; 7] = [400, 404, 409, 410, 429, 500, 503];
/// Words of tools that sound like those of a transport.
const WORDS: [(i64, &str); 6] = [
    (-32000, "Issue 12 not found"),
    (-32000, "shell session not found"),
    (-32000, "session expired, start a new one"),
    (-32000, "no active session: tab 3 was closed"),
    (-32000, "database is busy, try again"),
    (-32000, "rate limit"),
];
/// Whole messages of transports, which send them under `null`, a word or no id. Under the id of the call they are a
/// tool's.
const TRANSPORTS_WORDS: [(i64, &str); 8] = [
    (-32000, "Session not found"),
    (-32602, "Invalid session ID"),
    (-32600, "Bad Request: Missing session ID"),
    (-32600, "Not Found: Session has been terminated"),
    (-32000, "Bad Request: No valid session ID provided"),
    (-32602, "Received request before initialization was complete"),
    (-32000, "Bad Request: Unsupported protocol version: 2025-11-25"),
    (-32603, "Error handling POST request: "),
];
const MODES: [ModeChoice; 3] = [ModeChoice::Shared, ModeChoice::Pinned, ModeChoice::Exclusive];

/// A server that answers `write` with the error its arguments ask for, `slow` a little later, and lists no resources.
async fn server() -> Server {
    Server::start(|method, message| {
        let arguments = &message["params"]["arguments"];
        match (method, message["params"]["name"].as_str()) {
            ("tools/call", Some("write")) => {
                let id = if arguments["own"] == true { &message["id"] } else { &Value::Null };
                let error = json!({ "code": arguments["code"], "message": arguments["words"] });
                let body = json!({ "jsonrpc": "2.0", "id": id, "error": error });
                let status = u16::try_from(arguments["status"].as_u64()?).ok()?;
                Some(Reply::new(status, "application/json", &body.to_string()))
            }
            ("tools/call", Some("slow")) => {
                Some(Reply::After(Duration::from_millis(50), Box::new(ordinary(method, message))))
            }
            ("resources/list", _) => {
                let error = json!({ "code": -32601, "message": "Method not found" });
                let body = json!({ "jsonrpc": "2.0", "id": message["id"], "error": error });
                Some(Reply::new(404, "application/json", &body.to_string()))
            }
            ("initialize" | "server/discover", _) => {
                let Reply::Whole(status, kind, body) = ordinary(method, message) else { return None };
                let body = body.replace(r#""tools":"#, r#""resources":{},"tools":"#);
                Some(Reply::Whole(status, kind, body))
            }
            _ => None,
        }
    })
    .await
}

/// One call that a tool refuses with these words, beside a call of somebody else.
struct Cell {
    status: u16,
    own: bool,
    code: i64,
    words: &'static str,
}

fn cells() -> Vec<Cell> {
    let of = |own: bool, words: &'static [(i64, &'static str)]| {
        let of =
            move |status| words.iter().map(move |(code, words)| Cell { status, own, code: *code, words });
        STATUSES.into_iter().flat_map(of)
    };
    of(true, &WORDS).chain(of(false, &WORDS)).chain(of(true, &TRANSPORTS_WORDS)).collect()
}

async fn each_is_the_answer(rig: &Rig, server: &Server, what: &str) {
    let (one, other) = tokio::join!(agent(rig, Transport::Http), agent(rig, Transport::Http));
    tokio::join!(said(&one, "echo", json!({})), said(&other, "echo", json!({})));
    for Cell { status, own, code, words } in cells() {
        let what = format!("{what}: {status} {code} {words:?}, own id: {own}");
        let (calls, opened) = (server.count("tools/call"), server.count("initialize"));
        let asked = json!({ "status": status, "own": own, "code": code, "words": words });
        let (told, bystander) =
            tokio::join!(one.call_tool("write", asked), said(&other, "slow", json!({ "of": "another" })));
        assert!(bystander.contains("another"), "{what}: {bystander}");
        let Err(AgentError::Rpc { code: its, message, data }) = told else { panic!("{what}: {told:?}") };
        assert_eq!((its, message.trim()), (code, words.trim()), "{what}: {data}");
        assert_ne!(data["executed"], "no", "{what}");
        if own {
            assert_ne!(data["source"], "gateway", "{what}: it is passed on as it came");
        }
        assert_eq!(server.count("tools/call") - calls, 2, "{what}: one call each");
        assert!(server.count("initialize") <= opened + 1, "{what}");
    }
    // Nothing of it was taken for a lost session: two agents, and what is kept ready for the next.
    let opened = server.count("initialize");
    assert!(opened <= 4, "{what}: {opened} sessions for two agents");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_tool_says_of_sessions_limits_and_versions_is_the_answer_to_its_call() {
    let of = async |mode| {
        let server = server().await;
        let rig = Rig::start(Wanted { mode, ..Wanted::shared(server.url.clone()) }).await;
        each_is_the_answer(&rig, &server, &format!("{mode:?}")).await;
        rig.stop().await;
    };
    tokio::join!(of(MODES[0]), of(MODES[1]), of(MODES[2]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_tool_says_is_the_answer_in_the_era_without_sessions() {
    let server = server().await;
    let mut wanted = Wanted::shared(server.url.clone());
    let Endpoint::Http(endpoint) = &mut wanted.endpoint else { panic!("not over the network") };
    endpoint.era = EraChoice::Modern;
    let rig = Rig::start(wanted).await;
    each_is_the_answer(&rig, &server, "modern").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_is_not_found_costs_no_session() {
    for era in [EraChoice::Auto, EraChoice::Modern] {
        let server = server().await;
        let mut wanted = Wanted::shared(server.url.clone());
        let Endpoint::Http(endpoint) = &mut wanted.endpoint else { panic!("not over the network") };
        endpoint.era = era;
        let rig = Rig::start(wanted).await;
        let agent = agent(&rig, Transport::Http).await;
        said(&agent, "echo", json!({})).await;
        let opened = server.count("initialize");
        for _ in 0..3 {
            let asked = server.count("resources/list");
            let told = agent.request("resources/list", json!({})).await;
            let Err(AgentError::Rpc { code, data, .. }) = told else { panic!("{era:?}: {told:?}") };
            assert_eq!(code, -32601, "{era:?}");
            assert_ne!(data["executed"], "no", "{era:?}");
            assert!(server.count("resources/list") <= asked + 1, "{era:?}");
        }
        assert_eq!(server.count("initialize"), opened, "{era:?}");
        rig.stop().await;
    }
}

/// What a transport is known to send under the id of the call costs it one more session and one repetition, and what
/// comes then is the result.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_session_under_the_id_of_the_call_is_believed_once() {
    for (status, code) in [(400, -32001), (404, -32001), (404, -32600)] {
        for mode in [ModeChoice::Shared, ModeChoice::Exclusive] {
            let what = format!("{mode:?} {status} {code}");
            let server = server().await;
            let rig = Rig::start(Wanted { mode, ..Wanted::shared(server.url.clone()) }).await;
            let agent = agent(&rig, Transport::Http).await;
            said(&agent, "echo", json!({})).await;
            let calls = server.count("tools/call");
            let asked = json!({ "status": status, "own": true, "code": code, "words": "Session not found" });
            let told = agent.call_tool("write", asked).await;
            assert!(matches!(told, Err(AgentError::Rpc { .. })), "{what}: {told:?}");
            assert_eq!(server.count("tools/call") - calls, 2, "{what}");
            rig.stop().await;
        }
    }
}
