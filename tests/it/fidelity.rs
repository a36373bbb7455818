//! Arguments and results leave byte for byte as they came, through the real path on every pair of transports.
//!
//! The one exception is the wire's own: an event of a stream holds no line break, so a raw one between two tokens
//! of a result may become a space there. Inside strings JSON allows none.

use std::{collections::HashMap, fmt::Write as _};

use mcpool_testkit::{Agent, AgentConfig, Script, Server, agent::Transport};
use mcpool_upstream::{Limits, TransportChoice};
use serde_json::value::RawValue;

use crate::rig::{Rig, Wanted};

const WIRES: [Transport; 2] = [Transport::Http, Transport::Sse];

type Members<'a> = HashMap<String, &'a RawValue>;

fn member<'a>(object: &'a str, name: &str) -> &'a str {
    let members: Members<'a> = serde_json::from_str(object).expect("an object");
    members[name].get()
}

/// Documents that a parser which builds a tree would change.
fn documents() -> Vec<String> {
    let mut all: Vec<String> = [
        r#"{"n":[9007199254740993,-9007199254740993,18446744073709551616,123456789012345678901234567890]}"#,
        r#"{"n":[1e400,-1e400,-0,-0.0,1E+2,1e-400,0.10,1.0,1e5,100000000000000000000000000.000]}"#,
        r#"{"s":["\u0000\u001f","\u00e9","é","\/","/","\ud83d\ude00","😀","\u2028\u2029"," ","\u007f","ﬁ","e\u0301"]}"#,
        r#"{"half":["\ud800","\udc00","\udc00\ud800","a\ud83dz"],"\ud800":1}"#,
        r#"{"z":1,"a":2,"m":3,"a":4,"":5,"z":{"z":1,"z":2}}"#,
        "{ \"w\" :\t[ 1 ,2\t, {  } ,[ ] ] , \"x\":\t\"  two  spaces  \" }",
        "{\n  \"lines\": [\r\n    1,\r    2\n  ],\n  \"s\": \"a\\nb\\r\\n\"\n}",
        r#"{"id":1,"method":"x","params":{"_meta":{"progressToken":7}},"jsonrpc":"1.0","result":{},"error":{},"isError":true}"#,
        r#"{"name":"other","Name":"x","arguments":{"arguments":{}},"progressToken":{}}"#,
        "{}",
        "[]",
        "null",
        "\"text\"",
        "-0",
    ]
    .map(str::to_owned)
    .into();
    // The message and its params are two levels of the 64 there may be.
    all.push(format!("{}1{}", "[".repeat(62), "]".repeat(62)));
    all.push(format!("{}1{}", "{\"a\":".repeat(62), "}".repeat(62)));
    let mut state = 0x2545_f491_4f6c_dd1d;
    all.extend((0..80).map(|_| {
        let mut text = String::new();
        random(&mut text, &mut state, 5);
        text
    }));
    all
}

fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 33).expect("31 bits")
}

/// A random document with all that JSON allows.
fn random(out: &mut String, state: &mut u64, depth: usize) {
    const SPACE: [&str; 6] = ["", "", "", " ", "\t", "\n"];
    const LEAVES: [&str; 12] = [
        "null",
        "true",
        "-0",
        "1e400",
        "1E-7",
        "9007199254740993",
        "0.1000",
        "\"\\ud800\"",
        "\"\\u0041\\\"\\\\\"",
        "\"é😀\"",
        "{}",
        "[ ]",
    ];
    out.push_str(SPACE[next(state) % SPACE.len()]);
    let kind = next(state) % if depth == 0 { 2 } else { 4 };
    let items = next(state) % 4;
    match kind {
        0 => out.push_str(LEAVES[next(state) % LEAVES.len()]),
        1 => {
            // Any character there is, as itself.
            let any = char::from_u32(u32::try_from(next(state) % 0x11_0000).expect("small"));
            let any = any.filter(|c| *c >= ' ' && !matches!(c, '"' | '\\')).unwrap_or('x');
            write!(out, "\"{any}{}\"", next(state)).expect("a string");
        }
        2 => list(out, state, depth, items, ['[', ']'], ""),
        _ => list(out, state, depth, items, ['{', '}'], "\"k\" :"),
    }
    out.push_str(SPACE[next(state) % SPACE.len()]);
}

fn list(out: &mut String, state: &mut u64, depth: usize, items: usize, ends: [char; 2], key: &str) {
    out.push(ends[0]);
    for n in 0..items {
        out.push_str(if n > 0 { "," } else { "" });
        out.push_str(key);
        random(out, state, depth - 1);
    }
    out.push(ends[1]);
}

async fn rig_for(server: &Server, back: Transport, limits: Limits) -> Rig {
    let (url, transport) = match back {
        Transport::Sse => (server.url_sse(), TransportChoice::Sse),
        Transport::Http => (server.url_http(), TransportChoice::Http),
    };
    Rig::start(Wanted { transport, limits, ..Wanted::shared(url) }).await
}

async fn agent_of(rig: &Rig, front: Transport) -> Agent {
    let url = if front == Transport::Sse { rig.url_sse() } else { rig.url_http() };
    Agent::ready(AgentConfig::new(url, front)).await.expect("an agent")
}

/// Calls with these arguments, which come back as the result.
async fn there_and_back(server: &Server, agent: &Agent, arguments: &str, streamed: bool) {
    let params =
        format!("{{\"name\":\"raw\",\"arguments\":{arguments},\"_meta\":{{\"progressToken\":\"t\"}}}}");
    let _ = server.take_recorded();
    let answer = agent.request_raw("tools/call", &params).await.expect("an answer");
    let calls: Vec<_> = server
        .take_recorded()
        .into_iter()
        .filter(|r| r.body.windows(10).any(|w| w == b"tools/call"))
        .collect();
    let sent = std::str::from_utf8(&calls.last().expect("the call").body).expect("text");
    let trimmed = arguments.trim_matches([' ', '\t', '\r', '\n']);
    assert_eq!(member(member(sent, "params"), "arguments"), trimmed, "on the way there");
    let answer = std::str::from_utf8(&answer).expect("text");
    let result = member(member(answer, "result"), "structuredContent");
    if streamed {
        assert_eq!(result, trimmed.replace(['\r', '\n'], " "), "on the way back");
    } else {
        assert_eq!(result, trimmed, "on the way back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_and_results_are_passed_byte_for_byte() {
    let server = Server::start(Script { record: 8, ..Script::default() }).await.expect("a backend");
    let documents = documents();
    for back in WIRES {
        let rig = rig_for(&server, back, Limits::default()).await;
        for front in WIRES {
            let agent = agent_of(&rig, front).await;
            let streamed = front == Transport::Sse || back == Transport::Sse;
            for document in &documents {
                there_and_back(&server, &agent, document, streamed).await;
            }
            let large = format!("{{\"s\":\"{}\"}}", "ab\\u0063é".repeat((1 << 20) / 10));
            there_and_back(&server, &agent, &large, streamed).await;
            agent.close().await;
        }
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nests_deeper_than_the_limit_is_refused_and_harms_nobody() {
    let server = Server::start(Script { record: 8, ..Script::default() }).await.expect("a backend");
    let rig = rig_for(&server, Transport::Http, Limits::default()).await;
    for front in WIRES {
        let agent = agent_of(&rig, front).await;
        for levels in [63, 200, 100_000] {
            let arguments = format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
            let params = format!("{{\"name\":\"raw\",\"arguments\":{arguments}}}");
            let answer = agent.request_raw("tools/call", &params).await.expect("an answer");
            let answer = std::str::from_utf8(&answer).expect("text");
            assert!(answer.contains("nests deeper than 64 levels"), "{answer}");
        }
        there_and_back(&server, &agent, "{}", false).await;
        agent.close().await;
    }
    rig.stop().await;
}

/// A result of 2 MiB (`MCPOOL_LONG=1`: 16 MiB), which only an agent that takes JSON bodies gets whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_is_passed_byte_for_byte() {
    let bytes = if std::env::var_os("MCPOOL_LONG").is_some() { 16 << 20 } else { 2 << 20 };
    let server = Server::start(Script::default()).await.expect("a backend");
    for back in WIRES {
        let limits = Limits { max_message: 20 << 20, ..Limits::default() };
        let rig = rig_for(&server, back, limits).await;
        let agent = agent_of(&rig, Transport::Http).await;
        let params = format!("{{\"name\":\"big\",\"arguments\":{{\"bytes\":{bytes}}}}}");
        let answer = agent.request_raw("tools/call", &params).await.expect("an answer");
        let answer = std::str::from_utf8(&answer).expect("text");
        let text = "x".repeat(bytes);
        assert_eq!(
            member(answer, "result"),
            format!("{{\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}]}}")
        );
        agent.close().await;
        rig.stop().await;
    }
}
