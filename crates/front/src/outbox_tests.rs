//! The rules of a full outbox, and of readers that come and go.

use std::{
    sync::atomic::Ordering,
    task::{Context, Poll, Waker},
};

use super::*;

fn outbox(messages: usize, bytes: usize) -> (Arc<Outbox>, Arc<Gauges>) {
    let gauges = Arc::new(Gauges::default());
    (Arc::new(Outbox::new(messages, bytes, Arc::clone(&gauges))), gauges)
}

fn read(reader: &Reader) -> Option<String> {
    match reader.poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(next) => next.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()),
        Poll::Pending => Some("pending".to_owned()),
    }
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn a_full_outbox_merges_progress_drops_notifications_and_keeps_answers() {
    let (outbox, gauges) = outbox(2, 1_000);
    let reader = outbox.attach().unwrap();
    outbox.push(Weight::Progress(1), text("p1")).unwrap();
    outbox.push(Weight::Droppable, text("n1")).unwrap();
    outbox.push(Weight::Progress(1), text("p1 later")).unwrap();
    assert_eq!(outbox.push(Weight::Progress(2), text("p2")), Err(Refused::Dropped));
    assert_eq!(outbox.push(Weight::Droppable, text("n2")), Err(Refused::Dropped));
    outbox.push(Weight::Must, text("a1")).unwrap();
    assert_eq!(gauges.buffered_bytes.load(Ordering::Relaxed), 12);
    for expected in ["p1 later", "n1", "a1", "pending"] {
        assert_eq!(read(&reader).as_deref(), Some(expected));
    }
    assert_eq!(gauges.buffered_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn answers_beyond_twice_the_size_close_the_stream() {
    for (messages, bytes) in [(2, 1_000), (1_000, 4)] {
        let (outbox, gauges) = outbox(messages, bytes);
        let reader = outbox.attach().unwrap();
        for _ in 0..4 {
            outbox.push(Weight::Must, text("aa")).unwrap();
        }
        assert_eq!(outbox.push(Weight::Must, text("aa")), Err(Refused::Overflowed));
        assert_eq!(outbox.push(Weight::Must, text("aa")), Err(Refused::Closed));
        assert_eq!(outbox.presence(), Presence::Closed);
        assert_eq!(read(&reader), None);
        assert_eq!(gauges.buffered_bytes.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn one_message_of_any_size_fits_an_empty_outbox() {
    let (outbox, _) = outbox(2, 4);
    outbox.push(Weight::Must, text("much longer than that")).unwrap();
    assert_eq!(read(&outbox.attach().unwrap()).as_deref(), Some("much longer than that"));
}

#[test]
fn the_newest_reader_reads_and_an_older_one_leaving_changes_nothing() {
    let (outbox, _) = outbox(10, 1_000);
    let old = outbox.attach().unwrap();
    let new = outbox.attach().unwrap();
    assert_eq!(read(&old), None);
    drop(old);
    assert!(matches!(outbox.presence(), Presence::Attached(_)));
    outbox.push(Weight::Must, text("a")).unwrap();
    drop(new);
    assert_eq!(outbox.presence(), Presence::Absent);
    // What nobody read waits for the next.
    assert_eq!(read(&outbox.attach().unwrap()).as_deref(), Some("a"));
}

#[test]
fn closing_lets_the_reader_finish() {
    let (outbox, gauges) = outbox(10, 1_000);
    let reader = outbox.attach().unwrap();
    outbox.push(Weight::Must, text("last")).unwrap();
    outbox.close();
    assert!(outbox.attach().is_none());
    assert_eq!((read(&reader).as_deref(), read(&reader)), (Some("last"), None));
    outbox.close();
    drop(reader);
    assert_eq!(outbox.presence(), Presence::Closed);
    assert_eq!(gauges.buffered_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn what_is_queued_when_an_outbox_goes_is_no_longer_counted() {
    let (outbox, gauges) = outbox(10, 1_000);
    outbox.push(Weight::Must, text("never read")).unwrap();
    drop(outbox);
    assert_eq!(gauges.buffered_bytes.load(Ordering::Relaxed), 0);
}
