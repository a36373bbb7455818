//! Agents of the era without handshake: what their requests must say, the links they share, and what ends with what.

use std::sync::{Arc, atomic::Ordering};

use http::StatusCode;
use mcpool_wire::{CallError, Era, ErrorKind};
use serde_json::{Value, json};

use crate::client::{Got, Running, Sse, start, until};

pub(crate) const REVISION: &str = "2026-07-28";
type Headers<'a> = Vec<(&'a str, &'a str)>;

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// The envelope of an agent with these capabilities.
pub(crate) fn meta(capabilities: &Value) -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": REVISION,
        "io.modelcontextprotocol/clientCapabilities": capabilities,
        "io.modelcontextprotocol/clientInfo": { "name": "t", "version": "1" },
    })
}

pub(crate) fn request(id: impl Into<Value>, method: &str, params: &Value) -> Value {
    let mut params = params.clone();
    if params.get("_meta").is_none() {
        params["_meta"] = meta(&json!({}));
    }
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": method, "params": params })
}

pub(crate) fn call(id: impl Into<Value>, tool: &str) -> Value {
    request(id, "tools/call", &json!({ "name": tool, "arguments": { "n": 1 } }))
}

/// The headers its body asks for.
pub(crate) fn headers(body: &Value) -> Vec<(String, String)> {
    let method = body["method"].as_str().unwrap_or_default();
    let mut all = vec![
        ("mcp-protocol-version".to_owned(), REVISION.to_owned()),
        ("mcp-method".to_owned(), method.to_owned()),
    ];
    let name = if method == "resources/read" { &body["params"]["uri"] } else { &body["params"]["name"] };
    all.extend(name.as_str().map(|name| ("mcp-name".to_owned(), name.to_owned())));
    all
}

impl Running {
    pub(crate) async fn ask(&self, body: &Value) -> Got {
        self.ask_with(&[], body).await
    }

    /// With these headers beside, or in the place of, those the body asks for.
    pub(crate) async fn ask_with(&self, more: &[(&str, &str)], body: &Value) -> Got {
        Got::read(self.start_ask(more, body).await).await
    }

    pub(crate) async fn start_ask(
        &self,
        more: &[(&str, &str)],
        body: &Value,
    ) -> http::Response<hyper::body::Incoming> {
        let own = headers(body);
        let mut all: Vec<(&str, &str)> = own.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        all.retain(|(name, _)| !more.iter().any(|(given, _)| given == name));
        all.extend(more.iter().filter(|(_, value)| *value != "-"));
        self.start_post("/mcp", &all, body).await
    }

    pub(crate) async fn ask_streamed(&self, body: &Value) -> Sse {
        Sse::over(self.start_ask(&[], body).await)
    }

    pub(crate) fn calls(&self) -> usize {
        self.script.calls.lock().unwrap().len()
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_and_nothing_is_forwarded() {
    let front = start().await;
    let list = || request(7, "tools/list", &json!({}));
    let with = |key: &str, value: Value| {
        let mut body = list();
        body["params"]["_meta"][key] = value;
        body
    };
    let without = |key: &str| {
        let mut body = list();
        body["params"]["_meta"].as_object_mut().unwrap().remove(key);
        body
    };
    let version = "io.modelcontextprotocol/protocolVersion";
    let capabilities = "io.modelcontextprotocol/clientCapabilities";
    let other = |method: &str| request(7, method, &json!({}));
    let bare = |method: &str| json!({ "jsonrpc": "2.0", "id": 7, "method": method });
    let read = request(7, "resources/read", &json!({ "uri": "u:1" }));
    let v = "mcp-protocol-version";
    let rows: Vec<(&str, Headers<'_>, Value, u16, i64)> = vec![
        ("takes no events", vec![("accept", "application/json")], list(), 406, -32600),
        ("takes no JSON", vec![("accept", "text/event-stream")], list(), 406, -32600),
        ("no envelope", vec![(v, REVISION)], bare("tools/list"), 400, -32602),
        ("a bare probe", vec![(v, "-"), ("mcp-method", "-")], bare("server/discover"), 400, -32602),
        ("no version", vec![], without(version), 400, -32602),
        ("no capabilities", vec![], without(capabilities), 400, -32602),
        ("odd capabilities", vec![], with(capabilities, json!([])), 400, -32602),
        ("odd level", vec![], with("io.modelcontextprotocol/logLevel", json!("loud")), 400, -32602),
        ("another version", vec![(v, "2031-01-01")], with(version, json!("2031-01-01")), 400, -32022),
        ("versions differ", vec![], with(version, json!("2031-01-01")), 400, -32020),
        ("version header of before", vec![(v, "2025-11-25")], list(), 400, -32020),
        ("no version header", vec![(v, "-")], list(), 400, -32020),
        ("no method header", vec![("mcp-method", "-")], list(), 400, -32020),
        ("another method", vec![("mcp-method", "TOOLS/LIST")], list(), 400, -32020),
        ("no name", vec![("mcp-name", "-")], call(7, "echo"), 400, -32020),
        ("another name", vec![("mcp-name", "Echo")], call(7, "echo"), 400, -32020),
        ("bad base64", vec![("mcp-name", "=?base64?ZWNobw?=")], call(7, "echo"), 400, -32020),
        ("another resource", vec![("mcp-name", "u:2")], read, 400, -32020),
        ("initialize", vec![], other("initialize"), 404, -32601),
        ("ping", vec![], other("ping"), 404, -32601),
        ("setLevel", vec![], other("logging/setLevel"), 404, -32601),
        ("subscribe", vec![], other("resources/subscribe"), 404, -32601),
        ("unsubscribe", vec![], other("resources/unsubscribe"), 404, -32601),
        ("a task", vec![], other("tasks/get"), 404, -32601),
        ("unknown", vec![], other("no/such"), 404, -32601),
        ("what to listen to", vec![], other("subscriptions/listen"), 400, -32602),
    ];
    for (what, more, body, status, code) in rows {
        let got = front.ask_with(&more, &body).await;
        assert_eq!((got.status.as_u16(), got.code()), (status, code), "{what}: {got:?}");
        assert_eq!(got.json()["id"], 7, "{what}");
        assert!(!got.headers.contains_key("mcp-session-id"), "{what}");
    }
    let got = front.ask_with(&[(v, "2031-01-01")], &with(version, json!("2031-01-01"))).await;
    let data = json!({ "supported": [REVISION], "requested": "2031-01-01" });
    assert_eq!(got.json()["error"]["data"], data);
    let batch = json!([list()]);
    let got = front.ask_with(&[("mcp-method", "tools/list"), (v, REVISION)], &batch).await;
    assert_eq!((got.status.as_u16(), got.code()), (400, -32600));
    for method in ["GET", "DELETE"] {
        let headers = [(v, REVISION), ("mcp-session-id", "x"), ("accept", "text/event-stream")];
        let got = front.send(method, "/mcp", &headers, "").await;
        assert_eq!(
            (got.status(), &got.headers()["allow"]),
            (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().unwrap())
        );
    }
    assert_eq!((front.calls(), front.script.opened.load(Ordering::SeqCst)), (0, 0));
}

#[tokio::test]
async fn what_has_no_meaning_is_202_and_headers_of_sessions_are_ignored() {
    let front = start().await;
    for body in [
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } }),
        json!({ "jsonrpc": "2.0", "id": 1, "result": {} }),
    ] {
        let got = front.ask_with(&[("mcp-protocol-version", REVISION)], &body).await;
        assert_eq!((got.status.as_u16(), got.text.as_str()), (202, ""), "{body}");
    }
    assert_eq!(front.script.saw("Dropped"), 2);
    let more = [("mcp-session-id", "unknown"), ("last-event-id", "1-1")];
    let got = front.ask_with(&more, &call("x", "echo")).await;
    assert_eq!((got.status.as_u16(), got.json()["id"].clone()), (200, json!("x")), "{got:?}");
    assert!(!got.headers.contains_key("mcp-session-id"));
}

#[tokio::test]
async fn a_call_is_carried_over_to_a_backend_with_handshake() {
    let front = start().await;
    let mut body = call(5, "echo");
    body["params"]["_meta"]["traceparent"] = json!("00-1");
    body["params"]["inputResponses"] = json!({});
    let got = front.ask_with(&[("mcp-param-n", "1"), ("mcp-name", "=?base64?ZWNobw==?=")], &body).await;
    assert_eq!(
        (got.status.as_u16(), &got.headers["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    let result = got.json()["result"].clone();
    assert_eq!((&result["resultType"], &result["tool"]), (&json!("complete"), &json!("echo")));
    let server = json!({ "name": "a", "version": "1" });
    assert_eq!(result["_meta"], json!({ "io.modelcontextprotocol/serverInfo": server }));
    assert_eq!(result.get("ttlMs"), None);
    {
        let calls = front.script.calls.lock().unwrap();
        assert_eq!((calls[0].era, calls[0].headers.len()), (Era::Legacy, 0));
        let sent: Value = serde_json::from_slice(calls[0].message.bytes()).unwrap();
        assert_eq!(sent["params"]["_meta"], json!({ "traceparent": "00-1" }));
        assert_eq!(sent["params"].get("inputResponses"), None);
    }
    for method in ["tools/list", "prompts/list", "resources/list", "resources/templates/list"] {
        let result = front.ask(&request(1, method, &json!({}))).await.json()["result"].clone();
        assert_eq!((&result["ttlMs"], &result["cacheScope"]), (&json!(0), &json!("private")), "{method}");
    }
    let read = front.ask(&request(1, "resources/read", &json!({ "uri": "u:1" }))).await;
    assert_eq!(read.json()["result"]["ttlMs"], 0);
    for (from, to, status) in [(-32002, -32602, 200), (-32601, -32601, 404), (-32603, -32603, 200)] {
        let mut body = call(6, "code");
        body["params"]["arguments"]["code"] = json!(from);
        let got = front.ask(&body).await;
        assert_eq!((got.status.as_u16(), got.code(), got.json()["id"].clone()), (status, to, json!(6)));
    }
    let fails = front.ask(&call(7, "fail")).await;
    assert_eq!((fails.status.as_u16(), fails.code()), (200, -31901));
}

#[tokio::test]
async fn arguments_in_headers_are_compared_where_the_backend_cannot() {
    let front = start().await;
    let mut body = call(1, "echo");
    body["params"]["arguments"]["x"] = json!("eu");
    for (sent, status) in [("eu", 200), ("us", 400), ("-", 400)] {
        let got = front.ask_with(&[("mcp-param-x", sent)], &body).await;
        assert_eq!(got.status.as_u16(), status, "{sent}");
        if status == 400 {
            assert_eq!((got.code(), got.json()["id"].clone()), (-32020, json!(1)), "{sent}");
        }
    }
    assert_eq!(front.calls(), 1, "what does not fit is not forwarded");
    front.script.modern.store(true, Ordering::SeqCst);
    assert_eq!(
        front.ask_with(&[("mcp-param-x", "us")], &body).await.status,
        200,
        "there it is the backend's"
    );
}

#[tokio::test]
async fn nothing_is_changed_on_the_way_to_a_backend_of_the_same_era() {
    let front = start().await;
    front.script.modern.store(true, Ordering::SeqCst);
    let body =
        request(5, "tools/call", &json!({ "name": "echo", "_meta": meta(&json!({ "elicitation": {} })) }));
    let got = front.ask_with(&[("mcp-param-n", "1"), ("mcp-other", "2")], &body).await;
    assert_eq!(got.json()["result"], json!({ "tool": "echo", "backend": "a", "arguments": null }));
    let calls: Vec<_> = front.script.calls.lock().unwrap().clone();
    assert_eq!(calls[0].message.bytes(), body.to_string().as_bytes());
    let sent: Vec<_> =
        calls[0].headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!((calls[0].era, sent), (Era::Modern, vec![("mcp-param-n", b"1".as_slice())]));
    for (code, status) in [(-32020, 400), (-32021, 400), (-32601, 404), (-32602, 200)] {
        let mut body = call(6, "code");
        body["params"]["arguments"]["code"] = json!(code);
        let got = front.ask(&body).await;
        assert_eq!((got.status.as_u16(), got.code()), (status, code));
    }
    // One link serves everybody, whatever they declare.
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn discovery_is_answered_from_the_handshake() {
    let front = start().await;
    let got = front.ask(&request("probe", "server/discover", &json!({}))).await;
    assert_eq!((got.status.as_u16(), got.json()["id"].clone()), (200, json!("probe")));
    let result = got.json()["result"].clone();
    assert_eq!(result["supportedVersions"], json!([REVISION]));
    assert_eq!(result["capabilities"]["tools"], json!({ "listChanged": true }));
    assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "a");
    assert_eq!(
        (&result["resultType"], &result["ttlMs"], &result["cacheScope"]),
        (&json!("complete"), &json!(0), &json!("private"))
    );
    assert_eq!(front.calls(), 0);
    assert_eq!(front.script.saw("call server/discover a ok"), 1);
    *front.script.open_error.lock().unwrap() = Some(CallError::not_sent(ErrorKind::Unavailable, "down"));
    let body = request(1, "server/discover", &json!({}));
    let got = front.ask_with(&[("mcpool-affinity", "x")], &body).await;
    assert_eq!((got.status.as_u16(), got.code()), (200, -31901));
    let elsewhere = front
        .post("/none/mcp", &[("mcp-protocol-version", REVISION), ("mcp-method", "server/discover")], &body)
        .await;
    assert_eq!(elsewhere.status, 404);
}

#[tokio::test]
async fn a_connection_that_ends_cancels_its_call_before_and_after_something_was_said() {
    let front = start().await;
    {
        let body = call(1, "hang");
        let waiting = front.start_ask(&[], &body);
        let gone = async { until("the call runs", || front.calls() == 1).await };
        tokio::select! {
            _ = waiting => panic!("it never ends"),
            () = gone => {}
        }
    }
    until("it is cancelled", || front.script.dropped_calls.load(Ordering::SeqCst) == 1).await;
    let mut body = call(2, "progress");
    body["params"]["_meta"]["progressToken"] = json!("tok");
    let mut stream = front.ask_streamed(&body).await;
    assert_eq!(stream.json().await["params"]["progress"], 1);
    drop(stream);
    until("it is cancelled, too", || front.script.dropped_calls.load(Ordering::SeqCst) == 2).await;
    until("nothing is in flight", || front.gauges.calls.load(Ordering::SeqCst) == 0).await;
    assert_eq!(front.script.saw("tools/call a cancelled"), 2);
    assert_eq!(front.gauges.adopted.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_stream_has_its_own_progress_then_the_answer_and_no_ids() {
    let front = start().await;
    let mut body = call("x", "progress");
    body["params"]["_meta"]["progressToken"] = json!(9);
    let response = front.start_ask(&[], &body).await;
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let mut stream = Sse::over(response);
    for step in 1..=2 {
        let event = stream.event().await.unwrap();
        assert_eq!((event.id.as_deref(), event.retry.as_deref()), (None, None));
        assert_eq!(event.json()["params"], json!({ "progressToken": 9, "progress": step }));
    }
    front.script.gate.open();
    let last = stream.json().await;
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!("x"), &json!("complete")));
    assert!(stream.event().await.is_none());
}

#[tokio::test]
async fn log_messages_come_where_they_were_asked_for_and_nothing_else_does() {
    let front = start().await;
    let with = |level: &str| {
        let mut body = call(1, "all-levels");
        body["params"]["_meta"]["io.modelcontextprotocol/logLevel"] = json!(level);
        body
    };
    let mut stream = front.ask_streamed(&with("warning")).await;
    for level in ["warning", "emergency"] {
        assert_eq!(stream.json().await["params"]["level"], level);
    }
    assert_eq!(stream.json().await["id"], 1);
    for body in [call(2, "all-levels"), call(2, "nobodys")] {
        let got = front.ask(&body).await;
        assert_eq!(got.headers["content-type"], "application/json", "{got:?}");
        assert_eq!(got.json()["id"], 2);
    }
}

#[tokio::test]
async fn a_listener_hears_what_was_promised_under_its_own_id() {
    let front = start().await;
    let wanted = json!({ "notifications": { "toolsListChanged": true, "promptsListChanged": true,
                                            "resourceSubscriptions": ["u:1"] } });
    let response = front.start_ask(&[], &request("l-1", "subscriptions/listen", &wanted)).await;
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let mut stream = Sse::over(response);
    let first = stream.json().await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(
        first["params"],
        json!({ "notifications": { "toolsListChanged": true, "resourceSubscriptions": ["u:1"] },
                "_meta": { SUBSCRIPTION: "l-1" } })
    );
    {
        let calls = front.script.calls.lock().unwrap();
        assert_eq!((calls.len(), calls[0].method.as_str()), (1, "resources/subscribe"));
    }
    let outlet = front.script.outlet();
    let note = |method: &str, params: Value| {
        let text = json!({ "jsonrpc": "2.0", "method": format!("notifications/{method}"), "params": params });
        mcpool_wire::LinkEvent::Notification(bytes::Bytes::from(text.to_string()))
    };
    for (method, params) in [
        ("prompts/list_changed", json!({})),
        ("message", json!({ "level": "error", "data": 1 })),
        ("resources/updated", json!({ "uri": "u:2" })),
        ("resources/updated", json!({ "uri": "u:1" })),
        ("tools/list_changed", json!({})),
    ] {
        outlet.push(note(method, params)).unwrap();
    }
    for method in ["resources/updated", "tools/list_changed"] {
        let event = stream.event().await.unwrap();
        assert_eq!(event.id, None);
        assert_eq!(event.json()["method"], format!("notifications/{method}"));
        assert_eq!(event.json()["params"]["_meta"], json!({ SUBSCRIPTION: "l-1" }));
    }
    let links = front.script.links.load(Ordering::SeqCst);
    assert_eq!((links, front.gauges.modern_agents.load(Ordering::SeqCst)), (1, 1));
    drop(outlet);
    drop(stream);
    until("its link goes with it", || front.script.links.load(Ordering::SeqCst) == 0).await;
    until("it is no longer counted", || front.gauges.modern_agents.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_listener_is_told_that_the_gateway_stops() {
    let mut front = start().await;
    let wanted = json!({ "notifications": { "toolsListChanged": true } });
    let mut stream = front.ask_streamed(&request(3, "subscriptions/listen", &wanted)).await;
    stream.json().await;
    front.shut_down();
    let last = stream.json().await;
    assert_eq!(
        last,
        json!({ "jsonrpc": "2.0", "id": 3, "result": { "resultType": "complete", "_meta": { SUBSCRIPTION: 3 } } })
    );
    assert!(stream.event().await.is_none());
    let drained = front.stopped().await;
    assert_eq!((drained.calls, drained.connections), (0, 0));
}

#[tokio::test]
async fn one_link_is_opened_for_all_who_come_at_once_and_its_failure_is_told_to_all() {
    let front = start().await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    *front.script.open_gate.lock().unwrap() = Some(Arc::clone(&gate));
    *front.script.open_error.lock().unwrap() = Some(CallError::not_sent(ErrorKind::Unavailable, "down"));
    let body = call(1, "echo");
    let all = futures::future::join_all((0..8).map(|_| front.ask(&body)));
    let fail = async {
        until("one is opened", || front.script.opened.load(Ordering::SeqCst) == 1).await;
        until("all have come", || front.gauges.connections.load(Ordering::SeqCst) == 8).await;
        gate.add_permits(1);
    };
    let (all, ()) = tokio::join!(all, fail);
    let late = all.iter().filter(|got| got.code() == -31901).count();
    assert_eq!(late, 8);
}
