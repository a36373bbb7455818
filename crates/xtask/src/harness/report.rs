//! What ran and how it ended, summed into the last line `N passed, N failed`.
//!
//! The subtle thing: a step that ran nothing has failed, because a gate that runs nothing passes for ever. A check that
//! cannot fail in the form it ran in is `not judged`: printed with its figure, counted neither way.

use std::time::{Duration, Instant};

use anyhow::Result;

/// How many checks of a step passed and what each failed one says.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Checks that passed.
    pub(crate) passed: u64,
    /// Checks that failed, when more failed than have a text (a test runner counts, and the log tells).
    pub(crate) failed: u64,
    /// One line per failure that has one.
    pub(crate) failures: Vec<String>,
    /// One line per check whose figure this form of the run cannot judge.
    pub(crate) not_judged: Vec<String>,
}

impl Tally {
    /// One check that passed.
    pub(crate) fn one() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    /// One check that failed.
    pub(crate) fn fault(text: impl Into<String>) -> Self {
        Self { failed: 1, failures: vec![text.into()], ..Self::default() }
    }

    /// One check whose figure is only shown, because it could not fail here.
    pub(crate) fn not_judged(text: impl Into<String>) -> Self {
        Self { not_judged: vec![text.into()], ..Self::default() }
    }

    /// One check by its outcome.
    pub(crate) fn check(ok: bool, text: impl FnOnce() -> String) -> Self {
        if ok { Self::one() } else { Self::fault(text()) }
    }

    /// Adds what another part found.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.not_judged.extend(other.not_judged);
    }
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    tally: Tally,
    took: Duration,
}

/// All steps of one run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Runs one step, says how it went, and keeps the result.
    pub(crate) fn step(&mut self, name: &'static str, body: impl FnOnce() -> Result<Tally>) {
        println!("== {name}");
        let began = Instant::now();
        let mut tally = body().unwrap_or_else(|error| Tally::fault(format!("{error:#}")));
        if tally.passed + tally.failed == 0 {
            tally = Tally::fault("nothing was run");
        }
        let took = began.elapsed();
        println!("   {name}: {} passed, {} failed ({:.0} s)", tally.passed, tally.failed, took.as_secs_f64());
        for text in &tally.not_judged {
            println!("   not judged {name}: {text}");
        }
        for failure in &tally.failures {
            println!("   FAILED {name}: {failure}");
        }
        self.rows.push(Row { name, tally, took });
    }

    /// Whether nothing has failed so far.
    pub(crate) fn all_passed(&self) -> bool {
        self.rows.iter().all(|row| row.tally.failed == 0)
    }

    /// Prints the table and the sum; whether something ran and all of it passed.
    pub(crate) fn finish(self) -> bool {
        println!("\n{:<12} {:>7} {:>7} {:>10} {:>8}", "step", "passed", "failed", "not judged", "seconds");
        let mut whole = Duration::ZERO;
        for Row { name, tally, took } in &self.rows {
            let Tally { passed, failed, not_judged, .. } = tally;
            let (unjudged, seconds) = (not_judged.len(), took.as_secs_f64());
            println!("{name:<12} {passed:>7} {failed:>7} {unjudged:>10} {seconds:>8.0}");
            whole += *took;
        }
        println!("{:<12} {:>35.0}", "all", whole.as_secs_f64());
        for row in &self.rows {
            for failure in &row.tally.failures {
                println!("FAILED {}: {}", row.name, failure.lines().next().unwrap_or_default());
            }
        }
        let passed: u64 = self.rows.iter().map(|row| row.tally.passed).sum();
        let failed: u64 = self.rows.iter().map(|row| row.tally.failed).sum();
        println!("\n{passed} passed, {failed} failed");
        failed == 0 && passed > 0
    }
}
