//! Calls whose callers have no session and are asked something: each waits for its caller, for nobody else, and not for
//! ever.

use std::{sync::atomic::Ordering, time::Duration};

use mcpool_front::{FrontConfig, FrontTimes};
use serde_json::{Value, json};

use crate::{
    client::{Running, start, start_with, until},
    modern::{meta, request},
};

/// A call of this tool by who has roots to tell of.
fn call(id: impl Into<Value>, tool: &str) -> Value {
    let params =
        json!({ "name": tool, "arguments": { "a": 1, "b": 2 }, "_meta": meta(&json!({ "roots": {} })) });
    request(id, "tools/call", &params)
}

/// The same request again, with this.
fn again(id: impl Into<Value>, body: &Value, state: &Value, answers: Value) -> Value {
    let mut body = body.clone();
    body["id"] = id.into();
    body["params"]["requestState"] = state.clone();
    body["params"]["inputResponses"] = answers;
    body
}

fn told() -> Value {
    json!({ "ask-77": { "roots": [] } })
}

/// Asked, and with what it is to be answered.
fn asked(message: &Value) -> Value {
    let result = &message["result"];
    assert_eq!(result["resultType"], "input_required", "{message}");
    assert_eq!(result["inputRequests"], json!({ "ask-77": { "method": "roots/list" } }));
    result["requestState"].clone()
}

async fn ask(front: &Running, body: &Value) -> Value {
    let got = front.ask(body).await;
    assert_eq!((got.status.as_u16(), got.json()["id"].clone()), (200, body["id"].clone()), "{got:?}");
    asked(&got.json())
}

fn counted(front: &Running) -> (usize, usize) {
    (front.gauges.parked.load(Ordering::SeqCst), front.gauges.calls.load(Ordering::SeqCst))
}

#[tokio::test]
async fn what_is_asked_at_once_is_one_answer() {
    let front = start().await;
    let body = call(1, "ask-both");
    let result = front.ask(&body).await.json()["result"].clone();
    let question = json!({ "method": "roots/list" });
    assert_eq!(result["inputRequests"], json!({ "ask-77": question, "ask-78": question }));
    let answers = json!({ "ask-77": { "roots": [] }, "ask-78": { "roots": [] } });
    let got = front.ask(&again(2, &body, &result["requestState"], answers)).await;
    assert_eq!(got.json()["result"]["heard"], 2, "{got:?}");
}

#[tokio::test]
async fn a_question_is_an_answer_and_the_call_goes_on_with_what_its_caller_says() {
    let front = start().await;
    let body = call(1, "ask");
    let state = ask(&front, &body).await;
    assert_eq!(counted(&front), (1, 1));
    let got = front.ask(&again("2", &body, &state, told())).await;
    assert_eq!((got.status.as_u16(), got.json()["id"].clone()), (200, json!("2")), "{got:?}");
    let result = got.json()["result"].clone();
    assert_eq!((&result["resultType"], &result["heard"]), (&json!("complete"), &json!({ "roots": [] })));
    assert_eq!(front.script.calls.lock().unwrap().len(), 1, "nothing was called twice");
    assert_eq!(counted(&front), (0, 0));
    let replayed = front.ask(&again(3, &body, &state, told())).await;
    assert_eq!((replayed.status.as_u16(), replayed.code()), (400, -32602));
    assert_eq!(front.script.responded.lock().unwrap().len(), 1);
    assert_eq!(
        (front.script.saw("Parked { outcome: Parked }"), front.script.saw("Parked { outcome: Resumed }")),
        (1, 1)
    );
}

#[tokio::test]
async fn a_state_is_worth_nothing_to_others_and_for_other_requests() {
    let front = start().await;
    let body = call(1, "ask");
    let state = ask(&front, &body).await;
    let text = state.as_str().unwrap().to_owned();
    let flipped: Vec<Value> = (0..text.len())
        .map(|at| {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            Value::from(String::from_utf8(bytes).unwrap())
        })
        .collect();
    let mut other = body.clone();
    other["params"]["arguments"]["a"] = json!(2);
    let others = [
        again(2, &call(1, "ask-hang"), &state, told()),
        again(2, &other, &state, told()),
        again(2, &body, &json!(""), told()),
        again(2, &body, &json!(7), told()),
        again(2, &body, &json!(format!("{text}A")), told()),
        again(2, &body, &state, json!([])),
    ];
    let forged = flipped.iter().map(|state| again(2, &body, state, told()));
    for body in others.into_iter().chain(forged) {
        let got = front.ask(&body).await;
        assert_eq!(
            (got.status.as_u16(), got.code(), got.json()["id"].clone()),
            (400, -32602, json!(2)),
            "{body}"
        );
    }
    let headers = crate::modern::headers(&body);
    let headers: Vec<_> = headers.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let elsewhere = front.post("/b/mcp", &headers, &again(2, &body, &state, told())).await;
    assert_eq!((elsewhere.status.as_u16(), elsewhere.code()), (400, -32602));
    assert!(front.script.responded.lock().unwrap().is_empty(), "nothing was forwarded");
    // It is still good for whom it was given.
    let mut body = again(9, &body, &state, told());
    body["params"]["arguments"] = json!({ "b": 2, "a": 1 });
    assert_eq!(front.ask(&body).await.json()["result"]["resultType"], "complete");
}

#[tokio::test]
async fn what_is_not_answered_is_asked_again() {
    let front = start().await;
    let body = call(1, "ask");
    let first = ask(&front, &body).await;
    let second = ask(&front, &again(2, &body, &first, json!({ "other": {} }))).await;
    assert_ne!(first, second);
    assert_eq!(front.ask(&again(3, &body, &first, told())).await.code(), -32602);
    let got = front.ask(&again(4, &body, &second, told())).await;
    assert_eq!(got.json()["result"]["heard"], json!({ "roots": [] }));
    assert_eq!(counted(&front), (0, 0));
}

#[tokio::test]
async fn nobody_is_waited_for_longer_than_agreed() {
    let times = FrontTimes { parked: Duration::from_millis(100), ..FrontTimes::default() };
    let front = start_with(FrontConfig { times, ..FrontConfig::default() }).await;
    let body = call(1, "ask");
    let state = ask(&front, &body).await;
    until("the call is cancelled", || front.script.dropped_calls.load(Ordering::SeqCst) == 1).await;
    until("nothing is held", || counted(&front) == (0, 0)).await;
    let late = front.ask(&again(2, &body, &state, told())).await;
    assert_eq!((late.status.as_u16(), late.code()), (400, -32602));
    assert_eq!(front.script.saw("Parked { outcome: Expired }"), 1);
    assert_eq!(front.script.saw("tools/call a cancelled"), 1);
}

#[tokio::test]
async fn a_stream_ends_with_the_question_and_another_goes_on() {
    let front = start().await;
    let mut body = call(1, "progress-ask");
    body["params"]["_meta"]["progressToken"] = json!("first");
    let mut stream = front.ask_streamed(&body).await;
    assert_eq!(stream.json().await["params"], json!({ "progressToken": "first", "progress": 1 }));
    let state = asked(&stream.json().await);
    assert!(stream.event().await.is_none());
    let mut next = again("x", &body, &state, told());
    next["params"]["_meta"]["progressToken"] = json!(2);
    let mut stream = front.ask_streamed(&next).await;
    assert_eq!(stream.json().await["params"], json!({ "progressToken": 2, "progress": 2 }));
    let last = stream.json().await;
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!("x"), &json!("complete")));
    assert!(stream.event().await.is_none());
    until("nothing is held", || counted(&front) == (0, 0)).await;
}

#[tokio::test]
async fn a_caller_that_comes_back_and_leaves_cancels_its_call() {
    let front = start().await;
    let body = call(1, "ask-hang");
    let state = ask(&front, &body).await;
    let next = again(2, &body, &state, told());
    {
        let waiting = front.start_ask(&[], &next);
        let heard = async {
            until("its answer is passed on", || front.script.responded.lock().unwrap().len() == 1).await;
        };
        tokio::select! {
            _ = waiting => panic!("it never ends"),
            () = heard => {}
        }
    }
    until("the call is cancelled", || front.script.dropped_calls.load(Ordering::SeqCst) == 1).await;
    until("nothing is held", || counted(&front) == (0, 0)).await;
}

#[tokio::test]
async fn nobody_is_asked_for_what_it_did_not_declare() {
    let front = start().await;
    let mut body = call(1, "nobodys");
    body["params"]["_meta"] = meta(&json!({ "sampling": {} }));
    assert_eq!(front.ask(&body).await.json()["result"]["resultType"], "complete");
    assert_eq!(counted(&front), (0, 0));
}

#[tokio::test]
async fn a_gateway_that_stops_lets_callers_say_what_they_were_asked() {
    let mut front = start().await;
    let body = call(1, "ask");
    let state = ask(&front, &body).await;
    front.shut_down();
    until("nothing new is taken", || front.gauges.connections.load(Ordering::SeqCst) == 0).await;
    let refused = front.ask(&call(3, "echo")).await;
    assert_eq!(refused.code(), -31909, "{refused:?}");
    let got = front.ask(&again(2, &body, &state, told())).await;
    assert_eq!(got.json()["result"]["heard"], json!({ "roots": [] }), "{got:?}");
    assert_eq!(front.stopped().await.calls, 0);
}

#[tokio::test]
async fn a_gateway_that_stops_does_not_wait_for_a_caller_for_ever() {
    let times = FrontTimes { drain: Duration::from_millis(100), ..FrontTimes::default() };
    let mut front = start_with(FrontConfig { times, ..FrontConfig::default() }).await;
    ask(&front, &call(1, "ask")).await;
    let script = std::sync::Arc::clone(&front.script);
    front.shut_down();
    let drained = front.stopped().await;
    assert_eq!((drained.calls, script.dropped_calls.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_retry_with_a_state_that_was_used_is_told_that_its_call_may_have_run() {
    let front = start().await;
    let body = call(1, "ask");
    let state = ask(&front, &body).await;
    let answered = again(2, &body, &state, told());
    assert_eq!(front.ask(&answered).await.status, 200);
    let got = front.ask(&answered).await;
    let error = got.json()["error"].clone();
    assert_eq!((got.status.as_u16(), &error["code"]), (400, &json!(-32602)), "{got:?}");
    assert_eq!(error["data"]["executed"], "maybe");
    assert!(!error["message"].as_str().unwrap().contains("send"), "nobody is advised to run it twice");
}

#[tokio::test]
async fn a_large_answer_nobody_came_for_is_charged_and_let_go_when_memory_is_short() {
    let limits =
        mcpool_front::FrontLimits { buffered_bytes: 1 << 20, ..mcpool_front::FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let mut body = call(1, "ask-big");
    body["params"]["arguments"]["size"] = json!(700_000);
    let state = ask(&front, &body).await;
    front.script.gate.open();
    let charged = || front.gauges.outbound_bytes.load(Ordering::SeqCst);
    until("it is charged", || charged() > 600_000).await;
    front.script.gate.close();
    let mut other = call(3, "ask-big");
    other["params"]["arguments"]["size"] = json!(250_000);
    ask(&front, &other).await;
    front.script.gate.open();
    until("memory was short, and is not any more", || {
        front.script.saw("agent_closed") > 0 && front.gauges.buffered_bytes.load(Ordering::SeqCst) < 700_000
    })
    .await;
    assert_eq!(front.ask(&again(2, &body, &state, told())).await.status, 400);
}
