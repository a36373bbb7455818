//! The shared handle: the specified state trace, from one thread and from eight at once.

use std::{
    fmt::Write as _,
    sync::{
        Barrier,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::*;
use crate::tally::{Reason, State};

fn exact() -> Settings {
    Settings { early_probe: false, hold: Duration::ZERO, ..Settings::default() }
}

/// Runs `act` `times` times over `threads` that start together, and counts `true`.
fn crowd(threads: usize, times: usize, act: impl Fn() -> bool + Sync) -> usize {
    let (gate, left, yes) = (Barrier::new(threads), AtomicUsize::new(times), AtomicUsize::new(0));
    let take = || left.try_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                gate.wait();
                while take() {
                    if act() {
                        yes.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    yes.into_inner()
}

/// A breaker, its time and its observed transitions.
struct Lab {
    breaker: Breaker,
    threads: usize,
    start: Instant,
    now: Instant,
    seen: Arc<Mutex<Vec<Transition>>>,
    trace: String,
}

impl Lab {
    fn new(settings: &Settings, threads: usize) -> Self {
        let start = Instant::now();
        let seen: Arc<Mutex<Vec<Transition>>> = Arc::default();
        let list = Arc::clone(&seen);
        let breaker =
            Breaker::with_listener(settings, start, move |change| list.lock().unwrap().push(change));
        Self { breaker, threads, start, now: start, seen, trace: String::new() }
    }

    /// One step: an event at this time, then 1,000 calls to `admit` and 1,000 to `may_open`.
    fn line(&mut self, at: f64, what: &str, happens: impl FnOnce(&Self)) {
        self.now = self.start + Duration::from_secs_f64(at);
        happens(self);
        let admitted = crowd(self.threads, 1000, || self.breaker.admit(self.now).is_ok());
        let (free, probes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        crowd(self.threads, 1000, || {
            match self.breaker.may_open(self.now) {
                Opening::Free => free.fetch_add(1, Ordering::Relaxed),
                Opening::Probe => probes.fetch_add(1, Ordering::Relaxed),
                Opening::Wait(_) => 0,
            };
            true
        });
        let state = self.breaker.snapshot(self.now).state.as_str();
        let (free, probes) = (free.into_inner(), probes.into_inner());
        writeln!(self.trace, "{at:9.3} {what:<17}|{state:<9}|{admitted:5} |{free:5} |{probes:5}").unwrap();
        let mut changes = std::mem::take(&mut *self.seen.lock().unwrap());
        changes.sort_by_key(|change| change.seq);
        for Transition { seq, from, to, reason, at } in changes {
            let at = at.duration_since(self.start).as_secs_f64();
            let (from, to, reason) = (from.as_str(), to.as_str(), reason.as_str());
            writeln!(self.trace, "{at:9.3}   #{seq} {from} -> {to}: {reason}").unwrap();
        }
    }

    /// Breaks this epoch with 100 calls in flight, each of which reports it.
    fn incident(&mut self, at: f64, epoch: u64) {
        self.line(at, &format!("epoch {epoch} breaks"), |lab| {
            crowd(lab.threads, 100, || {
                lab.breaker.incident(epoch, "broken", lab.now);
                true
            });
        });
    }
}

/// The specified trace: five incidents open the circuit, exactly 60 s to each probe, never two probes.
const SPECIFIED: &str = "    0.000 start            |closed   | 1000 | 1000 |    0
    1.000 epoch 1 breaks   |closed   | 1000 | 1000 |    0
    2.000 epoch 2 breaks   |closed   | 1000 | 1000 |    0
    3.000 epoch 3 breaks   |closed   | 1000 | 1000 |    0
    4.000 epoch 4 breaks   |closed   | 1000 | 1000 |    0
    5.000 epoch 5 breaks   |open     |    0 |    0 |    0
    5.000   #1 closed -> open: incidents
   64.900 nothing          |open     |    0 |    0 |    0
   65.000 nothing          |half_open|    0 |    0 |    1
   65.000   #2 open -> half_open: probe_started
   66.000 nothing          |half_open|    0 |    0 |    0
   67.000 probe 6 fails    |open     |    0 |    0 |    0
   67.000   #3 half_open -> open: probe_failed
  126.900 nothing          |open     |    0 |    0 |    0
  127.000 nothing          |half_open|    0 |    0 |    1
  127.000   #4 open -> half_open: probe_started
  128.000 probe 7 succeeds |closed   | 1000 | 1000 |    0
  128.000   #5 half_open -> closed: probe_succeeded
  129.000 epoch 5 breaks   |closed   | 1000 | 1000 |    0
  130.000 epoch 7 breaks   |closed   | 1000 | 1000 |    0
  131.000 epoch 8 breaks   |closed   | 1000 | 1000 |    0
  132.000 epoch 9 breaks   |closed   | 1000 | 1000 |    0
  133.000 epoch 10 breaks  |closed   | 1000 | 1000 |    0
  134.000 epoch 11 breaks  |open     |    0 |    0 |    0
  134.000   #6 closed -> open: incidents
";

fn state_trace(threads: usize) -> Lab {
    let mut lab = Lab::new(&exact(), threads);
    lab.line(0.0, "start", |_| {});
    for epoch in 1..=5_u32 {
        lab.incident(f64::from(epoch), epoch.into());
    }
    for at in [64.9, 65.0, 66.0] {
        lab.line(at, "nothing", |_| {});
    }
    lab.line(67.0, "probe 6 fails", |lab| {
        crowd(lab.threads, 100, || {
            lab.breaker.probe_failed(6, "connect", lab.now);
            true
        });
    });
    lab.line(126.9, "nothing", |_| {});
    lab.line(127.0, "nothing", |_| {});
    lab.line(128.0, "probe 7 succeeds", |lab| {
        crowd(lab.threads, 100, || {
            lab.breaker.probe_succeeded(7, lab.now);
            true
        });
    });
    lab.incident(129.0, 5);
    for (at, epoch) in [(130.0, 7), (131.0, 8), (132.0, 9), (133.0, 10), (134.0, 11)] {
        lab.incident(at, epoch);
    }
    lab
}

#[test]
fn the_state_trace_is_the_specified_one_byte_for_byte() {
    let lab = state_trace(1);
    assert_eq!(lab.trace, SPECIFIED);
}

#[test]
fn the_state_trace_is_the_same_with_eight_threads_at_every_step() {
    for _ in 0..5 {
        assert_eq!(state_trace(8).trace, SPECIFIED);
    }
}

#[test]
fn the_counts_of_the_trace_are_exact() {
    for threads in [1, 8] {
        let lab = state_trace(threads);
        let snapshot = lab.breaker.snapshot(lab.now);
        assert_eq!(snapshot.rejected, 8 * 1000);
        assert_eq!(snapshot.incidents, [("broken", 10), ("connect", 1)]);
        assert_eq!(snapshot.transitions.map(|(_, count)| count), [2, 2, 1, 1, 0, 0, 0]);
        assert_eq!(snapshot.probes.map(|(_, count)| count), [1, 1, 0, 0]);
        let seconds = snapshot.time_in.map(|(state, time)| (state, time.as_secs()));
        assert_eq!(seconds, [(State::Closed, 5 + 6), (State::Open, 60 + 60), (State::HalfOpen, 2 + 1)]);
    }
}

#[test]
fn a_refusal_takes_less_than_a_millisecond() {
    let lab = Lab::new(&exact(), 1);
    (1..=5).for_each(|epoch| lab.breaker.incident(epoch, "broken", lab.now));
    let mut took: Vec<Duration> = (0..1000)
        .map(|_| {
            let before = Instant::now();
            assert!(lab.breaker.admit(lab.now).is_err());
            before.elapsed()
        })
        .collect();
    took.sort_unstable();
    assert!(took[990] < Duration::from_millis(1), "99th of 100 took {:?}", took[990]);
}

#[test]
fn the_listener_may_use_the_breaker() {
    let start = Instant::now();
    let own: Arc<std::sync::OnceLock<Breaker>> = Arc::default();
    let states = Arc::new(Mutex::new(Vec::new()));
    let (inside, seen) = (Arc::clone(&own), Arc::clone(&states));
    let breaker = Breaker::with_listener(&exact(), start, move |change| {
        let state = inside.get().unwrap().snapshot(start).state;
        seen.lock().unwrap().push((change.reason, state));
    });
    own.set(breaker.clone()).unwrap();
    (1..=5).for_each(|epoch| breaker.incident(epoch, "broken", start));
    assert_eq!(*states.lock().unwrap(), [(Reason::Incidents, State::Open)]);
}

#[test]
fn every_transition_is_heard_once_under_contention() {
    let settings = Settings { recovery_timeout: Duration::ZERO, failure_threshold: 1, ..exact() };
    let heard: Arc<Mutex<Vec<u64>>> = Arc::default();
    let epochs = AtomicU64::new(1);
    let start = Instant::now();
    let list = Arc::clone(&heard);
    let breaker = Breaker::with_listener(&settings, start, move |t| list.lock().unwrap().push(t.seq));
    crowd(8, 20_000, || {
        let epoch = epochs.fetch_add(1, Ordering::Relaxed);
        match breaker.may_open(start) {
            Opening::Free => breaker.incident(epoch, "broken", start),
            Opening::Probe => {
                breaker.probe_started(epoch, start);
                breaker.probe_succeeded(epoch, start);
            }
            // The probing thread may be descheduled; without a yield the others would use up their turns.
            Opening::Wait(_) => std::thread::yield_now(),
        }
        true
    });
    let mut heard = heard.lock().unwrap().clone();
    heard.sort_unstable();
    let counted: u64 = breaker.snapshot(start).transitions.iter().map(|(_, count)| count).sum();
    assert!(counted > 100, "nothing happened: {counted}");
    assert_eq!(heard, (1..=counted).collect::<Vec<_>>());
}

#[test]
fn after_a_recovery_a_crowd_on_eight_threads_comes_back_step_by_step() {
    let relieved: Arc<AtomicUsize> = Arc::default();
    let settings = Settings { failure_threshold: 1, recovery_timeout: Duration::ZERO, ..exact() };
    let start = Instant::now();
    let told = relieved.clone();
    let breaker = Breaker::with_listeners(
        &settings,
        start,
        |_| {},
        move || {
            told.fetch_add(1, Ordering::Relaxed);
        },
    );
    breaker.incident(1, "broken", start);
    assert_eq!(breaker.may_open(start), Opening::Probe);
    breaker.probe_succeeded(2, start);
    // Each round starts all allowed calls, which succeed: 2 to the power of all successes.
    for (may, told) in [(1, 1), (2, 2), (8, 3)] {
        let begun = Mutex::new(Vec::new());
        crowd(8, 1000, || breaker.begin(start).map(|pass| begun.lock().unwrap().push(pass)).is_ok());
        let begun = begun.into_inner().unwrap();
        assert_eq!(begun.len(), may);
        begun.into_iter().for_each(Pass::succeeded);
        assert_eq!(relieved.load(Ordering::Relaxed), told, "once for those who were turned away");
    }
    let all = crowd(8, 1000, || breaker.begin(start).map(drop).is_ok());
    assert_eq!(all, 1000, "256 were reached with the 8 of the third round");
    assert_eq!(breaker.snapshot(start).rejected, 0);
}
