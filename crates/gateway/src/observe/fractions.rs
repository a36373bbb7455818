//! Counters with fractions, written by hand: the exporter's counters are integers.

use std::{fmt::Write as _, time::Duration};

use mcpool_breaker::State;

use super::families::{BREAKER_SECONDS, FAMILIES};

/// Appends the time that a backend's circuit spent in each state.
pub(super) fn write(out: &mut String, name: &str, time_in: &[Duration; 3]) {
    out.push_str(&head(BREAKER_SECONDS));
    for (state, time) in State::ALL.iter().zip(time_in) {
        let (state, seconds) = (state.as_str(), time.as_secs_f64());
        // Writing to a string cannot fail. Backend names need no escaping.
        let _ = writeln!(out, "{BREAKER_SECONDS}{{backend=\"{name}\",state=\"{state}\"}} {seconds}");
    }
}

/// Help and type lines of such a family.
pub(super) fn head(family: &str) -> String {
    let help = FAMILIES.iter().find(|(name, ..)| *name == family).map_or("", |(_, _, help)| help);
    format!("# HELP {family} {help}\n# TYPE {family} counter\n")
}
