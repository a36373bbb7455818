//! Log levels, tasks, cancelled work, and what servers ask.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_most_verbose_level_is_set_on_every_session_and_replayed_on_new_ones() {
    let lab = lab();
    let (anna, bert) = (lab.agent(1).await, lab.agent(2).await);
    ask(&anna, "logging/setLevel", json!({"level": "error"})).await.expect("set");
    lab.until("it is told", |lab| levels(lab) == [["error"]]).await;
    ask(&bert, "logging/setLevel", json!({"level": "debug"})).await.expect("set");
    lab.until("it is told", |lab| levels(lab) == [["error", "debug"]]).await;
    let odd = ask(&bert, "logging/setLevel", json!({"level": "loud"})).await.expect_err("no such level");
    assert_eq!(odd.kind.code(), -32602);
    drop(bert);
    lab.until("it is lowered", |lab| levels(lab) == [["error", "debug", "error"]]).await;
    lab.memory.last().fail(broken());
    lab.until("it is gone", |lab| lab.standings().is_empty()).await;
    anna.run("write", &json!({})).await.expect("an answer");
    lab.until("it is replayed", |lab| levels(lab).last().is_some_and(|told| told == &["error"])).await;
}

#[tokio::test(start_paused = true)]
async fn each_agent_hears_its_own_calls_at_its_own_level() {
    for (fan_out, expected) in [(false, 0), (true, 2)] {
        let lab = lab_in_exchange(|wish| wish.fan_out_logs = fan_out);
        let (anna, bert) = (lab.agent(1).await, lab.agent(2).await);
        ask(&anna, "logging/setLevel", json!({"level": "warning"})).await.expect("set");
        for agent in [&anna, &bert] {
            agent.run("log", &json!({})).await.expect("an answer");
        }
        let line = |agent: &Agent| notes(agent, "notifications/message").len();
        assert_eq!((line(&anna), line(&bert)), (1, 2), "each its own, anna only the error");
        // A line of no call.
        let note = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "error"}});
        lab.memory.last().say(note.to_string());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(line(&anna) + line(&bert), expected);
        assert_eq!(lab.seen.count("dropped_log"), usize::from(!fan_out));
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_are_refused_with_a_word_about_tasks() {
    let lab = lab();
    let anna = lab.agent(1).await;
    for (method, params) in [
        ("tasks/get", json!({"taskId": "1"})),
        ("tasks/list", json!({})),
        ("tools/call", json!({"name": "write", "task": {"ttl": 1}})),
        ("tools/call", json!({"name": "job"})),
    ] {
        let refused = ask(&anna, method, params).await.expect_err("not offered");
        assert_eq!(refused.kind.code(), -32601);
        assert!(refused.message.contains("task"), "{}", refused.message);
    }
    anna.run("write", &json!({})).await.expect("an ordinary call");
}

#[tokio::test(start_paused = true)]
async fn too_many_cancelled_calls_that_burn_on_retire_their_session() {
    let lab = lab_in_exchange(|wish| {
        wish.limits.calls_per_session = 8;
        wish.times.cancel_grace = Duration::from_secs(3600);
    });
    let anna = lab.agent(1).await;
    for burning in 1..=3 {
        let nothing = json!({});
        let call = tokio::time::timeout(Duration::from_millis(10), anna.run("hang", &nothing));
        assert!(call.await.is_err());
        tokio::time::sleep(Duration::from_millis(10)).await;
        let expected = if burning <= 2 { "ready" } else { "draining" };
        assert_eq!(lab.standings(), [expected], "after {burning} of 8");
    }
    anna.run("write", &json!({})).await.expect("on another session");
    assert_eq!(lab.memory.sessions().len(), 2);
    // Late answers, results and errors, are nobody's.
    let first = lab.memory.sessions().remove(0);
    for message in first.sent() {
        let message: Value = serde_json::from_slice(&message).expect("JSON");
        if message["params"]["name"] == "hang" {
            let error = json!({"code": 0, "message": "cancelled"});
            first.say(json!({"jsonrpc": "2.0", "id": message["id"], "error": error}).to_string());
        }
    }
    lab.until("it is replaced", |lab| lab.standings() == ["ready"]).await;
    assert_eq!(lab.seen.count("dropped_late_answer"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_shared_session_answers_pings_and_nothing_else() {
    for on_stream in [false, true] {
        let lab = lab_in_exchange(|_| {});
        let anna = lab.agent(1).await;
        if on_stream {
            for method in ["ping", "sampling/createMessage", "vendor/odd"] {
                lab.memory.last().say(json!({"jsonrpc": "2.0", "id": method, "method": method}).to_string());
            }
        } else {
            anna.run("ask", &json!({})).await.expect("an answer");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let answers: Vec<Value> =
            lab.memory.last().sent().iter().filter_map(|m| serde_json::from_slice(m).ok()).collect();
        let answer =
            |id: &str| answers.iter().find(|a| a["id"] == id && a["method"].is_null()).expect("answered");
        assert_eq!(answer("ping")["result"], json!({}));
        for refused in ["sampling/createMessage", "vendor/odd"] {
            assert_eq!(answer(refused)["error"]["code"], -32601);
        }
        assert!(anna.inbox.taken().is_empty(), "nobody was asked");
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_nobody_answers_or_that_is_withdrawn_is_over_for_both_sides() {
    let lab = lab();
    let anna = lab.try_agent(1, None, json!({"elicitation": {}})).await.expect("a link");
    let session = lab.memory.last();
    let ask = |id: u64| {
        let params = json!({"message": "?", "_meta": {"progressToken": "server's"}});
        json!({"jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": params}).to_string()
    };
    session.say(ask(7));
    tokio::time::sleep(Duration::from_secs(299)).await;
    let asked = anna.inbox.taken();
    let [LinkEvent::Request { id, .. }] = asked.as_slice() else { panic!("not asked: {asked:?}") };
    let progress = |token: &str| {
        let params = json!({"progressToken": token, "progress": 1});
        Bytes::from(
            json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}).to_string(),
        )
    };
    anna.link.notify(progress("server's"));
    anna.link.notify(progress("other"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(matches!(anna.inbox.taken().as_slice(), [LinkEvent::Withdrawn { id: gone, .. }] if gone == id));
    let said: Vec<Value> = session.sent().iter().filter_map(|m| serde_json::from_slice(m).ok()).collect();
    assert!(said.iter().any(|m| m["id"] == 7 && m["error"]["code"] == -31906), "{said:?}");
    assert_eq!(said.iter().filter(|m| m["method"] == "notifications/progress").count(), 1);

    session.say(ask(8));
    let params = json!({"requestId": 8});
    session.say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}).to_string());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let events = anna.inbox.taken();
    assert!(
        matches!(events.as_slice(), [LinkEvent::Request { id, .. }, LinkEvent::Withdrawn { id: gone, .. }] if id == gone)
    );
}
