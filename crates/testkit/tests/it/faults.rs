//! Every fault at the stages it can hit, on both transports, and exact counting.

use serde_json::json;

use super::*;
use mcpool_testkit::{AgentError, Fault, FaultKind, Stage};

fn brief(server: &Server, transport: Transport) -> AgentConfig {
    config(server, transport).with_timeout(SILENCE)
}

#[tokio::test]
async fn every_stage_can_be_accepted_and_never_answered() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        for stage in [Stage::Connect, Stage::Listen, Stage::Initialize, Stage::Initialized] {
            server.set_fault(Fault::always(stage, FaultKind::Hang));
            let agent = Agent::ready(brief(&server, transport).listening()).await;
            assert_eq!(agent.err(), Some(AgentError::Timeout), "{stage:?} on {transport:?}");
            server.clear_faults();
        }
        for (stage, method) in
            [(Stage::Call, "tools/call"), (Stage::Ping, "ping"), (Stage::Other, "tools/list")]
        {
            let agent = Agent::ready(brief(&server, transport)).await.unwrap();
            for kind in [FaultKind::Hang, FaultKind::Silent] {
                server.set_fault(Fault::always(stage, kind.clone()));
                let answer = agent.request(method, json!({ "name": "echo" })).await;
                assert_eq!(answer.err(), Some(AgentError::Timeout), "{kind:?} at {stage:?} on {transport:?}");
            }
            server.clear_faults();
            agent.request(method, json!({ "name": "echo" })).await.unwrap();
        }
    }
}

#[tokio::test]
async fn refusing_faults_execute_nothing() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let agent = ready(&server, transport).await;
        for kind in [
            FaultKind::Status(500, "broken".into()),
            FaultKind::Reset,
            FaultKind::Rpc(-32603, "broken".into()),
        ] {
            server.set_fault(Fault::once(Stage::Call, kind.clone()));
            let answer = agent.call_tool("add", json!({ "nonce": "never" })).await;
            match (&kind, answer) {
                (FaultKind::Status(..), Err(AgentError::Http { status: 500, body })) => {
                    assert_eq!(body, "broken")
                }
                (FaultKind::Reset, Err(AgentError::Closed(_))) => {}
                (FaultKind::Rpc(..), Err(AgentError::Rpc { code: -32603, .. })) => {}
                (_, other) => panic!("{kind:?} on {transport:?}: {other:?}"),
            }
            agent.call_tool("echo", json!({})).await.unwrap();
        }
    }
    assert_eq!((server.executions("never"), server.stats().faults), (0, 6));
}

#[tokio::test]
async fn a_cut_answer_was_executed() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        for at in [0, 1, 30, 60] {
            let agent = ready(&server, transport).await;
            let nonce = format!("{transport:?}{at}");
            server.set_fault(Fault::once(Stage::Call, FaultKind::CutAt(at)));
            let answer = agent.call_tool("add", json!({ "nonce": nonce })).await;
            assert!(matches!(answer, Err(AgentError::Closed(_))), "cut at {at} on {transport:?}: {answer:?}");
            assert_eq!(server.executions(&nonce), 1);
        }
    }
}

#[tokio::test]
async fn a_cut_sends_exactly_so_many_bytes() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = serve(Script::default()).await;
    for at in [1, 17, 25] {
        server.set_fault(Fault::once(Stage::Listen, FaultKind::CutAt(at)));
        let mut tcp = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
        tcp.write_all(b"GET /sse HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut all = Vec::new();
        tcp.read_to_end(&mut all).await.unwrap();
        let all = String::from_utf8(all).unwrap();
        let (_, body) = all.split_once("\r\n\r\n").unwrap();
        let (size, rest) = body.split_once("\r\n").unwrap();
        assert_eq!(usize::from_str_radix(size, 16).unwrap(), at);
        assert_eq!(rest.len(), at + 2, "no last chunk: {rest:?}");
    }
}

#[tokio::test]
async fn answers_can_be_empty_double_or_foreign() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let agent = Agent::ready(brief(&server, transport)).await.unwrap();
        server.set_fault(Fault::once(Stage::Call, FaultKind::Empty));
        let empty = agent.call_tool("add", json!({ "nonce": "e" })).await;
        assert!(matches!(empty, Err(AgentError::Closed(_) | AgentError::Timeout)), "{empty:?}");

        server.set_fault(Fault::once(Stage::Call, FaultKind::Double));
        assert_eq!(text(&agent.call_tool("echo", json!({ "text": "2" })).await.unwrap()), "2");
        until("the second came", || agent.unknown_answers() == 1).await;

        server.set_fault(Fault::once(Stage::Call, FaultKind::ForeignId));
        let foreign = agent.call_tool("echo", json!({})).await;
        assert!(matches!(foreign, Err(AgentError::Closed(_) | AgentError::Timeout)), "{foreign:?}");
        assert_eq!(agent.unknown_answers(), 2);
        agent.call_tool("echo", json!({})).await.unwrap();
    }
    assert_eq!(server.executions("e"), 2);
}

#[tokio::test]
async fn a_stream_can_be_closed_by_a_call() {
    let server = serve(Script::default()).await;
    let agent = ready(&server, Transport::Sse).await;
    server.set_fault(Fault::once(Stage::Call, FaultKind::CloseStream));
    agent.call_tool("echo", json!({})).await.unwrap();
    agent.wait_closed().await;
    let late = agent.call_tool("echo", json!({})).await;
    assert!(matches!(late, Err(AgentError::Closed(_))), "{late:?}");
}

#[tokio::test]
async fn a_stream_can_be_empty_silent_or_cut_at_its_start() {
    let server = serve(Script::default()).await;
    for kind in
        [FaultKind::Empty, FaultKind::Silent, FaultKind::CutAt(20), FaultKind::Status(502, "no".into())]
    {
        server.set_fault(Fault::once(Stage::Listen, kind.clone()));
        let agent = Agent::connect(brief(&server, Transport::Sse)).await;
        match (kind, agent.err().unwrap()) {
            (FaultKind::Silent, AgentError::Timeout)
            | (FaultKind::Empty | FaultKind::CutAt(_), AgentError::Closed(_))
            | (FaultKind::Status(..), AgentError::Http { status: 502, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    until("none of them left a session", || server.stats().sessions_open == 0).await;
}

#[tokio::test]
async fn every_third_call_means_every_third_call() {
    let server = serve(Script::default()).await;
    let agent = ready(&server, Transport::Http).await;
    server.set_fault(Fault::every(3, Stage::Call, FaultKind::Rpc(-1, "third".into())));
    for n in 1..=9 {
        let answer = agent.call_tool("echo", json!({})).await;
        assert_eq!(answer.is_err(), n % 3 == 0, "call {n}");
        agent.request("ping", json!({})).await.unwrap();
    }
    assert_eq!(server.stats().faults, 3);
}

#[tokio::test]
async fn a_delay_fault_is_only_slow() {
    let delay = Duration::from_millis(30);
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let agent = ready(&server, transport).await;
        for (stage, method) in [(Stage::Ping, "ping"), (Stage::Call, "tools/call")] {
            server.set_fault(Fault::once(stage, FaultKind::Delay(delay)));
            let begun = std::time::Instant::now();
            agent.request(method, json!({ "name": "echo" })).await.unwrap();
            assert!(begun.elapsed() >= delay);
        }
    }
}
