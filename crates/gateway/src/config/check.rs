//! Checks values of the raw file one at a time: expands variables, validates, applies defaults, collects problems.
//!
//! After a problem the default is used and checking continues, so that one run reports every mistake.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::{Range, RangeInclusive},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    problem::{Place, Problem, line_of},
    raw::{Amount, Number, Span, Switch, Text},
    variables::interpolate,
};

use mcpool_router::settings::value::{Unit, check_amount, parse_amount, parse_duration_from, parse_word};

/// Lookup of environment variables.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The allowed values of a key, and the word of each.
pub(super) type Words<'w, T> = (&'w [T], fn(T) -> &'static str);

/// The file being checked.
pub(super) struct Checker<'a> {
    file: &'a str,
    text: &'a str,
    environment: Environment<'a>,
    /// Key prefix in messages, such as `backends.search.`.
    prefix: String,
    /// Variables used in the file, and whether they are set.
    pub(super) variables: BTreeMap<String, bool>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(file: &'a str, text: &'a str, environment: Environment<'a>) -> Self {
        Self {
            file,
            text,
            environment,
            prefix: String::new(),
            variables: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// Sets the section of the following keys.
    pub(super) fn section(&mut self, prefix: impl Into<String>) {
        self.prefix = prefix.into();
    }

    pub(super) fn problem(&mut self, key: &str, span: Option<&Range<usize>>, reason: impl Into<String>) {
        let line = span.map(|span| line_of(self.text, span));
        let place = Place::File { file: self.file.to_owned(), line };
        let key = format!("{}{key}", self.prefix);
        self.problems.push(Problem { place, key, reason: reason.into() });
    }

    /// Reports a mistake of form: an unknown key, or a value of the wrong type.
    pub(super) fn form(&mut self, span: Option<&Range<usize>>, reason: &str) {
        let line = span.map(|span| line_of(self.text, span));
        let place = Place::File { file: self.file.to_owned(), line };
        self.problems.push(Problem { place, key: String::new(), reason: reason.to_owned() });
    }

    /// Expands the variables in a string.
    pub(super) fn string(&mut self, key: &str, raw: &Spanned<String>) -> Option<String> {
        self.expanded(key, &raw.span(), raw.get_ref())
    }

    /// As [`Self::string`], for a text and its span.
    pub(super) fn expanded(&mut self, key: &str, span: &Range<usize>, text: &str) -> Option<String> {
        let (environment, variables) = (self.environment, &mut self.variables);
        let value = interpolate(text, |name| {
            let value = environment(name);
            variables.insert(name.to_owned(), value.is_some());
            value
        });
        value.map_err(|reason| self.problem(key, Some(span), reason)).ok()
    }

    /// Parses a string. An error may quote the file, but never a variable's value, which may be secret: the parser then
    /// runs on the unexpanded text.
    pub(super) fn parsed<T>(
        &mut self,
        key: &str,
        raw: &Text,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.required(key, raw.as_ref()?, parse)
    }

    /// As [`Self::parsed`], for a required string.
    pub(super) fn required<T>(
        &mut self,
        key: &str,
        raw: &Spanned<String>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (text, written) = (self.string(key, raw)?, raw.get_ref());
        let tell =
            |reason| if text == *written { reason } else { reason_of_written(written, parse(written).err()) };
        parse(&text).map_err(|reason| self.problem(key, Some(&raw.span()), tell(reason))).ok()
    }

    pub(super) fn address(&mut self, key: &str, raw: &Text, default: SocketAddr) -> SocketAddr {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| format!("{text:?} is not an address; write IP:PORT, such as \"{default}\""))
        };
        self.parsed(key, raw, parse).unwrap_or(default)
    }

    /// One of these values, by its word.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &str,
        raw: &Text,
        (values, word): Words<'_, T>,
        default: T,
    ) -> T {
        self.parsed(key, raw, |text| parse_word(text, values, word)).unwrap_or(default)
    }

    pub(super) fn switch(raw: &Switch, default: bool) -> bool {
        raw.as_ref().map_or(default, |raw| *raw.get_ref())
    }

    /// A duration of at least `least`.
    pub(super) fn duration(&mut self, key: &str, raw: &Span, default: Duration, least: Duration) -> Duration {
        let raw = raw.as_ref().map(|raw| Spanned::new(raw.span(), raw.get_ref().0.clone()));
        self.parsed(key, &raw, |text| parse_duration_from(text, least)).unwrap_or(default)
    }

    pub(super) fn count(
        &mut self,
        key: &str,
        raw: &Amount,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        self.amount(key, raw, default, Unit::Count, range)
    }

    pub(super) fn size(
        &mut self,
        key: &str,
        raw: &Amount,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        self.amount(key, raw, default, Unit::Bytes, range)
    }

    /// A size, or `auto` for the detected value.
    pub(super) fn size_or_auto(
        &mut self,
        key: &str,
        raw: &Amount,
        auto: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        let is_auto =
            raw.as_ref().is_some_and(|raw| matches!(raw.get_ref(), Number::Text(text) if text == "auto"));
        if is_auto { auto } else { self.size(key, raw, auto, range) }
    }

    fn amount(
        &mut self,
        key: &str,
        raw: &Amount,
        default: usize,
        unit: Unit,
        range: RangeInclusive<usize>,
    ) -> usize {
        let Some(raw) = raw else { return default };
        let number = match raw.get_ref() {
            Number::Int(number) => check_amount(*number, unit, &range),
            Number::Text(text) => {
                let text = Some(Spanned::new(raw.span(), text.clone()));
                return self.parsed(key, &text, |text| parse_amount(text, unit, &range)).unwrap_or(default);
            }
        };
        number.unwrap_or_else(|reason| {
            self.problem(key, Some(&raw.span()), reason);
            default
        })
    }

    /// Reports and removes keys reserved for later versions.
    pub(super) fn later_keys(&mut self, document: &mut DeTable<'_>) {
        self.later_in(document, &LATER_TOP);
        if let Some(DeValue::Table(backends)) = document.get_mut("backends").map(Spanned::get_mut) {
            for (name, backend) in backends.iter_mut() {
                if let DeValue::Table(backend) = backend.get_mut() {
                    self.section(format!("backends.{}.", name.get_ref()));
                    self.later_in(backend, &LATER_BACKEND);
                }
            }
        }
        self.section("");
    }

    fn later_in(&mut self, table: &mut DeTable<'_>, later: &[&str]) {
        for name in later {
            if let Some((key, _)) = table.remove_entry(*name) {
                self.problem(name, Some(&key.span()), NOT_YET);
            }
        }
    }
}

/// The message about a value with variables: the error for the unexpanded text, or a generic one.
pub(super) fn reason_of_written(written: &str, of_the_text: Option<String>) -> String {
    of_the_text.unwrap_or_else(|| format!("{written:?} will not do with its variables put in"))
}

const NOT_YET: &str = "not supported by this version";
const LATER_TOP: [&str; 3] = ["virtual", "auth", "tenants"];
const LATER_BACKEND: [&str; 3] = ["share_across", "on_state_loss", "retry_idempotent_tools"];
