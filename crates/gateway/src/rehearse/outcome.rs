//! Result of one order: number of steps, and failures by cause.

use std::collections::BTreeMap;

use mcpool_demo::agent::AgentError;
use serde_json::{Value, json};

/// Steps and failures by cause.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    total: u64,
    causes: BTreeMap<String, u64>,
}

impl Outcome {
    /// Counts one step.
    pub(super) fn count<T>(&mut self, step: Result<T, AgentError>) {
        self.total += 1;
        if let Err(error) = step {
            let cause = cause_of(&error);
            // Bounds the table: messages may contain ids or times.
            let known = self.causes.len() < MOST_CAUSES || self.causes.contains_key(&cause);
            *self.causes.entry(if known { cause } else { "other".to_owned() }).or_default() += 1;
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn failed(&self) -> u64 {
        self.causes.values().sum()
    }

    /// Causes with their counts, most frequent first.
    pub(super) fn causes(&self) -> Vec<(&str, u64)> {
        let mut causes: Vec<_> = self.causes.iter().map(|(cause, n)| (cause.as_str(), *n)).collect();
        causes.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        causes
    }

    pub(super) fn shown(&self) -> Value {
        json!({ "steps": self.total, "failed": self.failed(), "causes": self.causes })
    }
}

fn cause_of(error: &AgentError) -> String {
    match error {
        AgentError::Http { status, body } => format!("{status} {}", message_in(body)),
        AgentError::Rpc { code, message, .. } => format!("error {code} {}", cut(message)),
        AgentError::Timeout => "no answer".to_owned(),
        AgentError::Closed(why) => format!("cut off: {}", cut(why)),
    }
}

/// The message of a JSON-RPC error body, or the body itself.
fn message_in(body: &str) -> String {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    cut(value["error"]["message"].as_str().unwrap_or(body))
}

fn cut(text: &str) -> String {
    let line: String = text.chars().take_while(|c| *c != '\n').take(MOST_CHARS).collect();
    line.trim().to_owned()
}

/// Maximum number of causes per order; others count as `other`.
const MOST_CAUSES: usize = 16;
const MOST_CHARS: usize = 90;
