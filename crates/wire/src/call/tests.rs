//! Call phases and times in the trace.

use super::*;

fn after(trace: &CallTrace, ms: u64) -> Instant {
    trace.started + Duration::from_millis(ms)
}

#[test]
fn a_trace_follows_its_call_to_the_answer() {
    let trace = CallTrace::new(Instant::now());
    assert_eq!((trace.phase(), trace.executed()), (Phase::Queued, Executed::No));
    assert_eq!((trace.waited(), trace.rungs_ms(), trace.attempts()), (None, [None; 4], 0));
    assert_eq!(trace.last_activity(), trace.started);

    trace.mark_leased(9, after(&trace, 5));
    assert_eq!((trace.phase(), trace.session(), trace.attempts()), (Phase::Queued, 9, 1));
    assert_eq!(trace.waited(), Some(Duration::from_millis(5)));

    trace.mark_sent(after(&trace, 6));
    assert_eq!((trace.phase(), trace.executed()), (Phase::Sent, Executed::Maybe));
    trace.mark_accepted(after(&trace, 7));
    trace.mark_part(after(&trace, 8));
    assert_eq!(trace.last_activity(), after(&trace, 8));
    trace.mark_answered(after(&trace, 10));
    assert_eq!((trace.phase(), trace.executed()), (Phase::Answered, Executed::Yes));
    assert_eq!(trace.rungs_ms(), [Some(5.0), Some(6.0), Some(7.0), Some(10.0)]);
}

#[test]
fn a_refused_attempt_was_not_executed_and_the_next_one_counts_on() {
    let trace = CallTrace::new(Instant::now());
    trace.mark_leased(1, after(&trace, 1));
    trace.mark_sent(after(&trace, 2));
    trace.mark_refused();
    assert_eq!(trace.executed(), Executed::No);
    trace.mark_leased(2, after(&trace, 30));
    assert_eq!((trace.attempts(), trace.session()), (2, 2));
    assert_eq!(trace.waited(), Some(Duration::from_millis(30)));
}

#[test]
fn attempts_are_told_apart_each_with_its_own_cause() {
    let trace = CallTrace::new(Instant::now());
    assert_eq!(trace.attempts_made(), []);
    let mut made = Vec::new();
    for session in 1..=5 {
        let ms = session * 10;
        trace.mark_leased(session, after(&trace, ms));
        // Only the odd ones got so far.
        let sent = (session % 2 == 1).then(|| {
            trace.mark_sent(after(&trace, ms + 1));
            Duration::from_millis(ms + 1)
        });
        let attempt = Attempt { session, leased: Duration::from_millis(ms), sent, cause: None };
        assert_eq!(trace.attempts_made().last(), Some(&attempt), "what failed before is not its own");
        trace.note_cause(format!("lost {session}"));
        made.push(Attempt { cause: Some(format!("lost {session}")), ..attempt });
        if session <= 4 {
            assert_eq!(trace.attempts_made(), made);
        }
    }
    made.remove(3);
    assert_eq!(trace.attempts_made(), made, "three that failed, and the last");
    assert_eq!((trace.attempts(), trace.cause().as_deref()), (5, Some("lost 5")));
}

#[test]
fn the_first_backend_that_serves_a_call_is_noted() {
    let trace = CallTrace::new(Instant::now());
    assert_eq!(trace.served_by(), None);
    trace.mark_served_by("member".into());
    trace.mark_served_by("other".into());
    assert_eq!(trace.served_by(), Some("member"));
}

#[test]
fn a_rung_reached_at_once_is_reached() {
    let trace = CallTrace::new(Instant::now());
    trace.mark_leased(1, trace.started);
    assert!(trace.waited().is_some());
    let before = trace.started.checked_sub(Duration::from_millis(1)).unwrap();
    trace.mark_sent(before);
    assert!(trace.rungs_ms()[1].is_some());
}

#[test]
fn the_last_cause_is_kept() {
    let trace = CallTrace::new(Instant::now());
    assert_eq!(trace.cause(), None);
    trace.note_cause("first");
    trace.note_cause("second".to_owned());
    assert_eq!(trace.cause().as_deref(), Some("second"));
}

#[test]
fn names_in_logs_are_short_and_fixed() {
    assert_eq!(RequestId(0xab).to_string(), "00000000000000ab");
    assert_eq!(AgentKey(0xab).to_string(), "aab");
}

#[test]
fn a_request_id_says_which_replica_gave_it_out_however_many_follow() {
    for slot in [Slot::NONE, Slot::read(1), Slot::read(Slot::MOST)] {
        for random in [0, 1 << 13, u32::MAX] {
            let first = RequestId::first(slot, random);
            let last = RequestId(first.0 + (1 << 51) - 1);
            assert_eq!((first.slot(), last.slot()), (slot, slot), "{random:x}");
        }
    }
    assert_ne!(RequestId::first(Slot::NONE, 1 << 13), RequestId::first(Slot::NONE, 2 << 13));
    assert_eq!(RequestId::first(Slot::read(0xabc), 0).to_string(), "abc0000000000000");
}
