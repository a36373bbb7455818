//! The machine of a session under any sequence of inputs: it ends once, asks one question at a time, and never gives a
//! session up that has work in flight.

use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use mcpool_upstream::{
    CloseReason,
    fuzzing::{INPUTS, Session, Told},
};

const DRAIN: Duration = Duration::from_secs(30);

#[derive(Arbitrary, Debug)]
struct Step {
    input: u8,
    in_flight: u8,
    /// Seconds since the step before.
    after: u8,
}

/// Whether answers come apart from the session's stream, then its story.
pub fn session(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(apart) = input.arbitrary::<bool>() else { return };
    let mut story = Story::new(apart);
    while let Ok(step) = input.arbitrary::<Step>() {
        story.step(&step);
        if input.is_empty() {
            break;
        }
    }
    story.ends();
}

struct Story {
    session: Session,
    now: Instant,
    apart: bool,
    standing: &'static str,
    asked: bool,
    is_draining: bool,
    closed: Option<CloseReason>,
}

impl Story {
    fn new(apart: bool) -> Self {
        let session = Session::default();
        let standing = session.standing();
        Self { session, now: Instant::now(), apart, standing, asked: false, is_draining: false, closed: None }
    }

    fn step(&mut self, step: &Step) {
        let input = INPUTS[usize::from(step.input) % INPUTS.len()];
        self.now += Duration::from_secs(u64::from(step.after));
        self.take(input, usize::from(step.in_flight));
    }

    fn take(&mut self, input: &str, in_flight: usize) -> Told {
        let before = self.standing;
        let told = self.session.on(input, self.now, in_flight, self.apart, DRAIN);
        let case = format!("{before} under {input} with {in_flight} in flight gave {told:?}");
        self.standing = told.standing;
        assert_eq!(told.standing, self.session.standing());
        let ended = before != "closed" && told.standing == "closed";
        assert_eq!(told.close.is_some(), ended, "the end is told once: {case}");
        if let Some(reason) = told.close {
            self.closed = Some(reason);
            assert!(reason != CloseReason::Unresponsive || in_flight == 0, "work is not given up: {case}");
        }
        self.order(before, told.standing, &case);
        self.probes(input, told, &case);
        self.drains(input, in_flight, &case);
        told
    }

    /// What comes after what.
    fn order(&self, before: &str, after: &str, case: &str) {
        let good = match before {
            "initializing" => matches!(after, "initializing" | "ready" | "closed"),
            "ready" | "suspect" => after != "initializing",
            "draining" => matches!(after, "draining" | "closed"),
            _ => after == "closed",
        };
        assert!(good, "{case}");
        assert!(self.closed.is_none() || after == "closed", "{case}");
    }

    /// One question at a time, and only of a session that can answer.
    fn probes(&mut self, input: &str, told: Told, case: &str) {
        if told.probe {
            assert!(matches!(told.standing, "ready" | "suspect"), "{case}");
            assert!(!self.asked || input == "probe_missed", "asked twice: {case}");
            self.asked = true;
        } else if matches!(input, "probe_answered" | "probe_missed" | "heard") || told.standing == "closed" {
            self.asked = false;
        }
    }

    /// A drain ends with the last call.
    fn drains(&mut self, input: &str, in_flight: usize, case: &str) {
        if self.standing != "draining" {
            self.is_draining = false;
            return;
        }
        assert!(in_flight > 0 || self.is_draining, "nothing to wait for: {case}");
        self.is_draining = true;
        assert!(input != "settled" || in_flight > 0, "drained, and not closed: {case}");
    }

    /// Silence ends every session: nothing in flight, no answer, and it is over in a few steps.
    fn ends(mut self) {
        if self.standing == "initializing" {
            self.take("handshaken", 0);
        }
        for _ in 0..4 {
            self.now += DRAIN;
            for input in ["settled", "silence", "probe_missed"] {
                self.take(input, 0);
            }
        }
        assert_eq!(self.standing, "closed");
    }
}
