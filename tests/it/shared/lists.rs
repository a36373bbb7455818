//! Lists: one request for all who ask at the same time, changes told once, cursors that lead back.

use mcpool_upstream::transport::memory::MemorySession;

use super::*;

#[tokio::test(start_paused = true)]
async fn lists_asked_for_at_the_same_time_are_one_request_whoever_leaves() {
    let lab = lab();
    let agents = [lab.agent(1).await, lab.agent(2).await, lab.agent(3).await];
    let before = sent(&lab, "tools/list");
    let mut leader = agents[0].link.call(agents[0].request("tools/list", &json!({})));
    assert!(leader.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    let rest = [1, 2].map(|at| ask(&agents[at], "tools/list", json!({})));
    let leave = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(leader);
    };
    let (rest, ()) = tokio::join!(futures::future::join_all(rest), leave);
    for answer in rest {
        assert_eq!(value(&answer.expect("a list"))["result"]["tools"].as_array().map(Vec::len), Some(2));
    }
    assert_eq!(sent(&lab, "tools/list"), before + 1);
    ask(&agents[0], "tools/list", json!({})).await.expect("kept");
    assert_eq!(sent(&lab, "tools/list"), before + 1, "the server announces changes");
    lab.until("nothing is in flight", |lab| lab.held().in_flight == 0).await;
}

#[tokio::test(start_paused = true)]
async fn changes_of_lists_are_merged_and_only_told_where_they_were_promised() {
    let lab = lab();
    let anna = lab.agent(1).await;
    for _ in 0..5 {
        for list in ["tools", "resources"] {
            let method = format!("notifications/{list}/list_changed");
            lab.memory.last().say(json!({"jsonrpc": "2.0", "method": method}).to_string());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(anna.inbox.taken().is_empty());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(notes(&anna, "notifications/tools/list_changed").len(), 1);
    assert_eq!(lab.seen.count("dropped_notification"), 5, "the resources' were not promised");
}

#[tokio::test(start_paused = true)]
async fn a_cursor_leads_back_to_its_session_or_nowhere() {
    let lab = lab();
    let (anna, bert) = (lab.agent(1).await, lab.agent(2).await);
    let page = value(&ask(&anna, "prompts/list", json!({})).await.expect("a page"));
    let cursor = page["result"]["nextCursor"].as_str().expect("a cursor").to_owned();
    assert!(cursor != "page 2" && page["result"]["n"] == 1.5);
    let next = ask(&anna, "prompts/list", json!({"cursor": cursor})).await.expect("page 2");
    assert_eq!(value(&next)["result"]["got"], "page 2", "the backend gets its own");
    for (method, cursor) in
        [("prompts/list", "page 2"), ("tools/list", cursor.as_str()), ("prompts/list", "AAAA")]
    {
        let refused = ask(&anna, method, json!({"cursor": cursor})).await.expect_err("not this one");
        assert_eq!(
            (refused.kind, refused.message.as_ref()),
            (ErrorKind::InvalidParams, "unknown cursor, start over")
        );
    }
    lab.memory.last().fail(broken());
    lab.until("it is gone", |lab| lab.standings().is_empty()).await;
    bert.run("write", &json!({})).await.expect("on a new session");
    for agent in [&anna, &bert] {
        let refused =
            ask(agent, "prompts/list", json!({"cursor": cursor})).await.expect_err("its session is gone");
        assert_eq!(refused.kind, ErrorKind::InvalidParams);
    }
}

#[tokio::test(start_paused = true)]
async fn callers_without_handshake_follow_a_cursor_to_its_session() {
    let mut wish = Wish::default();
    (wish.limits.calls_per_session, wish.limits.shared_sessions) = (1, 2);
    let lab = Lab::start(Memory::new(act), wish);
    let guests = lab.guests(1).await;
    let paged = async |params: Value| value(&ask(&guests, "prompts/list", params).await.expect("a page"));
    let mut cursors = Vec::new();
    for _ in 0..2 {
        // Whichever session the first page came from, the other is the one that is free.
        let mut busy = guests.link.call(guests.tool("hang", &json!({})));
        assert!(busy.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        let page = paged(json!({})).await;
        cursors.push(page["result"]["nextCursor"].as_str().expect("a cursor").to_owned());
        drop(busy);
        lab.until("the session is free again", |lab| lab.held().in_flight == 0).await;
        for cursor in &cursors {
            assert_eq!(paged(json!({ "cursor": cursor })).await["result"]["got"], "page 2");
        }
    }
    let sessions = lab.memory.sessions();
    assert_eq!(sessions.len(), 2);
    let was_sent = |session: &MemorySession, what: &str| {
        session.sent().iter().any(|message| String::from_utf8_lossy(message).contains(what))
    };
    for session in &sessions {
        assert_ne!(
            was_sent(session, "\"hang\""),
            was_sent(session, "\"cursor\""),
            "not where others would go"
        );
    }
    for session in sessions {
        session.fail(broken());
    }
    lab.until("they are gone", |lab| lab.standings().is_empty()).await;
    let refused = ask(&guests, "prompts/list", json!({ "cursor": cursors[0] })).await;
    assert_eq!(refused.expect_err("its session is gone").kind, ErrorKind::InvalidParams);
}

#[tokio::test(start_paused = true)]
async fn many_agents_are_told_of_changes_bit_by_bit_and_each_once() {
    let lab = lab();
    let agents = futures::future::join_all((0..60).map(|n| lab.agent(n))).await;
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}).to_string();
    lab.memory.last().say(changed);
    let told = Arc::new(AtomicUsize::new(0));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let count = |agents: &[Agent]| {
        let got: usize =
            agents.iter().map(|agent| notes(agent, "notifications/tools/list_changed").len()).sum();
        told.fetch_add(got, Ordering::Relaxed) + got
    };
    let early = count(&agents);
    assert!(early < 30, "{early} of 60 at once");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(count(&agents), 60);
}
