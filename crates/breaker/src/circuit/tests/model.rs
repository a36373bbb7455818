//! Random operations against a model with unlimited memory.
//!
//! The model has no transition table, no policy and no bounds: it restates the specification directly, with
//! `early_probe` off so that every wait is equal.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const RECOVERY: Duration = Duration::from_secs(6);
const DEADLINE: Duration = Duration::from_secs(4);
const THRESHOLD: u32 = 3;

#[derive(Clone, Debug)]
enum Op {
    Advance(u64),
    /// An incident of an epoch this many below the newest.
    Incident(u64),
    /// A success that started this many milliseconds ago.
    Success(u64),
    Admit,
    Open,
    /// A report about the probe this many probes ago; 0 is the current one.
    Succeed(usize),
    Fail(usize),
    Abandon,
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    Closed { incidents: u32 },
    Open { until: Instant },
    HalfOpen { epoch: u64, deadline: Instant },
}

struct Model {
    lab: Lab,
    is: Is,
    newest: u64,
    broken: HashSet<u64>,
    highest_broken: u64,
    oldest: u64,
    last_incident: Option<Instant>,
    probes: Vec<u64>,
    rejected: u64,
    resets: u64,
    incidents: u64,
    last_seq: u64,
}

impl Model {
    fn new() -> Self {
        let settings = Settings {
            failure_threshold: THRESHOLD,
            recovery_timeout: RECOVERY,
            early_probe: false,
            hold: Duration::from_secs(1),
            probe_deadline: DEADLINE,
            ..Settings::default()
        };
        Self {
            lab: Lab::new(&settings),
            is: Is::Closed { incidents: 0 },
            newest: 10,
            broken: HashSet::new(),
            highest_broken: 0,
            oldest: 0,
            last_incident: None,
            probes: Vec::new(),
            rejected: 0,
            resets: 0,
            incidents: 0,
            last_seq: 0,
        }
    }

    fn run(&mut self, op: &Op) {
        let now = self.lab.now;
        match *op {
            Op::Advance(ms) => self.lab.now += Duration::from_millis(ms),
            Op::Incident(below) => self.incident(self.newest.saturating_sub(below)),
            Op::Success(ago) => self.success(now.checked_sub(Duration::from_millis(ago)).unwrap_or(now)),
            Op::Admit => {
                let admitted = self.lab.circuit.admit(now).is_ok();
                assert_eq!(admitted, matches!(self.is, Is::Closed { .. }), "admitted in {:?}", self.is);
                self.rejected += u64::from(!admitted);
            }
            Op::Open => self.open(),
            Op::Succeed(ago) => self.succeed(self.probe(ago)),
            Op::Fail(ago) => self.fail(self.probe(ago)),
            Op::Abandon => {
                self.lab.circuit.probe_abandoned(now);
                if let Is::HalfOpen { .. } = self.is {
                    self.is = Is::Open { until: now + ABANDONED_PAUSE };
                }
            }
            Op::Reset => {
                self.lab.circuit.reset(now);
                self.resets += u64::from(!matches!(self.is, Is::Closed { .. }));
                self.oldest = self.oldest.max(self.highest_broken + 1);
                self.is = Is::Closed { incidents: 0 };
            }
        }
        if !matches!(op, Op::Advance(_)) {
            self.check_order();
        }
        self.check();
    }

    fn incident(&mut self, epoch: u64) {
        self.newest += 1;
        self.lab.circuit.incident(epoch, "broken", self.lab.now);
        if self.is_current(epoch) {
            self.note_broken(epoch);
            self.is = Is::Open { until: self.lab.now + RECOVERY };
        } else if epoch >= self.oldest && !self.broken.contains(&epoch) {
            self.note_broken(epoch);
            if let Is::Closed { incidents } = self.is {
                self.is = Is::Closed { incidents: incidents + 1 };
                if incidents + 1 == THRESHOLD {
                    self.oldest = self.oldest.max(self.highest_broken);
                    self.is = Is::Open { until: self.lab.now + RECOVERY };
                }
            }
        }
    }

    fn success(&mut self, started: Instant) {
        self.newest += 1;
        self.lab.circuit.success(self.newest, started, self.lab.now);
        if let Is::Closed { incidents } = &mut self.is
            && self.last_incident.is_none_or(|at| started > at)
        {
            *incidents = 0;
        }
    }

    fn open(&mut self) {
        let now = self.lab.now;
        let expect = match self.is {
            Is::Closed { .. } => Opening::Free,
            Is::Open { until } if now >= until => Opening::Probe,
            Is::Open { until } => Opening::Wait(until),
            Is::HalfOpen { deadline, .. } => Opening::Wait(deadline),
        };
        assert_eq!(self.lab.may_open(), expect);
        if expect == Opening::Probe {
            self.check_order();
            self.newest += 1;
            self.probes.push(self.newest);
            self.lab.circuit.probe_started(self.newest, now);
            self.is = Is::HalfOpen { epoch: self.newest, deadline: now + DEADLINE };
        }
    }

    fn succeed(&mut self, epoch: u64) {
        self.lab.circuit.probe_succeeded(epoch, self.lab.now);
        if self.is_current(epoch) {
            self.oldest = self.oldest.max(epoch);
            self.is = Is::Closed { incidents: 0 };
        }
    }

    fn fail(&mut self, epoch: u64) {
        self.lab.circuit.probe_failed(epoch, "connect", self.lab.now);
        if self.is_current(epoch) {
            self.note_broken(epoch);
            self.is = Is::Open { until: self.lab.now + RECOVERY };
        }
    }

    fn give_up_lost_probe(&mut self) {
        if let Is::HalfOpen { deadline, .. } = self.is
            && self.lab.now >= deadline
        {
            self.is = Is::Open { until: deadline + RECOVERY };
        }
    }

    fn note_broken(&mut self, epoch: u64) {
        self.broken.insert(epoch);
        self.highest_broken = self.highest_broken.max(epoch);
        self.last_incident = Some(self.lab.now);
        self.incidents += 1;
    }

    fn probe(&self, ago: usize) -> u64 {
        self.probes.iter().rev().nth(ago).copied().unwrap_or(self.newest)
    }

    fn is_current(&self, reported: u64) -> bool {
        matches!(self.is, Is::HalfOpen { epoch, .. } if epoch == reported)
    }

    /// The transitions of the last operation continue the previous ones.
    fn check_order(&mut self) {
        for change in self.lab.circuit.changes() {
            assert_eq!(change.seq, self.last_seq + 1);
            assert_eq!((change.from, change.to), change.reason.edge());
            self.last_seq = change.seq;
        }
    }

    fn check(&mut self) {
        self.give_up_lost_probe();
        let snapshot = self.lab.snapshot();
        self.check_order();
        let state = match self.is {
            Is::Closed { .. } => State::Closed,
            Is::Open { .. } => State::Open,
            Is::HalfOpen { .. } => State::HalfOpen,
        };
        assert_eq!(snapshot.state, state);
        assert_eq!(snapshot.rejected, self.rejected);
        assert_eq!(snapshot.incidents.iter().map(|(_, n)| n).sum::<u64>(), self.incidents);
        let spent: Duration = snapshot.time_in.iter().map(|(_, time)| *time).sum();
        assert_eq!(spent, self.lab.now.duration_since(self.lab.start), "every moment belongs to one state");
        let started = self.probes.len() as u64;
        let ended: u64 = snapshot.probes.iter().map(|(_, n)| n).sum();
        assert_eq!(started, ended + u64::from(state == State::HalfOpen), "never two probes");
        let crossed = |from: State, to: State| -> u64 {
            snapshot.transitions.iter().filter(|(r, _)| r.edge() == (from, to)).map(|(_, n)| n).sum()
        };
        let (trips, recoveries) =
            (crossed(State::Closed, State::Open), crossed(State::HalfOpen, State::Closed));
        assert_eq!(crossed(State::Open, State::Closed), self.resets);
        assert_eq!(trips, recoveries + self.resets + u64::from(state != State::Closed));
        assert_eq!(crossed(State::Open, State::HalfOpen), started);
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => prop_oneof![0..200_u64, Just(250), 3_000..7_000_u64].prop_map(Op::Advance),
        5 => prop_oneof![3 => Just(0), 1 => 0..12_u64].prop_map(Op::Incident),
        1 => (0..3_000_u64).prop_map(Op::Success),
        2 => Just(Op::Admit),
        4 => Just(Op::Open),
        2 => (0..3_usize).prop_map(Op::Succeed),
        2 => (0..3_usize).prop_map(Op::Fail),
        1 => Just(Op::Abandon),
        1 => Just(Op::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_agree_with_the_model(ops in proptest::collection::vec(op(), 1..200)) {
        let mut model = Model::new();
        for op in &ops {
            model.run(op);
        }
    }
}
