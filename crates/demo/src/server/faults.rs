//! The scripted faults: a short list, walked for each exchange only when it is not empty.
//!
//! The subtle thing: counting is per fault, so "every third call" is exact under any concurrency.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::stats::lock;
use crate::script::{Fault, FaultKind, Stage};

/// The faults of a running server.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    any: AtomicBool,
    list: Mutex<Vec<Armed>>,
}

#[derive(Debug)]
struct Armed {
    fault: Fault,
    seen: u64,
    done: u64,
}

impl Faults {
    /// Replaces all faults.
    pub(crate) fn set(&self, faults: Vec<Fault>) {
        let mut list = lock(&self.list);
        *list = faults.into_iter().map(|fault| Armed { fault, seen: 0, done: 0 }).collect();
        self.any.store(!list.is_empty(), Relaxed);
    }

    /// The fault that hits this exchange, if any; each matching fault counts it.
    pub(crate) fn hit(&self, at: Stage) -> Option<FaultKind> {
        if !self.any.load(Relaxed) {
            return None;
        }
        let mut hit = None;
        for armed in lock(&self.list).iter_mut().filter(|a| a.fault.at == at) {
            armed.seen += 1;
            let due = armed.seen.is_multiple_of(armed.fault.every.max(1));
            let left = armed.fault.times.is_none_or(|n| armed.done < n);
            if due && left && hit.is_none() {
                armed.done += 1;
                hit = Some(armed.fault.kind.clone());
            }
        }
        hit
    }
}
