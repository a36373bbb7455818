//! What the agents saw, added up: latencies of the current interval, and every way a call can end.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::load::Histogram;

/// Failures told in full; the others are only counted.
const TOLD: usize = 20;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With its own answer.
    Answered,
    /// Lost with its session, said so, and may be lost: it could change something, and something had gone wrong.
    Lost,
    /// In a way it must not.
    Failed(String),
}

/// The sums of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    /// Right answers.
    pub(super) answered: u64,
    /// Calls that were lost as they may be.
    pub(super) lost: u64,
    /// Calls that ended as they must not.
    pub(super) failed: u64,
    /// The first of them, in words.
    pub(super) failures: Vec<String>,
    /// Agents that arrived.
    pub(super) born: u64,
    /// Agents that left: politely, and without a word.
    pub(super) left: u64,
    pub(super) vanished: u64,
    /// Statuses other than 2xx that agents saw.
    pub(super) refused: BTreeMap<u16, u64>,
    /// Answers and progress of other calls than the agent's own.
    pub(super) foreign: u64,
}

/// Shared by all agents.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    sums: Sums,
    interval: Histogram,
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call ended this way, after this long.
    pub(super) fn ended(&self, end: End, took: Duration) {
        let mut book = self.book();
        match end {
            End::Answered => {
                book.sums.answered += 1;
                book.interval.record(took);
            }
            End::Lost => book.sums.lost += 1,
            End::Failed(why) => book.sums.fail(why),
        }
    }

    /// An agent could not even arrive.
    pub(super) fn unborn(&self, why: String) {
        self.book().sums.fail(why);
    }

    pub(super) fn born(&self) {
        self.book().sums.born += 1;
    }

    /// An agent is gone; what it saw besides its answers.
    pub(super) fn gone(&self, politely: bool, statuses: &BTreeMap<u16, u64>, foreign: u64) {
        let mut book = self.book();
        if politely {
            book.sums.left += 1;
        } else {
            book.sums.vanished += 1;
        }
        for (status, times) in statuses.iter().filter(|(status, _)| !(200..300).contains(*status)) {
            *book.sums.refused.entry(*status).or_default() += times;
        }
        book.sums.foreign += foreign;
    }

    /// The sums so far.
    pub(super) fn sums(&self) -> Sums {
        self.book().sums.clone()
    }

    /// Calls that have ended so far.
    pub(super) fn calls(&self) -> u64 {
        let sums = &self.book().sums;
        sums.answered + sums.lost + sums.failed
    }

    /// The latencies since this was last asked.
    pub(super) fn take_interval(&self) -> Histogram {
        std::mem::take(&mut self.book().interval)
    }
}

impl Sums {
    fn fail(&mut self, why: String) {
        self.failed += 1;
        if self.failures.len() < TOLD {
            self.failures.push(why);
        }
    }
}
