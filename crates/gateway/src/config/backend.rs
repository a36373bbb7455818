//! One backend's table in the file: expands its variables into a [`BackendInput`], and finds the lines of the problems
//! that the rules name.

use std::{collections::BTreeMap, ops::Range};

use mcpool_router::settings::{
    BackendSettings,
    input::{self, BackendInput, BreakerInput, LocalInput, Problem, RetryInput},
    rules::{Rules, one_program},
};
use mcpool_upstream::Origin;
use toml::Spanned;

use super::{
    check::{Checker, reason_of_written},
    raw::{Amount, Number, RawBackend, Span, Switch, Text},
};

/// Reads one backend's table. `None` if it has a problem; the checker has the reasons.
pub(super) fn read(
    checker: &mut Checker<'_>,
    name: &Spanned<String>,
    raw: &RawBackend,
    rules: &Rules<'_>,
) -> Option<BackendSettings> {
    checker.section(format!("backends.{}.", name.get_ref()));
    let mut table = Table { checker, expands: true, values: BTreeMap::new() };
    let input = table.input(raw);
    let mut problems = match rules.check(name.get_ref(), &input, Origin::File) {
        Ok(settings) => return Some(settings),
        Err(problems) => problems,
    };
    // A variable that is not set is reported already.
    problems.retain(|problem| !table.values.get(&problem.path).is_some_and(|value| value.is_lost));
    let values = std::mem::take(&mut table.values);
    table.expands = false;
    let written = table.input(raw);
    if written != input {
        let of_written = rules.check(name.get_ref(), &written, Origin::File).err().unwrap_or_default();
        hide_variables(&mut problems, &of_written, &written.local, &values);
    }
    for Problem { path, reason, .. } in problems {
        match values.get(&path) {
            Some(value) => checker.problem(&value.key, Some(&value.span), reason),
            None if path.is_empty() => {
                checker.section("backends.");
                checker.problem(name.get_ref(), Some(&name.span()), reason);
                checker.section(format!("backends.{}.", name.get_ref()));
            }
            None => checker.problem(&path, Some(&name.span()), reason),
        }
    }
    None
}

/// Replaces reasons that may quote a value: they may quote the file, but never a variable, which may be secret.
fn hide_variables(
    problems: &mut [Problem],
    of_written: &[Problem],
    written: &LocalInput,
    values: &BTreeMap<String, Value>,
) {
    for problem in problems.iter_mut().filter(|problem| problem.quotes) {
        let same = of_written.iter().find(|other| other.path == problem.path);
        let of_text = same.map(|other| other.reason.clone()).or_else(|| {
            // Only a command of several words is quoted.
            let command = written.command.as_ref().filter(|_| problem.path == "command")?;
            Some(one_program(command, &written.args))
        });
        let text = values.get(&problem.path).map_or("", |value| &value.written);
        problem.reason = reason_of_written(text, of_text);
    }
}

/// The reader of one table.
struct Table<'c, 'a> {
    checker: &'c mut Checker<'a>,
    /// False to take strings as they are written.
    expands: bool,
    /// The values by their path in the input.
    values: BTreeMap<String, Value>,
}

/// A value of the table.
struct Value {
    /// The key in messages.
    key: String,
    span: Range<usize>,
    written: String,
    /// True if a variable in it is not set.
    is_lost: bool,
}

impl Table<'_, '_> {
    fn input(&mut self, raw: &RawBackend) -> BackendInput {
        BackendInput {
            url: self.text("url", &raw.url),
            headers: self.texts("headers", &raw.headers),
            era: self.text("era", &raw.era),
            local: LocalInput {
                command: self.text("command", &raw.command),
                args: self.list("args", &raw.args),
                env: self.texts("env", &raw.env),
                cwd: self.text("cwd", &raw.cwd),
                ca_file: self.text("tls.ca_file", &raw.tls.ca_file),
            },
            transport: self.text("transport", &raw.transport),
            mode: self.text("mode", &raw.mode),
            state: self.text("state", &raw.state),
            reset_on_release: switch(&raw.reset_on_release),
            tools: self.texts("tools", &raw.tools),
            forward_headers: self.list("forward_headers", &raw.forward_headers),
            fan_out_logs: switch(&raw.fan_out_logs),
            connect_timeout: self.time("connect_timeout", &raw.connect_timeout),
            handshake_timeout: self.time("handshake_timeout", &raw.handshake_timeout),
            first_open_timeout: self.time("first_open_timeout", &raw.first_open_timeout),
            call_timeout: self.time("call_timeout", &raw.call_timeout),
            idle_timeout: self.time("idle_timeout", &raw.idle_timeout),
            pinned_idle: self.time("pinned_idle", &raw.pinned_idle),
            max_age: self.time("max_age", &raw.max_age),
            drain_timeout: self.time("drain_timeout", &raw.drain_timeout),
            queue_timeout: self.time("queue_timeout", &raw.queue_timeout),
            probe_interval: self.time("probe_interval", &raw.probe_interval),
            probe_timeout: self.time("probe_timeout", &raw.probe_timeout),
            cancel_grace: self.time("cancel_grace", &raw.cancel_grace),
            max_sessions: self.number("max_sessions", &raw.max_sessions),
            shared_sessions: self.number("shared_sessions", &raw.shared_sessions),
            calls_per_session: self.number("calls_per_session", &raw.calls_per_session),
            min_idle: self.number("min_idle", &raw.min_idle),
            max_creating: self.number("max_creating", &raw.max_creating),
            queue: self.number("queue", &raw.queue),
            queue_bytes: self.number("queue_bytes", &raw.queue_bytes),
            max_message: self.number("max_message", &raw.max_message),
            serialize_writes: self.text("serialize_writes", &raw.serialize_writes),
            breaker: BreakerInput {
                failure_threshold: self.number("breaker.failure_threshold", &raw.breaker.failure_threshold),
                recovery_timeout: self.time("breaker.recovery_timeout", &raw.breaker.recovery_timeout),
                recovery_growth: self.number("breaker.recovery_growth", &raw.breaker.recovery_growth),
                early_probe: switch(&raw.breaker.early_probe),
                hold: self.time("breaker.hold", &raw.breaker.hold),
            },
            retry: RetryInput {
                attempts: self.number("retry.attempts", &raw.retry.attempts),
                base: self.time("retry.base", &raw.retry.base),
                cap: self.time("retry.cap", &raw.retry.cap),
                budget: self.text("retry.budget", &raw.retry.budget),
            },
        }
    }

    fn text(&mut self, path: &str, raw: &Text) -> Option<String> {
        raw.as_ref().map(|raw| self.value(path.to_owned(), path, raw.span(), raw.get_ref()))
    }

    fn time(&mut self, path: &str, raw: &Span) -> Option<String> {
        raw.as_ref().map(|raw| self.value(path.to_owned(), path, raw.span(), &raw.get_ref().0))
    }

    fn number(&mut self, path: &str, raw: &Amount) -> Option<input::Number> {
        raw.as_ref().map(|raw| match raw.get_ref() {
            Number::Int(number) => {
                self.know(path, raw.span(), number.to_string());
                input::Number::Int(*number)
            }
            Number::Text(text) => input::Number::Text(self.value(path.to_owned(), path, raw.span(), text)),
        })
    }

    /// The strings of a list. A problem of the whole list has the line of the first one.
    fn list(&mut self, path: &str, raw: &[Spanned<String>]) -> Vec<String> {
        if let Some(first) = raw.first() {
            self.know(path, first.span(), String::new());
        }
        let items = raw.iter().enumerate();
        items.map(|(n, raw)| self.value(format!("{path}[{n}]"), path, raw.span(), raw.get_ref())).collect()
    }

    /// The strings of a table. A problem of the whole table has the line of the first one.
    fn texts(
        &mut self,
        path: &str,
        raw: &BTreeMap<Spanned<String>, Spanned<String>>,
    ) -> BTreeMap<String, String> {
        if let Some(first) = raw.keys().next() {
            self.know(path, first.span(), String::new());
        }
        let items = raw.iter().map(|(name, raw)| {
            let key = format!("{path}.{}", name.get_ref());
            (name.get_ref().clone(), self.value(key.clone(), &key, raw.span(), raw.get_ref()))
        });
        items.collect()
    }

    /// A string with its variables expanded, or as it is written if that fails.
    fn value(&mut self, path: String, key: &str, span: Range<usize>, written: &str) -> String {
        let expanded = match self.expands {
            true => self.checker.expanded(key, &span, written),
            false => None,
        };
        let value =
            Value { key: key.to_owned(), span, written: written.to_owned(), is_lost: expanded.is_none() };
        self.values.insert(path, value);
        expanded.unwrap_or_else(|| written.to_owned())
    }

    fn know(&mut self, path: &str, span: Range<usize>, written: String) {
        self.values.insert(path.to_owned(), Value { key: path.to_owned(), span, written, is_lost: false });
    }
}

fn switch(raw: &Switch) -> Option<bool> {
    raw.as_ref().map(|raw| *raw.get_ref())
}
