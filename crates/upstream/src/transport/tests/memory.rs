//! The backend in memory, under a paused clock.

use super::*;
use crate::transport::memory::Memory;

fn call(id: u64) -> Bytes {
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo"}}}}"#))
}

fn id_of(message: &[u8]) -> u64 {
    match mcpool_wire::Envelope::parse(message).unwrap().id_value() {
        Some(mcpool_wire::IdValue::Num(id)) => id.try_into().unwrap(),
        other => panic!("no integer id: {other:?}"),
    }
}

/// Answers call `id` after `10 - id` seconds, so that later ones overtake.
fn overtaking() -> Memory {
    Memory::new(|turn| async move {
        let reply = turn.reply();
        if turn.method() == Some(mcpool_wire::Method::ToolsCall) {
            let id = id_of(&turn.message);
            tokio::time::sleep(Duration::from_secs(10 - id)).await;
        }
        reply.into_iter().collect()
    })
}

#[tokio::test(start_paused = true)]
async fn answers_overtake_as_their_delays_say() {
    let memory = overtaking();
    let opened = memory.connect(initialize(INITIALIZE)).await.unwrap();
    let mut inbound = opened.outbound.listen().await.unwrap();
    for id in [1, 5, 3] {
        assert!(messages(opened.outbound.send(call(id))).await.is_empty());
    }
    let started = tokio::time::Instant::now();
    let mut order = Vec::new();
    for _ in 0..3 {
        let answer = hear(&mut inbound).await.unwrap().unwrap();
        order.push(id_of(&answer));
    }
    assert_eq!(order, [5, 3, 1]);
    assert_eq!(started.elapsed(), Duration::from_secs(9));
}

#[tokio::test(start_paused = true)]
async fn connects_are_delayed_and_fail_as_told() {
    let memory = Memory::echo();
    memory.delay_connects(Duration::from_secs(3));
    memory.fail_connects(1, &SendError::not_sent(Cause::Connect("refused".to_owned())));
    let started = tokio::time::Instant::now();
    assert!(memory.connect(initialize(INITIALIZE)).await.is_err());
    assert!(memory.connect(initialize(INITIALIZE)).await.is_ok());
    assert_eq!(started.elapsed(), Duration::from_secs(6));
    assert_eq!(memory.sessions().len(), 1);
    assert_eq!(memory.last().methods(), ["initialize"]);
}

#[tokio::test]
async fn the_stream_says_fails_and_ends_as_told_and_messages_are_refused() {
    let memory = Memory::echo();
    let opened = memory.connect(initialize(INITIALIZE)).await.unwrap();
    let mut inbound = opened.outbound.listen().await.unwrap();
    let session = memory.last();
    session.say(PROGRESS);
    session.keep_alive();
    session.fail(SendError::maybe_sent(Cause::Broken("cut".to_owned())));
    session.end();
    assert_eq!(next(&mut inbound).await.unwrap().unwrap(), Heard::Message(PROGRESS.into()));
    assert_eq!(next(&mut inbound).await.unwrap().unwrap(), Heard::Alive);
    assert!(next(&mut inbound).await.unwrap().is_err());
    assert!(next(&mut inbound).await.is_none());

    session.refuse(1, &SendError::not_sent(Cause::Closed("test")));
    assert!(all(opened.outbound.send(CALL.into())).await[0].is_err());
    opened.outbound.close().await;
    assert!(session.is_closed());
    assert_eq!(session.sent().len(), 1, "a refused message does not arrive");
}

#[tokio::test]
async fn answers_may_come_in_the_exchange() {
    let memory = Memory::echo().answering_in_exchange();
    let opened = memory.connect(initialize(INITIALIZE)).await.unwrap();
    assert_eq!(messages(opened.outbound.send(call(4))).await.len(), 1);
    assert!(messages(opened.outbound.send(PROGRESS.into())).await.is_empty());
}
