//! Counters that grow by fractions, written by hand: the exporter's counters are whole numbers.

use std::{fmt::Write as _, time::Duration};

use mcpool_breaker::State;

use super::families::{BREAKER_SECONDS, FAMILIES};

/// Appends the time the circuits of a name spent in each state.
pub(super) fn write(out: &mut String, name: &str, time_in: &[Duration; 3]) {
    let help = FAMILIES.iter().find(|(name, ..)| *name == BREAKER_SECONDS).map_or("", |(_, _, help)| help);
    // Writing to a string does not fail. Names of backends hold nothing that would have to be escaped.
    let _ = writeln!(out, "# HELP {BREAKER_SECONDS} {help}\n# TYPE {BREAKER_SECONDS} counter");
    for (state, time) in State::ALL.iter().zip(time_in) {
        let (state, seconds) = (state.as_str(), time.as_secs_f64());
        let _ = writeln!(out, "{BREAKER_SECONDS}{{backend=\"{name}\",state=\"{state}\"}} {seconds}");
    }
}
