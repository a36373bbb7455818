//! The rules of a full outbox, and of readers that come and go.

use std::{
    sync::atomic::Ordering,
    task::{Context, Poll, Waker},
};

use super::*;
use crate::{
    config::FrontConfig,
    limits::{gauges::Gauges, memory::tests::boundless},
    stream::replay::LISTENING,
};

fn outbox(messages: usize, bytes: usize) -> (Arc<Outbox>, Arc<Gauges>) {
    stream_of(messages, bytes, None)
}

/// An outbox of this stream number, or of none.
fn stream_of(messages: usize, bytes: usize, number: Option<u32>) -> (Arc<Outbox>, Arc<Gauges>) {
    let gauges = Arc::new(Gauges::default());
    let limits = FrontLimits { outbound_messages: messages, outbound_bytes: bytes, ..FrontLimits::default() };
    let memory = boundless(&gauges);
    let replay = Arc::new(Replay::new(&FrontConfig::default(), Arc::clone(&memory)));
    let stream = number.map(|number| Stream { replay, number });
    (Arc::new(Outbox::new(&limits, memory, stream)), gauges)
}

fn read(reader: &mut Reader) -> Option<String> {
    match reader.poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(next) => next.map(|next| match next {
            Next::Event(event) => String::from_utf8(event.bytes.to_vec()).unwrap(),
            Next::BackIn(wait) => format!("back in {wait:?}"),
        }),
        Poll::Pending => Some("pending".to_owned()),
    }
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn who_is_dismissed_reads_what_waits_and_leaves_the_rest_to_the_next() {
    let (outbox, _gauges) = outbox(3, 1_000);
    // The first reader is on its way.
    outbox.dismiss(Duration::from_secs(1));
    let mut first = outbox.attach().unwrap();
    assert_eq!(read(&mut first).as_deref(), Some("back in 1s"));
    // Nobody reads: nobody is sent away.
    outbox.dismiss(Duration::from_secs(1));
    let mut reader = outbox.attach().unwrap();
    assert_eq!(read(&mut reader).as_deref(), Some("pending"));
    outbox.push(DropPolicy::Note, text("n1")).unwrap();
    outbox.dismiss(Duration::from_secs(2));
    outbox.push(DropPolicy::Note, text("n2")).unwrap();
    for expected in [Some("n1"), Some("n2"), Some("back in 2s"), None, None] {
        assert_eq!(read(&mut reader).as_deref(), expected);
    }
    assert_eq!(outbox.presence(), Presence::Absent);
    outbox.push(DropPolicy::Required, text("a1")).unwrap();
    let mut next = outbox.attach().unwrap();
    drop(reader);
    assert_eq!(read(&mut next).as_deref(), Some("a1"));
    assert_eq!(read(&mut next).as_deref(), Some("pending"));
    // The answer came first: nothing is left to come back for.
    outbox.dismiss(Duration::from_secs(1));
    outbox.close();
    assert_eq!(read(&mut next), None);
}

#[test]
fn a_full_outbox_drops_logs_first_merges_and_keeps_answers() {
    let (outbox, gauges) = outbox(3, 1_000);
    let mut reader = outbox.attach().unwrap();
    let (progress, change) = (DropPolicy::Progress(1), DropPolicy::Change(1));
    outbox.push(progress, text("p1")).unwrap();
    outbox.push(DropPolicy::Log, text("l1")).unwrap();
    outbox.push(change, text("c1")).unwrap();
    assert_eq!(outbox.push(DropPolicy::Log, text("l2")), Err(Refused::Dropped));
    assert_eq!(outbox.push(progress, text("p1 later")), Ok(0));
    assert_eq!(outbox.push(change, text("c1")), Ok(0));
    // The log makes room for what matters more, and then there is none left.
    assert_eq!(outbox.push(DropPolicy::Progress(2), text("p2")), Ok(1));
    assert_eq!(outbox.push(DropPolicy::Progress(3), text("p3")), Err(Refused::Dropped));
    assert_eq!(outbox.push(DropPolicy::Change(2), text("c2")), Ok(0));
    assert_eq!(outbox.push(DropPolicy::Note, text("n1")), Ok(0));
    assert_eq!(outbox.push(DropPolicy::Required, text("a1")), Ok(0));
    // At twice the size only what must arrive could still matter, and it closes the stream.
    assert_eq!(outbox.push(DropPolicy::Note, text("n2")), Err(Refused::Dropped));
    assert_eq!(outbox.push(DropPolicy::Change(3), text("c3")), Err(Refused::Dropped));
    assert_eq!(gauges.outbound_bytes.load(Ordering::Relaxed), 18);
    for expected in ["p1 later", "c1", "p2", "c2", "n1", "a1", "pending"] {
        assert_eq!(read(&mut reader).as_deref(), Some(expected));
    }
    assert_eq!(gauges.outbound_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn logs_make_room_in_bytes_too() {
    let (outbox, _) = outbox(100, 10);
    for log in ["aaaa", "bbbb", "cccc"] {
        outbox.push(DropPolicy::Log, text(log)).unwrap();
    }
    assert_eq!(outbox.push(DropPolicy::Required, text("answer")), Ok(1));
    let mut reader = outbox.attach().unwrap();
    for expected in ["bbbb", "cccc", "answer", "pending"] {
        assert_eq!(read(&mut reader).as_deref(), Some(expected));
    }
}

#[test]
fn answers_beyond_twice_the_size_close_the_stream() {
    for (messages, bytes) in [(2, 1_000), (1_000, 4)] {
        let (outbox, gauges) = outbox(messages, bytes);
        let mut reader = outbox.attach().unwrap();
        for _ in 0..4 {
            outbox.push(DropPolicy::Required, text("aa")).unwrap();
        }
        assert_eq!(outbox.push(DropPolicy::Required, text("aa")), Err(Refused::Overflowed));
        assert_eq!(outbox.push(DropPolicy::Required, text("aa")), Err(Refused::Closed));
        assert_eq!(outbox.presence(), Presence::Closed);
        assert_eq!(read(&mut reader), None);
        assert_eq!(gauges.outbound_bytes.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn one_message_of_any_size_fits_an_empty_outbox() {
    let (outbox, _) = outbox(2, 4);
    outbox.push(DropPolicy::Required, text("much longer than that")).unwrap();
    assert_eq!(read(&mut outbox.attach().unwrap()).as_deref(), Some("much longer than that"));
}

#[test]
fn the_newest_reader_reads_and_an_older_one_leaving_changes_nothing() {
    let (outbox, _) = outbox(10, 1_000);
    let mut old = outbox.attach().unwrap();
    let new = outbox.attach().unwrap();
    assert_eq!(read(&mut old), None);
    drop(old);
    assert!(matches!(outbox.presence(), Presence::Attached(_)));
    outbox.push(DropPolicy::Required, text("a")).unwrap();
    drop(new);
    assert_eq!(outbox.presence(), Presence::Absent);
    // What nobody read waits for the next.
    assert_eq!(read(&mut outbox.attach().unwrap()).as_deref(), Some("a"));
}

#[test]
fn closing_lets_the_reader_finish() {
    let (outbox, gauges) = outbox(10, 1_000);
    let mut reader = outbox.attach().unwrap();
    outbox.push(DropPolicy::Required, text("last")).unwrap();
    outbox.close();
    assert!(outbox.attach().is_none());
    assert_eq!((read(&mut reader).as_deref(), read(&mut reader)), (Some("last"), None));
    outbox.close();
    drop(reader);
    assert_eq!(outbox.presence(), Presence::Closed);
    assert_eq!(gauges.outbound_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn what_is_queued_when_an_outbox_goes_is_no_longer_counted() {
    let (outbox, gauges) = outbox(10, 1_000);
    outbox.push(DropPolicy::Required, text("never read")).unwrap();
    drop(outbox);
    assert_eq!(gauges.outbound_bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_stream_is_taken_up_behind_any_event_and_after_its_end() {
    let (outbox, gauges) = stream_of(10, 1_000, Some(1));
    let mut reader = outbox.attach().unwrap();
    for event in ["1", "2", "3"] {
        outbox.push(DropPolicy::Note, text(event)).unwrap();
    }
    assert_eq!((read(&mut reader).as_deref(), read(&mut reader).as_deref()), (Some("1"), Some("2")));
    drop(reader);
    outbox.push(DropPolicy::Required, text("4")).unwrap();
    outbox.close();
    assert_eq!(
        (gauges.outbound_bytes.load(Ordering::Relaxed), gauges.replay_bytes.load(Ordering::Relaxed)),
        (0, 4)
    );
    assert!(outbox.attach_after(5).is_none());
    for _ in 0..2 {
        let mut again = outbox.attach_after(1).unwrap();
        assert_eq!(again.begins_after(), Some(EventId { stream: 1, seq: 1 }));
        for expected in [Some("2"), Some("3"), Some("4"), None] {
            assert_eq!(read(&mut again).as_deref(), expected);
        }
    }
    assert!(outbox.attach_after(4).is_none());
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    assert!(outbox.attach_after(1).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_no_call_waits_for_its_reader_as_long_as_it_may_resume() {
    let (outbox, gauges) = stream_of(10, 1_000, Some(LISTENING));
    assert_eq!(outbox.push(DropPolicy::Note, text("nobody")), Err(Refused::Dropped));
    drop(outbox.attach().unwrap());
    outbox.push(DropPolicy::Note, text("1")).unwrap();
    // A question is asked where somebody hears it.
    assert_eq!(outbox.push(DropPolicy::Required, text("request")), Err(Refused::Dropped));
    let mut reader = outbox.attach().unwrap();
    assert_eq!(read(&mut reader).as_deref(), Some("1"));
    drop(reader);
    outbox.push(DropPolicy::Note, text("2")).unwrap();
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    outbox.sweep();
    assert_eq!(gauges.outbound_bytes.load(Ordering::Relaxed), 0);
    assert_eq!(outbox.push(DropPolicy::Note, text("3")), Err(Refused::Dropped));
}

#[test]
fn an_agent_that_does_not_read_loses_its_stream_but_may_listen_again() {
    let (outbox, gauges) = stream_of(10, 1_000, Some(LISTENING));
    let mut reader = outbox.attach().unwrap();
    outbox.push(DropPolicy::Note, text("1")).unwrap();
    reader.give_up();
    assert_eq!((read(&mut reader), outbox.presence()), (None, Presence::Absent));
    drop(reader);
    assert_eq!(outbox.push(DropPolicy::Note, text("2")), Err(Refused::Dropped));
    assert_eq!(read(&mut outbox.attach().unwrap()).as_deref(), Some("pending"));
    // The stream of a call is over for good.
    let (outbox, _) = stream_of(10, 1_000, Some(1));
    outbox.attach().unwrap().give_up();
    assert_eq!(outbox.presence(), Presence::Closed);
    assert_eq!(gauges.outbound_bytes.load(Ordering::Relaxed), 0);
}
