//! A failed call can be found by its request id; its line has every needed field and no secret.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Instant,
};

use mcpool_front::Transport;
use mcpool_wire::{AgentKey, BackendId, CallError, CallTrace, ErrorKind, Executed, Method, RequestId};
use serde_json::Value;
use tracing::subscriber::with_default;

use super::{call_line::MAX_METHOD, *};

/// The written output.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log lines of `write`, as JSON.
fn logged(level: &str, write: impl FnOnce(&Log)) -> Vec<Value> {
    let lines = Lines::default();
    let to = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(crate::logging::parse_filter(level).unwrap())
        .with_writer(move || to.clone())
        .finish();
    with_default(subscriber, || write(&Log::default()));
    let text = lines.0.lock().unwrap().clone();
    String::from_utf8(text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn end<'a>(
    method: &'a Method,
    outcome: Outcome,
    trace: &'a CallTrace,
    error: Option<&'a CallError>,
) -> FrontEvent<'a> {
    FrontEvent::CallEnded(CallEnd {
        agent: AgentKey(0xab),
        request_id: RequestId(0xfeed),
        method,
        backend: "search",
        target: "search",
        outcome,
        executed: error.map_or(Executed::Yes, |error| error.executed),
        trace,
        error,
        took: Duration::from_micros(12_345),
    })
}

fn source() -> Source {
    Source { id: BackendId(0), name: "search".into() }
}

#[test]
fn a_failed_call_is_one_line_with_everything() {
    let started = Instant::now();
    let trace = CallTrace::new(started);
    trace.mark_leased(7, started + Duration::from_millis(2));
    trace.mark_sent(started + Duration::from_millis(3));
    trace.note_cause("connection broke: reset");
    let error = CallError::not_sent(ErrorKind::Lost, "the session ended").executed(Executed::Maybe);
    let lines =
        logged("info", |log| log.front(&end(&Method::ToolsCall, Outcome::Lost, &trace, Some(&error))));
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let expect = serde_json::json!({
        "level": "WARN",
        "target": "mcpool::call",
        "message": "call failed",
        "request_id": "000000000000feed",
        "agent": "aab",
        "backend": "search",
        "session": 7,
        "method": "tools/call",
        "outcome": "lost",
        "executed": "maybe",
        "cause": "lost_in_flight",
        "why": "the session ended",
        "attempt": "connection broke: reset",
        "attempts": 1,
        "leased_ms": 2.0,
        "sent_ms": 3.0,
        "took_ms": 12.345,
    });
    for (key, value) in expect.as_object().unwrap() {
        assert_eq!(&line[key], value, "{key} in {line}");
    }
    assert_eq!(line.get("accepted_ms"), None, "a rung that was not reached has no time");
}

#[test]
fn every_kind_of_failure_is_loud_and_every_answer_quiet() {
    let trace = CallTrace::new(Instant::now());
    let error = CallError::not_sent(ErrorKind::Overloaded, "full");
    for outcome in Outcome::ALL {
        let failed = matches!(outcome, Outcome::Rejected | Outcome::Timeout | Outcome::Lost);
        let write =
            |log: &Log| log.front(&end(&Method::ToolsCall, outcome, &trace, failed.then_some(&error)));
        assert_eq!(logged("info", write).len(), usize::from(failed), "{outcome:?}");
        let lines = logged("debug", write);
        assert_eq!(lines.len(), 1, "{outcome:?}");
        assert_eq!(lines[0]["request_id"], "000000000000feed");
    }
}

#[test]
fn a_method_cannot_flood_or_forge_a_line() {
    let trace = CallTrace::new(Instant::now());
    let method = Method::parse(&format!("x\n{{\"forged\":1}}{}", "y".repeat(10_000)));
    let error = CallError::not_sent(ErrorKind::MethodNotFound, "no");
    let lines = logged("info", |log| log.front(&end(&method, Outcome::Rejected, &trace, Some(&error))));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["method"].as_str().unwrap().chars().count(), MAX_METHOD);
}

#[test]
fn an_agents_own_mistake_is_no_warning() {
    let trace = CallTrace::new(Instant::now());
    for kind in [ErrorKind::MethodNotFound, ErrorKind::InvalidParams, ErrorKind::InvalidRequest] {
        let error = CallError::not_sent(kind, "no");
        let lines = logged("info", |log| {
            log.front(&end(&Method::ToolsCall, Outcome::Rejected, &trace, Some(&error)))
        });
        assert_eq!((lines.len(), &lines[0]["level"]), (1, &"INFO".into()), "{kind:?}");
    }
}

#[test]
fn an_agent_that_fails_all_the_time_is_thinned_with_a_count_and_others_are_heard() {
    let trace = CallTrace::new(Instant::now());
    let (unknown, lost) = (
        CallError::not_sent(ErrorKind::MethodNotFound, "no"),
        CallError::not_sent(ErrorKind::Lost, "broken").executed(Executed::Maybe),
    );
    let lines = logged("info", |log| {
        for _ in 0..20_000 {
            log.front(&end(&Method::ToolsCall, Outcome::Rejected, &trace, Some(&unknown)));
        }
        log.front(&end(&Method::ToolsCall, Outcome::Lost, &trace, Some(&lost)));
    });
    assert_eq!(lines.len(), 10 + 1);
    assert_eq!((&lines[10]["level"], &lines[10]["cause"]), (&"WARN".into(), &"lost_in_flight".into()));
    // No count is lost: the next line reports it.
    let thinned = Log::default();
    let said = |at| thinned.calls.admit((AgentKey(1), "lost"), (AgentKey(0), "lost"), at);
    let start = Instant::now();
    assert_eq!((0..100).filter_map(|_| said(start)).count(), 10);
    assert_eq!(said(start + Duration::from_secs(60)), Some(90));
}

#[test]
fn who_is_turned_away_is_said_once_with_the_key_to_raise() {
    let lines = logged("info", |log| {
        for _ in 0..100 {
            log.front(&FrontEvent::Refused { kind: "agent_sessions" });
        }
        log.front(&FrontEvent::Refused { kind: "host" });
    });
    let said: Vec<_> = lines.iter().map(|line| (line["kind"].as_str(), line["level"].as_str())).collect();
    assert_eq!(said, [(Some("agent_sessions"), Some("WARN")), (Some("host"), Some("WARN"))]);
    assert!(lines[0]["message"].as_str().unwrap().contains("limits.agent_sessions"), "{lines:?}");
    for kind in mcpool_front::REFUSALS {
        assert_ne!(rejection_reason(kind), rejection_reason("?"), "{kind}");
    }
}

#[test]
fn the_same_failed_handshake_is_said_once_and_another_at_once() {
    let failed = |why: &'static str| Event::OpenFailed {
        epoch: 1,
        reason: mcpool_upstream::OpenReason::Warm,
        incident: None,
        cause: &mcpool_upstream::Cause::Closed("for a test"),
        why,
    };
    let lines = logged("info", |log| {
        for why in ["refused", "refused", "refused", "bad gateway"] {
            log.backend(&source(), &failed(why));
        }
        let opened = Event::Opened {
            epoch: 2,
            mode: Mode::Shared,
            reason: mcpool_upstream::OpenReason::Probe,
            started: Instant::now(),
            transport: "sse",
        };
        log.backend(&source(), &opened);
        log.backend(&source(), &failed("refused"));
    });
    let said: Vec<_> = lines.iter().map(|l| (l["why"].as_str(), l["repeats"].as_u64())).collect();
    assert_eq!(
        said,
        [(Some("refused"), None), (Some("bad gateway"), Some(2)), (None, None), (Some("refused"), None)]
    );
    assert!(lines.iter().all(|line| line["incident"].is_null()), "no incident is no field");
}

#[test]
fn the_circuit_speaks_up_when_it_opens_and_when_it_closes() {
    let at = Instant::now();
    let lines = logged("info", |_| {
        for (seq, reason) in (1..).zip(mcpool_breaker::Reason::ALL) {
            let (from, to) = reason.edge();
            Log::transition(&source(), &Transition { seq, from, to, reason, at });
        }
    });
    let said: Vec<_> =
        lines.iter().map(|l| (l["level"].as_str().unwrap(), l["to"].as_str().unwrap())).collect();
    // Closed by a probe, and by the operator.
    assert_eq!(said, [("WARN", "open"), ("INFO", "closed"), ("INFO", "closed")]);
}

#[test]
fn agents_that_come_and_go_are_quiet() {
    let (agent, transport, peer) = (AgentKey(1), Transport::Sse, [127, 0, 0, 1].into());
    let opened = FrontEvent::AgentOpened { agent, transport, backend: "search", peer, client: None };
    assert!(logged("info", |log| log.front(&opened)).is_empty());
    assert_eq!(logged("debug", |log| log.front(&opened))[0]["agent"], "a1");
}

#[test]
fn an_agent_that_says_who_it_is_is_told_with_its_address_and_many_of_a_kind_are_thinned() {
    let client = mcpool_front::ClientName { name: "cursor".to_owned(), version: "1.2".to_owned() };
    let (agent, transport, peer) = (AgentKey(7), Transport::Http, [192, 0, 2, 7].into());
    let opened = FrontEvent::AgentOpened { agent, transport, backend: "search", peer, client: Some(&client) };
    let lines = logged("info", |log| (0..100).for_each(|_| log.front(&opened)));
    assert_eq!(lines.len(), 5);
    for (key, value) in [("agent", "a7"), ("peer", "192.0.2.7"), ("client", "cursor"), ("version", "1.2")] {
        assert_eq!(lines[0][key], value, "{}", lines[0]);
    }
}

#[test]
fn sessions_that_give_way_are_said_once() {
    let reason = mcpool_front::AgentEnd::Evicted;
    let closed = FrontEvent::AgentClosed { agent: AgentKey(1), transport: Transport::Http, reason };
    let lines = logged("info", |log| (0..1_000).for_each(|_| log.front(&closed)));
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0]["message"].as_str().unwrap().starts_with("limits.agent_sessions is reached"),
        "{lines:?}"
    );
}
