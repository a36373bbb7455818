//! Counters that grow by fractions, written by hand: the exporter's counters are whole numbers.

use std::{fmt::Write as _, time::Duration};

use mcpool_breaker::State;

use super::families::{BREAKER_SECONDS, FAMILIES};

/// Appends the time the circuits of a name spent in each state.
pub(super) fn write(out: &mut String, name: &str, time_in: &[Duration; 3]) {
    out.push_str(&head(BREAKER_SECONDS));
    for (state, time) in State::ALL.iter().zip(time_in) {
        let (state, seconds) = (state.as_str(), time.as_secs_f64());
        // Writing to a string does not fail. Names of backends hold nothing that would have to be escaped.
        let _ = writeln!(out, "{BREAKER_SECONDS}{{backend=\"{name}\",state=\"{state}\"}} {seconds}");
    }
}

/// Help and type of a family of these.
pub(super) fn head(family: &str) -> String {
    let help = FAMILIES.iter().find(|(name, ..)| *name == family).map_or("", |(_, _, help)| help);
    format!("# HELP {family} {help}\n# TYPE {family} counter\n")
}
