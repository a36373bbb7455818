//! Every state under every input, and the stories the machine exists for.

use super::*;

const DRAIN: Duration = Duration::from_secs(30);

#[allow(clippy::disallowed_methods, reason = "any instant will do")]
fn facts(in_flight: usize, answers_apart: bool) -> Facts {
    let now = Instant::now();
    Facts { now, in_flight, answers_apart, last_heard: now, drain: DRAIN }
}

fn states(now: Instant) -> Vec<State> {
    let probes = [
        Probe::Idle { missed: 0 },
        Probe::Idle { missed: 2 },
        Probe::Sent { missed: 0 },
        Probe::Sent { missed: 1 },
    ];
    let mut states = vec![
        State::Initializing,
        State::Draining { reason: CloseReason::Lost, lost: Some(now) },
        State::Draining { reason: CloseReason::MaxAge, lost: None },
        State::Closed(CloseReason::Lost),
    ];
    for probe in probes {
        states.push(State::Ready { last_seen: now, probe });
        states.push(State::Suspect { since: now, probe });
    }
    states
}

const INPUTS: [Input; 12] = [
    Input::Handshaken,
    Input::Heard,
    Input::Silence,
    Input::ProbeAnswered,
    Input::ProbeMissed,
    Input::ConnectionBroke,
    Input::StreamLost,
    Input::SessionLost,
    Input::Unreachable,
    Input::Drain(CloseReason::Shutdown),
    Input::Cut(CloseReason::Shutdown),
    Input::Settled,
];

#[test]
fn every_state_takes_every_input_and_keeps_the_rules() {
    for (in_flight, apart) in [(0, false), (3, false), (0, true), (3, true)] {
        let facts = facts(in_flight, apart);
        for before in states(facts.now) {
            for input in INPUTS {
                let mut after = before.clone();
                let effects = after.on(input, facts);
                let case = format!("{before:?} under {input:?} with {in_flight} in flight gave {after:?}");
                let closes_now =
                    before.standing() != Standing::Closed && after.standing() == Standing::Closed;
                assert_eq!(
                    effects.close.is_some(),
                    closes_now,
                    "the driver is told of the end, once: {case}"
                );
                if let State::Closed(reason) = &before {
                    assert_eq!(after, State::Closed(*reason), "closed is final: {case}");
                    assert!(!effects.probe, "{case}");
                }
                if effects.probe {
                    let (State::Ready { probe, .. } | State::Suspect { probe, .. }) = after else {
                        panic!("only a live session is probed: {case}");
                    };
                    assert!(matches!(probe, Probe::Sent { .. }), "{case}");
                }
                if let (State::Draining { .. }, Standing::Ready | Standing::Suspect) =
                    (&before, after.standing())
                {
                    panic!("a draining session takes no new work: {case}");
                }
                let loses = matches!(input, Input::StreamLost | Input::SessionLost | Input::Unreachable);
                if loses {
                    assert!(!matches!(after.standing(), Standing::Ready | Standing::Suspect), "{case}");
                }
                let silence = matches!(input, Input::Silence | Input::ProbeMissed | Input::ConnectionBroke);
                if silence && in_flight > 0 {
                    assert!(!closes_now, "silence kills nothing that works: {case}");
                }
            }
        }
    }
}

fn ready() -> State {
    let mut state = State::Initializing;
    state.on(Input::Handshaken, facts(0, false));
    state
}

#[test]
fn two_missed_probes_without_work_end_a_session() {
    let mut state = ready();
    assert!(state.on(Input::Silence, facts(0, false)).probe);
    assert!(!state.on(Input::Silence, facts(0, false)).probe, "one at a time");
    let once = state.on(Input::ProbeMissed, facts(0, false));
    assert_eq!((state.standing(), once.probe), (Standing::Suspect, true), "asked again at once");
    let twice = state.on(Input::ProbeMissed, facts(0, false));
    assert_eq!(twice.close, Some(CloseReason::Unresponsive));
}

#[test]
fn missed_probes_with_work_only_make_it_suspect_and_its_end_comes_with_the_work() {
    let mut state = ready();
    for _ in 0..5 {
        state.on(Input::Silence, facts(2, false));
        assert_eq!(state.on(Input::ProbeMissed, facts(2, false)).close, None);
        assert_eq!(state.standing(), Standing::Suspect);
    }
    assert_eq!(state.on(Input::Settled, facts(1, false)).close, None);
    assert_eq!(state.on(Input::Settled, facts(0, false)).close, Some(CloseReason::Unresponsive));
}

#[test]
fn a_suspect_session_comes_back_when_it_is_heard_of() {
    let mut state = ready();
    assert!(state.on(Input::ConnectionBroke, facts(1, true)).probe, "doubt asks at once");
    assert_eq!(state.standing(), Standing::Suspect);
    state.on(Input::ProbeAnswered, facts(1, true));
    assert_eq!(state.standing(), Standing::Ready);
}

#[test]
fn the_miss_of_a_probe_sent_before_the_last_sign_of_life_says_nothing() {
    let mut state = ready();
    state.on(Input::Silence, facts(0, false));
    state.on(Input::Heard, facts(0, false));
    state.on(Input::ProbeMissed, facts(0, false));
    assert_eq!(state.standing(), Standing::Ready);
}

#[test]
fn a_lost_session_waits_for_answers_that_can_still_come() {
    let mut http = ready();
    assert_eq!(http.on(Input::StreamLost, facts(1, true)).close, None);
    assert_eq!(http.standing(), Standing::Draining);
    assert_eq!(http.on(Input::Settled, facts(0, true)).close, Some(CloseReason::Broken));
    assert_eq!(ready().on(Input::StreamLost, facts(1, false)).close, Some(CloseReason::Broken));
    let mut forgotten = ready();
    assert_eq!(forgotten.on(Input::SessionLost, facts(1, false)).close, None, "its stream is still there");
    assert_eq!(forgotten.on(Input::StreamLost, facts(1, false)).close, Some(CloseReason::Broken));
    assert_eq!(
        ready().on(Input::Unreachable, facts(1, false)).close,
        None,
        "the stream will say if it is over"
    );
    assert_eq!(ready().on(Input::Unreachable, facts(0, false)).close, Some(CloseReason::Broken));
    assert_eq!(ready().on(Input::SessionLost, facts(0, true)).close, Some(CloseReason::Lost));
}

#[test]
fn a_retired_session_ends_with_its_last_call_however_long_that_takes() {
    for reason in [CloseReason::MaxAge, CloseReason::Operator, CloseReason::Replaced, CloseReason::Shutdown] {
        let mut state = ready();
        let mut facts = facts(1, false);
        assert_eq!(state.on(Input::Drain(reason), facts).close, None);
        facts.now += DRAIN * 100;
        assert_eq!(state.on(Input::Settled, facts).close, None);
        facts.in_flight = 0;
        assert_eq!(state.on(Input::Settled, facts).close, Some(reason));
    }
}

#[test]
fn a_session_the_backend_forgot_is_given_up_after_silence_and_not_while_its_calls_are_heard_of() {
    for input in [Input::SessionLost, Input::Unreachable] {
        let mut state = ready();
        let mut facts = facts(1, true);
        assert_eq!(state.on(input, facts).close, None);
        facts.now += DRAIN;
        facts.last_heard = facts.now - DRAIN / 2;
        assert_eq!(state.on(Input::Settled, facts).close, None, "a call of it makes progress");
        facts.now += DRAIN / 2;
        assert!(state.on(Input::Settled, facts).close.is_some());
    }
}

#[test]
fn a_session_that_is_cut_does_not_wait_for_its_calls() {
    let mut state = ready();
    let facts = facts(3, true);
    assert_eq!(state.on(Input::Drain(CloseReason::Replaced), facts).close, None);
    assert_eq!(state.on(Input::Cut(CloseReason::Replaced), facts).close, Some(CloseReason::Replaced));
}
