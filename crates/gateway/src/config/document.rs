//! Reads the TOML file into [`RawConfig`] past every mistake of form, so that one run reports all of them.
//!
//! serde stops at the first unknown key. This module locates that key by its span, reports and removes it, and reads
//! again.

use std::ops::Range;

use serde::Deserialize as _;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use super::{check::Checker, raw::RawConfig};

/// Maximum number of reported mistakes; a file with more is no configuration file.
const MOST: usize = 50;
/// Maximum number of known keys listed in a message.
const MOST_NAMED: usize = 12;

/// Reads the text and reports mistakes of form to the checker. `None` if the file is unreadable.
pub(super) fn read(checker: &mut Checker<'_>, text: &str) -> Option<RawConfig> {
    let (mut document, errors) = DeTable::parse_recoverable(text);
    for error in errors.iter().take(MOST) {
        checker.form(error.span().as_ref(), error.message());
    }
    if !errors.is_empty() {
        return None;
    }
    checker.later_keys(document.get_mut());
    for _ in 0..MOST {
        let error = match RawConfig::deserialize(Deserializer::from(document.clone())) {
            Ok(raw) => return Some(raw),
            Err(error) => error,
        };
        let span = error.span();
        checker.form(span.as_ref(), &reason(error.message()));
        if !span.is_some_and(|span| take_out(document.get_mut(), &span)) {
            return None;
        }
    }
    None
}

/// Rewords serde's message, with the key that was probably meant.
fn reason(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else { return message.to_owned() };
    let Some((key, expected)) = rest.split_once('`') else { return message.to_owned() };
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let distance = |name: &&&str| strsim::damerau_levenshtein(key, name);
    let near = known.iter().min_by_key(distance).filter(|name| distance(name) <= 1 + key.len() / 4);
    match near {
        Some(near) => format!("unknown key `{key}`; did you mean `{near}`?"),
        None if known.len() <= MOST_NAMED => format!("unknown key `{key}`; known here: {}", known.join(", ")),
        None => format!("unknown key `{key}`; config/mcpool.toml names every key"),
    }
}

/// Removes the innermost key whose span, or whose value's span, contains `at`.
fn take_out(table: &mut DeTable<'_>, at: &Range<usize>) -> bool {
    if table.iter_mut().any(|(_, value)| take_out_of(value, at)) {
        return true;
    }
    let is_there = |span: Range<usize>| span.start <= at.start && at.end <= span.end;
    let found = table.iter().find(|(key, value)| is_there(key.span()) || is_there(value.span()));
    let Some(key) = found.map(|(key, _)| key.clone()) else { return false };
    table.remove(key.get_ref().as_ref()).is_some()
}

fn take_out_of(value: &mut Spanned<DeValue<'_>>, at: &Range<usize>) -> bool {
    match value.get_mut() {
        DeValue::Table(table) => take_out(table, at),
        DeValue::Array(items) => items.iter_mut().any(|item| take_out_of(item, at)),
        _ => false,
    }
}
