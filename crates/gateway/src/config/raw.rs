//! The file as written. serde rejects unknown keys; `check` validates the rest.
//!
//! Every value has its span, because problems are reported with their line.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use toml::Spanned;

/// A string with its span.
pub(super) type Text = Option<Spanned<String>>;
/// A duration with its span.
pub(super) type Span = Option<Spanned<Quoted>>;
/// A count or a size with its span.
pub(super) type Amount = Option<Spanned<Number>>;
/// A switch with its span.
pub(super) type Switch = Option<Spanned<bool>>;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) listen: Text,
    pub(super) admin_listen: Text,
    pub(super) admin_token: Text,
    pub(super) default_backend: Text,
    pub(super) default_mode: Text,
    pub(super) allowed_hosts: Vec<Spanned<String>>,
    pub(super) allowed_origins: Vec<Spanned<String>>,
    pub(super) unauthenticated: Text,
    pub(super) watch: Switch,
    pub(super) sessions: RawSessions,
    pub(super) limits: RawLimits,
    pub(super) times: RawTimes,
    pub(super) log: RawLog,
    pub(super) shutdown: RawShutdown,
    pub(super) profiles: Vec<Spanned<RawProfile>>,
    pub(super) backends: BTreeMap<Spanned<String>, RawBackend>,
}

/// One of `profiles`: a known server, by name.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawProfile {
    pub(crate) server: Text,
    pub(crate) version: Text,
    pub(crate) mode: Text,
    pub(crate) shared_sessions: Amount,
    pub(crate) serialize_writes: Switch,
}

/// `[sessions]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSessions {
    pub(super) keys: Vec<Spanned<String>>,
    pub(super) key_file: Text,
    pub(super) state_dir: Text,
}

/// `[limits]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) connections: Amount,
    pub(super) connections_per_peer: Amount,
    pub(super) agent_sessions: Amount,
    pub(super) sessions_per_peer: Amount,
    pub(super) deleted_sessions: Amount,
    pub(super) calls_per_agent: Amount,
    pub(super) calls_per_principal: Amount,
    pub(super) body: Amount,
    pub(super) body_rate: Amount,
    pub(super) buffered: Amount,
    pub(super) header: Amount,
    pub(super) agent_messages: Amount,
    pub(super) agent_buffer: Amount,
    pub(super) replay_events: Amount,
    pub(super) replay_buffer: Amount,
    pub(super) replay_total: Amount,
    pub(super) adopted_calls: Amount,
}

/// `[times]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTimes {
    pub(super) header: Span,
    pub(super) keep_alive: Span,
    pub(super) body_idle: Span,
    pub(super) overload_wait: Span,
    pub(super) write_stall: Span,
    pub(super) call: Span,
    pub(super) open: Span,
    pub(super) reconnect_grace: Span,
    pub(super) orphan: Span,
    pub(super) parked: Span,
    pub(super) agent_idle: Span,
    pub(super) session_lifetime: Span,
    pub(super) stream_ping: Span,
    pub(super) answer_as_stream: Span,
    pub(super) retry: Span,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) format: Text,
    pub(super) level: Text,
}

/// `[shutdown]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawShutdown {
    pub(super) delay: Span,
    pub(super) grace: Span,
}

/// `[backends.NAME]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawBackend {
    pub(super) url: Text,
    pub(super) command: Text,
    pub(super) args: Vec<Spanned<String>>,
    pub(super) env: BTreeMap<Spanned<String>, Spanned<String>>,
    pub(super) cwd: Text,
    pub(super) transport: Text,
    pub(super) era: Text,
    pub(super) mode: Text,
    pub(super) state: Text,
    pub(super) reset_on_release: Switch,
    pub(super) tools: BTreeMap<Spanned<String>, Spanned<String>>,
    pub(super) forward_headers: Vec<Spanned<String>>,
    pub(super) fan_out_logs: Switch,
    pub(super) headers: BTreeMap<Spanned<String>, Spanned<String>>,
    pub(super) tls: RawTls,
    pub(super) connect_timeout: Span,
    pub(super) handshake_timeout: Span,
    pub(super) first_open_timeout: Span,
    pub(super) call_timeout: Span,
    pub(super) idle_timeout: Span,
    pub(super) pinned_idle: Span,
    pub(super) max_age: Span,
    pub(super) drain_timeout: Span,
    pub(super) max_sessions: Amount,
    pub(super) shared_sessions: Amount,
    pub(super) calls_per_session: Amount,
    pub(super) min_idle: Amount,
    pub(super) max_creating: Amount,
    pub(super) queue: Amount,
    pub(super) queue_bytes: Amount,
    pub(super) queue_timeout: Span,
    pub(super) probe_interval: Span,
    pub(super) probe_timeout: Span,
    pub(super) cancel_grace: Span,
    pub(super) max_message: Amount,
    pub(super) serialize_writes: Text,
    pub(super) breaker: RawBreaker,
    pub(super) retry: RawRetry,
}

/// `[backends.NAME.tls]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) ca_file: Text,
}

/// `[backends.NAME.breaker]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawBreaker {
    pub(super) failure_threshold: Amount,
    pub(super) recovery_timeout: Span,
    pub(super) recovery_growth: Amount,
    pub(super) early_probe: Switch,
    pub(super) hold: Span,
}

/// `[backends.NAME.retry]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRetry {
    pub(super) attempts: Amount,
    pub(super) base: Span,
    pub(super) cap: Span,
    pub(super) budget: Text,
}

/// A duration as written; a string, so that it has a unit.
#[derive(Debug)]
pub(super) struct Quoted(pub(super) String);

/// A count or a size as written.
#[derive(Debug)]
pub(super) enum Number {
    /// `64`
    Int(i64),
    /// `"16MiB"`, `"${MAX:-64}"`
    Text(String),
}

impl<'de> Deserialize<'de> for Quoted {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Quoted;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration in quotes with a unit, such as \"30s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quoted, E> {
                Ok(Quoted(text.to_owned()))
            }
        }
        from.deserialize_str(Reader)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or a size in quotes with a unit, such as \"16MiB\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number::Int(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                Ok(Number::Text(text.to_owned()))
            }
        }
        from.deserialize_any(Reader)
    }
}
