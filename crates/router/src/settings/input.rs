//! The input of a backend: what a file, a command line or a caller of the API gives for it, before it is checked.
//!
//! Nothing here is valid yet, and a missing value is the default. `rules` turns it into [`super::BackendSettings`].

use std::collections::BTreeMap;

/// The input of one backend. Its fields are the keys of `[backends.NAME]`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "config/mcpool.toml says what each key means")]
pub struct BackendInput {
    pub url: Option<String>,
    pub headers: BTreeMap<String, String>,
    pub era: Option<String>,
    /// Keys of this machine, which only its configuration file may set.
    pub local: LocalInput,
    pub transport: Option<String>,
    pub mode: Option<String>,
    pub state: Option<String>,
    pub reset_on_release: Option<bool>,
    pub tools: BTreeMap<String, String>,
    pub forward_headers: Vec<String>,
    pub fan_out_logs: Option<bool>,
    pub connect_timeout: Option<String>,
    pub handshake_timeout: Option<String>,
    pub first_open_timeout: Option<String>,
    pub call_timeout: Option<String>,
    pub idle_timeout: Option<String>,
    pub pinned_idle: Option<String>,
    pub max_age: Option<String>,
    pub drain_timeout: Option<String>,
    pub queue_timeout: Option<String>,
    pub probe_interval: Option<String>,
    pub probe_timeout: Option<String>,
    pub cancel_grace: Option<String>,
    pub max_sessions: Option<Number>,
    pub shared_sessions: Option<Number>,
    pub calls_per_session: Option<Number>,
    pub min_idle: Option<Number>,
    pub max_creating: Option<Number>,
    pub queue: Option<Number>,
    pub queue_bytes: Option<Number>,
    pub max_message: Option<Number>,
    pub serialize_writes: Option<String>,
    pub breaker: BreakerInput,
    pub retry: RetryInput,
}

/// Programs and files of this machine.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "config/mcpool.toml says what each key means")]
pub struct LocalInput {
    pub command: Option<String>,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: Option<String>,
    /// `tls.ca_file`
    pub ca_file: Option<String>,
}

/// `[backends.NAME.breaker]`
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "config/mcpool.toml says what each key means")]
pub struct BreakerInput {
    pub failure_threshold: Option<Number>,
    pub recovery_timeout: Option<String>,
    pub recovery_growth: Option<Number>,
    pub early_probe: Option<bool>,
    pub hold: Option<String>,
}

/// `[backends.NAME.retry]`
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "config/mcpool.toml says what each key means")]
pub struct RetryInput {
    pub attempts: Option<Number>,
    pub base: Option<String>,
    pub cap: Option<String>,
    pub budget: Option<String>,
}

/// A count or a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Number {
    /// `64`
    Int(i64),
    /// `"16MiB"`
    Text(String),
}

/// A problem of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, such as `breaker.hold` or `forward_headers[0]`; empty for the name of the backend.
    pub path: String,
    /// The reason, and what to write instead.
    pub reason: String,
    /// True if the reason may quote a value of the input, which may be secret.
    pub quotes: bool,
}
