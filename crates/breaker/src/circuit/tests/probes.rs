//! Probe times, hold times of calls, and lost probes.

use super::*;

#[test]
fn early_probes_start_after_a_quarter_of_a_second_and_thin_out() {
    let mut lab = Lab::tripped(&Settings::default());
    let mut expect = vec![0.25];
    expect.extend((0..20).map(|n| 0.75 + 0.5 * f64::from(n)));
    // From 10.25 s on the waits double: 1, 2, 4, 8, 16, 32, then always 60.
    expect.extend([11.25, 13.25, 17.25, 25.25, 41.25, 73.25, 133.25, 193.25, 253.25]);
    assert_eq!(lab.probes(30), expect);
}

#[test]
fn early_probes_that_hang_count_by_time_not_by_number() {
    let mut lab = Lab::tripped(&Settings::default());
    assert_eq!(lab.at(0.25).may_open(), Opening::Probe);
    // Lost at 10.25 s, after the dense period, so the next wait is the first doubling one.
    assert_eq!(lab.at(10.25).may_open(), Opening::Wait(lab.start + Duration::from_secs_f64(11.25)));
}

#[test]
fn early_probes_start_anew_after_a_recovery() {
    let mut lab = Lab::tripped(&Settings::default());
    lab.probes(25);
    let Opening::Wait(until) = lab.may_open() else { panic!("no wait") };
    lab.now = until;
    assert_eq!(lab.may_open(), Opening::Probe);
    lab.circuit.probe_succeeded(1000, until);
    lab.break_epochs(1001..=1005);
    assert_eq!(lab.may_open(), Opening::Wait(until + Duration::from_millis(250)));
}

#[test]
fn early_probes_never_wait_longer_than_the_recovery_timeout() {
    for (timeout, expect) in [(0.1, [0.1, 0.2, 0.3, 0.4]), (0.3, [0.25, 0.55, 0.85, 1.15])] {
        let settings = Settings { recovery_timeout: Duration::from_secs_f64(timeout), ..Settings::default() };
        let probes = Lab::tripped(&settings).probes(4);
        assert!(probes.iter().zip(expect).all(|(at, want)| (at - want).abs() < 1e-6), "{probes:?}");
    }
    let settings = Settings { recovery_timeout: Duration::from_millis(2500), ..Settings::default() };
    let late: Vec<f64> = Lab::tripped(&settings).probes(25).split_off(21);
    assert_eq!(late, [11.25, 13.25, 15.75, 18.25]);
}

#[test]
fn without_early_probes_every_wait_is_the_recovery_timeout() {
    let settings = Settings { recovery_timeout: Duration::from_millis(1500), ..exact() };
    assert_eq!(Lab::tripped(&settings).probes(4), [1.5, 3.0, 4.5, 6.0]);
}

#[test]
fn waits_grow_beyond_the_recovery_timeout_only_where_that_is_wanted() {
    let wanted = Settings { recovery_growth: 5, ..exact() };
    assert_eq!(Lab::tripped(&wanted).probes(6), [60.0, 180.0, 420.0, 720.0, 1020.0, 1320.0]);
    let early = Settings { recovery_growth: 5, ..Settings::default() };
    let late = Lab::tripped(&early).probes(31).split_off(21);
    // 1, 2, 4 … 256, then 300.
    assert_eq!(late, [11.25, 13.25, 17.25, 25.25, 41.25, 73.25, 137.25, 265.25, 521.25, 821.25]);
}

#[test]
fn late_probes_of_several_gateways_keep_apart_and_early_ones_are_exact() {
    let of = |seed, early_probe| {
        let settings = Settings { jitter: Some(seed), early_probe, ..Settings::default() };
        Lab::tripped(&settings).probes(30)
    };
    let (one, other) = (of(1, true), of(2, true));
    let even = Lab::tripped(&Settings::default()).probes(30);
    assert_eq!((&one[..21], &other[..21]), (&even[..21], &even[..21]), "the dense ones");
    let waits = |probes: &[f64]| probes.windows(2).map(|w| w[1] - w[0]).skip(20).collect::<Vec<_>>();
    for (jittered, wait) in waits(&one).iter().zip(waits(&even)) {
        assert!((jittered / wait - 1.0).abs() <= 0.1001, "{jittered} for {wait}");
    }
    assert!(waits(&one).iter().zip(waits(&other)).all(|(a, b)| (a - b).abs() > 1e-6), "{one:?} {other:?}");
    assert_eq!(of(1, false)[..3], [60.0, 120.0, 180.0], "the exact ones stay exact");
}

#[test]
fn extreme_settings_do_not_panic() {
    for (failure_threshold, long) in [(0, Duration::ZERO), (1, Duration::MAX)] {
        for early_probe in [true, false] {
            let settings = Settings {
                failure_threshold,
                recovery_timeout: long,
                early_probe,
                hold: long,
                probe_deadline: long,
                recovery_growth: u32::MAX,
                full_speed: failure_threshold,
                jitter: Some(0),
            };
            let mut lab = Lab::new(&settings);
            lab.break_epochs([1]);
            assert_eq!(lab.state(), State::Open, "zero and one both mean the first incident");
            assert!(lab.admit().is_err());
            let _ = lab.at(1e6).may_open();
            assert!(lab.admit().is_err());
        }
    }
}

#[test]
fn hold_is_measured_from_the_trip_and_not_extended_by_failed_probes() {
    let mut lab = Lab::new(&Settings::default());
    lab.at(100.0).break_epochs(1..=5);
    let hold_until = lab.start + Duration::from_secs(110);
    for (at, retry_after) in [(100.0, 0.25), (100.2, 0.05)] {
        let rejected = lab.at(at).admit().unwrap_err();
        assert_eq!(rejected.hold_until, hold_until);
        assert!((rejected.retry_after.as_secs_f64() - retry_after).abs() < 1e-6, "{rejected:?}");
    }
    assert_eq!(lab.at(100.25).may_open(), Opening::Probe);
    assert_eq!(lab.admit().unwrap_err().hold_until, hold_until, "half-open");
    lab.circuit.probe_failed(6, "connect", lab.now);
    assert_eq!(lab.admit().unwrap_err().hold_until, hold_until, "open again");
    assert_eq!(lab.at(100.75).may_open(), Opening::Probe);
    let now = lab.now;
    lab.circuit.probe_succeeded(7, now);
    assert_eq!(lab.circuit.admit(now), Ok(()));
    lab.at(200.0).break_epochs(8..=12);
    let rejected = lab.admit().unwrap_err();
    assert_eq!(rejected.hold_until, lab.start + Duration::from_secs(210), "a new trip, a new hold");
}

#[test]
fn a_hold_of_zero_is_over_at_the_trip() {
    let mut lab = Lab::tripped(&exact());
    let rejected = lab.admit().unwrap_err();
    let expected = Rejected { retry_after: Duration::from_secs(60), probing: None, hold_until: lab.start };
    assert_eq!(rejected, expected);
    assert_eq!(rejected.to_string(), "circuit open, next attempt in 60.000s");
}

#[test]
fn a_lost_probe_is_given_up_at_its_deadline() {
    let mut lab = Lab::tripped(&exact());
    assert_eq!(lab.at(60.0).may_open(), Opening::Probe);
    assert_eq!(lab.at(69.999).may_open(), Opening::Wait(lab.start + Duration::from_secs(70)));
    let rejected = lab.admit().unwrap_err();
    assert!(rejected.retry_after < Duration::from_millis(2), "{rejected:?}");
    // Noticed late, dated back: the next wait starts at the deadline.
    assert_eq!(lab.at(80.0).may_open(), Opening::Wait(lab.start + Duration::from_secs(130)));
    assert_eq!(
        lab.circuit.changes().map(|c| (c.reason, lab.since_start(c.at))).collect::<Vec<_>>(),
        [(Reason::ProbeLost, 70.0)]
    );
    let now = lab.now;
    lab.circuit.probe_succeeded(6, now);
    assert_eq!(lab.state(), State::Open, "a probe that was given up cannot close the circuit");
    assert_eq!(lab.at(130.0).may_open(), Opening::Probe);
    assert_eq!(probe_outcomes(&lab.snapshot()), [0, 0, 1, 0]);
}

#[test]
fn one_call_may_give_up_a_lost_probe_and_start_the_next() {
    let mut lab = Lab::tripped(&exact());
    assert_eq!(lab.at(60.0).may_open(), Opening::Probe);
    assert_eq!(lab.at(500.0).may_open(), Opening::Probe);
    let changes: Vec<_> = lab.circuit.changes().map(|c| (c.seq, c.reason)).collect();
    assert_eq!(changes, [(3, Reason::ProbeLost), (4, Reason::ProbeStarted)]);
    let time_in = lab.snapshot().time_in.map(|(_, time)| time.as_secs());
    assert_eq!(time_in, [0, 60 + 430, 10]);
}

#[test]
fn an_abandoned_probe_is_no_failure_and_the_next_comes_soon() {
    let mut lab = Lab::tripped(&exact());
    assert_eq!(lab.at(60.0).may_open(), Opening::Probe);
    let now = lab.at(61.0).now;
    lab.circuit.probe_abandoned(now);
    assert_eq!(lab.may_open(), Opening::Wait(now + Duration::from_millis(250)));
    assert_eq!(lab.at(61.25).may_open(), Opening::Probe);
    let snapshot = lab.snapshot();
    assert_eq!(snapshot.incidents, [("broken", 5)]);
    assert_eq!(probe_outcomes(&snapshot), [0, 0, 0, 1]);
}

#[test]
fn the_dense_period_ends_ten_seconds_after_the_trip() {
    for (failed, next) in [(9.999, 10.499), (10.0, 11.0)] {
        let mut lab = Lab::tripped(&Settings::default());
        assert_eq!(lab.at(9.0).may_open(), Opening::Probe);
        let now = lab.at(failed).now;
        lab.circuit.probe_failed(6, "connect", now);
        assert_eq!(lab.may_open(), Opening::Wait(lab.start + Duration::from_secs_f64(next)));
    }
}

#[test]
fn traffic_that_works_while_open_does_not_disturb_the_timetable() {
    let mut lab = Lab::tripped(&Settings::default());
    assert_eq!(lab.at(20.0).may_open(), Opening::Probe);
    let (started, now) = (lab.at(20.5).now, lab.at(21.0).now);
    lab.circuit.success(9, started, now);
    lab.circuit.probe_failed(6, "connect", now);
    assert_eq!(lab.may_open(), Opening::Wait(now + Duration::from_secs(1)));
}
