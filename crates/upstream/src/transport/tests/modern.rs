//! The era without handshake, against scripted servers: what is on the wire, and what it means to a session.

mod news;

use serde_json::{Value, json};

use super::*;
use crate::{config::EraChoice, transport::TransportKind};

const HELLO: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{},"roots":{"listChanged":true}},"clientInfo":{"name":"c","version":"1"}}}"#;
const VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// A server of this era: the closure answers everything but `server/discover`.
async fn server<F>(answer: impl Fn(Seen, Value) -> F + Send + Sync + 'static) -> Server
where
    F: Future<Output = Answer> + Send + 'static,
{
    let answer = Arc::new(answer);
    Server::start(move |seen| {
        let answer = Arc::clone(&answer);
        async move {
            let message: Value = serde_json::from_slice(&seen.body).unwrap();
            if message["method"] == "server/discover" {
                discovered(&message)
            } else {
                answer(seen, message).await
            }
        }
    })
    .await
}

fn discovered(message: &Value) -> Answer {
    result(
        message,
        json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "private",
            "capabilities": { "tools": { "listChanged": true }, "resources": { "subscribe": true }, "extensions": { "a/b": {} } },
            "instructions": "be kind", "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "s", "version": "2" } },
        }),
    )
}

fn result(message: &Value, result: Value) -> Answer {
    reply(200, &json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
}

fn reply(status: u16, body: &Value) -> Answer {
    Answer::new(status, "application/json", body.to_string())
}

fn event(message: &Value) -> String {
    format!("data: {message}\n\n")
}

async fn open(server: &Server) -> Opened {
    let transport = transport_of(server.url("/mcp"), TransportChoice::Http, EraChoice::Modern);
    within(transport.connect(initialize(HELLO))).await.unwrap()
}

fn request(id: u64, method: &str, params: Value) -> Bytes {
    Bytes::from(json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string())
}

/// The one answer of an exchange.
async fn answer(opened: &Opened, message: Bytes) -> Value {
    let said = messages(opened.outbound.send(message)).await;
    let [answer] = &said[..] else { panic!("{said:?}") };
    serde_json::from_slice(answer).unwrap()
}

fn bodies(server: &Server) -> Vec<(Seen, Value)> {
    server
        .seen()
        .into_iter()
        .map(|seen| (seen.clone(), serde_json::from_slice(&seen.body).unwrap()))
        .collect()
}

#[tokio::test]
async fn what_it_says_of_itself_is_an_answer_to_initialize() {
    let server = server(|_, _| async { Answer::status(500) }).await;
    let opened = open(&server).await;
    assert_eq!(
        (opened.kind, opened.era, opened.has_session),
        (TransportKind::Http, mcpool_wire::Era::Modern, false)
    );
    let answer: Value = serde_json::from_slice(&opened.answer).unwrap();
    assert_eq!(
        answer["result"],
        json!({
            "protocolVersion": "2026-07-28", "instructions": "be kind", "serverInfo": { "name": "s", "version": "2" },
            "capabilities": { "tools": { "listChanged": true }, "resources": { "subscribe": true } },
        })
    );
    let (seen, body) = bodies(&server).remove(0);
    assert_eq!(seen.header("mcp-method"), Some("server/discover"));
    assert_eq!(
        body["params"]["_meta"],
        json!({
            VERSION: "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": { "elicitation": {}, "roots": {} },
            "io.modelcontextprotocol/clientInfo": { "name": "c", "version": "1" },
        })
    );
}

#[tokio::test]
async fn a_request_has_its_envelope_and_headers_and_its_result_loses_what_is_new() {
    let server = server(|_, message| async move {
        match message["method"].as_str() {
            Some("tools/list") => result(&message, json!({ "resultType": "complete", "ttlMs": 5, "cacheScope": "public", "tools": [
                { "name": "a b", "inputSchema": { "properties": { "r": { "type": "string", "x-mcp-header": "Region" } } } },
                { "name": "bad", "inputSchema": { "properties": { "r": { "type": "number", "x-mcp-header": "R" } } } } ] })),
            _ => {
                let (tx, rx) = mpsc::channel(3);
                let log = json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": 1 } });
                let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": 7, "progress": 1 } });
                let done = json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "resultType": "complete", "content": [] } });
                for said in [progress, log, done] {
                    tx.try_send(event(&said)).unwrap();
                }
                Answer::streaming(rx)
            }
        }
    })
    .await;
    let opened = open(&server).await;
    let list = answer(&opened, request(5, "tools/list", json!({}))).await;
    assert_eq!(list["id"], 5);
    assert_eq!(list["result"].as_object().map(serde_json::Map::len), Some(1), "{list}");
    assert_eq!(list["result"]["tools"].as_array().map(Vec::len), Some(1), "one must not be offered: {list}");

    assert_eq!(
        answer(&opened, request(6, "logging/setLevel", json!({ "level": "info" }))).await["result"],
        json!({})
    );
    let call = request(
        7,
        "tools/call",
        json!({ "name": "a b", "arguments": { "r": " ü" }, "_meta": { "progressToken": 7 } }),
    );
    let said = messages(opened.outbound.send(call)).await;
    let methods: Vec<Value> =
        said.iter().map(|one| serde_json::from_slice::<Value>(one).unwrap()["method"].clone()).collect();
    assert_eq!(
        methods,
        [json!("notifications/progress"), json!("notifications/message"), Value::Null],
        "in their order"
    );
    let end: Value = serde_json::from_slice(&said[2]).unwrap();
    assert_eq!(end, json!({ "jsonrpc": "2.0", "id": 7, "result": { "content": [] } }));

    let (seen, body) = bodies(&server).pop().unwrap();
    assert_eq!(server.seen().len(), 3, "the level is said by the next request");
    for (header, value) in [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "a b"),
        ("mcp-param-region", "=?base64?IMO8?="),
        ("accept", "application/json, text/event-stream"),
        ("authorization", "Bearer t"),
    ] {
        assert_eq!(seen.header(header), Some(value), "{header}");
    }
    assert_eq!(
        (&body["params"]["_meta"][VERSION], &body["params"]["_meta"]["progressToken"]),
        (&json!("2026-07-28"), &json!(7))
    );
    assert_eq!(body["params"]["_meta"]["io.modelcontextprotocol/logLevel"], "info");
    assert_eq!(body["params"]["arguments"], json!({ "r": " ü" }));
}

/// What a server asks for twice, and its state with escapes that a parser would lose.
const ASKS: &str = r#"{"resultType":"input_required","inputRequests":{"who":{"method":"elicitation/create","params":{"message":"?","requestedSchema":{}}},"where":{"method":"roots/list"}},"requestState":"s\u0041\/"}"#;

async fn asking(last: usize) -> Server {
    server(move |seen, message| async move {
        if message["params"].get("inputResponses").is_none() || seen.number < last {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{ASKS}}}"#, message["id"]);
            return Answer::new(200, "application/json", body);
        }
        result(
            &message,
            json!({ "resultType": "complete", "content": [], "got": message["params"]["inputResponses"] }),
        )
    })
    .await
}

/// Answers what an exchange asks, up to its answer; gives back what was asked, and the answer.
async fn play(opened: &Opened, message: Bytes, answer: impl Fn(&Value) -> Value) -> (Vec<Value>, Value) {
    let mut exchange = opened.outbound.send(message);
    let mut asked = Vec::new();
    loop {
        let Received::Message(said) = next(&mut exchange).await.unwrap().unwrap() else { continue };
        let said: Value = serde_json::from_slice(&said).unwrap();
        if said.get("method").is_none() {
            return (asked, said);
        }
        let mut response = answer(&said);
        response["jsonrpc"] = json!("2.0");
        response["id"] = said["id"].clone();
        assert!(messages(opened.outbound.send(Bytes::from(response.to_string()))).await.is_empty());
        asked.push(said);
    }
}

#[tokio::test]
async fn a_result_that_needs_input_asks_and_goes_on_under_a_new_id_with_its_state_byte_for_byte() {
    let server = asking(3).await;
    let opened = open(&server).await;
    let call = request(9, "tools/call", json!({ "name": "t", "arguments": { "x": 1 } }));
    let (asked, end) = play(&opened, call, |asked| match asked["method"].as_str() {
        Some("roots/list") => json!({ "result": { "roots": [] } }),
        _ => json!({ "result": { "action": "decline" } }),
    })
    .await;
    let methods: Vec<_> = asked.iter().map(|one| one["method"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        methods,
        ["elicitation/create", "roots/list", "elicitation/create", "roots/list"],
        "two rounds"
    );
    assert_eq!(asked[0]["params"], json!({ "message": "?", "requestedSchema": {} }));
    assert_eq!(
        (&end["id"], &end["result"]["got"]),
        (&json!(9), &json!({ "who": { "action": "decline" }, "where": { "roots": [] } }))
    );

    let rounds = &bodies(&server)[1..];
    let ids: std::collections::BTreeSet<String> =
        rounds.iter().map(|(_, body)| body["id"].to_string()).collect();
    assert_eq!((rounds.len(), ids.len(), &rounds[0].1["id"]), (3, 3, &json!(9)), "each under its own id");
    for (seen, body) in &rounds[1..] {
        assert!(
            std::str::from_utf8(&seen.body).unwrap().contains(r#""requestState":"s\u0041\/""#),
            "{seen:?}"
        );
        assert_eq!((&body["params"]["arguments"], seen.header("mcp-name")), (&json!({ "x": 1 }), Some("t")));
    }
}

#[tokio::test]
async fn an_agent_that_fails_gave_no_form_and_no_roots() {
    let server = asking(0).await;
    let opened = open(&server).await;
    let fail = || json!({ "error": { "code": -32601, "message": "not here" } });
    let call = || request(9, "tools/call", json!({ "name": "t" }));
    let (_, end) = play(&opened, call(), |asked| match asked["method"].as_str() {
        Some("elicitation/create") => fail(),
        _ => json!({ "result": { "roots": [] } }),
    })
    .await;
    assert_eq!(end["result"]["got"]["who"], json!({ "action": "cancel" }));
    let (_, end) = play(&opened, call(), |_| fail()).await;
    assert_eq!((&end["id"], &end["error"]["code"]), (&json!(9), &json!(-32603)), "{end}");
    assert!(end["error"]["message"].as_str().unwrap().contains("roots/list: not here"), "{end}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_has_enough_is_left_after_eight_rounds() {
    let server = server(|_, message| async move {
        result(&message, json!({ "resultType": "input_required", "requestState": "again" }))
    })
    .await;
    let opened = open(&server).await;
    let end = answer(&opened, request(1, "tools/call", json!({ "name": "t" }))).await;
    assert_eq!(end["error"]["code"], -32603, "{end}");
    assert_eq!(server.seen().len(), 1 + 1 + 8);
}

#[tokio::test]
async fn what_nobody_can_be_asked_for_and_results_nobody_knows_are_errors_of_the_call() {
    let server = server(|_, message| async move {
        let asked = message["params"]["name"].as_str().unwrap();
        result(&message, match asked {
            "task" => json!({ "resultType": "task", "taskId": "1" }),
            method => json!({ "resultType": "input_required", "inputRequests": { "k": { "method": method, "params": {} } } }),
        })
    })
    .await;
    let opened = open(&server).await;
    for (name, says) in
        [("task", "\"task\""), ("sampling/createMessage", "\"sampling\""), ("tools/list", "no agent")]
    {
        let end = answer(&opened, request(4, "tools/call", json!({ "name": name }))).await;
        assert_eq!((&end["id"], &end["error"]["code"]), (&json!(4), &json!(-32603)));
        assert!(end["error"]["message"].as_str().unwrap().contains(says), "{end}");
    }
}

#[tokio::test]
async fn headers_that_were_missed_are_learned_and_the_call_is_sent_again_once() {
    let server = server(|seen, message| async move {
        match message["method"].as_str() {
            Some("tools/list") => result(&message, json!({ "tools": [
                { "name": "t", "inputSchema": { "properties": { "r": { "type": "string", "x-mcp-header": "R" } } } } ] })),
            _ if seen.header("mcp-param-r") == Some("x") && message["params"]["name"] == "t" => result(&message, json!({ "content": [] })),
            _ => reply(400, &json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32020, "message": "mismatch" } })),
        }
    })
    .await;
    let opened = open(&server).await;
    let call = |name| request(2, "tools/call", json!({ "name": name, "arguments": { "r": "x" } }));
    assert_eq!(
        answer(&opened, call("t")).await,
        json!({ "jsonrpc": "2.0", "id": 2, "result": { "content": [] } })
    );
    let methods = |server: &Server| {
        bodies(server).iter().map(|(_, b)| b["method"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(methods(&server), ["server/discover", "tools/call", "tools/list", "tools/call"]);
    let end = answer(&opened, call("other")).await;
    assert_eq!((&end["id"], &end["error"]["code"]), (&json!(2), &json!(-32020)), "once, not for ever: {end}");
    assert_eq!(methods(&server)[4..], ["tools/call", "tools/list", "tools/call"]);
}

#[tokio::test]
async fn a_status_with_a_json_rpc_error_is_an_answer_and_one_without_is_none() {
    let server = server(|_, message| async move {
        let error = |code| json!({ "jsonrpc": "2.0", "id": message["id"], "error": { "code": code, "message": "m", "data": { "requiredCapabilities": { "sampling": {} } } } });
        match message["params"]["name"].as_str() {
            Some("params") => reply(400, &error(-32602)),
            Some("unknown") => reply(404, &error(-32601)),
            Some("needs") => reply(400, &error(-32021)),
            Some("version") => reply(400, &error(-32022)),
            Some("busy") => Answer::new(429, "text/plain", "later"),
            _ => Answer::new(500, "text/plain", "boom"),
        }
    })
    .await;
    let opened = open(&server).await;
    let call = |name| request(3, "tools/call", json!({ "name": name }));
    for (name, code) in [("params", -32602), ("unknown", -32601), ("needs", -32602)] {
        let end = answer(&opened, call(name)).await;
        assert_eq!((&end["id"], &end["error"]["code"]), (&json!(3), &json!(code)), "{end}");
    }
    let needs = answer(&opened, call("needs")).await;
    assert!(needs["error"]["message"].as_str().unwrap().contains("sampling"), "{needs}");
    let cause = async |name| match all(opened.outbound.send(call(name))).await.remove(0) {
        Err(error) => (error.phase, error.cause),
        Ok(said) => panic!("{said:?}"),
    };
    assert!(
        matches!(cause("version").await, (SendPhase::Refused, Cause::WrongVersion(_))),
        "another era is found out anew"
    );
    assert!(matches!(cause("busy").await, (SendPhase::Refused, Cause::Pressure(_))));
    assert!(matches!(cause("boom").await, (SendPhase::MaybeSent, Cause::Status(_))));
}

#[tokio::test]
async fn a_request_of_this_era_passes_as_it_is() {
    let server = server(|_, message| async move {
        result(&message, json!({ "resultType": "input_required", "requestState": "s", "ttlMs": 1 }))
    })
    .await;
    let opened = open(&server).await;
    let text = r#"{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"ü","arguments":{ "n":1.0},"_meta":{"own":1}}}"#;
    let headers = ["mcp-param-a", "authorization"].map(|name| (name.parse().unwrap(), "v".parse().unwrap()));
    let said = messages(opened.outbound.pass(Bytes::from_static(text.as_bytes()), &Arc::from(headers))).await;
    let end: Value = serde_json::from_slice(&said[0]).unwrap();
    assert_eq!(
        end["result"],
        json!({ "resultType": "input_required", "requestState": "s", "ttlMs": 1 }),
        "untouched"
    );
    let seen = server.seen().pop().unwrap();
    assert_eq!(seen.body, text);
    assert_eq!(
        (seen.header("mcp-method"), seen.header("mcp-name")),
        (Some("tools/call"), Some("=?base64?w7w=?="))
    );
    assert_eq!(
        (seen.header("mcp-param-a"), seen.header("authorization")),
        (Some("v"), Some("Bearer t")),
        "only its own"
    );
}

#[tokio::test]
async fn dropping_an_exchange_closes_its_connection() {
    let (tx, mut closed) = mpsc::channel::<()>(1);
    let tx = Arc::new(Mutex::new(Some(tx)));
    let server = server(move |_, _| {
        // Dropped with the body, which hyper drops when its connection is gone.
        let held = tx.lock().unwrap().take();
        async move {
            let (events, rx) = mpsc::channel(1);
            events.try_send(": here\n\n".to_owned()).unwrap();
            tokio::spawn(async move {
                let _held = held;
                // Not closed by this end.
                events.closed().await;
            });
            Answer::streaming(rx)
        }
    })
    .await;
    let opened = open(&server).await;
    let mut exchange = opened.outbound.send(request(1, "tools/call", json!({ "name": "t" })));
    accepted(&mut exchange).await;
    assert!(closed.try_recv().is_err_and(|error| error == mpsc::error::TryRecvError::Empty));
    drop(exchange);
    assert_eq!(within(closed.recv()).await, None, "the server sees that nobody listens");
}

#[tokio::test]
async fn a_notification_and_a_response_to_nothing_send_nothing() {
    let server = server(|_, _| async { Answer::status(500) }).await;
    let opened = open(&server).await;
    for text in [
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}"#,
        r#"{"jsonrpc":"2.0","id":77,"result":{}}"#,
    ] {
        assert!(messages(opened.outbound.send(text.into())).await.is_empty(), "{text}");
    }
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_probe_asks_what_the_backend_is() {
    let era = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let speaks = Arc::clone(&era);
    let server = Server::start(move |seen| {
        let speaks = speaks.load(std::sync::atomic::Ordering::SeqCst);
        async move {
            let message: Value = serde_json::from_slice(&seen.body).unwrap();
            let gone = json!({ "jsonrpc": "2.0", "id": message["id"], "error": { "code": -32601, "message": "no" } });
            if speaks { discovered(&message) } else { reply(404, &gone) }
        }
    })
    .await;
    let opened = open(&server).await;
    assert_eq!(
        answer(&opened, request(4, "ping", json!({}))).await,
        json!({ "jsonrpc": "2.0", "id": 4, "result": {} })
    );
    era.store(false, std::sync::atomic::Ordering::SeqCst);
    let items = all(opened.outbound.send(request(5, "ping", json!({})))).await;
    assert!(matches!(&items[..], [Err(SendError { cause: Cause::WrongVersion(_), .. })]), "{items:?}");
    assert!(bodies(&server).iter().all(|(_, body)| body["method"] == "server/discover"), "never ping");
}
