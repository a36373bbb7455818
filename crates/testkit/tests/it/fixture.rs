//! The conformance fixture where the suites do not look: eras refused, states forged, streams in their order.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use mcpool_testkit::fixture::{Era, Fixture, FixtureConfig};
use serde_json::{Value, json};

use super::*;

const MODERN: &str = "2026-07-28";
const NONE: &[(&str, &str)] = &[];

async fn fixture(era: Era) -> Fixture {
    Fixture::start(FixtureConfig { era, ..FixtureConfig::default() }).await.expect("binds")
}

/// An answer whose body is still to be read.
struct Answered {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Incoming,
    read: String,
}

async fn send(method: Method, url: &str, headers: &[(&str, &str)], body: &Value) -> Answered {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in
        [("accept", "application/json, text/event-stream"), ("content-type", "application/json")]
            .iter()
            .chain(headers)
    {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let sent = client.request(request.body(Full::new(body)).expect("a request"));
    let answer = tokio::time::timeout(PATIENCE, sent).await.expect("an answer in time").expect("an answer");
    let (parts, body) = answer.into_parts();
    Answered { status: parts.status, headers: parts.headers, body, read: String::new() }
}

impl Answered {
    /// The whole body as JSON.
    async fn json(self) -> Value {
        let body = tokio::time::timeout(PATIENCE, self.body.collect()).await.expect("an end in time");
        serde_json::from_slice(&body.expect("a whole body").to_bytes()).expect("JSON")
    }

    /// The next event: its id, and its data, null when it has none. `None` at the end.
    async fn event(&mut self) -> Option<(Option<String>, Value)> {
        loop {
            if let Some((event, rest)) = self.read.split_once("\n\n") {
                let field =
                    |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let (id, data) = (field("id:").map(str::to_owned), field("data:").unwrap_or_default());
                let data = serde_json::from_str(data).unwrap_or(Value::Null);
                self.read = rest.to_owned();
                return Some((id, data));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("a frame in time")?;
            if let Ok(data) = frame.expect("a frame").into_data() {
                self.read.push_str(std::str::from_utf8(&data).expect("text"));
            }
        }
    }

    /// The next message of a stream.
    async fn message(&mut self) -> Value {
        self.event().await.expect("the stream goes on").1
    }

    fn header(&self, name: &str) -> String {
        self.headers[name].to_str().expect("text").to_owned()
    }
}

/// A request of 2026-07-28 from a client that can be asked anything, with its headers.
async fn modern(fixture: &Fixture, method: &str, params: Value, more: &[(&str, &str)]) -> Answered {
    modern_of(fixture, method, params, more, json!({ "elicitation": {}, "sampling": {}, "roots": {} })).await
}

async fn modern_of(
    fixture: &Fixture,
    method: &str,
    mut params: Value,
    more: &[(&str, &str)],
    capabilities: Value,
) -> Answered {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    });
    let name = params.get("name").or_else(|| params.get("uri")).and_then(Value::as_str).map(str::to_owned);
    let own = [("mcp-protocol-version", MODERN), ("mcp-method", method)];
    let own = own.into_iter().chain(name.as_deref().map(|name| ("mcp-name", name)));
    let kept = own.filter(|(key, _)| !more.iter().any(|(other, _)| other == key));
    // An empty value stands for a header that is left out.
    let headers: Vec<_> = kept.chain(more.iter().copied()).filter(|(_, value)| !value.is_empty()).collect();
    let body = json!({ "jsonrpc": "2.0", "id": "mine", "method": method, "params": params });
    send(Method::POST, &fixture.url(), &headers, &body).await
}

/// A request of the older kind.
async fn legacy(fixture: &Fixture, session: &[(&str, &str)], method: &str, params: Value) -> Answered {
    let body = json!({ "jsonrpc": "2.0", "id": "mine", "method": method, "params": params });
    send(Method::POST, &fixture.url(), session, &body).await
}

async fn initialize(fixture: &Fixture, version: &str, capabilities: Value) -> Answered {
    let params = json!({
        "protocolVersion": version,
        "capabilities": capabilities,
        "clientInfo": { "name": "test", "version": "1" },
    });
    legacy(fixture, NONE, "initialize", params).await
}

fn refusal(body: &Value) -> i64 {
    assert_eq!(body["id"], "mine", "a refusal names the request: {body}");
    body["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {body}"))
}

#[tokio::test]
async fn a_fixture_of_one_era_refuses_the_other_as_sdks_do() {
    let old = fixture(Era::Legacy).await;
    let probe = modern(&old, "server/discover", json!({}), NONE).await;
    assert_eq!(probe.status, StatusCode::BAD_REQUEST);
    let code = refusal(&probe.json().await);
    assert!(![-32020, -32021, -32022].contains(&code), "{code} would say that there is a modern server");
    let begun = initialize(&old, "2025-06-18", json!({})).await;
    assert_eq!(begun.json().await["result"]["protocolVersion"], "2025-06-18");

    let new = fixture(Era::Modern).await;
    let refused = initialize(&new, "2025-06-18", json!({})).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(!refused.headers.contains_key("mcp-session-id"));
    let refused = refused.json().await;
    assert_eq!(refusal(&refused), -32022);
    assert_eq!(refused["error"]["data"], json!({ "supported": [MODERN], "requested": "2025-06-18" }));
    for method in [Method::GET, Method::DELETE] {
        let answer = send(method, &new.url(), NONE, &Value::Null).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    }
    assert_eq!((old.sessions(), new.sessions()), (1, 0));

    let both = fixture(Era::Both).await;
    let found = modern(&both, "server/discover", json!({}), NONE).await;
    assert_eq!(found.status, StatusCode::OK);
    assert_eq!(found.json().await["result"]["supportedVersions"], json!([MODERN]));
    let begun = initialize(&both, MODERN, json!({})).await;
    assert_eq!(begun.json().await["result"]["protocolVersion"], "2025-11-25", "no handshake agrees on it");
}

#[tokio::test]
async fn headers_that_do_not_say_what_the_body_says_are_refused() {
    let fixture = fixture(Era::Both).await;
    let read = json!({ "uri": "test://static-text" });
    for more in [
        ("mcp-protocol-version", ""),
        ("mcp-protocol-version", "2025-11-25"),
        ("mcp-method", ""),
        ("mcp-method", "Resources/read"),
        ("mcp-name", ""),
        ("mcp-name", "test://static-binary"),
        ("mcp-name", "=?base64?dGVzdDovL3N0YXRpYy10ZXh0=?="),
    ] {
        let refused = modern(&fixture, "resources/read", read.clone(), &[more]).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{more:?}");
        assert_eq!(refusal(&refused.json().await), -32020, "{more:?}");
    }
    let coded = [("mcp-name", "=?base64?dGVzdDovL3N0YXRpYy10ZXh0?=")];
    let served = modern(&fixture, "resources/read", read, &coded).await;
    assert_eq!(served.status, StatusCode::OK, "the same in base64 is the same");
    assert_eq!(served.json().await["result"]["contents"][0]["uri"], "test://static-text");
}

#[tokio::test]
async fn a_request_state_is_good_for_its_own_retry_alone() {
    let fixture = fixture(Era::Modern).await;
    let own = "test_input_required_result_request_state";
    let call = |name: &str| json!({ "name": name, "arguments": {} });
    let asked = modern(&fixture, "tools/call", call(own), NONE).await.json().await;
    let state = asked["result"]["requestState"].as_str().expect("a state").to_owned();
    let retry = |mut params: Value, state: &str| {
        params["requestState"] = json!(state);
        params["inputResponses"] = json!({ "confirm": { "action": "accept", "content": { "ok": true } } });
        params
    };
    let done = modern(&fixture, "tools/call", retry(call(own), &state), NONE).await.json().await;
    assert!(text(&done["result"]).contains("state-ok"), "{done}");

    let forged = format!("{}{}", if state.starts_with('A') { 'B' } else { 'A' }, &state[1..]);
    let other = json!({ "name": own, "arguments": { "more": 1 } });
    let somebody = ("authorization", "Bearer somebody");
    for (what, params, headers) in [
        ("forged", retry(call(own), &forged), NONE),
        ("another tool", retry(call("test_input_required_result_tampered_state"), &state), NONE),
        ("other arguments", retry(other, &state), NONE),
        ("another principal", retry(call(own), &state), &[somebody]),
    ] {
        let refused = modern(&fixture, "tools/call", params, headers).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{what}");
        assert_eq!(refusal(&refused.json().await), -32602, "{what}");
    }

    let hasty = FixtureConfig { state_life: Duration::ZERO, ..FixtureConfig::default() };
    let hasty = Fixture::start(hasty).await.expect("binds");
    let asked = modern(&hasty, "tools/call", call(own), NONE).await.json().await;
    let state = asked["result"]["requestState"].as_str().expect("a state").to_owned();
    let refused = modern(&hasty, "tools/call", retry(call(own), &state), NONE).await.json().await;
    assert_eq!(refusal(&refused), -32602, "too old");
}

#[tokio::test]
async fn nobody_is_asked_what_they_did_not_declare() {
    let fixture = fixture(Era::Both).await;
    let call = json!({ "name": "test_input_required_result_multiple_inputs", "arguments": {} });
    let able = json!({ "sampling": {} });
    let refused = modern_of(&fixture, "tools/call", call.clone(), NONE, able.clone()).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let refused = refused.json().await;
    assert_eq!(refusal(&refused), -32021);
    assert_eq!(refused["error"]["data"]["requiredCapabilities"], json!({ "elicitation": {}, "roots": {} }));

    let begun = initialize(&fixture, "2025-11-25", able).await;
    let session = begun.header("mcp-session-id");
    let mut answer = legacy(&fixture, &[("mcp-session-id", &session)], "tools/call", call).await;
    assert_eq!(answer.message().await, Value::Null, "the event that only says where to resume");
    assert_eq!(answer.message().await["result"]["isError"], true);
}

#[tokio::test]
async fn a_listener_hears_its_acknowledgement_first_and_only_what_it_asked_for() {
    let fixture = fixture(Era::Both).await;
    let wanted = json!({ "notifications": {
        "toolsListChanged": true,
        "resourcesListChanged": true,
        "resourceSubscriptions": ["test://watched-resource"],
    } });
    let mut heard = modern(&fixture, "subscriptions/listen", wanted, NONE).await;
    let stamp = |message: &Value| {
        assert_eq!(message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "mine", "{message}");
    };
    let first = heard.message().await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    let honoured = json!({ "toolsListChanged": true, "resourceSubscriptions": ["test://watched-resource"] });
    assert_eq!(first["params"]["notifications"], honoured, "the list of resources never changes");
    stamp(&first);

    for tool in ["test_trigger_prompt_change", "test_trigger_tool_change", "test_trigger_resource_update"] {
        let called = modern(&fixture, "tools/call", json!({ "name": tool, "arguments": {} }), NONE).await;
        assert_eq!(called.status, StatusCode::OK);
    }
    for method in ["notifications/tools/list_changed", "notifications/resources/updated"] {
        let next = heard.message().await;
        assert_eq!(next["method"], method);
        stamp(&next);
    }
    let tools = modern(&fixture, "tools/list", json!({}), NONE).await.json().await;
    let names = tools["result"]["tools"].as_array().expect("tools").iter().map(|tool| &tool["name"]);
    assert_eq!(names.filter(|name| *name == "test_extra_tool").count(), 1, "what was told is so");

    fixture.end_subscriptions();
    let last = heard.message().await;
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!("mine"), &json!("complete")));
    assert!(heard.event().await.is_none());

    let gone = modern(&fixture, "subscriptions/listen", json!({ "notifications": {} }), NONE).await;
    assert_eq!(fixture.listeners(), 1);
    drop(gone);
    until("the listener is gone", || fixture.listeners() == 0).await;
}

#[tokio::test]
async fn a_stream_that_hung_up_goes_on_where_it_was_left() {
    let fixture = fixture(Era::Both).await;
    let call = json!({ "name": "test_reconnection", "arguments": {} });
    for (version, hangs_up) in [("2025-11-25", true), ("2025-06-18", false)] {
        let session = initialize(&fixture, version, json!({})).await.header("mcp-session-id");
        let session = [("mcp-session-id", session.as_str())];
        let mut stream = legacy(&fixture, &session, "tools/call", call.clone()).await;
        let (id, mut message) = stream.event().await.expect("an event");
        assert_eq!(message.is_null(), hangs_up, "older clients do not survive an empty event");
        if hangs_up {
            assert!(stream.event().await.is_none(), "it ends without the answer");
            let last = id.expect("an id");
            let from = [session[0], ("last-event-id", last.as_str())];
            let mut rest = send(Method::GET, &fixture.url(), &from, &Value::Null).await;
            message = rest.message().await;
            assert!(rest.event().await.is_none());
        }
        assert_eq!(message["id"], "mine");
        assert_eq!(text(&message["result"]), "Reconnection test completed");
    }
}

#[tokio::test]
async fn the_rounds_of_a_call_are_questions_where_there_are_sessions() {
    let fixture = fixture(Era::Both).await;
    let session =
        initialize(&fixture, "2025-06-18", json!({ "elicitation": {} })).await.header("mcp-session-id");
    let session = [("mcp-session-id", session.as_str())];
    let call = json!({ "name": "test_input_required_result_multi_round", "arguments": {} });
    let mut stream = legacy(&fixture, &session, "tools/call", call).await;
    for content in [json!({ "name": "Ada" }), json!({ "color": "blue" })] {
        let question = stream.message().await;
        assert_eq!(question["method"], "elicitation/create", "{question}");
        let result = json!({ "action": "accept", "content": content });
        let body = json!({ "jsonrpc": "2.0", "id": question["id"], "result": result });
        let taken = send(Method::POST, &fixture.url(), &session, &body).await;
        assert_eq!(taken.status, StatusCode::ACCEPTED);
    }
    let last = stream.message().await;
    assert_eq!(text(&last["result"]), "Hello, Ada! Your favorite color: blue");
    assert!(stream.event().await.is_none());
}

#[tokio::test]
async fn a_decent_agent_is_served_over_both_older_transports() {
    let config = FixtureConfig { era: Era::Legacy, sse: true, ..FixtureConfig::default() };
    let fixture = Fixture::start(config).await.expect("binds");
    for transport in BOTH {
        let url = if transport == Transport::Sse { fixture.url_sse() } else { fixture.url() };
        let agent = Agent::ready(AgentConfig::new(url, transport)).await.expect("a handshake");
        let result = agent.call_tool("test_simple_text", json!({})).await.expect("a result");
        assert_eq!(text(&result), "This is a simple text response for testing.");
        let unknown = agent.call_tool("no_such_tool", json!({})).await;
        assert!(unknown.is_err(), "{unknown:?}");
    }
}
