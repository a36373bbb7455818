//! Batches: 2025-03-26 only, each message on its own, one answer.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::client::{
    Got, Running, Sse, cancel, initialize, initialize_as, start, tool, tool_with_token, until,
};

const BATCHES: &str = "2025-03-26";

fn by_id(answer: &Value) -> Vec<(String, Value)> {
    let mut all: Vec<_> =
        answer.as_array().unwrap().iter().map(|one| (one["id"].to_string(), one.clone())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

async fn post_raw(front: &Running, path: &str, headers: &[(&str, &str)], body: String) -> Got {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    Got::read(front.send("POST", path, &all, body).await).await
}

#[tokio::test]
async fn a_batch_runs_side_by_side_and_is_answered_as_one_array() {
    let front = start().await;
    let session = front.session_of(BATCHES).await;
    let note = json!({"jsonrpc":"2.0","method":"notifications/roots/list_changed"});
    let ping = json!({"jsonrpc":"2.0","id":"p","method":"ping"});
    // The first waits for the others: they are not run one after the other.
    let batch =
        json!([tool(1, "gated"), note, ping, tool(2, "fail"), tool(3, "echo"), {"jsonrpc":"2.0","id":4}]);
    let open = async {
        until("all run", || front.script.calls.lock().unwrap().len() == 3).await;
        front.script.gate.open();
    };
    let (got, ()) = tokio::join!(front.call(&session, &batch), open);
    assert_eq!(
        (got.status.as_u16(), &got.headers["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    assert_eq!(got.headers["content-length"], got.text.len().to_string());
    let answers = by_id(&got.json());
    assert_eq!(answers.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["\"p\"", "1", "2", "3", "4"]);
    assert_eq!(answers[0].1["result"], json!({}));
    assert_eq!(answers[1].1["result"]["tool"], "gated");
    assert_eq!(answers[2].1["error"]["code"], -31901);
    assert_eq!(answers[3].1["result"]["tool"], "echo");
    assert_eq!(answers[4].1["error"]["code"], -32600);
    assert_eq!(front.script.notified.lock().unwrap().len(), 1);
    assert_eq!(front.gauges.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn notifications_and_responses_alone_are_202() {
    let front = start().await;
    let session = front.session_of(BATCHES).await;
    let batch =
        json!([{"jsonrpc":"2.0","method":"notifications/initialized"}, {"jsonrpc":"2.0","id":9,"result":{}}]);
    let got = front.call(&session, &batch).await;
    assert_eq!((got.status.as_u16(), got.text.as_str()), (202, ""));
    // A call and its cancellation in one: nothing is left to say.
    let got = front.call(&session, &json!([tool(1, "hang"), cancel(1)])).await;
    assert_eq!((got.status.as_u16(), got.text.as_str()), (200, ""));
    assert_eq!(front.script.dropped_calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_is_said_before_the_last_answer_makes_it_a_stream_that_can_be_resumed() {
    let front = start().await;
    let session = front.session_of(BATCHES).await;
    let batch = json!([tool(1, "echo"), tool_with_token(2, "progress"), tool(3, "log-gated")]);
    let mut stream = Sse::over(front.start_post("/mcp", &[("mcp-session-id", &session)], &batch).await);
    let mut said = Vec::new();
    let mut last = String::new();
    while said.len() < 4 {
        let event = stream.event().await.unwrap();
        last = event.id.clone().unwrap();
        said.push(event.json());
    }
    assert_eq!(said.iter().filter(|one| one["method"] == "notifications/progress").count(), 2);
    assert_eq!(said.iter().filter(|one| one["id"] == 1).count(), 1);
    drop(stream);
    front.script.gate.open();
    until("all have ended", || front.gauges.adopted.load(Ordering::SeqCst) == 0).await;
    let mut stream = front.listen(&session, Some(&last)).await;
    let mut ids = Vec::new();
    while let Some(event) = stream.event().await {
        ids.extend(event.json()["id"].as_i64());
    }
    ids.sort_unstable();
    assert_eq!(ids, [2, 3]);
    // Who takes only events gets them one by one.
    let headers = [("mcp-session-id", session.as_str()), ("accept", "text/event-stream")];
    let both = json!([tool(1, "echo"), tool(2, "echo")]);
    let mut stream = Sse::over(front.start_post("/mcp", &headers, &both).await);
    let (a, b) = (stream.json().await["id"].as_i64(), stream.json().await["id"].as_i64());
    assert_eq!(a.min(b).zip(a.max(b)), Some((1, 2)));
    assert!(stream.event().await.is_none());
}

#[tokio::test]
async fn a_batch_whose_connection_died_runs_on() {
    let front = start().await;
    let session = front.session_of(BATCHES).await;
    let batch = json!([tool(1, "gated"), tool(2, "gated")]);
    {
        let headers = [("mcp-session-id", session.as_str())];
        let call = front.start_post("/mcp", &headers, &batch);
        let leave = until("both run", || front.script.calls.lock().unwrap().len() == 2);
        tokio::select! { _ = call => unreachable!(), () = leave => {} }
    }
    until("it is adopted", || front.gauges.adopted.load(Ordering::SeqCst) == 1).await;
    front.script.gate.open();
    until("both have ended", || front.script.finished_calls.load(Ordering::SeqCst) == 2).await;
    assert_eq!(front.script.dropped_calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_id_twice_in_one_batch_is_refused_the_second_time() {
    let front = start().await;
    let session = front.session_of(BATCHES).await;
    let ping = |id: Value| json!({"jsonrpc":"2.0","id":id,"method":"ping"});
    let batch = json!([ping(json!(1)), tool(1, "echo"), tool("1", "echo"), tool(2, "echo"), tool(2, "echo")]);
    let got = front.call(&session, &batch).await.json();
    let failed: Vec<_> = got
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["error"]["code"] == -32600)
        .map(|one| &one["id"])
        .collect();
    assert_eq!(failed, [&json!(1), &json!(2)]);
    assert_eq!(got.as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn batches_that_are_none_are_refused_as_a_whole() {
    let front = start().await;
    let session = front.session_of(BATCHES).await;
    let many = vec![tool(1, "echo").to_string(); 51].join(",");
    let rows = [
        ("[]".to_owned(), -32600, "at least one"),
        (format!("[{many}]"), -32600, "at most 50"),
        (format!("[[{}]]", tool(1, "echo")), -32600, "not batches"),
        (format!("[{},{}]", tool(1, "echo"), initialize(2)), -32600, "initialize must be sent alone"),
        (format!("[{}", tool(1, "echo")), -32700, ""),
    ];
    for (body, code, why) in rows {
        let got = post_raw(&front, "/mcp", &[("mcp-session-id", &session)], body.clone()).await;
        assert_eq!((got.status.as_u16(), got.code()), (400, code), "{body}");
        assert!(got.text.contains(why), "{got:?}");
    }
    let batch = json!([tool(1, "echo")]).to_string();
    for (session, status) in [(None, 400), (Some("unknown"), 404)] {
        let headers: Vec<_> = session.iter().map(|session| ("mcp-session-id", *session)).collect();
        assert_eq!(post_raw(&front, "/mcp", &headers, batch.clone()).await.status, status);
    }
    assert!(front.script.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn revisions_without_batches_say_so() {
    let front = start().await;
    for revision in ["2024-11-05", "2025-06-18", "2025-11-25"] {
        let session = front.session_of(revision).await;
        let got = front.call(&session, &json!([tool(1, "echo")])).await;
        assert_eq!((got.status.as_u16(), got.code()), (400, -32600));
        assert!(got.text.contains(revision), "{got:?}");
    }
    let mut sse = front.sse("/sse", &[]).await;
    assert_eq!(front.say(&sse.session, &json!([tool(1, "echo")])).await.status, 202);
    assert_eq!(sse.json().await["error"]["code"], -32600);
    front.say(&sse.session, &initialize(1)).await;
    assert_eq!(sse.json().await["id"], 1);
    assert_eq!(front.say(&sse.session, &json!([tool(1, "echo")])).await.status, 202);
    assert!(sse.json().await["error"]["message"].as_str().unwrap().contains("2025-06-18"));
    assert!(front.script.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_sse_agent_gets_each_answer_of_its_batch_as_an_event() {
    let front = start().await;
    let mut sse = front.sse("/sse", &[]).await;
    front.say(&sse.session, &initialize_as(0, BATCHES)).await;
    assert_eq!(sse.json().await["id"], 0);
    let batch = json!([tool(1, "gated"), tool(2, "echo"), tool(2, "echo"), {"jsonrpc":"2.0","id":3}]);
    assert_eq!(front.say(&sse.session, &batch).await.status, 202);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let answer = sse.json().await;
        seen.push((answer["id"].as_i64(), answer["error"]["code"].as_i64()));
    }
    seen.sort_unstable();
    assert_eq!(seen, [(Some(2), None), (Some(2), Some(-32600)), (Some(3), Some(-32600))]);
    front.script.gate.open();
    assert_eq!(sse.json().await["id"], 1);
    // Refused as a whole, and still no status that ends the client.
    let got = post_raw(&front, &format!("/sse?session_id={}", sse.session), &[], "[]".to_owned()).await;
    assert_eq!(got.status, 202);
    assert_eq!(sse.json().await["error"]["code"], -32600);
}

#[tokio::test]
async fn large_answers_that_wait_for_the_last_of_their_batch_are_charged() {
    let front = start().await;
    let session = front.session_of(BATCHES).await;
    let mut big = tool(1, "big");
    big["params"]["arguments"] = json!({"size": 1 << 20});
    let mut other = big.clone();
    other["id"] = json!(2);
    let charged = || front.gauges.outbound_bytes.load(Ordering::SeqCst);
    let json_only = [("mcp-session-id", session.as_str()), ("accept", "application/json")];
    let batch = json!([big, other, tool(3, "gated")]);
    let open = async {
        until("they are charged", || charged() > 2 << 20).await;
        front.script.gate.open();
    };
    let (got, ()) = tokio::join!(front.post("/mcp", &json_only, &batch), open);
    assert_eq!(got.json().as_array().unwrap().len(), 3);
    until("they are given back", || charged() == 0).await;
    // Whoever reads event streams, too: so much does not fit on one, and is not lost on it.
    front.script.gate.close();
    let one = |id: i32| {
        let mut one = big.clone();
        one["id"] = json!(id);
        one
    };
    let many = json!((0..12).map(one).chain([tool(99, "gated")]).collect::<Vec<_>>());
    let open = async {
        until("they are charged", || charged() > 12 << 20).await;
        front.script.gate.open();
    };
    let (got, ()) = tokio::join!(front.call(&session, &many), open);
    assert_eq!(got.json().as_array().unwrap().len(), 13);
}
