//! Subscriptions: one request upstream for all, and nothing left behind by whoever goes.

use super::*;

#[tokio::test(start_paused = true)]
async fn concurrent_subscribers_without_any_call_are_one_request_upstream() {
    let lab = lab();
    let (anna, bert) = (lab.agent(1).await, lab.agent(2).await);
    // The handshake's session ends for idleness: a subscription opens one.
    lab.memory.last().fail(broken());
    lab.until("no session", |lab| lab.standings().is_empty()).await;
    tokio::join!(subscribe(&anna, A), subscribe(&bert, A));
    assert_eq!(sent(&lab, "resources/subscribe"), 1);
    let carol = lab.agent(3).await;
    updated(&lab, A);
    updated(&lab, "demo://other");
    lab.until("the second is dropped", |lab| lab.seen.count("dropped_updated") == 1).await;
    for (agent, expected) in [(&anna, 1), (&bert, 1), (&carol, 0)] {
        assert_eq!(notes(agent, UPDATED).len(), expected);
    }
    let told: Value =
        serde_json::from_slice(&anna.link.initialize_result(mcpool_wire::Revision::LATEST_LEGACY))
            .expect("JSON");
    assert_eq!(told["capabilities"]["resources"]["subscribe"], true);
    assert!(told["capabilities"]["tasks"].is_null());
}

#[tokio::test(start_paused = true)]
async fn the_last_subscriber_is_unsubscribed_after_a_while_and_a_refusal_is_passed_on() {
    let lab = lab();
    let anna = lab.agent(1).await;
    subscribe(&anna, A).await;
    ask(&anna, "resources/unsubscribe", json!({"uri": A})).await.expect("unsubscribed");
    tokio::time::sleep(Duration::from_secs(4)).await;
    subscribe(&anna, A).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((sent(&lab, "resources/subscribe"), sent(&lab, "resources/unsubscribe")), (1, 0));
    drop(anna);
    tokio::time::sleep(Duration::from_millis(4_900)).await;
    assert_eq!(sent(&lab, "resources/unsubscribe"), 0);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(sent(&lab, "resources/unsubscribe"), 1);

    let bert = lab.agent(2).await;
    let refused = ask(&bert, "resources/subscribe", json!({"uri": "demo://none"})).await.expect("an answer");
    assert_eq!(value(&refused)["error"]["code"], -32002);
    assert!(refused.is_rpc_error);
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_replaced_and_every_subscriber_is_told() {
    let lab = lab();
    let (anna, bert) = (lab.agent(1).await, lab.agent(2).await);
    subscribe(&anna, A).await;
    subscribe(&bert, "demo://b").await;
    // Nobody calls meanwhile.
    lab.memory.last().fail(broken());
    lab.until("both are subscribed again", |lab| sent(lab, "resources/subscribe") == 4).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(notes(&anna, UPDATED), [json!({"uri": A})]);
    assert_eq!(notes(&bert, UPDATED), [json!({"uri": "demo://b"})]);
}

#[tokio::test(start_paused = true)]
async fn a_session_with_subscriptions_is_not_idle() {
    let lab = lab();
    let anna = lab.agent(1).await;
    subscribe(&anna, A).await;
    tokio::time::sleep(Duration::from_secs(1_500)).await;
    assert_eq!(lab.memory.sessions().len(), 1);
    assert_eq!(lab.registered.backend.status().subscriptions, 1);
    ask(&anna, "resources/unsubscribe", json!({"uri": A})).await.expect("unsubscribed");
    lab.until("it is closed", |lab| lab.standings().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_subscribe_request_leaves_nothing_behind() {
    for polls in 0..12 {
        let lab = lab();
        let anna = lab.agent(1).await;
        let mut call = anna.link.call(anna.request("resources/subscribe", &json!({"uri": A})));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..polls {
            if call.as_mut().poll(&mut cx).is_ready() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(call);
        let before = lab.registered.backend.status().subscriptions;
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(lab.held().pending, 0);
        if polls < 5 {
            // The backend answers after 50 ms.
            assert!(before <= 1 && lab.registered.backend.status().subscriptions == 0, "{polls} polls");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_away_is_waited_for_no_longer_than_the_queue_time() {
    let lab = lab();
    let anna = lab.agent(1).await;
    lab.memory.fail_connects(100_000, &crate::lab::connect_refused());
    lab.memory.last().fail(broken());
    let refused = ask(&anna, "resources/subscribe", json!({"uri": A})).await.expect_err("no session");
    assert_eq!(refused.kind, ErrorKind::QueueTimeout);
    assert_eq!(lab.registered.backend.status().subscriptions, 0);
}
