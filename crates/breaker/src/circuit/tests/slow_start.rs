//! Slow start: growth by successes and by time, reset by incidents.

use super::*;

/// Just recovered, at 1 s.
fn recovered(full_speed: u32) -> Lab {
    let settings = Settings { full_speed, ..Settings::default() };
    let mut lab = Lab::tripped(&settings);
    let now = lab.at(1.0).now;
    assert_eq!(lab.may_open(), Opening::Probe);
    lab.circuit.probe_succeeded(6, now);
    assert_eq!(lab.state(), State::Closed);
    lab
}

impl Lab {
    /// Starts as many calls as allowed.
    fn begin_all(&mut self) -> Vec<u64> {
        let mut begun = Vec::new();
        while let Ok(call) = self.circuit.begin(self.now) {
            let Some(call) = call else { return Vec::new() };
            begun.push(call);
        }
        begun
    }
}

#[test]
fn each_success_doubles_what_may_be_in_flight_until_it_is_over() {
    let mut lab = recovered(32);
    let first = lab.begin_all();
    assert_eq!(first.len(), 1);
    assert!(!lab.circuit.is_unhindered(lab.now));
    assert!(lab.circuit.end(first[0], true), "those that were turned away should look again");
    let two = lab.begin_all();
    assert_eq!(two.len(), 2);
    for call in two {
        lab.circuit.end(call, true);
    }
    let eight = lab.begin_all();
    assert_eq!(eight.len(), 8);
    let shown = lab.snapshot().slow_start.unwrap();
    assert_eq!((shown.limit, shown.in_flight), (8, 8));
    assert!(lab.circuit.end(eight[0], true));
    assert_eq!(lab.snapshot().slow_start.unwrap().limit, 16);
    lab.circuit.end(eight[1], true);
    assert_eq!(lab.snapshot().slow_start, None, "32 is full speed");
    assert_eq!(lab.circuit.begin(lab.now), Ok(None));
    assert_eq!(lab.circuit.may_begin(lab.now), Ok(()));
    assert!(lab.circuit.is_unhindered(lab.now));
}

#[test]
fn what_the_slow_start_holds_back_is_not_rejected() {
    let mut lab = recovered(256);
    lab.begin_all();
    let before = lab.snapshot();
    assert!(lab.circuit.may_begin(lab.now).is_err() && lab.circuit.begin(lab.now).is_err());
    assert_eq!(lab.circuit.admit(lab.now), Ok(()));
    assert_eq!((lab.snapshot().rejected, lab.snapshot().incidents), (before.rejected, before.incidents));
}

#[test]
fn a_call_that_fails_or_is_dropped_leaves_its_place_and_earns_nothing() {
    let mut lab = recovered(256);
    let first = lab.begin_all();
    assert!(lab.circuit.end(first[0], false));
    assert_eq!(lab.begin_all().len(), 1);
}

#[test]
fn nobody_is_called_who_was_not_turned_away() {
    let mut lab = recovered(256);
    let now = lab.now;
    let call = lab.circuit.begin(now).unwrap().unwrap();
    assert!(!lab.circuit.end(call, true));
    let call = lab.circuit.begin(now).unwrap().unwrap();
    assert_eq!(lab.circuit.may_begin(now), Ok(()), "two may");
    assert!(!lab.circuit.end(call, true));
}

#[test]
fn a_first_call_that_takes_for_ever_holds_nobody_back_for_ever() {
    let mut lab = recovered(256);
    assert_eq!(lab.begin_all().len(), 1);
    assert_eq!(lab.circuit.may_begin(lab.now), Err(lab.start + Duration::from_secs(2)));
    assert_eq!(lab.at(2.0).begin_all().len(), 1, "two in flight");
    assert_eq!(lab.at(3.5).begin_all().len(), 2, "four");
    assert_eq!(lab.circuit.may_begin(lab.now), Err(lab.start + Duration::from_secs(4)));
    let now = lab.at(9.0).now;
    assert_eq!(lab.circuit.begin(now), Ok(None), "256 after eight seconds");
}

#[test]
fn an_incident_throws_it_back_to_one() {
    let mut lab = recovered(256);
    for _ in 0..4 {
        let call = lab.circuit.begin(lab.now).unwrap().unwrap();
        lab.circuit.end(call, true);
    }
    assert_eq!(lab.at(1.5).snapshot().slow_start.unwrap().limit, 16);
    lab.break_epochs([7]);
    assert_eq!(lab.snapshot().slow_start.unwrap().limit, 1);
    assert_eq!(lab.at(2.4).snapshot().slow_start.unwrap().limit, 1, "time counts from the incident");
    assert_eq!(lab.at(2.5).snapshot().slow_start.unwrap().limit, 2);
}

#[test]
fn calls_of_an_earlier_slow_start_mean_nothing_to_the_next() {
    let mut lab = recovered(256);
    let old = lab.begin_all();
    lab.break_epochs(7..=11);
    assert_eq!(lab.state(), State::Open);
    assert!(!lab.circuit.is_unhindered(lab.now));
    assert!(!lab.circuit.end(old[0], true));
    assert_eq!(lab.circuit.begin(lab.now), Ok(None), "what was admitted before the trip goes its way");
    let now = lab.at(2.0).now;
    assert_eq!(lab.may_open(), Opening::Probe);
    lab.circuit.probe_succeeded(12, now);
    assert_eq!(lab.begin_all().len(), 1);
    assert!(!lab.circuit.end(old[0], true));
    assert_eq!(lab.snapshot().slow_start, Some(SlowStartShown { limit: 1, in_flight: 1 }));
}

#[test]
fn there_is_none_before_the_first_trip_nor_where_one_call_is_full_speed() {
    assert_eq!(Lab::new(&Settings::default()).circuit.begin(Instant::now()), Ok(None));
    for full_speed in [0, 1] {
        let mut lab = recovered(full_speed);
        assert_eq!((lab.snapshot().slow_start, lab.circuit.begin(lab.now)), (None, Ok(None)));
    }
}
