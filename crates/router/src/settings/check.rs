//! The check of one input, value by value: collects problems, and goes on with the default, so that one run reports
//! every mistake.

use std::{ops::RangeInclusive, time::Duration};

use super::{
    input::{Number, Problem},
    value::{Unit, check_amount, parse_amount, parse_duration_from, parse_word},
};

/// The problems of one input.
#[derive(Debug, Default)]
pub(super) struct Check {
    pub(super) problems: Vec<Problem>,
}

impl Check {
    /// A problem whose reason quotes no value.
    pub(super) fn plain(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.problems.push(Problem { path: path.into(), reason: reason.into(), quotes: false });
    }

    /// A problem whose reason may quote a value.
    pub(super) fn quoting(&mut self, path: impl Into<String>, reason: String) {
        self.problems.push(Problem { path: path.into(), reason, quotes: true });
    }

    /// The parsed text; `None` without one, or if it is a problem.
    pub(super) fn parsed<T>(
        &mut self,
        path: &str,
        text: Option<&String>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        parse(text?).map_err(|reason| self.quoting(path, reason)).ok()
    }

    /// One of these values, by its word.
    pub(super) fn word<T: Copy>(
        &mut self,
        path: &str,
        text: Option<&String>,
        (values, word): (&[T], fn(T) -> &'static str),
        default: T,
    ) -> T {
        self.parsed(path, text, |text| parse_word(text, values, word)).unwrap_or(default)
    }

    /// A duration of at least `least`.
    pub(super) fn duration(
        &mut self,
        path: &str,
        text: Option<&String>,
        default: Duration,
        least: Duration,
    ) -> Duration {
        self.parsed(path, text, |text| parse_duration_from(text, least)).unwrap_or(default)
    }

    pub(super) fn count(
        &mut self,
        path: &str,
        number: Option<&Number>,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        self.amount(path, number, default, Unit::Count, range)
    }

    pub(super) fn size(
        &mut self,
        path: &str,
        number: Option<&Number>,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        self.amount(path, number, default, Unit::Bytes, range)
    }

    fn amount(
        &mut self,
        path: &str,
        number: Option<&Number>,
        default: usize,
        unit: Unit,
        range: RangeInclusive<usize>,
    ) -> usize {
        let checked = match number {
            None => return default,
            Some(Number::Int(number)) => check_amount(*number, unit, &range),
            Some(Number::Text(text)) => parse_amount(text, unit, &range),
        };
        checked.map_err(|reason| self.quoting(path, reason)).unwrap_or(default)
    }
}
