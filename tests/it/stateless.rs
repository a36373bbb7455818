//! Agents of the era without handshake through the whole gateway, to a backend with handshake over either wire: no
//! handshake is paid per call, ids that are the same do not meet, nobody reads what is another's, and a connection that
//! ends is a call that is cancelled at the backend.

use std::collections::BTreeSet;
use std::time::Duration;

use mcpool_testkit::{
    Script, Server,
    agent::{Agent, AgentConfig, Ask, End, ModernAgent, Transport},
};
use mcpool_upstream::ModeChoice;
use serde_json::{Value, json};

use crate::{
    rig::Rig,
    wires::{WIRES, over, over_but, serve, text_of, until, wanted},
};

const CALLERS: usize = 64;
/// Sessions the agents share.
const SESSIONS: usize = 2;

fn agent(rig: &Rig) -> ModernAgent {
    ModernAgent::new(AgentConfig::http(rig.url_http())).expect("an agent")
}

async fn rig_of(server: &Server, back: Transport) -> Rig {
    let mut wanted = wanted(server, back, ModeChoice::Auto);
    wanted.limits.shared_sessions = SESSIONS;
    Rig::start(wanted).await
}

/// Each of them calls `rounds` times, all under the ids of its own connection, which are the same for everybody.
async fn echo_all(agents: &[ModernAgent], rounds: usize, name: &str) {
    let one = async |who: usize, agent: &ModernAgent| {
        for round in 0..rounds {
            let nonce = format!("{name}-{who}-{round}");
            let answer = agent.call_tool("echo", json!({ "nonce": nonce })).await;
            assert_eq!(text_of(&answer.unwrap_or_else(|error| panic!("{nonce}: {error}"))), nonce);
        }
    };
    futures::future::join_all(agents.iter().enumerate().map(|(who, agent)| one(who, agent))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_without_session_share_sessions_and_pay_no_handshake() {
    for back in WIRES {
        let server = serve(Script::default()).await;
        let rig = rig_of(&server, back).await;
        let agents: Vec<_> = (0..CALLERS).map(|_| agent(&rig)).collect();
        echo_all(&agents, 4, "warm").await;
        let warm = server.stats().initializes;
        assert!((1..=SESSIONS as u64).contains(&warm), "{back:?}: {warm} handshakes");
        echo_all(&agents, 8, "steady").await;
        let stats = server.stats();
        assert_eq!(stats.requests_of("tools/call"), 12 * CALLERS as u64, "{back:?}");
        assert!(stats.initializes <= SESSIONS as u64, "{back:?}: {} handshakes", stats.initializes);
        assert_eq!(stats.duplicate_ids, 0, "{back:?}");
        over(rig).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reads_the_progress_of_another() {
    for back in WIRES {
        let server = serve(Script::default()).await;
        let rig = rig_of(&server, back).await;
        let one = async |who: usize| {
            let (agent, nonce) = (agent(&rig), format!("canary-{who}|"));
            let mut ask = Ask::tool("progress", json!({ "steps": 5, "interval_ms": 5, "nonce": nonce }));
            // The same for everybody.
            (ask.id, ask.progress) = (Some(json!(1)), Some(json!("token")));
            let answered = agent.ask(&ask).await.unwrap_or_else(|error| panic!("{nonce}: {error}"));
            let End::Complete(result) = answered.end else { panic!("{nonce} is asked for something") };
            assert_eq!(result["resultType"], "complete");
            for text in answered.notes.iter().chain([&result]).map(Value::to_string) {
                let whose = text.split("canary-").skip(1).filter_map(|rest| rest.split('|').next());
                assert!(whose.clone().all(|whose| whose == who.to_string()), "{nonce} reads {text}");
            }
            let told: Vec<_> =
                answered.notes.iter().map(|note| note["params"]["progressToken"].clone()).collect();
            assert!(told.iter().all(|token| *token == "token"), "{told:?}");
            told.len()
        };
        let told: usize = futures::future::join_all((0..CALLERS).map(one)).await.into_iter().sum();
        assert!(told >= CALLERS, "{back:?}: only {told} notifications of progress");
        over(rig).await;
    }
}

#[tokio::test]
async fn a_connection_that_ends_is_a_cancellation_at_the_backend() {
    for back in WIRES {
        let server = serve(Script::default()).await;
        let rig = rig_of(&server, back).await;
        let agent = agent(&rig);
        let mut ask = Ask::tool("progress", json!({ "steps": 10_000, "interval_ms": 10 }));
        ask.progress = Some(json!(1));
        let mut stream = agent.open(&ask).await.expect("a stream");
        assert_eq!(stream.status(), 200);
        assert_eq!(stream.next().await.expect("progress").expect("progress")["params"]["progressToken"], 1);
        assert_eq!(server.stats().cancels, 0);
        drop(stream);
        until("the backend is told", || server.stats().cancels == 1).await;
        over(rig).await;
    }
}

#[tokio::test]
async fn discovery_and_lists_say_what_the_handshake_said() {
    for back in WIRES {
        let server = serve(Script::default()).await;
        let rig = rig_of(&server, back).await;
        let agent = agent(&rig);
        let found = agent.discover().await.expect("a discovery");
        assert_eq!(found["supportedVersions"], json!(["2026-07-28"]));
        assert!(found["capabilities"]["tools"].is_object(), "{found}");
        let lists = [("tools", "tools/list"), ("prompts", "prompts/list"), ("resources", "resources/list")];
        for (kind, method) in lists {
            let list = agent.complete(&Ask::of(method, json!({}))).await.expect(method);
            assert!(list[kind].as_array().is_some_and(|all| !all.is_empty()), "{method}: {list}");
            assert_eq!((&list["ttlMs"], &list["cacheScope"]), (&json!(0), &json!("private")), "{method}");
        }
        let gone = agent.complete(&Ask::of("resources/read", json!({ "uri": "demo://none" }))).await;
        assert!(matches!(gone, Err(mcpool_testkit::AgentError::Rpc { code: -32602, .. })), "{gone:?}");
        over(rig).await;
    }
}

#[tokio::test]
async fn a_listener_hears_of_its_resources_until_it_goes() {
    for back in WIRES {
        let server = serve(Script::default()).await;
        let rig = rig_of(&server, back).await;
        let agent = agent(&rig);
        let uri = "demo://readme";
        let wanted = json!({ "notifications": { "resourceSubscriptions": [uri], "toolsListChanged": true } });
        let mut stream = agent.open(&Ask::of("subscriptions/listen", wanted)).await.expect("a stream");
        let first = stream.next().await.expect("a message").expect("a message");
        assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
        assert_eq!(first["params"]["notifications"]["resourceSubscriptions"], json!([uri]));
        assert_eq!(server.subscriptions(), BTreeSet::from([uri.to_owned()]));
        server.resource_updated("demo://item/1");
        assert!(server.resource_updated(uri) > 0);
        let told = stream.next().await.expect("a message").expect("a message");
        assert_eq!(
            (&told["method"], &told["params"]["uri"]),
            (&json!("notifications/resources/updated"), &json!(uri))
        );
        let mark = &told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"];
        assert_eq!(mark, stream.id());
        drop(stream);
        until("nobody wants it any more", || server.subscriptions().is_empty()).await;
        over(rig).await;
    }
}

#[tokio::test]
async fn what_a_backend_asks_is_asked_of_its_caller_and_the_call_goes_on() {
    for back in WIRES {
        let server = serve(Script::default()).await;
        let rig = rig_of(&server, back).await;
        let capabilities = json!({ "elicitation": {} });
        let config = AgentConfig::http(rig.url_http()).with_capabilities(capabilities);
        let agent = ModernAgent::new(config).expect("an agent");
        let ask = Ask::tool("ask", json!({ "kind": "elicitation", "text": "who?" }));
        let End::InputRequired { requests, state } = agent.ask(&ask).await.expect("a question").end else {
            panic!("{back:?}: nothing is asked")
        };
        let (key, question) = requests.first_key_value().expect("a question");
        assert_eq!(
            (&question["method"], &question["params"]["message"]),
            (&json!("elicitation/create"), &json!("who?"))
        );
        let answer = json!({ "action": "accept", "content": { "answer": "canary" } });
        let answered = agent.complete(&ask.again([(key.clone(), answer)].into(), state)).await;
        let text = text_of(&answered.expect("an answer")).to_owned();
        assert!(text.contains("canary"), "{back:?}: {text}");
        assert_eq!(server.stats().requests_of("tools/call"), 1, "{back:?}");
        over(rig).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_hears_the_log_it_asks_for_whatever_others_want() {
    let server = serve(Script::default()).await;
    let mut wanted = wanted(&server, Transport::Http, ModeChoice::Shared);
    wanted.limits.shared_sessions = 1;
    let rig = Rig::start(wanted).await;
    let quiet = Agent::ready(AgentConfig::http(rig.url_http())).await.expect("an agent");
    quiet.request("logging/setLevel", json!({ "level": "error" })).await.expect("a level");
    let told = || server.stats().requests_of("logging/setLevel");
    until("the session is told", || told() == 1).await;
    let agent = agent(&rig);
    let lines = async |level: Option<&str>| {
        let mut ask =
            Ask::tool("progress", json!({ "steps": 2, "interval_ms": 5, "nonce": "n", "log": true }));
        ask.log_level = level.map(str::to_owned);
        agent.ask(&ask).await.expect("an answer").notes.len()
    };
    assert_eq!(lines(None).await, 0);
    assert_eq!(told(), 1, "who wants nothing changes nothing");
    lines(Some("info")).await;
    until("the session is told", || told() == 2).await;
    assert_eq!(lines(Some("info")).await, 2);
    assert_eq!(lines(Some("warning")).await, 0, "the session says more than it wants");
    assert_eq!(lines(None).await, 0);
    assert_eq!(told(), 2, "once for all of them");
    over(rig).await;
}

/// What a tool that keeps things in its session says.
async fn said(agent: &ModernAgent, tool: &str) -> String {
    let answer = agent.call_tool(tool, json!({})).await;
    text_of(&answer.unwrap_or_else(|error| panic!("{tool}: {error}"))).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_server_keeps_state_discovery_sends_back_and_each_call_finds_nothing() {
    for back in WIRES {
        let server = serve(Script { state_tools: true, ..Script::default() }).await;
        let rig = rig_of(&server, back).await;
        let (one, other) = (agent(&rig), agent(&rig));
        one.discover().await.expect("nothing is known of it");
        assert_eq!((said(&one, "count").await, said(&other, "count").await), ("1".into(), "2".into()));
        said(&one, "reveal").await;
        let is_demoted = || rig.gateway.backends()[0].backend.status().demotion.is_some();
        until("it is seen to keep state", is_demoted).await;
        let refused = other.discover().await;
        assert!(matches!(refused, Err(mcpool_testkit::AgentError::Rpc { code: -32601, .. })), "{refused:?}");
        // Who is there already goes on, without what anybody left.
        let counts =
            futures::future::join_all([&one, &other, &one, &other].map(|who| said(who, "count"))).await;
        assert_eq!(counts, ["1"; 4], "{back:?}");
        assert_eq!((said(&one, "count").await, said(&one, "count").await), ("1".into(), "1".into()));
        // The one refusal that is meant.
        over_but(rig, 404).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_which_agent_it_is_finds_what_it_left() {
    for back in WIRES {
        let server = serve(Script { state_tools: true, ..Script::default() }).await;
        let rig = Rig::start(wanted(&server, back, ModeChoice::Pinned)).await;
        let named = |name: &str| {
            let headers = vec![("mcpool-affinity".to_owned(), name.to_owned())];
            ModernAgent::new(AgentConfig { headers, ..AgentConfig::http(rig.url_http()) }).expect("an agent")
        };
        let (one, other) = (named("one"), named("other"));
        one.discover().await.expect("it has a name");
        let mut counts = Vec::new();
        for who in [&one, &one, &other, &one, &other] {
            counts.push(said(who, "count").await);
        }
        assert_eq!(counts, ["1", "2", "1", "3", "2"], "{back:?}");
        let nobody = agent(&rig);
        assert!(nobody.discover().await.is_err());
        assert_eq!((said(&nobody, "count").await, said(&nobody, "count").await), ("1".into(), "1".into()));
        // The one refusal that is meant.
        over_but(rig, 404).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_handshake_may_be_the_first_where_each_agent_has_a_session_of_its_own() {
    for back in WIRES {
        for asks_first in [true, false] {
            let server = serve(Script { state_tools: true, ..Script::default() }).await;
            let rig = Rig::start(wanted(&server, back, ModeChoice::Pinned)).await;
            let one = agent(&rig);
            if !asks_first {
                assert_eq!((said(&one, "count").await, said(&one, "count").await), ("1".into(), "1".into()));
            }
            let refused = one.discover().await;
            assert!(
                matches!(refused, Err(mcpool_testkit::AgentError::Rpc { code: -32601, .. })),
                "{refused:?}"
            );
            assert_eq!(said(&one, "count").await, "1", "{back:?}");
            // The one refusal that is meant.
            over_but(rig, 404).await;
        }
    }
}

#[tokio::test]
async fn a_backend_that_is_not_there_is_an_error_of_the_call() {
    let server = serve(Script::default()).await;
    let mut wanted = wanted(&server, Transport::Http, ModeChoice::Auto);
    wanted.times.first_open = Duration::from_millis(300);
    server.stop().await;
    let rig = Rig::start(wanted).await;
    let agent = agent(&rig);
    let failed = agent.call_tool("echo", json!({ "nonce": "n" })).await;
    assert!(matches!(failed, Err(mcpool_testkit::AgentError::Rpc { code: -31901, .. })), "{failed:?}");
    assert_eq!(agent.statuses().into_keys().collect::<Vec<_>>(), [200]);
    over(rig).await;
}
