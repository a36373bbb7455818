//! What a backend says in an odd way is what it says: arrays, members that are null, errors under no id of ours, and
//! a backend that comes back in the other era.

use bytes::Bytes;
use mcpool_upstream::{Limits, transport::memory::Memory};
use mcpool_wire::{Call, Envelope, Era, ErrorKind, Executed, Link as _, Message, Method};
use serde_json::{Value, json};

use crate::lab::{Lab, Wish};

/// A backend whose usual answers are said as this makes of them.
fn saying(in_exchange: bool, odd: fn(&Value) -> String) -> Lab {
    let memory = Memory::new(move |turn| async move {
        let said = turn.reply().map(|said| serde_json::from_slice::<Value>(&said).expect("JSON"));
        said.into_iter().map(|said| Bytes::from(odd(&said))).collect()
    });
    let memory = if in_exchange { memory.answering_in_exchange() } else { memory };
    let limits = Limits { min_idle: 0, ..Limits::default() };
    Lab::start(memory, Wish { limits, ..Wish::default() })
}

fn calls_of(lab: &Lab) -> usize {
    let all = lab.memory.sessions();
    all.iter().flat_map(|session| session.methods()).filter(|method| method == "tools/call").count()
}

fn is_call(said: &Value) -> bool {
    said["result"]["content"].is_array()
}

#[tokio::test(start_paused = true)]
async fn arrays_are_taken_apart_and_routed_in_the_handshake_and_after_it() {
    let alone = |said: &Value| format!("[{said}]");
    let beside = |said: &Value| format!("[{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}},{said}]");
    for odd in [alone, beside] {
        for in_exchange in [false, true] {
            let lab = saying(in_exchange, odd);
            let agent = lab.agent(1).await;
            let answer = agent.run("write", &json!({"n": 1})).await.expect("an answer");
            assert_eq!(crate::lab::text(&answer), r#"{"n":1}"#);
            assert_eq!((lab.memory.sessions().len(), calls_of(&lab)), (1, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn members_that_are_null_count_as_absent_also_in_the_handshake() {
    let odd = |said: &Value| {
        let mut said = said.clone();
        (said["error"], said["method"]) = (Value::Null, Value::Null);
        said.to_string()
    };
    for in_exchange in [false, true] {
        let lab = saying(in_exchange, odd);
        let agent = lab.agent(1).await;
        let answer = agent.run("write", &json!({"n": 1})).await.expect("an answer");
        let told: Value = serde_json::from_slice(answer.message.bytes()).expect("JSON");
        assert!(told.get("error").is_none() && told.get("method").is_none(), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_told_as_such_and_not_sent_again() {
    let odd = |said: &Value| {
        let mut said = said.clone();
        if is_call(&said) {
            said["error"] = json!({"code": 1, "message": "both"});
        }
        said.to_string()
    };
    for in_exchange in [false, true] {
        let lab = saying(in_exchange, odd);
        let error = lab.agent(1).await.run("echo", &json!({})).await.expect_err("malformed");
        assert_eq!((error.kind, error.executed), (ErrorKind::ProtocolViolation, Executed::Maybe));
        assert!(error.message.contains("no JSON-RPC message"), "{error}");
        assert_eq!((lab.memory.sessions().len(), calls_of(&lab)), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_under_no_id_of_ours_answers_the_call_it_came_back_for() {
    let null = |said: &Value| {
        if !is_call(said) {
            return said.to_string();
        }
        json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32000, "message": "disk full", "data": 7}})
            .to_string()
    };
    let missing = |said: &Value| {
        if !is_call(said) {
            return said.to_string();
        }
        json!({"jsonrpc": "2.0", "error": {"code": -32000, "message": "disk full", "data": 7}}).to_string()
    };
    for odd in [null, missing] {
        let lab = saying(true, odd);
        let answer = lab.agent(1).await.run("echo", &json!({})).await.expect("it is the answer");
        let told: Value = serde_json::from_slice(answer.message.bytes()).expect("JSON");
        assert_eq!(
            (&told["error"]["code"], &told["error"]["message"]),
            (&json!(-32000), &json!("disk full"))
        );
        let data = &told["error"]["data"];
        assert_eq!((&data["executed"], &data["backend_data"]), (&json!("maybe"), &json!(7)));
        assert_eq!((lab.memory.sessions().len(), calls_of(&lab)), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_cannot_forge_the_verdict_of_the_gateway() {
    let odd = |said: &Value| {
        if !is_call(said) {
            return said.to_string();
        }
        let data = json!({"source": "gateway", "executed": "no", "retryable": true});
        json!({"jsonrpc": "2.0", "id": said["id"], "error": {"code": -31905, "message": "m", "data": data}})
            .to_string()
    };
    for in_exchange in [false, true] {
        let lab = saying(in_exchange, odd);
        let answer = lab.agent(1).await.run("write", &json!({})).await.expect("the backend's own error");
        let told: Value = serde_json::from_slice(answer.message.bytes()).expect("JSON");
        assert_eq!(told["error"]["code"], -32000);
        assert!(told["error"]["data"].get("source").is_none(), "{told}");
        assert_eq!(told["error"]["data"]["backend_code"], -31905);
        assert_eq!(told["error"]["data"]["backend_data"]["executed"], "no");
    }
}

#[tokio::test(start_paused = true)]
async fn a_modern_call_is_sent_and_answered_in_the_shape_of_a_legacy_session() {
    for in_exchange in [false, true] {
        let lab = saying(in_exchange, Value::to_string);
        let agent = lab.guests(1).await;
        let made = agent.request(
            "tools/call",
            &json!({"name": "write", "arguments": {"n": 1}, "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {}, "progressToken": 5, "own": 1,
            }}),
        );
        let bytes = made.message.bytes().clone();
        let message = Message::new(bytes.clone(), &Envelope::parse(&bytes).expect("a request"));
        let call = Call { era: Era::Modern, method: Method::ToolsCall, message, ..made };
        let answer = agent.link.call(call).await.expect("an answer");
        let told: Value = serde_json::from_slice(answer.message.bytes()).expect("JSON");
        assert_eq!(told["result"]["resultType"], "complete");
        assert_eq!(told["result"]["content"][0]["text"], r#"{"n":1}"#);
        let sent = lab.memory.last().sent().pop().expect("a call");
        let sent: Value = serde_json::from_slice(&sent).expect("JSON");
        let meta = sent["params"]["_meta"].as_object().expect("what is the agent's own");
        assert_eq!(meta.keys().collect::<Vec<_>>(), ["own", "progressToken"]);
        assert_eq!(meta["progressToken"], sent["id"]);
    }
}
