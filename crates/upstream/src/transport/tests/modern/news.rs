//! The stream of news: its filter, its breaks, and a server that has none.

use super::*;

/// Streams of news as the server sees them: the filter, and where to write.
type Lines = Arc<Mutex<Vec<(Value, mpsc::Sender<String>)>>>;

async fn newsroom() -> (Server, Lines) {
    let lines = Lines::default();
    let open = Arc::clone(&lines);
    let server = server(move |_, message| {
        let open = Arc::clone(&open);
        async move {
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
    (server, lines)
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

#[tokio::test]
async fn a_stream_that_broke_is_opened_again_and_what_was_missed_is_told() {
    let (server, lines) = newsroom().await;
    let opened = open(&server).await;
    let mut inbound = within(opened.outbound.listen()).await.unwrap();
    for round in 1..=2 {
        // Dropping the sender ends the stream.
        lines.lock().unwrap().last_mut().unwrap().1 = mpsc::channel(1).0;
        let change: Value = serde_json::from_slice(&hear(&mut inbound).await.unwrap().unwrap()).unwrap();
        assert_eq!(
            change["method"], "notifications/tools/list_changed",
            "something may have changed meanwhile"
        );
        assert_eq!(lines.lock().unwrap().len(), 1 + round);
    }
    server.kill();
    let lost = loop {
        if let Err(error) = hear(&mut inbound).await.unwrap() {
            break error;
        }
    };
    assert!(matches!(lost.cause, Cause::Connect(_)), "nobody is there any more: {lost}");
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
