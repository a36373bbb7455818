//! What is kept, and for how long.

use std::sync::atomic::Ordering;

use super::*;
use crate::{
    config::{FrontLimits, FrontTimes},
    limits::{gauges::Gauges, memory::tests::boundless},
};

fn replay(limits: FrontLimits) -> (Replay, Arc<Gauges>) {
    let gauges = Arc::new(Gauges::default());
    let times = FrontTimes { orphan: Duration::from_secs(60), ..FrontTimes::default() };
    let config = FrontConfig { limits, times, ..FrontConfig::default() };
    (Replay::new(&config, boundless(&gauges)), gauges)
}

fn small(events: usize, bytes: usize, total: usize) -> FrontLimits {
    FrontLimits {
        replay_events: events,
        replay_bytes: bytes,
        replay_total_bytes: total,
        ..FrontLimits::default()
    }
}

fn id(stream: u32, seq: u64) -> EventId {
    EventId { stream, seq }
}

fn seqs(replay: &Replay, stream: u32, after: u64) -> Vec<u64> {
    replay.after(id(stream, after)).into_iter().filter_map(|event| event.id).map(|id| id.seq).collect()
}

#[tokio::test(start_paused = true)]
async fn events_are_kept_by_stream_within_count_bytes_and_age() {
    let (replay, gauges) = replay(small(3, 10, 1_000));
    for seq in 1..=4 {
        replay.keep(id(1, seq), Bytes::from_static(b"ab"));
    }
    assert_eq!((seqs(&replay, 1, 0), seqs(&replay, 1, 3)), (vec![2, 3, 4], vec![4]));
    replay.keep(id(2, 1), Bytes::from_static(b"12345678"));
    assert_eq!((seqs(&replay, 1, 0), seqs(&replay, 2, 0)), (vec![4], vec![1]));
    // One that is too large for all of them throws out nothing.
    replay.keep(id(2, 2), Bytes::from_static(b"12345678901"));
    assert_eq!((seqs(&replay, 1, 0), seqs(&replay, 2, 0)), (vec![4], vec![1]));
    assert_eq!(gauges.replay_bytes.load(Ordering::Relaxed), 10);
    tokio::time::advance(Duration::from_secs(59)).await;
    replay.keep(id(3, 1), Bytes::from_static(b""));
    tokio::time::advance(Duration::from_secs(1)).await;
    replay.sweep();
    assert_eq!((seqs(&replay, 2, 0), seqs(&replay, 3, 0)), (vec![], vec![1]));
    assert_eq!(gauges.replay_bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn all_sessions_together_have_a_limit_and_give_back_what_they_held() {
    let (replay, gauges) = replay(small(10, 10, 5));
    replay.keep(id(1, 1), Bytes::from_static(b"1234"));
    replay.keep(id(1, 2), Bytes::from_static(b"12"));
    assert_eq!(seqs(&replay, 1, 0), [1]);
    drop(replay);
    assert_eq!(gauges.replay_bytes.load(Ordering::Relaxed), 0);
}
