//! The circuit under simulated time. `probes` tests the timetable of probes, `model` runs random operations.

use super::{epochs::REMEMBERED_EPOCHS, *};
use crate::{policy::ConsecutiveFailures, tally::ProbeOutcome};

mod model;
mod probes;
mod slow_start;

/// A circuit with its own time.
struct Lab {
    circuit: Circuit<ConsecutiveFailures>,
    start: Instant,
    now: Instant,
}

impl Lab {
    fn new(settings: &Settings) -> Self {
        let start = Instant::now();
        Self { circuit: Circuit::new(ConsecutiveFailures::new(settings), settings, start), start, now: start }
    }

    /// Reports incidents of epochs 1 to 5.
    fn tripped(settings: &Settings) -> Self {
        let mut lab = Self::new(settings);
        lab.break_epochs(1..=5);
        assert_eq!(lab.state(), State::Open);
        lab
    }

    fn at(&mut self, seconds: f64) -> &mut Self {
        self.now = self.start + Duration::from_secs_f64(seconds);
        self
    }

    fn break_epochs(&mut self, epochs: impl IntoIterator<Item = u64>) {
        for epoch in epochs {
            self.circuit.incident(epoch, "broken", self.now);
        }
    }

    fn state(&mut self) -> State {
        self.snapshot().state
    }

    fn snapshot(&mut self) -> Snapshot {
        self.circuit.snapshot(self.now)
    }

    fn admit(&mut self) -> Result<(), Rejected> {
        self.circuit.admit(self.now)
    }

    fn may_open(&mut self) -> Opening {
        self.circuit.may_open(self.now)
    }

    fn since_start(&self, at: Instant) -> f64 {
        at.duration_since(self.start).as_secs_f64()
    }

    /// The times of the next `count` probes if each fails at once.
    fn probes(&mut self, count: u64) -> Vec<f64> {
        (100..100 + count)
            .map(|epoch| {
                let Opening::Wait(until) = self.may_open() else { panic!("a probe without a wait") };
                self.now = until - Duration::from_millis(1);
                assert_eq!(self.may_open(), Opening::Wait(until), "a probe before its time");
                self.now = until;
                assert_eq!(self.may_open(), Opening::Probe);
                self.circuit.probe_failed(epoch, "connect", self.now);
                self.since_start(until)
            })
            .collect()
    }
}

fn exact() -> Settings {
    Settings { early_probe: false, hold: Duration::ZERO, ..Settings::default() }
}

fn probe_outcomes(snapshot: &Snapshot) -> Vec<u64> {
    snapshot.probes.iter().map(|(_, count)| *count).collect()
}

#[test]
fn a_hundred_reports_of_one_epoch_are_one_incident() {
    let mut lab = Lab::new(&exact());
    lab.break_epochs(std::iter::repeat_n(1, 100));
    assert_eq!(lab.state(), State::Closed);
    assert_eq!(lab.snapshot().incidents, [("broken", 1)]);
    lab.break_epochs(2..=5);
    assert_eq!(lab.state(), State::Open);
}

#[test]
fn epochs_may_break_in_any_order() {
    let mut lab = Lab::new(&exact());
    lab.break_epochs([9, 2, 7, 1]);
    assert_eq!(lab.state(), State::Closed);
    lab.break_epochs([4]);
    assert_eq!(lab.state(), State::Open);
}

#[test]
fn a_success_that_started_before_the_incident_says_nothing() {
    let mut lab = Lab::new(&exact());
    let before = lab.start + Duration::from_secs(1);
    lab.at(2.0).break_epochs(1..=4);
    let now = lab.at(3.0).now;
    lab.circuit.success(9, before, now);
    lab.circuit.success(9, lab.start + Duration::from_secs(2), now);
    lab.break_epochs([5]);
    assert_eq!(lab.state(), State::Open);
}

#[test]
fn a_success_that_started_after_the_incident_starts_the_count_anew() {
    let mut lab = Lab::new(&exact());
    lab.at(2.0).break_epochs(1..=4);
    let started = lab.start + Duration::from_millis(2001);
    let now = lab.at(3.0).now;
    lab.circuit.success(9, started, now);
    lab.break_epochs(5..=8);
    assert_eq!(lab.state(), State::Closed);
    lab.break_epochs([9]);
    assert_eq!(lab.state(), State::Open);
}

#[test]
fn a_success_of_a_session_known_to_be_broken_says_nothing() {
    let mut lab = Lab::new(&exact());
    lab.break_epochs(1..=4);
    let started = lab.at(1.0).now;
    let now = lab.at(2.0).now;
    lab.circuit.success(4, started, now);
    lab.break_epochs([5]);
    assert_eq!(lab.state(), State::Open);
}

#[test]
fn traffic_does_not_close_an_open_circuit() {
    let mut lab = Lab::tripped(&exact());
    let started = lab.at(1.0).now;
    let now = lab.at(2.0).now;
    lab.circuit.success(9, started, now);
    assert_eq!(lab.state(), State::Open);
    assert_eq!(lab.at(60.0).may_open(), Opening::Probe);
    let (started, now) = (lab.now, lab.at(61.0).now);
    lab.circuit.success(9, started, now);
    assert_eq!(lab.state(), State::HalfOpen);
}

#[test]
fn late_reports_of_old_epochs_are_ignored_after_recovery() {
    let mut lab = Lab::tripped(&exact());
    assert_eq!(lab.at(60.0).may_open(), Opening::Probe);
    let now = lab.now;
    lab.circuit.probe_succeeded(20, now);
    let counted = lab.snapshot().incidents;
    // Epochs 6..20 are unknown, but began before the recovery.
    lab.break_epochs(0..20);
    assert_eq!(lab.state(), State::Closed);
    assert_eq!(lab.snapshot().incidents, counted);
    // The probe's session is now an ordinary one.
    lab.break_epochs(20..24);
    assert_eq!(lab.state(), State::Closed);
    lab.break_epochs([24]);
    assert_eq!(lab.state(), State::Open);
}

#[test]
fn incidents_while_open_are_counted_and_change_nothing() {
    let mut lab = Lab::tripped(&exact());
    lab.at(59.0).break_epochs(6..=20);
    assert_eq!(lab.snapshot().incidents, [("broken", 20)]);
    assert_eq!(lab.at(60.0).may_open(), Opening::Probe, "the wait was not extended");
    lab.break_epochs(21..=30);
    assert_eq!(lab.state(), State::HalfOpen);
}

#[test]
fn reports_of_another_epoch_do_not_end_the_probe() {
    let mut lab = Lab::tripped(&exact());
    assert_eq!(lab.at(60.0).may_open(), Opening::Probe);
    let now = lab.now;
    lab.circuit.probe_started(8, now);
    lab.circuit.probe_started(7, now);
    lab.circuit.probe_succeeded(7, now);
    lab.circuit.probe_failed(7, "connect", now);
    lab.circuit.incident(7, "connect", now);
    assert_eq!(lab.state(), State::HalfOpen);
    lab.circuit.probe_succeeded(8, now);
    assert_eq!(lab.state(), State::Closed);
}

#[test]
fn an_incident_of_the_probes_epoch_is_its_failure_and_counts_once() {
    let mut lab = Lab::tripped(&exact());
    assert_eq!(lab.at(60.0).may_open(), Opening::Probe);
    let now = lab.at(61.0).now;
    lab.circuit.probe_started(6, now);
    lab.circuit.incident(6, "connect", now);
    lab.circuit.probe_failed(6, "connect", now);
    lab.circuit.incident(6, "connect", now);
    let snapshot = lab.snapshot();
    assert_eq!(snapshot.state, State::Open);
    assert_eq!(snapshot.incidents, [("broken", 5), ("connect", 1)]);
    assert_eq!(probe_outcomes(&snapshot), [0, 1, 0, 0]);
    assert_eq!(lab.since_start(snapshot.next_probe.unwrap()), 121.0);
}

#[test]
fn an_unnamed_probe_is_not_ended_by_an_epoch_that_broke_before_it() {
    let mut lab = Lab::tripped(&exact());
    assert_eq!(lab.at(60.0).may_open(), Opening::Probe);
    let now = lab.now;
    for epoch in 0..=5 {
        lab.circuit.probe_failed(epoch, "connect", now);
        lab.circuit.probe_succeeded(epoch, now);
    }
    assert_eq!(lab.state(), State::HalfOpen);
    lab.circuit.probe_succeeded(6, now);
    assert_eq!(lab.state(), State::Closed);
}

#[test]
fn probe_reports_without_a_probe_change_nothing() {
    let mut lab = Lab::new(&exact());
    let now = lab.now;
    lab.circuit.probe_started(1, now);
    lab.circuit.probe_failed(1, "connect", now);
    lab.circuit.probe_abandoned(now);
    assert_eq!(lab.state(), State::Closed);
    let mut lab = Lab::tripped(&exact());
    let now = lab.now;
    lab.circuit.probe_started(9, now);
    lab.circuit.probe_succeeded(9, now);
    lab.circuit.probe_abandoned(now);
    assert_eq!(lab.state(), State::Open);
}

#[test]
fn time_that_runs_backwards_is_clamped() {
    let mut lab = Lab::new(&exact());
    lab.at(10.0).break_epochs(1..=4);
    lab.at(5.0).break_epochs([5]);
    assert_eq!(lab.may_open(), Opening::Wait(lab.start + Duration::from_secs(70)));
    let time_in = lab.snapshot().time_in.map(|(_, time)| time.as_secs());
    assert_eq!(time_in, [10, 0, 0]);
}

#[test]
fn waiting_callers_may_ask_without_being_counted() {
    let mut lab = Lab::tripped(&exact());
    let now = lab.now;
    let waiting = lab.circuit.would_admit(now).unwrap_err();
    assert_eq!(lab.snapshot().rejected, 0);
    assert_eq!(lab.circuit.admit(now).unwrap_err(), waiting);
    assert_eq!(lab.snapshot().rejected, 1);
}

#[test]
fn the_memory_of_epochs_is_bounded() {
    let mut lab = Lab::tripped(&exact());
    lab.break_epochs(0..100_000);
    assert_eq!(lab.circuit.epochs.broken.len(), REMEMBERED_EPOCHS);
    assert!(lab.circuit.epochs.broken.capacity() <= 2 * REMEMBERED_EPOCHS);
}

#[test]
fn kinds_of_incidents_are_bounded() {
    let mut lab = Lab::tripped(&exact());
    for epoch in 100..200 {
        let kind: &'static str = Box::leak(format!("kind{epoch}").into_boxed_str());
        lab.circuit.incident(epoch, kind, lab.now);
    }
    lab.circuit.incident(300, "broken", lab.now);
    let incidents = lab.snapshot().incidents;
    assert_eq!(incidents.len(), 33);
    assert_eq!(incidents[0], ("broken", 6));
    assert_eq!(incidents[32], ("other", 100 - 31));
}

#[test]
fn every_label_is_there_at_zero_from_the_start() {
    let snapshot = Lab::new(&exact()).snapshot();
    assert_eq!(snapshot.transitions, Reason::ALL.map(|reason| (reason, 0)));
    assert_eq!(snapshot.probes, ProbeOutcome::ALL.map(|outcome| (outcome, 0)));
    assert_eq!(snapshot.time_in, State::ALL.map(|state| (state, Duration::ZERO)));
    assert_eq!(State::ALL.map(State::as_str), ["closed", "open", "half_open"]);
    assert_eq!(ProbeOutcome::ALL.map(ProbeOutcome::as_str), ["success", "failure", "lost", "abandoned"]);
    let edges = Reason::ALL.map(|reason| {
        let (from, to) = reason.edge();
        format!("{}-{}-{}", from.as_str(), to.as_str(), reason.as_str())
    });
    assert_eq!(
        edges,
        [
            "closed-open-incidents",
            "open-half_open-probe_started",
            "half_open-closed-probe_succeeded",
            "half_open-open-probe_failed",
            "half_open-open-probe_lost",
            "half_open-open-probe_abandoned",
            "open-closed-reset",
        ]
    );
}

#[test]
fn an_operator_closes_it_and_what_was_there_before_counts_no_more() {
    let mut lab = Lab::tripped(&exact());
    let now = lab.at(1.0).now;
    lab.circuit.reset(now);
    assert_eq!(lab.state(), State::Closed);
    assert!(lab.admit().is_ok());
    lab.break_epochs(1..=5);
    assert_eq!(lab.state(), State::Closed, "the sessions there were are forgotten");
    lab.break_epochs(6..=9);
    assert_eq!(lab.state(), State::Closed, "and count for nothing");
    lab.break_epochs(10..=10);
    assert_eq!(lab.state(), State::Open);
}
