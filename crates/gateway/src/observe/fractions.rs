//! Counters that grow by fractions, written by hand: the exporter's counters are whole numbers.

use std::{fmt::Write as _, sync::Arc, time::Instant};

use super::families::{BREAKER_SECONDS, FAMILIES};
use crate::route::Registered;

/// Appends the time each circuit spent in each state.
pub(super) fn write(out: &mut String, backends: &[Arc<Registered>], now: Instant) {
    if backends.is_empty() {
        return;
    }
    let help = FAMILIES.iter().find(|(name, ..)| *name == BREAKER_SECONDS).map_or("", |(_, _, help)| help);
    // Writing to a string does not fail. Names of backends hold nothing that would have to be escaped.
    let _ = writeln!(out, "# HELP {BREAKER_SECONDS} {help}\n# TYPE {BREAKER_SECONDS} counter");
    for registered in backends {
        for (state, time) in registered.breaker.snapshot(now).time_in {
            let (name, state, seconds) = (&registered.name, state.as_str(), time.as_secs_f64());
            let _ = writeln!(out, "{BREAKER_SECONDS}{{backend=\"{name}\",state=\"{state}\"}} {seconds}");
        }
    }
}
