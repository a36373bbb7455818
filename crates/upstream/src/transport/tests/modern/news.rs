//! The stream of news: its filter, its breaks, and a server that has none.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Streams of news as the server sees them: the filter, and where to write.
type Lines = Arc<Mutex<Vec<(Value, mpsc::Sender<String>)>>>;

async fn newsroom() -> (Server, Lines) {
    let (server, lines, _) = newsroom_with_tools().await;
    (server, lines)
}

/// The third is how many tools there are.
async fn newsroom_with_tools() -> (Server, Lines, Arc<AtomicUsize>) {
    let (lines, tools) = (Lines::default(), Arc::new(AtomicUsize::new(1)));
    let (open, listed) = (Arc::clone(&lines), Arc::clone(&tools));
    let server = server(move |_, message| {
        let (open, listed) = (Arc::clone(&open), Arc::clone(&listed));
        async move {
            if message["method"] == "tools/list" {
                let tools: Vec<Value> =
                    (0..listed.load(Ordering::SeqCst)).map(|n| json!({ "name": format!("t{n}") })).collect();
                return result(&message, json!({ "resultType": "complete", "tools": tools }));
            }
            let mut wanted = message["params"]["notifications"].clone();
            // One resource is not offered.
            if let Some(uris) = wanted["resourceSubscriptions"].as_array_mut() {
                uris.retain(|uri| uri != "test://secret");
            }
            let (tx, rx) = mpsc::channel(8);
            let ack = json!({ "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                "params": { "notifications": wanted, "_meta": { "io.modelcontextprotocol/subscriptionId": message["id"] } } });
            tx.try_send(event(&ack)).unwrap();
            open.lock().unwrap().push((message["params"]["notifications"].clone(), tx));
            Answer::streaming(rx)
        }
    })
    .await;
    (server, lines, tools)
}

fn update(uri: &str) -> String {
    event(&json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated",
        "params": { "uri": uri, "_meta": { "io.modelcontextprotocol/subscriptionId": 1 } } }))
}

#[tokio::test]
async fn news_come_on_one_stream_whose_filter_follows_what_is_subscribed_to() {
    let (server, lines) = newsroom().await;
    let opened = open(&server).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    let heard: mpsc::Receiver<Value> = {
        let (tx, rx) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(message) = hear(&mut inbound).await {
                tx.send(serde_json::from_slice(&message.unwrap()).unwrap()).await.unwrap();
            }
        });
        rx
    };
    let mut heard = heard;
    within(opened.outbound.listening()).await;
    let line = |at: usize| lines.lock().unwrap()[at].clone();
    assert_eq!(line(0).0, json!({ "toolsListChanged": true }), "what is promised");
    line(0)
        .1
        .send(event(&json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed",
        "params": { "_meta": { "io.modelcontextprotocol/subscriptionId": 1 } } })))
        .await
        .unwrap();
    assert_eq!(
        within(heard.recv()).await,
        Some(json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" }))
    );

    let subscribe =
        |id, uri: &str| answer(&opened, request(id, "resources/subscribe", json!({ "uri": uri })));
    assert_eq!(subscribe(2, "test://a").await, json!({ "jsonrpc": "2.0", "id": 2, "result": {} }));
    assert_eq!(line(1).0, json!({ "toolsListChanged": true, "resourceSubscriptions": ["test://a"] }));
    // The old one is closed.
    within(line(0).1.closed()).await;
    line(1).1.send(update("test://a")).await.unwrap();
    assert_eq!(within(heard.recv()).await.unwrap()["params"], json!({ "uri": "test://a" }));

    assert_eq!(subscribe(3, "test://secret").await["error"]["code"], -32602, "what is not agreed is refused");
    let left = answer(&opened, request(4, "resources/unsubscribe", json!({ "uri": "test://a" }))).await;
    assert_eq!(left["result"], json!({}));
    let newest = async || loop {
        let filter = lines.lock().unwrap().last().unwrap().0.clone();
        if filter.get("resourceSubscriptions").is_none() {
            return;
        }
        tokio::task::yield_now().await;
    };
    within(newest()).await;
}

/// How often the server was asked for a method.
fn asked(server: &Server, method: &str) -> usize {
    bodies(server).iter().filter(|(_, body)| body["method"] == method).count()
}

/// Reads on until the server was asked for its tools that often.
async fn read_until_listed(server: &Server, inbound: &mut Inbound, times: usize) {
    while asked(server, "tools/list") < times {
        if let Ok(Some(heard)) = tokio::time::timeout(Duration::from_millis(10), inbound.next()).await {
            assert_eq!(heard.unwrap(), Heard::Alive);
        }
    }
}

#[tokio::test]
async fn after_a_break_what_changed_is_told_and_nothing_else() {
    let (server, lines, tools) = newsroom_with_tools().await;
    let opened = open(&server).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    within(read_until_listed(&server, &mut inbound, 1)).await;
    // Dropping the sender ends the stream.
    let breaks = || lines.lock().unwrap().last_mut().unwrap().1 = mpsc::channel(1).0;
    breaks();
    within(read_until_listed(&server, &mut inbound, 2)).await;
    tools.store(2, Ordering::SeqCst);
    breaks();
    let change: Value = serde_json::from_slice(&hear(&mut inbound).await.unwrap().unwrap()).unwrap();
    assert_eq!(change["method"], "notifications/tools/list_changed");
    assert_eq!(lines.lock().unwrap().len(), 3);
    server.kill();
    let lost = loop {
        if let Err(error) = hear(&mut inbound).await.unwrap() {
            break error;
        }
    };
    assert!(matches!(lost.cause, Cause::Connect(_)), "nobody is there any more: {lost}");
}

#[tokio::test]
async fn a_stream_that_ends_at_once_is_asked_for_with_growing_pauses() {
    let server = server(|_, message| async move {
        match message["method"].as_str() {
            Some("subscriptions/listen") => {
                let ack = json!({ "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {} });
                let end = json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "resultType": "complete" } });
                Answer::new(200, "text/event-stream", event(&ack) + &event(&end))
            }
            _ => result(&message, json!({ "resultType": "complete", "tools": [] })),
        }
    })
    .await;
    let opened = open(&server).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(2), hear(&mut inbound)).await;
    assert!(told.is_err(), "nothing changed: {told:?}");
    let times = asked(&server, "subscriptions/listen");
    assert!((2..=6).contains(&times), "{times} in 2 s");
}

#[tokio::test]
async fn a_refused_stream_is_asked_for_again_and_everything_else_works() {
    for status in [401, 403, 404, 429, 500, 503] {
        let server = server(move |seen, message| async move {
            match message["method"].as_str() {
                Some("subscriptions/listen") if seen.number == 1 => Answer::status(status),
                Some("subscriptions/listen") => {
                    let ack = json!({ "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {} });
                    let change = json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {} });
                    Answer::new(200, "text/event-stream", event(&ack) + &event(&change))
                }
                _ => result(&message, json!({ "resultType": "complete", "tools": [] })),
            }
        })
        .await;
        let opened = open(&server).await;
        let mut inbound = within(opened.outbound.listen()).await.unwrap();
        let refused = next(&mut inbound).await.unwrap().unwrap();
        assert!(matches!(refused, Heard::NoStream(_)), "{status}: {refused:?}");
        within(opened.outbound.listening()).await;
        let change = hear(&mut inbound).await.unwrap().unwrap();
        let change: Value = serde_json::from_slice(&change).unwrap();
        assert_eq!(change["method"], "notifications/tools/list_changed", "{status}");
    }
}

#[tokio::test]
async fn a_server_without_a_stream_of_news_is_a_server_all_the_same() {
    let server = server(|_, message| async move {
        reply(
            404,
            &json!({ "jsonrpc": "2.0", "id": message["id"], "error": { "code": -32601, "message": "no" } }),
        )
    })
    .await;
    let opened = open(&server).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    let refused = {
        let subscribe = answer(&opened, request(2, "resources/subscribe", json!({ "uri": "test://a" })));
        tokio::select! {
            _ = inbound.next() => panic!("nothing to hear"),
            answer = subscribe => answer,
        }
    };
    assert_eq!(refused["error"]["code"], -32602);
}
